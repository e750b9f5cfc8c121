"The pages of data sets that ship, held against tables and layouts that were written down apart from them."

import hashlib
import sys
from importlib.resources import files
from pathlib import Path

import layouts
import numpy as np
import pytest
import yaml
from conftest import MANY
from layouts import A2D2, IGNORE, LAYOUTS, TABLES, Layout, write_layout

from ash_nb.core.config import AshError
from ash_nb.data.datasets import open_dataset
from ash_nb.data.descriptions import KEYS, description_in, shipped_description, shipped_names
from ash_nb.data.labels import CITYSCAPES, PROTOCOLS, meet, translation

sys.path.insert(0, str(Path(__file__).parent.parent / 'data_prep'))
import pages  # noqa: E402

NAMES = shipped_names()


def as_train_ids(name, meanings):
    "Say as which of the nineteen each id or colour of a page is stored."
    page = shipped_description(name)
    to = (*translation(page.space, CITYSCAPES),)
    return {k: IGNORE if v == IGNORE else to[v] for k, v in meanings(page).items()}


def test_every_page_is_known_here():
    assert {*TABLES, 'a2d2', 'paintings'} == set(NAMES)
    assert {layout.name for layout in LAYOUTS} == set(NAMES) - {'paintings'}


@pytest.mark.parametrize('name', sorted(TABLES))
def test_ids_mean_what_is_published(name):
    assert as_train_ids(name, lambda page: page.numbers) == TABLES[name]


def test_colours_mean_what_is_published():
    wanted = {r << 16 | g << 8 | b: train_id for (r, g, b), train_id in A2D2.items()}
    assert as_train_ids('a2d2', lambda page: page.colours) == wanted and len(wanted) == 55


HASHES = {  # of the id maps that the readers of each data set had before there were pages
    'cityscapes': 'ddf894c4e0734bdd',
    'gta5': 'd6fdc2ec35396a59',
    'kitti': 'd5e5cb22750f8b6c',
    'synthia': 'ea6c20bffd4ba11b',
    'mapillary': 'b37e4f7e1ef695fb',
    'mapillary_v2.0': '95ec48440565712e',
    'camvid': 'd0711cc46fb0c32e',
}


@pytest.mark.parametrize('name', sorted(HASHES))
def test_no_number_of_the_seven_old_sets_has_moved(name):
    ids = as_train_ids(name, lambda page: page.numbers)
    assert hashlib.sha256(repr(sorted(ids.items())).encode()).hexdigest()[:16] == HASHES[name]


def test_what_a_page_has_is_what_a_run_is_scored_on():
    "SYNTHIA maps 19 classes and has 16; what a page does not have is never scored."
    lacks = {
        name: set(CITYSCAPES.classes) - set(shipped_description(name).has)
        for name in NAMES
        if shipped_description(name).labels and shipped_description(name).space == CITYSCAPES
    }
    some = {name: lack for name, lack in lacks.items() if lack}
    assert some == {
        'synthia': {'terrain', 'truck', 'train'},
        'idd_level3': {'terrain', 'train'},
        'viper': {'wall', 'pole', 'rider'},
        'a2d2': {'wall', 'terrain', 'rider', 'bus', 'train'},
    }
    assert meet(CITYSCAPES, CITYSCAPES, shipped_description('synthia').has).protocol == PROTOCOLS['16']


@pytest.mark.parametrize(
    'name, scored, missing', [('carla_lyft', 11, ('other',)), ('carla', 13, ()), ('shift', 13, ())]
)
def test_spaces_of_their_own_meet_the_nineteen(name, scored, missing):
    "CARLA's road line and road are one class to a street, and so are its vehicles; riders have no partner."
    met = meet(CITYSCAPES, shipped_description(name).space)
    assert (len(met.protocol.classes), met.target_only) == (scored, missing)
    as_what = {c: met.protocol.classes[k] for c, k in zip(CITYSCAPES.classes, met.protocol.table) if k != IGNORE}
    assert as_what['car'] == as_what['truck'] == as_what['bus'] == 'vehicle' and as_what['person'] == 'pedestrian'
    assert (as_what['sky'], as_what['wall'], as_what['road']) == ('sky', 'wall', 'road')
    assert {'rider', 'motorcycle', 'bicycle'} <= set(met.run_only)


@pytest.mark.parametrize('name', ['carla_lyft', 'carla', 'shift'])
def test_carla_meets_camvid_in_ten_classes(name):
    "Cars, walkers and signs stay apart; CamVid's bicyclists, whom CARLA does not know as a class, do not count."
    met = meet(shipped_description(name).space, shipped_description('camvid').space)
    assert set(met.protocol.classes) >= {'sky', 'road', 'building', 'pole', 'fence', 'car', 'pedestrian', 'sign symbol'}
    assert (len(met.protocol.classes), met.target_only) == (10, ('bicyclist',))


