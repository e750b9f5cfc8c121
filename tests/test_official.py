"""Parity with the published networks: every answer of shared/parity/expected.npz, through files and load_official;
and files as other kits leave them."""

import argparse
import dataclasses
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from ash_nb import parity, preset, train
from ash_nb.core.config import AshError
from ash_nb.hallucinators.ash import modulate
from ash_nb.methods.learner import Learner
from ash_nb.methods.losses import clan_weight_map, focal_cross_entropy, weighted_bce
from ash_nb.methods.step import step
from ash_nb.networks.adain import adain
from ash_nb.networks.segmenter import Segmenter
from ash_nb.official import _build, load_initial, load_official, published_state, read_checkpoint

SHARED = Path(os.environ.get('ASH_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
EXPECTED = SHARED / 'parity' / 'expected.npz'
SALT = 'public-1'
absent = f'{EXPECTED} is not here (ASH_SHARED names the folder that holds parity/)'
needs_parity = pytest.mark.skipif(not EXPECTED.is_file(), reason=absent)


def wave(shape, name, scale=1.0):
    return parity.wave(shape, name, SALT, scale)


@pytest.fixture(scope='module')
def expected():
    return dict(np.load(EXPECTED))


def recipe(kind, folder):
    "Our network with the recipe's weights, read from a file as a reader would read a published one."
    shapes = {k: v.shape for k, v in published_state(kind, _build[kind]()).items()}
    torch.save({k: parity.entry(k, s, SALT) for k, s in shapes.items()}, folder / 'checkpoint.pth')
    return load_official(kind, folder / 'checkpoint.pth')


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < 1e-4 * np.abs(theirs).max()


def published_names(kind):
    entries = json.loads((SHARED / 'parity' / 'state_dict_names.json').read_text())[kind]
    return {name: tuple(shape) for name, shape in entries}


@needs_parity
@pytest.mark.parametrize('kind', list(_build))
def test_names_and_shapes_are_the_published_ones(kind):
    ours = {k: tuple(v.shape) for k, v in published_state(kind, _build[kind]()).items()}
    theirs = published_names(kind)
    if kind == 'encoder':
        theirs = {k: s for k, s in theirs.items() if int(k.split('.')[0]) < 31}
    assert list(ours.items()) == list(theirs.items())


@needs_parity
@torch.no_grad()
def test_segmenter(expected, tmp_path):
    published = wave((2, 3, 65, 97), 'x', 60)  # BGR minus mean, range 255
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
    heads = recipe('segmenter', tmp_path)(((published + mean) / 255).flip(1))
    for head, key in zip(heads, ('segmenter.head1', 'segmenter.head2')):
        agree(head, expected[key])


@needs_parity
@torch.no_grad()
def test_discriminator_and_hallucinator(expected, tmp_path):
    probabilities, features = wave((2, 19, 64, 96), 'p', 3).softmax(1), wave((2, 512, 8, 12), 'f', 2)
    agree(recipe('discriminator', tmp_path)(probabilities), expected['discriminator.out'])
    gamma, beta = recipe('hallucinator', tmp_path)(probabilities)
    agree(gamma, expected['hallucinator.scale'])
    agree(beta, expected['hallucinator.shift'])
    agree(modulate(features, gamma, beta, delta=1), expected['hallucinator.fused'])


@needs_parity
@torch.no_grad()
def test_encoder_decoder_and_adain(expected, tmp_path):
    agree(recipe('encoder', tmp_path)(wave((2, 3, 50, 71), 'im', 0.5) + 0.5), expected['encoder.relu4_1'])
    agree(recipe('decoder', tmp_path)(wave((2, 512, 7, 9), 'z', 2).abs()), expected['decoder.out'])
    agree(adain(wave((2, 512, 7, 9), 'c', 2), wave((2, 512, 5, 6), 's', 3)), expected['adain.out'])


@needs_parity
def test_whole_vgg_file_is_read_as_the_encoder(tmp_path):
    torch.save({k: parity.entry(k, s, SALT) for k, s in published_names('encoder').items()}, tmp_path / 'vgg.pth')
    whole = load_official('encoder', tmp_path / 'vgg.pth')
    part = recipe('encoder', tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))


@needs_parity
def test_losses(expected):
    p1, p2 = (wave((1, 19, 32, 48), k, 3).softmax(1) for k in ('p1', 'p2'))
    weights, logits = clan_weight_map(p1, p2), wave((1, 1, 32, 48), 'do', 2)
    agree(weights, expected['clan.weight_map'])
    agree(weighted_bce(logits, 0, weights, 0.4, 40), expected['clan.weighted_bce_target0'])
    agree(weighted_bce(logits, 1, weights, 0.4, 10), expected['clan.weighted_bce_target1'])
    labels = wave((1, 32, 48), 'lab', 18.99).abs().long()
    labels[:, :3] = 255
    agree(focal_cross_entropy(wave((1, 19, 32, 48), 'logit', 3), labels, gamma=2), expected['focal_ce'])


@needs_parity
def test_every_expected_answer_is_tested(expected):
    source = Path(__file__).read_text()
    assert [k for k in expected if f"'{k}'" not in source] == []


def test_a_run_starts_from_the_initial_model(tmp_path):
    "`body_weights` fills the body of a resnet101 run; a missing file leaves no run folder behind."
    torch.manual_seed(3)
    net = Segmenter('resnet101', pretrained=False)
    state = {k: v for k, v in published_state('segmenter', net).items() if not k.startswith('layer6')}
    torch.save(state, tmp_path / 'initial.pth')
    changes = dict(method='source_only', width=64, height=64, body='resnet101')
    learner = Learner(preset('streetworld', body_weights=str(tmp_path / 'initial.pth'), **changes))
    assert torch.equal(learner.segmenter.body.layer4[0].conv2.weight, net.body.layer4[0].conv2.weight)
    with pytest.raises(AshError, match='nothing.pth: no such file'):
        train(preset('streetworld', body_weights='nothing.pth', **changes), tmp_path / 'run', progress=False)
    assert not (tmp_path / 'run').exists()


# --- files as other kits leave them

SGD = dict(state={0: dict(momentum_buffer=torch.ones(3), step=torch.ones(()))}, param_groups=[dict(lr=0.1, params=[0])])
BESIDE = dict(
    epoch=7,
    args=argparse.Namespace(lr=0.1, out=Path('runs')),
    best=np.float64(0.3),
    scores=np.arange(3.0),
    optimizer=SGD,
    optimizer_states=[SGD],
    config=dict(lr=0.1, mean=torch.zeros(3)),
    hyper_parameters=argparse.Namespace(width=3),
)
NESTS = (
    'state_dict',
    'model',
    'net',
    'network',
    'state',
    'params',
    'weights',
    'model_state_dict',
    'model_state',
    'ema',
    'model_ema',
    'generator',
)
PREFIXES = (
    '',
    'module.',
    'Scale.',
    'module.Scale.',
    'model.',
    'net.',
    'backbone.',
    'segmenter.',
    'generator.',
    'model.net.module.',
    '_orig_mod.',
    'model.conv1.',
)


def table(names=('conv1.weight', 'conv1.bias', 'layer.0.conv1.weight')):
    return {k: torch.full((2,), float(i)) for i, k in enumerate(names)}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.sampled_from(NESTS), max_size=3),
    st.sampled_from(PREFIXES),
    st.sets(st.sampled_from(sorted(BESIDE))),
    st.booleans(),
    st.sampled_from(['', 'criterion.weight', 'discriminator.conv9.weight']),
)
def test_weights_are_found_inside(tmp_path, nests, prefix, beside, new, foreign):
    "Nested under any names, beside arguments and optimizers, behind a prefix, among other entries; in either format."
    wanted, file = table(), tmp_path / 'a.pth'
    state = {prefix + k: v for k, v in wanted.items()} | ({foreign: torch.zeros(1)} if foreign else {})
    for name in nests:
        state = {name: state} | {k: BESIDE[k] for k in beside}
    torch.save(state, file, _use_new_zipfile_serialization=new)
    found = read_checkpoint(file, wanted)
    meaningless = prefix in ('', 'module.', 'Scale.', 'module.Scale.')
    assert same(found, wanted | ({foreign: torch.zeros(1)} if foreign and meaningless else {}))


