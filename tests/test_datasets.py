"Readers against files of the real formats; loaders that repeat; label maps under any input."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from readers import CLASSES, ID_MAPS, PALETTE, CamVid, Synthia, reader, to_train_ids

from ash_nb.core.config import AshError
from ash_nb.data.datasets import StreetWorld, open_dataset
from ash_nb.data.descriptions import shipped_names
from ash_nb.data.labels import IGNORE
from ash_nb.data.loading import loader
from ash_nb.data.pictures import read_ids
from ash_nb.data.transforms import train_transform


def classes(data):
    return {CLASSES[c] for s in data for c in np.unique(s['label']) if c != IGNORE}


def test_camvid(real):
    data = CamVid(real / 'camvid', 'val')
    assert len(data) == 101 and data.protocol == 'camvid11'
    shares = np.mean(
        [[(np.asarray(s['label']) == c).mean() for c in (0, 2, 10, 8)] for s in (data[k] for k in range(0, 101, 10))], 0
    )
    assert all(0.05 < x < 0.5 for x in shares)  # road, building, sky, vegetation
    assert data[0]['image'].shape == (3, 360, 480) and data[0]['label'].shape == (360, 480)


@pytest.mark.parametrize('name, n, size', [('gta5', 3, None), ('cityscapes', None, (1024, 2048)), ('kitti', 2, None)])
def test_real_samples(real, name, n, size):
    split = None if name != 'cityscapes' else next(p.name for p in (real / 'cityscapes' / 'leftImg8bit').iterdir())
    data = open_dataset(name, real / name, split)
    assert n is None or len(data) == n
    assert {'road', 'building', 'vegetation', 'car'} <= classes(data)
    assert size is None or data[0]['label'].shape == size


def test_synthia_16_bit_ids_survive(real):
    root = next(p.parent for p in (real / 'format_mocks').rglob('RGB') if (p.parent / 'GT' / 'LABELS').is_dir())
    ids = {int(i) for p in (root / 'GT' / 'LABELS').rglob('*.png') for i in np.unique(read_ids(p))}
    assert ids - {0}, 'every class reads as 0: the 16 bits were squeezed into 8'
    assert len(Synthia(root)) and classes(Synthia(root))


@pytest.mark.parametrize('name', ['mapillary', 'mapillary_v2.0'])
def test_mapillary_mocks(real, name):
    root = next((real / 'format_mocks').glob('mapillary*'))
    for split, n in (('train', 1), ('val', 2)):
        data = reader(name)(root, split)
        assert len(data) == n and all(s['image'].shape[1:] == s['label'].shape for s in data)


def test_16_bit_labels_written_here(tmp_path):
    "A 16-bit RGB PNG as SYNTHIA has them, written byte by byte: class in red, instance in green."
    import struct
    import zlib

    ids = np.array([[3, 4, 2], [22, 1, 10]], np.uint16)
    rows = b''.join(b'\0' + np.stack([r, r * 7, 0 * r], 1).astype('>u2').tobytes() for r in ids)

    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    png = (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', 3, 2, 16, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(rows))
        + chunk(b'IEND', b'')
    )
    (tmp_path / 'a.png').write_bytes(png)
    assert (read_ids(tmp_path / 'a.png') == ids).all()
    assert to_train_ids(read_ids(tmp_path / 'a.png'), 'synthia').tolist() == [[0, 1, 2], [255, 10, 11]]


def test_palette_labels_keep_their_indices(tmp_path):
    picture = Image.fromarray(np.array([[7, 26], [23, 34]], np.uint8), 'P')
    picture.putpalette([i % 256 for i in range(768)])
    picture.save(tmp_path / 'a.png')
    assert to_train_ids(read_ids(tmp_path / 'a.png'), 'gta5').tolist() == [[0, 13], [10, 255]]


@given(
    st.one_of(
        hnp.arrays(st.sampled_from([np.uint8, np.uint16, np.int32]), (3, 4), elements=st.integers(0, 255)),
        hnp.arrays(np.int32, (3, 4)),
    ),
    st.sampled_from(sorted(ID_MAPS)),
)
@settings(max_examples=300, deadline=None)
def test_any_label_map_is_translated_or_refused(raw, name):
    try:
        out = to_train_ids(raw, name, 'x.png')
    except AshError as e:
        assert 'x.png' in str(e) and set(np.unique(raw)) - set(ID_MAPS[name])
        return
    assert out.dtype == np.uint8 and [ID_MAPS[name][int(i)] for i in raw.ravel()] == out.ravel().tolist()


