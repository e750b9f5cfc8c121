"""Parity with the published networks: every answer of shared/parity/expected.npz, through files and load_official."""
import os, zlib
from pathlib import Path
import numpy as np, pytest, torch
from ash_nb.official import load_official, published_state, _build

SHARED = Path(os.environ.get('ASH_SHARED', Path(__file__).resolve().parents[2]/'shared'))
EXPECTED = SHARED/'parity'/'expected.npz'
SALT = 'public-1'
pytestmark = pytest.mark.skipif(not EXPECTED.is_file(), reason=f'{EXPECTED} is not here (ASH_SHARED names the folder that holds parity/)')


def wave(shape, name, scale=1.):
    i = np.arange(int(np.prod(shape)), dtype=np.float64)
    phase = (zlib.crc32(f'{SALT}:{name}'.encode()) % 100003)/100003*2*np.pi
    values = scale*np.sin(0.7391*i*(1 + (i % 7)*0.013) + phase)*np.cos(0.0137*i + 2*phase)
    return torch.from_numpy(values.astype(np.float32).reshape(shape))


def weight(name, shape):
    if name.endswith('num_batches_tracked'): return torch.tensor(0)
    if name.endswith('running_var'): return 1 + 0.3*wave(shape, name).abs()
    if len(shape) == 4: return wave(shape, name, 1.6/np.sqrt(np.prod(shape[1:])))
    affine = len(shape) == 1 and ('bn' in name and name.endswith('weight') or 'downsample.1.weight' in name)
    return 1 + wave(shape, name, 0.2) if affine else wave(shape, name, 0.1)


@pytest.fixture(scope='module')
def expected(): return dict(np.load(EXPECTED))


def recipe(kind, folder):
    "Our network with the recipe's weights, read from a file as a reader would read a published one."
    shapes = {k: v.shape for k, v in published_state(kind, _build[kind]()).items()}
    torch.save({k: weight(k, s) for k, s in shapes.items()}, folder/'checkpoint.pth')
    return load_official(kind, folder/'checkpoint.pth')


def agree(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours.numpy() - theirs).max() < 1e-4*np.abs(theirs).max()


def published_names(kind):
    import json
    return {k: tuple(s) for k, s in json.loads((SHARED/'parity'/'state_dict_names.json').read_text())[kind]}


@pytest.mark.parametrize('kind', list(_build))
def test_names_and_shapes_are_the_published_ones(kind):
    ours = {k: tuple(v.shape) for k, v in published_state(kind, _build[kind]()).items()}
    theirs = published_names(kind)
    if kind == 'encoder': theirs = {k: s for k, s in theirs.items() if int(k.split('.')[0]) < 31}
    assert list(ours.items()) == list(theirs.items())


@torch.no_grad()
def test_segmenter(expected, tmp_path):
    published = wave((2, 3, 65, 97), 'x', 60)  # BGR minus mean, range 255
    mean = torch.tensor([104.00698793, 116.66876762, 122.67891434]).view(1, 3, 1, 1)
    heads = recipe('segmenter', tmp_path)(((published + mean)/255).flip(1))
    for head, key in zip(heads, ('segmenter.head1', 'segmenter.head2')): agree(head, expected[key])


@torch.no_grad()
def test_discriminator_and_hallucinator(expected, tmp_path):
    from ash_nb.hallucinator import modulate
    probabilities, features = wave((2, 19, 64, 96), 'p', 3).softmax(1), wave((2, 512, 8, 12), 'f', 2)
    agree(recipe('discriminator', tmp_path)(probabilities), expected['discriminator.out'])
    gamma, beta = recipe('hallucinator', tmp_path)(probabilities)
    agree(gamma, expected['hallucinator.scale'])
    agree(beta, expected['hallucinator.shift'])
    agree(modulate(features, gamma, beta, delta=1), expected['hallucinator.fused'])


@torch.no_grad()
def test_encoder_decoder_and_adain(expected, tmp_path):
    from ash_nb.adain import adain
    agree(recipe('encoder', tmp_path)(wave((2, 3, 50, 71), 'im', 0.5) + 0.5), expected['encoder.relu4_1'])
    agree(recipe('decoder', tmp_path)(wave((2, 512, 7, 9), 'z', 2).abs()), expected['decoder.out'])
    agree(adain(wave((2, 512, 7, 9), 'c', 2), wave((2, 512, 5, 6), 's', 3)), expected['adain.out'])


def test_whole_vgg_file_is_read_as_the_encoder(tmp_path):
    torch.save({k: weight(k, s) for k, s in published_names('encoder').items()}, tmp_path/'vgg.pth')
    whole = load_official('encoder', tmp_path/'vgg.pth')
    part = recipe('encoder', tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), part.parameters(), strict=True))


def test_losses(expected):
    from ash_nb.losses import clan_weight_map, focal_cross_entropy, weighted_bce
    p1, p2 = (wave((1, 19, 32, 48), k, 3).softmax(1) for k in ('p1', 'p2'))
    weights, logits = clan_weight_map(p1, p2), wave((1, 1, 32, 48), 'do', 2)
    agree(weights, expected['clan.weight_map'])
    agree(weighted_bce(logits, 0, weights, 0.4, 40), expected['clan.weighted_bce_target0'])
    agree(weighted_bce(logits, 1, weights, 0.4, 10), expected['clan.weighted_bce_target1'])
    labels = wave((1, 32, 48), 'lab', 18.99).abs().long()
    labels[:, :3] = 255
    agree(focal_cross_entropy(wave((1, 19, 32, 48), 'logit', 3), labels, gamma=2), expected['focal_ce'])


def test_every_expected_answer_is_tested(expected):
    source = Path(__file__).read_text()
    assert [k for k in expected if f"'{k}'" not in source] == []

def test_a_run_starts_from_the_initial_model(tmp_path):
    "`body_weights` fills the body of a resnet101 run; a missing file leaves no run folder behind."
    import torch
    from ash_nb import preset, train
    from ash_nb.config import AshError
    from ash_nb.methods import Learner
    from ash_nb.official import published_state
    from ash_nb.segmenter import Segmenter
    torch.manual_seed(3)
    net = Segmenter('resnet101', pretrained=False)
    torch.save({k: v for k, v in published_state('segmenter', net).items() if not k.startswith('layer6')}, tmp_path/'initial.pth')
    changes = dict(method='source_only', width=64, height=64, body='resnet101')
    learner = Learner(preset('streetworld', body_weights=str(tmp_path/'initial.pth'), **changes))
    assert torch.equal(learner.segmenter.body.layer4[0].conv2.weight, net.body.layer4[0].conv2.weight)
    with pytest.raises(AshError, match='nothing.pth: no such file'): train(preset('streetworld', body_weights='nothing.pth', **changes), tmp_path/'run', progress=False)
    assert not (tmp_path/'run').exists()
