"Test rules show pictures at the sizes of the field, windows change nothing, and IoU is what it is defined as."

import re
from unittest import mock

import numpy as np
import pytest
import torch
from conftest import MANY
from hypothesis import given, settings
from hypothesis import strategies as st

from ash_nb.core.config import AshError
from ash_nb.data.labels import IGNORE, PROTOCOLS, LabelSpace, meet, translation
from ash_nb.networks.segmenter import Segmenter
from ash_nb.numbers.evaluation import confusion_matrix, iou
from ash_nb.numbers.rules import (
    RULES,
    Input,
    TestRule,
    class_scores,
    input_of,
    network_maps,
    rule_of,
    see,
    seen_size,
    window_starts,
    windowed,
)

# --- sizes

PICTURES = {
    'cityscapes': (2048, 1024),
    'bdd100k': (1280, 720),
    'acdc': (1920, 1080),
    'mapillary': (4032, 3024),
    'mapillary portrait': (3024, 4032),
    'gta5': (1914, 1052),
    'synthia': (1280, 760),
}
FIT_1024 = [(1024, 512), (910, 512), (910, 512), (683, 512), (512, 683), (932, 512), (862, 512)]
FIT_2048 = [(2048, 1024), (1820, 1024), (1820, 1024), (1365, 1024), (1024, 1365), (1863, 1024), (1725, 1024)]
HD, ACDC, SQUARE = (1280, 720), (960, 540), (1536, 1536)
SIZES = {  # as read in the code of each, a column a picture
    'ash': [(1024, 512)] * 7,
    'clan': [(1024, 512)] * 7,
    'adaptsegnet': [(1024, 512)] * 7,
    'robustnet': [(2048, 1024), (1280, 720), (1920, 1080), SQUARE, SQUARE, (1914, 1052), (1280, 760)],
    'daformer': FIT_1024,
    'hrda': FIT_2048,
    'mmseg': FIT_2048,
    'rein': [(1024, 512), HD, ACDC, (683, 512), (512, 683), (1280, 704), (862, 512)],
    'soma': [(2048, 1024), HD, ACDC, (1365, 1024), (1024, 1365), (1863, 1024), (1725, 1024)],
    'tqdm': [(2048, 1024), HD, *FIT_2048[2:]],
    'vfm_uda': FIT_2048,
}


def test_every_rule_is_in_the_table():
    assert set(SIZES) == set(RULES)


@pytest.mark.parametrize('rule', SIZES)
def test_sizes_are_those_of_the_field(rule):
    how = [input_of(rule_of(rule), name.split()[0]) for name in PICTURES]
    assert [seen_size(h, size, (1024, 512)) for h, size in zip(how, PICTURES.values())] == SIZES[rule]


SCORED = {  # of Mapillary, landscape and portrait: at which size labels are scored, where it is not their own
    'robustnet': [SQUARE, SQUARE],
    'rein': [(2016, 1512), (1512, 2016)],
    'soma': [(2016, 1512), (1512, 2016)],
    'vfm_uda': [(1365, 1024), (1024, 1365)],
}


@pytest.mark.parametrize('rule', SIZES)
def test_a_sample_of_mapillary_has_those_sizes(rule):
    for k, name in enumerate(('mapillary', 'mapillary portrait')):
        w, h = PICTURES[name]
        sample = dict(image=torch.zeros(3, h, w, dtype=torch.uint8), label=torch.ones(h, w, dtype=torch.uint8))
        seen = see(sample, rule_of(rule), 'mapillary')
        assert tuple(seen['image'].shape[:0:-1]) == SIZES[rule][3 + k]
        assert tuple(seen['label'].shape[::-1]) == SCORED.get(rule, [(w, h)] * 2)[k]
        if rule == 'robustnet':  # of a portrait, 576 columns are road that is not there
            assert (seen['label'] == 0).sum() == k * 576 * 1536


COUNTS = [  # picture, window, stride, windows: counted by hand in the facts
    ((1024, 512), 512, 341, 3),
    ((910, 512), 512, 341, 3),
    ((1280, 720), 512, 341, 8),
    ((2048, 1024), 512, 341, 18),
    ((2048, 1024), 1024, 512, 3),
    ((2048, 1024), 1024, 683, 3),
    ((2048, 1024), 512, 320, 18),
]


