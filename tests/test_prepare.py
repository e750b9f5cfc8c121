"Preparing data sets: real files, parallel work, kills in the middle, damage of every kind."

import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from PIL import Image
from readers import to_train_ids

from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.core.files import read_json, write_json
from ash_nb.data.datasets import open_dataset
from ash_nb.data.prepare import prepare, write_gta5
from ash_nb.data.streetworld.appearances import street
from ash_nb.data.streetworld.paintings import painting
from ash_nb.methods.presets import preset
from ash_nb.runs.training import train


@pytest.fixture
def camvid(tmp_path):
    "Twelve pairs in CamVid's layout."
    root = tmp_path / 'raw'
    for folder in ('val', 'valannot'):
        (root / folder).mkdir(parents=True)
    for k in range(12):
        Image.fromarray(street(k, 96, 72)[0]).save(root / f'val/{k:02d}.png')
        label = np.full((72, 96), k % 12, np.uint8)
        label[:6], label[-6:] = 0, 3  # a sky above, a road below
        Image.fromarray(label).save(root / f'valannot/{k:02d}.png')
    return root


def files(copy):
    return {p.relative_to(copy): p.read_bytes() for p in sorted(copy.rglob('*')) if p.is_file()}


def test_processes_write_what_one_writes(camvid, tmp_path):
    for n in (1, 2):
        assert prepare('camvid', camvid, tmp_path / f'copy{n}', workers=n, progress=False)['problems'] == []
    assert files(tmp_path / 'copy1') == files(tmp_path / 'copy2')


def test_killed_in_the_middle_then_run_again(camvid, tmp_path):
    prepare('camvid', camvid, tmp_path / 'whole', workers=1, progress=False)
    given = f"'camvid', {str(camvid)!r}, {str(tmp_path / 'copy')!r}, workers=1, progress=False"
    code = f'from ash_nb.data.prepare import prepare; prepare({given})'
    process = subprocess.Popen([sys.executable, '-c', code])
    part = tmp_path / 'copy' / 'index.part'
    while process.poll() is None and not (part.is_file() and part.stat().st_size):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    prepare('camvid', camvid, tmp_path / 'copy', workers=1, progress=False)
    assert files(tmp_path / 'whole') == files(tmp_path / 'copy')


def test_command_line(camvid, tmp_path, capsys):
    copy = str(tmp_path / 'copy')
    (camvid / 'valannot/03.png').unlink()
    assert main(['prepare', 'camvid', '--root', str(camvid), '--out', copy, '--workers', '1']) == 2
    out = capsys.readouterr()
    assert '03.png' in out.out and '1 of 12 samples have problems' in out.err
    with pytest.raises(AshError, match='not completely prepared'):
        open_dataset('camvid', copy)
    assert main(['prepare', 'camvid', '--root', str(camvid), '--out', copy, '--workers', '1', '--leave-out']) == 0
    assert len(open_dataset('camvid', copy)) == 11
    with pytest.raises(AshError, match="split 'val', not 'train'"):
        open_dataset('camvid', copy, 'train')
    with pytest.raises(AshError, match="dataset 'camvid', not 'kitti'"):
        open_dataset('kitti', copy)


def test_index_cannot_lead_outside(camvid, tmp_path):
    from ash_nb.core.files import read_json, sha256, write_json

    copy = tmp_path / 'copy'
    prepare('camvid', camvid, copy, workers=1, progress=False)
    text = (copy / 'index.jsonl').read_text().replace('images/val/00.jpg', '../../secret.jpg')
    (copy / 'index.jsonl').write_text(text)
    with pytest.raises(AshError, match='missing or damaged'):
        open_dataset('camvid', copy)
    write_json(
        copy / 'prepared.json',
        read_json(copy / 'prepared.json', sealed=True) | {'index_sha256': sha256(text.encode())},
        sealed=True,
    )
    with pytest.raises(AshError, match='outside the folder'):
        open_dataset('camvid', copy)[0]


