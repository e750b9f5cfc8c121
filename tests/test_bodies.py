"Bodies from timm: a step of any method at odd sizes, resuming, two processes, the forecast, LoRA, what does not fit."

import shutil
from dataclasses import replace

import pytest
import torch
from test_distributed import spawn

from ash_nb import load_run, train
from ash_nb.core.config import AshError, Config
from ash_nb.look.figures import comparison_figures
from ash_nb.methods.learner import Learner
from ash_nb.methods.presets import preset
from ash_nb.methods.registry import adapts
from ash_nb.methods.step import step
from ash_nb.networks.any_body import merge_lora
from ash_nb.networks.segmenter import Segmenter
from ash_nb.runs.compare import compare
from ash_nb.runs.export import sister_rows
from ash_nb.runs.folder import run_name
from ash_nb.runs.forecast import LiveMemory, step_forecast

TINY = ('timm/test_resnet', 'timm/test_convnext', 'timm/test_vit')
REAL = {  # a network of each kind, at its true size
    'timm/resnet50': dict(neck='aspp', neck_width=256, output_stride=16, auxiliary_weight=0.4),
    'timm/convnext_tiny': {},
    'timm/vit_small_patch14_dinov2': {},
}
SMALL = dict(pretrained=False, precision='float32', batch_size=2, steps=10, begin=0.0, warmup=0.0)
METHODS = ('source_only', 'ash_segmentation_loss', 'clan')


def config(body, method='source_only', **changes):
    "A small run with a body of timm, its target set where the method adapts."
    c = preset('streetworld', method=method, body=body, **SMALL | changes)
    return replace(c, target='streetworld-night') if adapts(c) else c