@pytest.mark.parametrize(
    'wrap',
    [
        lambda s: s,
        lambda s: dict(state_dict=s, **BESIDE),
        lambda s: dict(hallucinator=s, discriminator=table(), ema=dict(decay=torch.ones(()))),
    ],
)
@pytest.mark.parametrize('prefix', PREFIXES[:-1])
def test_a_network_is_read_from_them(tmp_path, wrap, prefix):
    torch.manual_seed(1)
    net = _build['hallucinator']()
    torch.save(wrap({prefix + k: v for k, v in published_state('hallucinator', net).items()}), tmp_path / 'a.pth')
    assert same(load_official('hallucinator', tmp_path / 'a.pth').state_dict(), net.state_dict())


def test_a_body_is_read_from_other_kits(tmp_path):
    "The initial model as Lightning, mmseg and safetensors files hold it: the heads stay new."
    torch.manual_seed(4)
    net = Segmenter('resnet101', pretrained=False)
    body = {k: v for k, v in published_state('segmenter', net).items() if not k.startswith(('layer5', 'layer6'))}
    other = {'decode_head.conv_seg.weight': torch.zeros(19, 512, 1, 1), 'auxiliary_head.conv_seg.bias': torch.zeros(19)}
    mmseg = {f'backbone.{k}': v for k, v in body.items()} | other
    torch.save(dict(meta=dict(iter=1), state_dict=mmseg, optimizer=SGD), tmp_path / 'a.pth')
    save_file({f'model.{k}': v for k, v in body.items()}, tmp_path / 'b.safetensors')
    fresh = Segmenter('resnet101', pretrained=False)
    for name in ('a.pth', 'b.safetensors'):
        torch.nn.init.zeros_(fresh.body.layer4[0].conv2.weight)
        load_initial(fresh, tmp_path / name)
        assert same(fresh.body.state_dict(), net.body.state_dict())