@pytest.mark.parametrize(
    'name, split',
    [('gta5', 'train'), ('kitti', 'val'), ('cityscapes', 'train'), ('camvid', 'val'), ('paintings', 'train')],
)
def test_real_samples(real, tmp_path, name, split):
    "A lossless copy of real files at their own size holds the same pixels and ids."
    size = 10**6, 10**6
    data = open_dataset(name, real / name, split)
    assert (
        prepare(name, real / name, tmp_path / 'copy', split, size, lossless=True, workers=2, progress=False)['problems']
        == []
    )
    copy = open_dataset(name, tmp_path / 'copy', split)
    for k in {0, len(data) - 1}:
        a, b = data[k], copy[k]
        assert a.keys() == b.keys() and all((a[x] == b[x]).all() if x != 'name' else a[x] == b[x] for x in a)


def test_cityscapes_label_ids_or_train_ids(tmp_path):
    image, label = street(0, 96, 72)
    for city, kind in (('a', 'labelIds'), ('b', 'labelTrainIds')):
        for folder in ('leftImg8bit', 'gtFine'):
            (tmp_path / folder / 'val' / city).mkdir(parents=True)
        Image.fromarray(image).save(tmp_path / f'leftImg8bit/val/{city}/{city}_0_leftImg8bit.png')
        ids = (
            np.where(label == 0, 7, 0).astype(np.uint8)
            if kind == 'labelIds'
            else np.where(label == 0, 0, 255).astype(np.uint8)
        )
        Image.fromarray(ids).save(tmp_path / f'gtFine/val/{city}/{city}_0_gtFine_{kind}.png')
    a, b = open_dataset('cityscapes', tmp_path)
    assert (a['label'] == b['label']).all() and set(np.unique(a['label'])) == {0, 255}


@pytest.mark.parametrize('name', ['kitti', 'mapillary'])
def test_mixed_sizes_make_batches(tmp_path, name):
    from ash_nb.data.loading import loader
    from ash_nb.data.transforms import train_transform

    folder, images, labels, ext = {
        'kitti': ('training', 'image_2', 'semantic', 'png'),
        'mapillary': ('validation', 'images', 'labels', 'jpg'),
    }[name]
    for sub in (images, labels):
        (tmp_path / folder / sub).mkdir(parents=True)
    for k, (w, h) in enumerate([(120, 40), (90, 96), (64, 130)]):
        Image.fromarray(street(k, w, h)[0]).save(tmp_path / folder / images / f'{k}.{ext}')
        Image.fromarray(np.full((h, w), 7, np.uint8)).save(tmp_path / folder / labels / f'{k}.png')
    (batch,) = loader(open_dataset(name, tmp_path), 3, 0, train_transform(64, 64, (0.8, 1.1)))
    assert batch['images'].shape == (3, 3, 64, 64) and batch['labels'].shape == (3, 64, 64)


# --- every copy is good for training


def gta5_like(root):
    write_gta5(root, 3, (192, 128))


def camvid_like(root):
    for folder in ('train', 'trainannot'):
        (root / folder).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(street(k, 96, 72)[0]).save(root / f'train/{k}.png')
        Image.fromarray(np.full((72, 96), k, np.uint8)).save(root / f'trainannot/{k}.png')


def kitti_like(root):
    gta5_like(root / 'gta5')
    (root / 'training').mkdir()
    for a, b in (('images', 'image_2'), ('labels', 'semantic')):
        (root / 'gta5' / a).rename(root / 'training' / b)
    for p in (root / 'training' / 'semantic').iterdir():
        Image.fromarray(np.minimum(np.array(Image.open(p)), 33)).save(p)


def cityscapes_like(root):
    kitti_like(root)
    for a, b, ending in (('image_2', 'leftImg8bit', 'leftImg8bit'), ('semantic', 'gtFine', 'gtFine_labelIds')):
        (root / b / 'train' / 'ulm').mkdir(parents=True)
        for p in (root / 'training' / a).iterdir():
            p.rename(root / b / 'train' / 'ulm' / f'{p.stem}_{ending}.png')


def mapillary_like(root):
    for folder in ('images', 'labels'):
        (root / 'training' / folder).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(street(k, 96, 72)[0]).save(root / f'training/images/{k}.jpg')
        Image.fromarray(np.full((72, 96), 27 + k, np.uint8)).save(root / f'training/labels/{k}.png')


def synthia_like(root):
    for folder in ('RGB', 'GT/LABELS'):
        (root / folder).mkdir(parents=True)
    for k in range(3):
        Image.fromarray(street(k, 96, 72)[0]).save(root / f'RGB/{k}.png')
        Image.fromarray(np.full((72, 96), 3 + k, np.uint16)).save(root / f'GT/LABELS/{k}.png')