COUNTS = {
    'camvid': dict(train=367, val=101, test=233),
    'cityscapes': dict(train=2975, val=500, test=1525),
    'synthia': dict(train=9400, robustnet_train=6580, robustnet_val=2820),
    'kitti': dict(val=200),
    **dict.fromkeys(('mapillary', 'mapillary_openseg', 'mapillary_v2.0'), dict(train=18000, val=2000)),
    'bdd100k': dict(train=7000, val=1000),
    'dark_zurich': dict(val=50),
    'nighttime_driving': dict(test=50),
    **dict.fromkeys(('idd', 'idd_level3'), dict(train=6993, val=981)),
    'wilddash2': dict(val=4256),
    'foggy_cityscapes': dict(train=3 * 2975, val=3 * 500),
    'foggy_driving': dict(test=101),
    'foggy_zurich': dict(testv2=40, testv1=16),
}


@pytest.mark.parametrize('name', NAMES)
def test_counts_and_what_must_be_said(name):
    "Counts are told only where they were read; every page says how its set is obtained, or that this is not known."
    page = shipped_description(name)
    if name != 'gta5':  # whose splits are tested with its lists
        assert page.counts == COUNTS.get(name, {})
    assert page.title and page.about and page.about.endswith('.')
    assert 'size' in page.obtain or 'counts' in page.obtain['unverified']
    for key in ('address', 'terms'):
        assert key in page.obtain or key in page.obtain['unverified'], key
    assert set(page.obtain) <= {'address', 'terms', 'size', 'steps', 'unverified'}
    assert page.above == ((('sky', 'road'),) if page.labels else ())


def test_files_of_the_mismatched_release_are_named():
    missing, orphans, *_ = shipped_description('bdd100k').faults
    assert (len(missing.names), len(orphans.names)) == (6, 6)
    assert 'train/781756b0-61e0a182' in missing.names and 'val/ff7b98c7-3cb964ac' in orphans.names
    assert '08f26aecceda982568063d3d5873378e' in missing.told and '9a2968dde3345eeb689cffb1e26f9c78' in missing.told


@pytest.mark.parametrize('layout', LAYOUTS, ids=lambda x: f'{x.name}-{x.split}')
def test_files_as_they_are_distributed_are_read(layout, tmp_path):
    "Every value that a label may hold, at the path and in the file format of the owners."
    wanted = write_layout(layout, tmp_path)
    data = open_dataset(layout.name, tmp_path, layout.split, space=CITYSCAPES)
    assert data.names == [layout.image]
    sample = data[0]
    assert np.array_equal(sample['label'], wanted) and sample['image'].shape[1:] == wanted.shape
    if layout.name == 'synthia':
        assert (data.protocol, data.meeting().untaught) == ('16', ())


def test_parts_are_targets_of_their_own(tmp_path):
    "ACDC's weathers and the densities of drawn fog; a reference in clear weather is no image of the set."
    for weather in ('fog', 'night', 'rain', 'snow'):
        image = f'rgb_anon/{weather}/val/GP010476/GP010476_frame_000054_rgb_anon.png'
        label = f'gt/{weather}/val/GP010476/GP010476_frame_000054_gt_labelTrainIds.png'
        write_layout(Layout('acdc', 'val', image, label), tmp_path)
        clear = image.replace('/val/', '/val_ref/').replace('_rgb_anon', '_rgb_ref_anon')
        write_layout(Layout('acdc', 'val', clear, label), tmp_path)
    assert [n.split('/')[1] for n in open_dataset('acdc', tmp_path, 'val').names] == ['fog', 'night', 'rain', 'snow']
    assert [n.split('/')[1] for n in open_dataset('acdc-night', tmp_path, 'val').names] == ['night']
    for beta in ('0.005', '0.01', '0.02'):
        image = f'leftImg8bit_foggyDBF/val/ulm/ulm_000000_000019_leftImg8bit_foggy_beta_{beta}.png'
        label = 'gtFine/val/ulm/ulm_000000_000019_gtFine_labelIds.png'
        write_layout(Layout('foggy_cityscapes', 'val', image, label), tmp_path)
    assert len(open_dataset('foggy_cityscapes', tmp_path, 'val')) == 3  # one label for three pictures
    assert open_dataset('foggy_cityscapes-0.01', tmp_path, 'val').names == [image.replace('0.02', '0.01')]


