"Several processes compute what one does: gradients of every method's step, confusion matrices, logs, resume."

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from ash_nb.methods.registry import METHODS


def python(n):
    "Begin a command line that runs in n processes under torchrun, on a free port, or in one without it."
    torchrun = ['-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', str(n)]
    return [sys.executable, *(torchrun if n > 1 else [])]


def spawn(n, code, folder):
    "Run Python code in n processes under torchrun, or in this environment alone for n = 1."
    file = Path(folder) / f'code{n}.py'
    file.write_text(code)
    done = subprocess.run(
        [*python(n), str(file)],
        capture_output=True,
        text=True,
        env=os.environ | {'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''},
        timeout=1800,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


STEPS = """
import torch
from ash_nb.core.config import generator
from ash_nb.methods.registry import METHODS, adapts, styles_per_image
from ash_nb.methods.step import step
from ash_nb.methods.presets import preset
from ash_nb.core.distributed import *
from ash_nb.hallucinators.ash import AdaINHallucinator
from ash_nb.methods.learner import Learner
join('cpu')
own = list(part_of(4))
answer = {}
def drawn(name, n):
    return torch.rand(n, 3, 64, 96, generator=generator(0, name), dtype=torch.float64)
images, styles, target = drawn('x', 4), drawn('s', 8), drawn('t', 4)
labels = torch.randint(19, (4, 64, 96), generator=generator(0, 'y'))
labels[1] = 255
labels[2, :40] = 255  # the processes have different numbers of labelled pixels
small = dict(views=2, body='plain', freeze='norm', precision='float32', steps=10)
every = dict(focal=2., alpha_min=0.2, noise=NOISE, jitter=1.)
for method in METHODS:
    local = {} if method == 'clan' else dict(local_weight=10., weight_discrepancy=0.02)
    c = preset('streetworld', method=method, **small, **every, **local)
    learner = Learner(c)
    if not (EVERY or isinstance(learner.hallucinator, AdaINHallucinator)):
        continue
    for n in [*learner.networks.values()] + [learner.hallucinator] * (learner.hallucinator is not None):
        n.double()
    rows = list(part_of(8)) if styles_per_image(c) > 1 else own
    for number in (4, 5):
        given = {'images': images[own], 'labels': labels[own]}
        step(learner, *given.values(), styles[rows], number, target[own] if adapts(c) else None)
    for k, n in learner.networks.items():
        for name, p in n.named_parameters():
            if p.grad is not None:
                answer[f'{method}/{k}/{name}/grad'] = p.grad
                answer[f'{method}/{k}/{name}'] = p.detach()
if rank_and_size()[0] == 0:
    torch.save(answer, FILE)
leave()
"""


@pytest.mark.parametrize('n, noise, every', [(2, 'elementwise', False), (2, 'stat', False), (4, 'orthogonal', True)])
def test_gradients_equal_those_of_one_process(tmp_path, n, noise, every):
    "Every method on four processes; those that restyle, which alone take noise, with the other kinds of noise on two."
    answers = []
    for k in (1, n):
        given = f'NOISE, EVERY, FILE = {noise!r}, {every}, {str(tmp_path / f"{k}.pt")!r}\n'
        spawn(k, given + STEPS, tmp_path)
        answers.append(torch.load(tmp_path / f'{k}.pt'))
    one, many = answers
    found = {k.split('/')[0] for k in one}
    assert one.keys() == many.keys() and (found == set(METHODS) if every else {'ash', 'asm'} < found)
    worst = max(
        (float((one[k] - many[k]).norm() / one[k].norm().clamp(min=1e-300)), k)
        for k in one
        if float(one[k].norm()) > 1e-15
    )  # a bias before an instance norm has none but rounding
    assert worst[0] < 1e-12, worst


EVALUATE = """
import json, torch
from ash_nb.core.distributed import *
from ash_nb.data.datasets import StreetWorld
from ash_nb.numbers.evaluation import evaluate
from ash_nb.networks.segmenter import Segmenter
join('cpu'); torch.manual_seed(0)
e = evaluate(Segmenter('plain', pretrained=False).eval(), StreetWorld(7, width=96, height=64), 'x', width=96, height=64)
if rank_and_size()[0] == 0: print(json.dumps([e.confusion.tolist(), e.per_image]))
leave()
"""


def test_confusion_matrices_are_summed(tmp_path):
    one, two = (json.loads(spawn(n, EVALUATE, tmp_path).splitlines()[-1]) for n in (1, 2))  # gloo may talk before
    assert one == two and np.sum(one[0]) > 0 and len(one[1]) == 7


def train(n, out, *more):
    words = [
        '-m',
        'ash_nb.cli',
        'train',
        '--method',
        'ash_segmentation_loss',
        '--steps',
        '6',
        '--out',
        str(out),
        '--device',
        'cpu',
        '--tensorboard',
    ]
    for s in (
        'body=plain',
        'freeze=norm',
        'scenes=6',
        'width=96',
        'height=72',
        'precision=float32',
        'log_every=1',
        'checkpoint_every=3',
        'classwise_every=3',
        *more,
    ):
        words += ['--set', s]
    return subprocess.run(
        [*python(n), *words],
        capture_output=True,
        text=True,
        timeout=1800,
        env=os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1'},
    )


def test_the_same_command_on_two_processes(tmp_path):
    "One command, alone and under torchrun: the same log up to rounding; a run goes on with more or fewer processes."
    import shutil

    from ash_nb import load_run

    for n in (1, 2):
        done = train(n, tmp_path / str(n))
        assert done.returncode == 0 and done.stdout.count('finished after 6 steps') == 1, done.stderr[-2000:]
    logs = [load_run(tmp_path / str(n)).metrics for n in (1, 2)]
    assert len(logs[0]) == 6 and np.allclose(*logs, rtol=2e-3, atol=1e-6)
    assert (
        list((tmp_path / '2' / 'tensorboard').iterdir()) and len(load_run(tmp_path / '2').table('classwise.csv')) == 38
    )
    shutil.rmtree(tmp_path / '2' / 'checkpoints' / 'step-0000006')
    assert train(1, tmp_path / '2').returncode == 0 and load_run(tmp_path / '2').finished


@pytest.mark.parametrize('sampling', ['rare_class', 'class_uniform'])
def test_averages_and_samples_are_those_of_one_process(tmp_path, sampling):
    from ash_nb import load_run
    from ash_nb.core.files import load_tensors

    found = []
    for n in (1, 2):
        done = train(n, tmp_path / str(n), 'ema=0.9', f'sampling={sampling}')
        assert done.returncode == 0, done.stderr[-2000:]
        found.append(load_tensors(load_run(tmp_path / str(n)).checkpoints[-1] / 'segmenter_ema.safetensors'))
    one, two = found
    assert one.keys() == two.keys()
    for k, v in one.items():
        assert torch.allclose(v.double(), two[k].double(), rtol=2e-3, atol=2e-5), k


def test_a_batch_that_cannot_be_divided(tmp_path):
    done = train(2, tmp_path / 'a', 'batch_size=3')
    assert done.returncode and 'batch_size = 3 cannot be divided among 2 processes: set batch_size=4' in done.stderr