def paintings_like(root):
    (root / 'deep').mkdir(parents=True)
    for k, name in enumerate(('a.jpg', 'a.png', 'deep/a.JPEG')):
        Image.fromarray(painting(k)).save(root / name)


MAKERS = dict(
    gta5=gta5_like,
    camvid=camvid_like,
    kitti=kitti_like,
    cityscapes=cityscapes_like,
    mapillary=mapillary_like,
    synthia=synthia_like,
    paintings=paintings_like,
)


@pytest.mark.parametrize('name', MAKERS)
def test_from_prepare_to_a_training_step(name, tmp_path):
    "Raw and prepared, as source or as styles, by the command that the README gives."
    MAKERS[name](tmp_path / 'raw')
    split = 'val' if name == 'kitti' else 'train'
    done = prepare(name, tmp_path / 'raw', tmp_path / 'copy', split, workers=1, progress=False)
    assert (done['samples'], done['problems']) == (3, [])
    samples = list(open_dataset(name, tmp_path / 'copy', split))
    assert len(samples) == 3 and len({s['image'].float().mean().item() for s in samples}) == 3, (
        'two samples share a file'
    )
    size = dict(body='plain', width=64, height=64, test_width=64, test_height=64, batch_size=2, steps=1)
    for k in ('raw', 'copy'):
        given = (
            dict(styles=str(tmp_path / k), method='stylization', scenes=3)
            if name == 'paintings'
            else dict(source=name, root=str(tmp_path / k), split=split, method='source_only')
        )
        run = train(
            preset('streetworld', **size, **given), tmp_path / f'run-{k}', device='cpu', workers=0, progress=False
        )
        assert run.finished


def inside(root):
    return {p: p.read_bytes() for p in root.rglob('*') if p.is_file()}


@pytest.mark.parametrize(
    'out', ['raw', 'raw/copy', 'raw/val', 'raw/new/deep', 'link', 'link/copy', 'raw/../raw/x', 'other']
)
def test_no_copy_into_what_is_there(camvid, tmp_path, out):
    "Refused before a byte is written, however the folder is spelled; a new folder beside it is taken."
    (tmp_path / 'link').symlink_to(camvid)
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'thesis.tex').write_text('mine')
    before = inside(tmp_path)
    with pytest.raises(AshError, match='nothing was written'):
        prepare('camvid', camvid, tmp_path / out, workers=1, progress=False)
    assert inside(tmp_path) == before and len(open_dataset('camvid', camvid)) == 12
    assert not prepare('camvid', camvid, tmp_path / 'copy', workers=1, progress=False)['problems']


def test_a_copy_that_other_rules_made_is_not_read(camvid, tmp_path):
    prepare('camvid', camvid, tmp_path / 'copy', workers=1, progress=False)
    head = read_json(tmp_path / 'copy' / 'prepared.json', sealed=True)
    write_json(tmp_path / 'copy' / 'prepared.json', {k: v for k, v in head.items() if k != 'reading'}, sealed=True)
    with pytest.raises(AshError, match='by other rules: run the same ash-nb prepare command with a new folder'):
        open_dataset('camvid', tmp_path / 'copy')
    with pytest.raises(AshError, match='choose another folder'):
        prepare('camvid', camvid, tmp_path / 'copy', workers=1, progress=False)


def test_train_ids_go_in_by_the_option_that_says_so(tmp_path, capsys):
    kitti_like(tmp_path / 'raw')
    for p in (tmp_path / 'raw' / 'training' / 'semantic').iterdir():
        Image.fromarray(to_train_ids(np.array(Image.open(p)), 'kitti')).save(p)
    words = ['prepare', 'kitti', '--root', str(tmp_path / 'raw'), '--out', str(tmp_path / 'copy'), '--workers', '1']
    assert main(words) == 2 and '--ids train_ids' in capsys.readouterr().err and not (tmp_path / 'copy').exists()
    assert main([*words, '--ids', 'train_ids']) == 0
    assert int(open_dataset('kitti', tmp_path / 'copy')[0]['label'].max()) in (18, 255)
    assert main(['prepare', 'kitti', '--root', str(tmp_path / 'raw'), '--ids', 'mine']) == 2