def a_step(c, number=4):
    "Take a step on noise; return the learner, and whether every weight that may learn has a finite gradient."
    torch.manual_seed(0)
    learner = Learner(c)
    images, styles = (torch.rand(2, 3, c.height, c.width) for _ in range(2))
    labels = torch.randint(19, (2, c.height, c.width))
    losses = step(learner, images, labels, styles, number, styles if adapts(c) else None)
    assert all(v.isfinite() for v in losses.values())
    return learner


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('body', [*TINY, *REAL])
def test_a_step_at_an_odd_size(body, method):
    "Every weight of the segmenter that may learn gets a gradient, and its map has the positions that it promises."
    learner = a_step(config(body, method, width=131, height=97, **REAL.get(body, {})))
    without = [k for k, p in learner.segmenter.named_parameters() if p.requires_grad and p.grad is None]
    assert without == []
    s = learner.segmenter.stride
    with torch.no_grad():
        answers = learner.segmenter.eval()(torch.rand(1, 3, 97, 131))
    assert [tuple(a.shape) for a in answers] == [(1, 19, -(-97 // s), -(-131 // s))] * 2


DROPPING = [('timm/test_vit', dict(neck='upscale', neck_width=16))]
DROPPING += [('timm/test_resnet', dict(neck='aspp', neck_width=16, output_stride=16, auxiliary_weight=0.4))]


@pytest.mark.parametrize('body, own', [*((body, {}) for body in TINY), *DROPPING])
def test_a_run_goes_on_to_the_same_bits(body, own, tmp_path):
    "Stopped after two of four steps and gone on with, a run has the weights of one that never stopped."
    more = own | dict(scenes=4, width=97, height=73, test_width=112, test_height=84, checkpoint_every=2, log_every=1)
    c = config(body, 'ash_segmentation_loss', **more | dict(steps=4))
    whole = train(c, tmp_path / 'whole', 'cpu', 0, progress=False)
    shutil.copytree(whole.path, tmp_path / 'half')
    shutil.rmtree(tmp_path / 'half/checkpoints/step-0000004')
    torch.manual_seed(5)  # the shared generator has no part in a run
    shared = torch.get_rng_state()
    again = train(c, tmp_path / 'half', 'cpu', 0, progress=False)
    assert torch.equal(shared, torch.get_rng_state())
    a, b = ((run.checkpoints[-1] / 'segmenter.safetensors').read_bytes() for run in (whole, again))
    assert a == b and load_run(again.path).config.body == body


STEPS = """
import torch
from ash_nb.core.config import generator
from ash_nb.core.distributed import *
from ash_nb.methods.learner import Learner
from ash_nb.methods.presets import preset
from ash_nb.methods.registry import adapts
from ash_nb.methods.step import step
join('cpu')
own, answer = list(part_of(4)), {}
images, styles = (torch.rand(4, 3, 65, 97, generator=generator(0, k), dtype=torch.float64) for k in 'xs')
labels = torch.randint(19, (4, 65, 97), generator=generator(0, 'y'))
labels[2, :40] = 255
small = dict(pretrained=False, precision='float32', steps=10, freeze='norm', begin=0.0)
for body in BODIES:
    for method in METHODS:
        c = preset('streetworld', method=method, body=body, **small)
        learner = Learner(c)
        for n in [*learner.networks.values()] + [learner.hallucinator] * (learner.hallucinator is not None):
            n.double()
        step(learner, images[own], labels[own], styles[own], 4, styles[own] if adapts(c) else None)
        for k, n in learner.networks.items():
            answer |= {f'{body}/{method}/{k}/{name}': p.grad for name, p in n.named_parameters() if p.grad is not None}
if rank_and_size()[0] == 0:
    torch.save(answer, FILE)
leave()
"""


def test_two_processes_equal_one(tmp_path):
    "Gradients of two processes with half of the batch each are those of one with all of it."
    given = f'BODIES, METHODS = {TINY!r}, {METHODS[1:2]!r}\n'
    for n in (1, 2):
        spawn(n, given + f'FILE = {str(tmp_path / f"{n}.pt")!r}\n' + STEPS, tmp_path)
    one, two = (torch.load(tmp_path / f'{n}.pt') for n in (1, 2))
    assert one.keys() == two.keys() and len(one) > 200
    scale = {k.rsplit('/', 1)[0]: 0.0 for k in one}
    for k, g in one.items():
        name = k.rsplit('/', 1)[0]
        scale[name] = max(scale[name], float(g.norm()))
    worst = {k: float((g - two[k]).norm()) / scale[k.rsplit('/', 1)[0]] for k, g in one.items()}
    in_float32 = {k for k in worst if k.endswith('pos_embed')}  # timm resamples positions so
    assert max(v for k, v in worst.items() if k not in in_float32) < 1e-11 and max(worst.values()) < 1e-7, worst


@pytest.mark.parametrize('body', [*TINY, *REAL])
def test_the_forecast_is_right(body):
    "What a step is forecast to take is within 15 % of what is counted on real tensors."
    c = config(body, width=131, height=97, **REAL.get(body, {}))
    forecast = step_forecast(c)
    learner, (images, labels) = Learner(c), (torch.rand(2, 3, 97, 131), torch.randint(19, (2, 97, 131)))
    step(learner, images, labels, None, 0)
    for o in learner.optimizers.values():
        o.zero_grad(set_to_none=True)
    state = [s for o in learner.optimizers.values() for each in o.state.values() for s in each.values()]
    held = [t for n in learner.networks.values() for t in (*n.parameters(), *n.buffers())] + state
    with LiveMemory() as memory:
        for t in held:
            memory.add(t.untyped_storage())
        step(learner, images, labels, None, 1)
    assert abs(memory.peak - forecast['peak'] * 2**30) < 0.15 * memory.peak
    assert forecast['tflop'] > 0


def test_only_lora_and_what_is_new_moves():
    "With LoRA the network of timm keeps its bits; adapters, neck and heads move; merged, it answers the same."
    c = config('timm/test_vit', 'ash_segmentation_loss', width=131, height=97, lora=4, lr=0.1)
    before = Learner(c).segmenter.state_dict()
    learner = a_step(c)
    after = learner.segmenter.state_dict()
    moved = {k for k in after if not torch.equal(after[k], before[k])}
    assert {k.split('.')[1] for k in moved if k.startswith('body')} == {'net', 'neck'}
    assert all('.parametrizations.weight.0.' in k for k in moved if k.startswith('body.net.'))
    assert any(k.startswith('head2') for k in moved)
    x, segmenter = torch.rand(1, 3, 97, 131), learner.segmenter.eval()
    with torch.no_grad():
        unmerged = segmenter(x)[0]
        assert merge_lora(segmenter) == 6
        assert float((segmenter(x)[0] - unmerged).abs().max()) < 1e-6


def test_frozen_means_frozen():
    "A frozen body with batch norm keeps its statistics, too; neck and heads learn, and the optimizer has them alone."
    c = config('timm/test_resnet', 'ash_segmentation_loss', width=131, height=97, freeze='all', optimizer='adamw')
    before, learner = Learner(c).segmenter.state_dict(), a_step(c)
    moved = {k for k, v in learner.segmenter.state_dict().items() if not torch.equal(v, before[k])}
    assert moved and not [k for k in moved if k.startswith('body.net.')]


def test_deeplab_v3_plus_has_the_published_size():
    "Piece by piece: torchvision's ResNet-50, 16.8 million weights of ASPP and decoder, 1x1 heads."
    with torch.device('meta'):
        net = Segmenter('timm/resnet50', pretrained=False, neck='aspp', width=256, output_stride=16)
    parts = {k: sum(p.numel() for p in m.parameters()) for k, m in net.body.named_children() if m is not None}
    assert parts['net'] == 23_508_032 and round(parts['neck'] / 1e6, 1) == 16.8
    assert sum(p.numel() for p in net.head1.parameters()) == 257 * 19


@pytest.mark.parametrize(
    'changes, told',
    [
        (dict(body='timm/resnet5'), "has no network 'resnet5': did you mean resnet5"),
        (dict(body='resnet50'), 'or a network of timm as timm/NAME'),
        (dict(body='timm/test_resnet', lora=4), 'has no attention'),
        (dict(body='timm/test_vit', output_stride=8), 'has no output_stride'),
        (dict(body='timm/test_vit', method='mixstyle'), 'has none: choose a convolutional body'),
        (dict(body='timm/test_convnext', neck='linear'), 'takes maps of one stride'),
        (dict(body='timm/test_resnet', neck='aspp'), 'set output_stride=16'),
        (dict(body='timm/test_coatnet'), 'does not take images of any size'),
        (dict(body='timm/test_vit', pretrained=True, body_weights='no.pth'), "body_weights = 'no.pth': there is no"),
        (dict(body='lite0', body_weights='a.pth'), 'body_weights is for bodies resnet101 and timm/NAME'),
    ],
)
def test_what_does_not_fit_is_told(changes, told):
    with pytest.raises(AshError, match='(?s).*') as e:
        body, method = changes.pop('body'), changes.pop('method', 'source_only')
        Learner(config(body, method, width=96, height=80, **changes))
    assert told in str(e.value)


def test_old_records_speak_of_freeze_norm():
    "The presets of before say nothing of necks, and their bodies are built as they were."
    assert Config().freeze == 'none' and Config().neck == 'auto'
    assert Segmenter.of(preset('streetworld', body='plain'), empty=True).frozen == []


def test_bodies_side_by_side(tmp_path):
    "A comparison takes a word with a slash in it: its run is one folder, which report and model card find."
    words = ['source_only', *(f'source_only:body={body}' for body in TINY[:2])]
    size = dict(width=96, height=64, test_width=96, test_height=64)
    base = replace(config('plain', **size), steps=2, scenes=4, checkpoint_every=2, log_every=1)
    runs = compare(words, 1, ['streetworld-day'], tmp_path, base, images=2, device='cpu', progress=False)
    assert {f.parent.name for f in tmp_path.glob('*/config.json')} == {run_name(w, 0) for w in words}
    page = comparison_figures(tmp_path, runs)[-1].read_text()
    assert 'A line a seed' in page
    for word in words:
        assert len(sister_rows(load_run(tmp_path / run_name(word, 0)))) == 1