@pytest.mark.parametrize('workers', [0, 2])
def test_loaders_repeat_whatever_the_workers(workers):
    data, t = StreetWorld(5, width=120, height=90), train_transform(96, 64, (0.7, 1.4))
    batches = list(loader(data, 2, 3, t, start_step=3, steps=3, workers=workers))
    samples = list(loader(data, 1, 3, t, start_step=0, steps=12))
    for k, b in enumerate(batches):
        one = [samples[2 * (3 + k) + i] for i in (0, 1)]
        assert torch.equal(b['images'], torch.cat([s['images'] for s in one])) and torch.equal(
            b['labels'], torch.cat([s['labels'] for s in one])
        )
        assert b['names'] == [s['names'][0] for s in one]


@given(
    st.integers(0, 10**6), st.sampled_from([(64, 64), (97, 71), (200, 90)]), st.floats(0.3, 1.0), st.floats(1.0, 2.0)
)
@settings(max_examples=25, deadline=None)
def test_label_stays_on_its_image(seed, size, low, high):
    "A picture whose red channel is its label, through any transform, keeps saying so."
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 2, (6, 8), np.uint8)
    label = torch.from_numpy(np.kron(coarse, np.ones((15, 15), np.uint8)))
    from torchvision import tv_tensors

    sample = {
        'image': tv_tensors.Image(label[None].expand(3, -1, -1) * 255),
        'label': tv_tensors.Mask(label),
        'name': 'x',
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        out = train_transform(*size, (low, high))(sample)
    assert out['image'].shape == (3, *size[::-1]) and out['label'].shape == size[::-1]
    counted = out['label'] != IGNORE
    assert not counted.any() or ((out['image'][0] > 0.5) == (out['label'] == 1))[counted].float().mean() > 0.85


# The data sets' own names in the order of their ids, and what each is called among the nineteen; others are ignored.
CITYSCAPES = (
    'unlabeled,ego vehicle,rectification border,out of roi,static,dynamic,ground,road,sidewalk,parking,'
    'rail track,building,wall,fence,guard rail,bridge,tunnel,pole,polegroup,traffic light,traffic sign,'
    'vegetation,terrain,sky,person,rider,car,truck,bus,caravan,trailer,train,motorcycle,bicycle'
)
SYNTHIA = (
    'void,sky,building,road,sidewalk,fence,vegetation,pole,car,traffic sign,pedestrian,bicycle,motorcycle,'
    'parking slot,road work,traffic light,terrain,rider,truck,bus,train,wall,lane marking of synthia'
)
CAMVID = 'sky,building,pole,road,pavement,tree,sign symbol,fence,car,pedestrian,bicyclist of camvid,unlabelled'
VISTAS = (
    'bird,ground animal,curb,fence,guard rail,barrier,wall,bike lane,crosswalk,curb cut,parking,'
    'pedestrian area,rail track,road,service lane,sidewalk,bridge,building,tunnel,person,bicyclist,'
    'motorcyclist,other rider,lane marking crosswalk,lane marking general,mountain,sand,sky,snow,terrain,'
    'vegetation,water,banner,bench,bike rack,billboard,catch basin,cctv camera,fire hydrant,junction box,'
    'mailbox,manhole,phone booth,pothole,street light,pole,traffic sign frame,utility pole,traffic light,'
    'traffic sign back,traffic sign front,trash can,bicycle,boat,bus,car,caravan,motorcycle,on rails,'
    'other vehicle,trailer,truck,wheeled slow,car mount,ego vehicle,unlabeled'
)
CALLED = {
    'pedestrian': 'person',
    'pavement': 'sidewalk',
    'tree': 'vegetation',
    'sign symbol': 'traffic sign',
    'bicyclist of camvid': 'bicycle',
    'curb': 'sidewalk',
    'bicyclist': 'rider',
    'motorcyclist': 'rider',
    'other rider': 'rider',
    'lane marking general': 'road',
    'manhole': 'road',
    'utility pole': 'pole',
    'traffic sign front': 'traffic sign',
    'on rails': 'train',
}


@pytest.mark.parametrize(
    'name, names',
    [
        ('cityscapes', CITYSCAPES),
        ('kitti', CITYSCAPES),
        ('gta5', CITYSCAPES + ',license plate'),
        ('synthia', SYNTHIA),
        ('camvid', CAMVID),
        ('mapillary', VISTAS),
    ],
)
def test_id_maps_by_name(name, names):
    wanted = {
        k: CLASSES.index(CALLED.get(n, n)) if CALLED.get(n, n) in CLASSES else IGNORE
        for k, n in enumerate(names.split(','))
    }
    assert ID_MAPS[name] == wanted | ({255: IGNORE} if name == 'kitti' else {})


def test_the_other_tables_have_not_changed():
    "Vistas 2.0 has 124 names: a change of its map, or of the colours, must be meant."
    import hashlib

    assert (
        hashlib.sha256(repr(sorted(ID_MAPS['mapillary_v2.0'].items())).encode()).hexdigest()[:16] == '95ec48440565712e'
    )
    assert hashlib.sha256(PALETTE.tobytes()).hexdigest()[:16] == '5af5a8d200c61cb3'


# --- which split, whose ids


@pytest.mark.parametrize('name', sorted({*shipped_names(), 'streetworld', 'streetworld-night', 'procedural-paintings'}))
def test_a_split_that_is_not_there_is_refused(name, tmp_path):
    "Of every data set, with the splits that there are, before anything is read."
    with pytest.raises(
        AshError, match=f"split of {name.split('-night')[0]} 'nonsense': choose one of (train|val|test)"
    ):
        open_dataset(name, tmp_path if name in shipped_names() else None, 'nonsense')


@pytest.mark.parametrize('name', ['gta5', 'synthia'])
def test_a_source_without_a_validation_split_has_none(name, tmp_path):
    with pytest.raises(AshError, match="'val': choose one of train"):
        open_dataset(name, tmp_path, 'val')


FOLDERS = {
    'kitti': ('training/image_2/{}.png', 'training/semantic/{}.png'),
    'gta5': ('images/{}.png', 'labels/{}.png'),
    'cityscapes': ('leftImg8bit/val/ulm/{}_leftImg8bit.png', 'gtFine/val/ulm/{}_gtFine_labelIds.png'),
    'mapillary': ('validation/images/{}.jpg', 'validation/labels/{}.png'),
}


def folder_of(name, root, maps):
    for k, ids in enumerate(maps):
        for place, array in zip(FOLDERS[name], (np.zeros((*ids.shape, 3), np.uint8), ids)):
            (root / place.format(k)).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(root / place.format(k))
    return root


ids_of = {n: sorted(ID_MAPS[n]) for n in FOLDERS}


@given(st.sampled_from(list(FOLDERS)), st.integers(0, 2**32), st.booleans())
@settings(max_examples=60, deadline=None, derandomize=True, database=None)
def test_train_ids_in_the_place_of_label_ids_are_refused(tmp_path_factory, name, seed, train_ids):
    "Judged over the whole folder: files that use 0 to 18 and 255 alone, some of them ignored, hold train ids."
    r = np.random.default_rng(seed)
    possible = [*range(19), IGNORE] if train_ids else [i for i in ids_of[name] if i != IGNORE]
    maps = [r.choice(possible, (4, 6)).astype(np.uint8) for _ in range(3)]
    if train_ids:
        maps[r.integers(3)][0, :3] = 0, 10, 9  # road, sky, terrain; as label ids they are ignored
    else:
        maps[r.integers(3)][0, 0] = 23  # a sky, or snow
    root = folder_of(name, tmp_path_factory.mktemp(name), maps)
    if not train_ids:
        assert len(list(open_dataset(name, root))) == 3
        return
    with pytest.raises(AshError, match='look like train ids'):
        open_dataset(name, root)
    for s, ids in zip(open_dataset(name, root, holds='train_ids'), maps):
        assert np.array_equal(s['label'], ids)
    if name != 'mapillary' and all((m < 19).all() for m in maps):
        assert len(list(open_dataset(name, root, holds='own'))) == 3


def test_settings_may_say_home_and_relative_folders(tmp_path, monkeypatch):
    camvid = folder_of('kitti', tmp_path / 'home' / 'data', [np.array([[7, 23]], np.uint8)])
    monkeypatch.setenv('HOME', str(tmp_path / 'home'))
    for text, where in (('~/data', tmp_path), ('home/data', tmp_path / 'nbs'), (str(camvid), tmp_path / 'nbs')):
        (tmp_path / 'settings.ini').write_text(f'[DEFAULT]\nkitti = {text}\n')
        where.mkdir(exist_ok=True)
        monkeypatch.chdir(where)
        assert len(open_dataset('kitti')) == 1
    assert len(open_dataset('kitti', '~/data')) == 1