@pytest.mark.parametrize('size, window, stride, n', COUNTS)
def test_windows_are_counted_as_mmseg_does(size, window, stride, n):
    assert np.prod([len(window_starts(side, window, stride)) for side in size]) == n


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 90), st.integers(1, 60), st.data())
def test_windows_cover_everything_and_are_whole(size, window, data):
    stride = data.draw(st.integers(1, window))
    starts = window_starts(size, window, stride)
    seen = {k for s in starts for k in range(s, min(s + window, size))}
    assert seen == set(range(size))
    assert all(s >= 0 and (s + window <= size or s == 0) for s in starts) and len(set(starts)) == len(starts)


# --- windows and the whole picture

pixelwise = torch.nn.Conv2d(3, 5, 1)


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 48), st.integers(1, 64), st.integers(1, 80), st.integers(1, 9), st.data())
def test_windows_change_nothing_for_a_segmenter_of_single_pixels(h, w, window, batch, data):
    stride, asked = data.draw(st.integers(1, window)), []

    def answer(images):
        asked.append(len(images))
        return pixelwise(images)

    image = torch.rand(1, 3, h, w, generator=torch.Generator().manual_seed(h * w))
    with torch.inference_mode():
        torch.testing.assert_close(windowed(answer, image, window, stride, batch), pixelwise(image), rtol=0, atol=1e-6)
    assert max(asked) <= batch  # never more than a batch of windows


@pytest.mark.parametrize('window', [64, 65, 500])
@pytest.mark.parametrize('name', RULES)
def test_a_window_that_covers_the_picture_gives_the_same_bits(name, window):
    rule = rule_of(name)
    whole = TestRule('x', heads=rule.heads, through_input=True, softmax=rule.softmax, align_corners=rule.align_corners)
    covering = TestRule(
        'x', heads=rule.heads, window=window, stride=window, softmax=rule.softmax, align_corners=rule.align_corners
    )
    torch.manual_seed(0)
    net, images = Segmenter('plain').eval(), torch.rand(2, 3, 40, 64)
    sizes = [(40, 64), (33, 71)]
    with torch.inference_mode():
        pairs = zip(
            *(class_scores(net, images[k : k + 1], sizes[k : k + 1], r) for k in range(2) for r in (whole, covering))
        )
        for answers in pairs:
            assert torch.equal(answers[0], answers[1]) and torch.equal(answers[2], answers[3])


def test_never_more_than_a_batch_of_windows_is_in_the_network():
    seen, net = [], Segmenter('plain').eval()

    def watched(images):
        seen.append(tuple(images.shape))
        return net(images)

    with torch.inference_mode():
        network_maps(watched, torch.rand(2, 3, 70, 90), TestRule('x', window=32, stride=20), 3)
    assert {s[2:] for s in seen} == {(32, 32)} and max(s[0] for s in seen) == 3
    assert sum(s[0] for s in seen) == 2 * 3 * 4


@pytest.mark.parametrize('name', RULES)
@pytest.mark.parametrize('target', ['camvid', 'mapillary', 'acdc-night'])
def test_a_rule_takes_pictures_of_any_size(name, target):
    rule = rule_of(name)
    for size in ((5, 7), (30, 9)):
        seen = see(dict(image=torch.zeros(3, *size, dtype=torch.uint8)), rule, target)
        assert min(seen['image'].shape[1:]) >= 1 and 'label' not in seen


def test_two_rules_of_one_content_have_one_hash():
    assert TestRule('a', Input([8, 4])).hash == TestRule('b', Input((8, 4)), source='somewhere').hash
    assert len({rule.hash for rule in RULES.values()}) == len(RULES)


# --- IoU, by its definition

WORDS = ('road', 'side_walk', 'Tree', 'car', 'truck', 'sky', 'pole', 'fence')


def alike(name):
    return re.sub('[-_ ]+', ' ', name).lower()