class Trap:
    "What it holds when it is read as a pickle usually is: a call."

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize('new', [True, False])
@pytest.mark.parametrize(
    'inside, named',
    [
        (lambda p: Trap(os.system, (f'touch {p}',)), 'posix.system'),
        (lambda p: Trap(eval, (f'open({str(p)!r}, "w")',)), 'eval'),
        (lambda p: Trap(Path.touch, (p,)), 'getattr'),
        (lambda p: torch.nn.Linear(2, 2), 'torch.nn.modules.linear.Linear'),
    ],
)
def test_code_is_refused_by_its_name_and_never_runs(tmp_path, inside, named, new):
    seen = tmp_path / 'seen'
    for state in (inside(seen), dict(state_dict=table(), extra=inside(seen))):
        torch.save(state, tmp_path / 'a.pth', _use_new_zipfile_serialization=new)
        with pytest.raises(AshError) as told:
            read_checkpoint(tmp_path / 'a.pth')
        said = str(told.value)
        assert f'a.pth is not read, because that would run code ({named}): ' in said
        assert 'save its weights alone' in said
        assert not seen.exists() and 'truncated' not in said and '\n' not in said


@pytest.mark.parametrize(
    'state, told',
    [
        (dict(epoch=3, config='x', a=1, b=2, c=3), "which is no tensor; its keys are 'epoch', 'config', 'a', 'b', ..."),
        ({}, "found 'nothing'"),
        ([1], "found 'list'"),
        (dict(optimizer=SGD), "found 'optimizer', which is no tensor"),
        (dict(model=table(), model_ema=table()), "holds several state dicts, 'model', 'model_ema': save the one"),
        ({p + k: v for p in ('one.', 'two.') for k, v in table().items()}, "under several prefixes, 'one.', 'two.'"),
    ],
)
def test_what_is_not_clear_is_said(tmp_path, state, told):
    torch.save(state, tmp_path / 'a.pth')
    with pytest.raises(AshError) as error:
        read_checkpoint(tmp_path / 'a.pth', table())
    assert told in str(error.value)