SEEN = {  # real samples: folder, split, pairs, some of their classes
    'carla_lyft': ('carla/lyft', 'train', 12, {'sky', 'road', 'road line', 'vehicle', 'sidewalk', 'vegetation'}),
    'carlascapes': ('carla/carlascapes', 'train', 4, {'sky', 'road', 'sidewalk', 'building', 'traffic sign'}),
    'bdd100k': ('format_mocks/bdd100k_layout_mmseg_8x8', 'val', 3, set()),
    'mapillary': ('format_mocks/mapillary_layout_datumaro', 'val', 2, set()),
    'mapillary_v2.0': ('format_mocks/mapillary_layout_datumaro', 'val', 2, set()),
    'synthia': ('format_mocks/synthia_layout_cvat_datumaro', 'train', 4, set()),
    'gta5': ('gta5', 'train', 3, {'road', 'sky', 'car'}),
    'cityscapes': ('cityscapes', 'train', 4, {'road', 'sky', 'car', 'bicycle'}),
    'kitti': ('kitti', 'val', 2, {'road', 'sky', 'car'}),
    'camvid': ('camvid', 'val', 101, {'sky', 'building', 'road', 'tree', 'bicyclist'}),
}


@pytest.mark.parametrize('name', sorted(SEEN))
def test_real_samples_are_read(real, name):
    folder, split, n, wanted = SEEN[name]
    data = open_dataset(name, real / folder, split)
    assert len(data) == n
    few = range(0, n, -(-n // 6))
    seen = {int(i) for k in few for i in np.unique(data.label(k))}
    assert {data.space.classes[i] for i in seen - {IGNORE}} >= wanted and seen <= {*range(len(data.space)), IGNORE}
    if wanted:  # the others are mocks, some with grey images
        assert all(data[k]['image'].shape[1:] == data[k]['label'].shape for k in few)


# --- data_prep/


def test_data_prep_says_what_the_descriptions_say():
    for file, text in pages.wanted(fresh=False).items():
        assert file.read_text('utf-8') == text, f'{file}: python data_prep/pages.py --write'
    written = {f.stem for f in (pages.root / 'data_prep').glob('*.md')}
    assert written == {*NAMES, 'README'}


@pytest.mark.parametrize('name', sorted(set(NAMES) - set(pages.REAL)))
def test_prepare_says_of_every_layout_what_its_page_shows(name):
    said, bad = pages.prepared(name)
    assert (said.strip(), bad.strip()) == tuple(x.strip() for x in pages.kept(name))
    assert '1 samples, 0 problems' in said and 'Doubt' not in said


@pytest.mark.parametrize('name', sorted(pages.REAL))
def test_prepare_says_of_real_samples_what_their_page_shows(real, name):
    said = pages.prepared(name)[0]
    assert said.strip() == pages.kept(name)[0].strip() and 'Doubt' not in said


@pytest.mark.parametrize(
    'name, told',
    [
        ('gta5', '20801.png is 96 x 72 but its label'),
        ('gta5', '60 files whose label has another size'),
        ('bdd100k', '1 label files have no image: labels/sem_seg/masks/train/fee92217-63b3f87f.png'),
        ('bdd100k', 'a picture of the first release of 2021 that has no label'),
        ('carla', 'in 3 of 3 labels sky lies below road'),
        ('carla', 'CARLA renumbered every class at 0.9.14'),
        ('carla_0.9.14', 'CARLA renumbered every class at 0.9.14'),
    ],
)
def test_known_faults_are_found(name, told, tmp_path):
    layouts.FAULTY[name](tmp_path)
    assert told in pages.says(name, tmp_path, 'train') and told in pages.kept(name)[1]


def test_files_of_the_lyft_challenge_are_not_taken_for_a_newer_carla(real):
    "They lie where CARLA's page looks; their sky has no class of its own there."
    assert 'none of 12 labels has both sky and road' in pages.says('carla', real / 'carla/lyft', 'train')


ODD = [
    None,
    3,
    -1,
    1.5,
    True,
    'x',
    '',
    '{',
    '{a}/{b}.png',
    [],
    [1],
    ['x'],
    [[1]],
    {},
    {'a': 1},
    {'a': {'b': 2}},
    {1: 2},
]
ODD += [[{'a': 1}], '300-2', '#12', 'all', [None], {'train': None}, {'train': {'list': 3}}, {'train': {'mat': 'x'}}]


ASKED = ['camvid', 'gta5', 'wilddash2', 'a2d2', 'acdc', 'paintings']


@pytest.mark.parametrize('name', ASKED)
def test_whatever_stands_under_a_key_is_read_or_told(name, tmp_path):
    """Every key of a page with odd values in it: a description, or a sentence with the file and the line.
    Every key meets every value in one of the pages; with ASH_NB_CASES=2, in all."""
    page = yaml.safe_load((files('ash_nb') / 'assets' / 'datasets' / f'{name}.yaml').read_text('utf-8'))
    for k, key in enumerate(KEYS):
        first = (k + ASKED.index(name)) % len(ASKED)
        for value in ODD if MANY > 1 else ODD[first :: len(ASKED)]:
            (tmp_path / 'dataset.yaml').write_text(yaml.safe_dump(page | {key: value}))
            try:
                description_in(tmp_path / 'dataset.yaml')
            except AshError as e:
                assert 'dataset.yaml, line ' in str(e), (key, value, e)