def random_space(rng, name):
    "A label space of 2 to 6 classes, written in various ways, with aliases."
    spell = (str, str.upper, lambda w: w.replace('_', ' '), lambda w: w.replace('_', '-'))
    words = [spell[rng.integers(4)](w) for w in rng.permutation(WORDS)[: rng.integers(2, 7)].tolist()]
    aliases = [tuple(rng.permutation(WORDS)[: rng.integers(0, 3)].tolist()) for _ in words]
    return LabelSpace(name, tuple(words), [(k + 1, 0, 0) for k in range(len(words))], tuple(aliases))


def linked_classes(run, target):
    "Classes of both spaces, ('run', k) and ('target', t), each with all that shared names lead to."
    names = {
        (side, k): {alike(n) for n in (space.classes[k], *space.aliases[k])}
        for side, space in (('run', run), ('target', target))
        for k in range(len(space))
    }
    same = [alike(n) for n in run.classes] == [alike(n) for n in target.classes]

    def next_to(a, b):
        return a[0] != b[0] and (a[1] == b[1] if same else bool(names[a] & names[b]))

    reach = {a: {a} for a in names}
    for _ in names:
        reach = {a: r | {c for b in r for c in names if next_to(b, c)} for a, r in reach.items()}
    return reach


def iou_by_definition(run, target, taught, truth, prediction):
    "IoU of each set of linked classes of which the run was taught one; None: nothing can be scored."
    reach = linked_classes(run, target)
    scored = {
        frozenset(r)
        for r in reach.values()
        if len({side for side, _ in r}) == 2 and any(side == 'run' and run.classes[k] in taught for side, k in r)
    }
    pixels = [
        (i, frozenset(reach['target', t]), frozenset(reach['run', p]))
        for i, (t, p) in enumerate(zip(truth, prediction))
        if t != IGNORE
    ]
    pixels = [(i, t, p) for i, t, p in pixels if t in scored]
    out = {}
    for group in scored:
        so, said = {i for i, t, _ in pixels if t == group}, {i for i, _, p in pixels if p == group}
        out[group] = len(so & said) / len(so | said) if so | said else float('nan')
    return out


def iou_by_the_kit(run, target, taught, truth, prediction):
    "The same by meeting, translation and confusion matrix, keyed alike."
    table = np.full(256, IGNORE)
    table[: len(target)] = translation(target, run)
    protocol = meet(run, target, taught).protocol
    values, mean = iou(confusion_matrix(torch.tensor(prediction), torch.tensor(table[truth]), len(run)), protocol.name)
    reach = linked_classes(run, target)
    return {frozenset(reach['run', k]): values[i] for k, i in enumerate(protocol.table) if i != IGNORE}, mean


def one_case(seed):
    "Compare the two in one random case; say whether anything could be scored."
    rng = np.random.default_rng(seed)
    run = random_space(rng, 'run')
    target = run if rng.random() < 0.05 else random_space(rng, 'target')
    taught = [c for c in run.classes if rng.random() < 0.8]
    n = int(rng.integers(1, 30))
    truth = rng.choice([*range(len(target)), IGNORE], n)
    prediction = rng.integers(0, len(run), n)
    wanted = iou_by_definition(run, target, taught, truth.tolist(), prediction.tolist())
    if not wanted:
        with pytest.raises(AshError, match='no class in common'):
            meet(run, target, taught)
        return False
    got, mean = iou_by_the_kit(run, target, taught, truth, prediction)
    assert got.keys() == wanted.keys()
    np.testing.assert_allclose([got[g] for g in wanted], list(wanted.values()), rtol=1e-12)
    numbers = [v for v in wanted.values() if v == v]
    np.testing.assert_allclose(mean, np.mean(numbers) if numbers else float('nan'), rtol=1e-12)
    return True


@pytest.mark.parametrize('part', range(10))
def test_iou_is_what_it_is_defined_as(part):
    "2,000 random label spaces (ASH_NB_CASES=5: 10,000), aliases, ignored pixels, lessons, against sets, reachability."
    with mock.patch.dict(PROTOCOLS):
        scored = sum(one_case(1000 * part + k) for k in range(200 * MANY))
    assert scored > 160 * MANY