def test_what_is_missing_is_said_with_what_is_there(tmp_path):
    state = published_state('hallucinator', _build['hallucinator']())
    del state['condlayer.3.bias']
    torch.save({f'model.{k}': v for k, v in state.items()}, tmp_path / 'a.pth')
    said = r"expected condlayer.3.bias of shape \(256,\).*, but it is missing; the file begins with 'condlayer.0"
    with pytest.raises(AshError, match=said):
        load_official('hallucinator', tmp_path / 'a.pth')
    torch.save(table(['a', 'b']), tmp_path / 'a.pth')
    with pytest.raises(AshError, match="but it is missing; the file begins with 'a', 'b'$"):
        load_official('hallucinator', tmp_path / 'a.pth')
    (tmp_path / 'b.safetensors').write_bytes(b'\x10' + bytes(7) + b'{"a":')
    with pytest.raises(AshError, match='not a readable checkpoint'):
        read_checkpoint(tmp_path / 'b.safetensors')


STEP = SHARED / 'parity' / 'step_expected.json'
exact = 5e-16  # a loss of the source that is off by less has been summed in the order of the fixture


@pytest.mark.skipif(not STEP.is_file(), reason=f'{STEP} is not here')
@pytest.mark.parametrize('number', [100, 6000])
def test_a_step_of_the_preset_gta5_published_is_the_published_one(number):
    """Every loss, and three numbers of every gradient. The fixture's state magnifies rounding: where a processor sums
    in another order, which the loss of the source tells, gradients are only alike."""
    found = parity.fixture(STEP)
    expected = found['iterations'][str(number)]
    c = parity.published_config(found['source'], found['target'])
    result = parity.run(c, found['salt'], number)
    worst = {k: most for k, (_, most) in parity.compared(result, expected, found['salt']).items()}
    assert set(worst) == {'losses', 'segmenter', 'hallucinator', 'discriminator'}
    seg = expected['losses']['loss_seg']
    as_there = abs(result.losses['loss_seg'] / seg - 1) < exact
    assert worst['losses'] < (1e-9 if as_there else 1e-5)
    assert max(worst.values()) < (1e-9 if as_there else 0.2), worst


def test_a_forgotten_behaviour_is_seen(tmp_path):
    "The comparison can fail: with one behaviour of the published code left out it is not equal."
    small = parity.published_config([112, 84], [64, 64], body='plain', discriminator_layers=3)
    batch = parity.inputs(small, 's')
    results = []
    for changes in (dict(), dict(answer_size='own'), dict(focal_clamp=0.0, focal=0.0), dict(separate_views=False)):
        learner = Learner(dataclasses.replace(small, stylizer='small', **changes))
        for net in (*learner.networks.values(), learner.hallucinator):
            net.double()
        learner.update = lambda losses, number: None
        results.append(step(learner, *batch, 6000))
    first, *others = ({k: float(v) for k, v in r.items()} for r in results)
    assert all(any(abs(o[k] / first[k] - 1) > 1e-9 for k in first) for o in others)


def test_a_run_of_the_published_settings_goes_on_to_the_same_bits(tmp_path):
    "Momenta of the repeated steps, whole images of random size and the second view's noise come back as they were."
    small = dict(source='streetworld', scenes=6, styles='procedural', stylizer='small', body='plain', steps=4)
    small |= dict(width=112, height=84, view_width=72, view_height=64, test_width=120, test_height=90)
    c = preset('gta5_published', discriminator_layers=3, checkpoint_every=2, pretrained=False, **small)
    whole = train(c, tmp_path / 'whole', device='cpu')
    shutil.copytree(whole.path, tmp_path / 'cut')
    for kept in (tmp_path / 'cut' / 'checkpoints').glob('*4'):
        shutil.rmtree(kept)
    again = train(c, tmp_path / 'cut', device='cpu')
    first, second = (run.segmenter().state_dict() for run in (whole, again))
    assert all(torch.equal(first[k], second[k]) for k in first)
