"Streets and classes of one's own: what a page of YAML says is found, trained on, scored and drawn, or refused by line."

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.data.datasets import open_dataset
from ash_nb.data.descriptions import description_in
from ash_nb.data.labels import CITYSCAPES, IGNORE
from ash_nb.runs.folder import load_run

SHARED = ['ground', 'greenery', 'up there']  # classes of the small set that the large one has, under other names
FEW = """
name: few
images: "pics/{frame}.png"
labels: "pics/{frame}_id.png"
classes:
  ground: 10
  fence of boards: {id: 20, colour: '#ff0000'}
  greenery: 30
  up there: {id: [40, 41], is: sky}
ignored: 0
splits: {val: {list: val.txt}, train: {list: train.txt}}
"""
MANY = """
name: many
words: [ground, greenery]
images: "{split}/{town}/rgb/{frame...}.png"
labels: "{split}/{town}/painted/{frame...}.png"
encoding: colour
splits: {train: learn, val: look}
ignored: '#000000'
classes:
"""
ALIASES = {0: 'ground', 1: 'ground', 2: 'greenery', 3: 'sky'}
tiny = 'body=plain width=96 height=64 test_width=96 test_height=64 batch_size=2 checkpoint_every=1 classwise_every=1'
TINY = ['--steps', '2', '--device', 'cpu', *(x for w in f'{tiny} views=2 log_every=1'.split() for x in ('--set', w))]


def colour(k):
    "A colour for each of sixty classes, none of them black."
    return 4 * k + 3, 255 - 2 * k, k % 7


def street(k, classes):  # image, place of each pixel's class
    "A street of coloured boxes; which classes it shows depends on k."
    rng = np.random.default_rng(k)
    places = rng.choice(classes, (6, 9)).repeat(12, 0).repeat(12, 1)
    shade = np.array([colour(int(p)) for p in range(64)])[places] + rng.integers(-20, 20, (*places.shape, 3))
    return shade.clip(0, 255).astype(np.uint8), places


def put(path, array):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(array).save(path)


@pytest.fixture(scope='module')
def sets(tmp_path_factory):
    "A data set of four classes by index, and one of sixty by colour."
    root = tmp_path_factory.mktemp('sets')
    for k in range(6):
        image, places = street(k, [0, 1, 2, 3])
        put(root / f'few/pics/{k}.png', image)
        put(root / f'few/pics/{k}_id.png', np.array([10, 20, 30, 41], np.uint8)[places])
        split, town = ('learn', 'look')[k % 2], f'town {k % 3}'
        image, places = street(k, range(60))
        put(root / f'many/{split}/{town}/rgb/x/{k}.png', image)
        put(root / f'many/{split}/{town}/painted/x/{k}.png', np.array([colour(p) for p in range(60)], np.uint8)[places])
    (root / 'few/dataset.yaml').write_text(FEW)
    (root / 'few/train.txt').write_text('0\n1\n2\n3.png\n')
    (root / 'few/val.txt').write_text('pics/4.png\npics/5\n')
    lines = [
        f'  thing {k}: {{colour: {list(colour(k))}{f", is: {ALIASES[k]}" if k in ALIASES else ""}}}' for k in range(60)
    ]
    (root / 'many/dataset.yaml').write_text(MANY + '\n'.join(lines))
    return root


def run(*words):
    assert main([str(w) for w in words]) == 0


CASES = {
    ('few', 'many'): ['ground', 'thing 2', 'thing 3'],  # one class of the run for two of the target: the run's name
    ('many', 'few'): ['ground', 'greenery', 'up there'],
}
ALONE = {'few': 'fence of boards', 'many': 'thing 59'}  # classes without a partner


@pytest.mark.parametrize('source, target', CASES)
def test_by_the_command_line(sets, tmp_path, capsys, source, target):
    scored = CASES[source, target]
    for name in (source, target):
        for split in ('train', 'val'):
            words = ('--split', split, '--out', tmp_path / f'{name}-{split}', '--lossless', '--workers', 1)
            run('prepare', sets / name, *words)
            assert (tmp_path / f'{name}-{split}' / 'sheet.png').is_file()
    told = capsys.readouterr().out
    assert '0 problems' in told and '| thing 59 |' in told and '| fence of boards |' in told

    for kind, learn, look in (
        ('raw', sets / source, sets / target),
        ('copy', tmp_path / f'{source}-train', tmp_path / f'{target}-val'),
    ):
        run('train', '--source', learn, '--method', 'source_only', '--out', tmp_path / kind, *TINY)
        run('evaluate', tmp_path / kind, '--target', look, '--json', tmp_path / f'{kind}.json')
    told = ''.join(capsys.readouterr())
    assert f'only {source} has' in told and ALONE[source] in told and ALONE[target] in told  # said once a process
    raw, copy = (json.loads((tmp_path / f'{kind}.json').read_text()) for kind in ('raw', 'copy'))
    assert (raw['iou'], raw['protocol']) == (copy['iou'], copy['protocol']) and list(raw['iou']) == scored
    space = load_run(tmp_path / 'raw').space
    assert len(space) == {'few': 4, 'many': 60}[source] and space.name == source

    run('compare', '--source', sets / source, '--target', sets / target, '--methods', 'source_only,ash',
        '--seeds', 1, '--out', tmp_path / 'c', *TINY)  # fmt: skip
    runs = pd.read_csv(tmp_path / 'c/runs.csv')
    assert list(runs.protocol.unique()) == [raw['protocol']] and runs[scored].notna().all(axis=None)
    page = (tmp_path / 'c/report.html').read_text()
    assert ALONE[source] in page and ALONE[target] in page
    assert set(pd.read_csv(tmp_path / 'c/classes.csv')['class']) == set(scored)
    for name in (f'examples-{target}.jpg', 'errors.json', 'stylization.jpg', 'preview.json', 'figure4.png'):
        assert (tmp_path / 'c/figures' / name).stat().st_size
    stills = json.loads((tmp_path / 'c/figures/preview.json').read_text())
    assert set(space.classes) >= set(re.findall(r'thing \d+|ground|greenery', json.dumps(stills)))

    run('figures', tmp_path / 'c/ash-0')  # StreetWorld shares the sky with one, so it is drawn there; else the source
    run('figures', tmp_path / 'c/ash-0', '--target', sets / target)
    assert (tmp_path / f'c/ash-0/figures/examples-{target}.jpg').is_file()


def test_pictures_show_the_classes_of_the_run(sets, tmp_path, monkeypatch):
    "The truth beside a prediction is in the run's train ids, not in those of the target."
    from ash_nb.look import figures

    run('train', '--source', sets / 'few', '--method', 'source_only', '--out', tmp_path / 'a', *TINY)
    shown = []
    real = figures.plots.qualitative
    monkeypatch.setattr(figures.plots, 'qualitative', lambda i, t, *a, **kw: shown.extend(t) or real(i, t, *a, **kw))
    run('figures', tmp_path / 'a', '--target', sets / 'many')
    own = open_dataset('many', sets / 'many', 'val')
    first = {k: {0: 0, 1: 0, 2: 2, 3: 3}.get(k, IGNORE) for k in (*range(60), IGNORE)}
    expected = [np.vectorize(first.get)(np.asarray(s['label'])) for s in own]
    assert shown and all(any((t == e).all() for e in expected) for t in shown)


def test_nothing_in_common(sets, tmp_path, capsys):
    "Two sets without a common class: a sentence; and a run's pictures come from its source."
    page = FEW.replace('name: few', 'name: alone').replace(', is: sky', '').replace('ground', 'lava')
    root = tmp_path / 'alone'
    root.mkdir()
    (root / 'pics').symlink_to(sets / 'few/pics')
    for name in ('train.txt', 'val.txt'):
        (root / name).write_text((sets / 'few' / name).read_text())
    (root / 'dataset.yaml').write_text(page.replace('greenery', 'foam'))
    run('train', '--source', root, '--method', 'source_only', '--out', tmp_path / 'a', *TINY)
    run('figures', tmp_path / 'a')
    assert (tmp_path / 'a/figures/examples-alone.jpg').is_file()
    assert main(['evaluate', str(tmp_path / 'a'), '--target', str(sets / 'many')]) == 2
    assert 'label spaces alone and many have no class in common: give aliases' in capsys.readouterr().err


names = st.text('abXY019_-', min_size=1, max_size=6)
PREFIXES = st.sampled_from(['', 'img_', 'cam0-', 'Left.'])


@st.composite
def layouts(draw):
    "Where files lie and how labels are written, at random: a page, and what it is to be read as."
    encoding = draw(st.sampled_from(['index', 'red', 'colour', 'id16']))
    number = st.tuples(*[st.integers(0, 3)] * 3) if encoding == 'colour' else st.integers(0, 12)
    number = number if encoding != 'id16' else st.integers(250, 262)
    codes = draw(st.lists(number, min_size=2, max_size=6))  # one may be there twice: then the page is refused
    ignored = draw(st.none() | number)
    split = draw(st.sampled_from(['none', 'folder', 'list']))
    city = '{city}/' * draw(st.booleans())
    inside = ('{split}/' * (split == 'folder')) + city
    heads = [f'{draw(names)}/{inside}{draw(PREFIXES)}' for _ in range(2)]
    frames = draw(st.lists(names, min_size=1, max_size=4, unique_by=str.casefold))
    places = [(draw(st.sampled_from('pq')), draw(names) if city else '', f) for f in frames]
    return dict(encoding=encoding, codes=codes, ignored=ignored, split=split, heads=heads, places=places)


def page_of(x):
    "Write the page of a layout."
    key = 'colour' if x['encoding'] == 'colour' else 'id'
    told = [list(c) if key == 'colour' else c for c in (*x['codes'], x['ignored']) if c is not None]
    lines = [f'name: random\nimages: "{x["heads"][0]}{{frame}}.png"\nlabels: "{x["heads"][1]}{{frame}}-l.png"']
    lines += [f'encoding: {x["encoding"]}', 'classes:']
    lines += [f'  class {k}: {{{key}: {told[k]}}}' for k in range(len(x['codes']))]
    if x['ignored'] is not None:
        lines.append(f'ignored: {told[-1]}')
    if x['split'] != 'none':
        how = 'part-p' if x['split'] == 'folder' else '{list: only.txt}'
        lines.append(f'splits:\n  train: {how}')
    return '\n'.join(lines) + '\n'


def written(values, encoding):
    "Encode a label map of ids or colours."
    if encoding == 'index':
        return values.astype(np.uint8)
    if encoding == 'id16':
        return values.astype(np.uint16)
    rgb = np.zeros((*values.shape[:2], 3), np.uint8)
    rgb[...] = values if encoding == 'colour' else np.stack([values, values * 0 + 9, values * 0], -1)
    return rgb


def write_layout(x, root):  # relative path of each image of the split -> its label map in train ids
    "Write the files of a layout."
    codes = [*x['codes'], *([] if x['ignored'] is None else [x['ignored']])]
    expected = {}
    for n, (part, city, frame) in enumerate(x['places']):
        at = [h.replace('{split}', f'part-{part}').replace('{city}', city) for h in x['heads']]
        image, label = root / f'{at[0]}{frame}.png', root / f'{at[1]}{frame}-l.png'
        places = np.random.default_rng(n).integers(len(codes), size=(5, 7))
        put(image, np.full((5, 7, 3), 40 * n, np.uint8))
        put(label, written(np.array(codes)[places], x['encoding']))
        if x['split'] == 'none' or part == 'p':
            truth = np.where(places < len(x['codes']), places, IGNORE)
            expected[image.relative_to(root).as_posix()] = truth, n
    (root / 'only.txt').write_text(''.join(f'{name}\n' for name in expected))
    (root / 'dataset.yaml').write_text(page_of(x))
    return expected


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(layouts())
def test_any_layout_is_read_or_refused(tmp_path_factory, x):
    root = tmp_path_factory.mktemp('layout')
    expected = write_layout(x, root)
    codes = [*x['codes'], *([] if x['ignored'] is None else [x['ignored']])]
    if len(set(codes)) < len(codes):
        with pytest.raises(AshError, match=r'dataset\.yaml, line \d+: .*(above|twice)'):
            open_dataset('random', root)
        return
    if not expected:
        with pytest.raises(AshError):
            open_dataset('random', root)
        return
    data = open_dataset('random', root)
    assert sorted(data.names) == sorted(expected)
    for s in data:
        truth, n = expected[s['name']]
        assert (np.asarray(s['label']) == truth).all() and int(s['image'].max()) == 40 * n


TOWN = """
name: town
images: "rgb/{frame}.png"
labels: "seg/{frame}.png"
encoding: red
classes:
  street: {id: [6, 7], is: road}
  house: {id: 1, is: building, colour: '#466e46'}
  sky: 0
ignored: 2-5
splits:
  train: {list: train.txt}
""".lstrip()
WRONG = {  # what is put in the place of what, the line that is named, and what is said
    'a key misspelt': ('ignored', 'ignore', 9, "unknown key 'ignore' in a page; did you mean ignored?"),
    'a key twice': ('encoding: red', 'name: town', 4, "'name' stands here for the second time"),
    'an unknown encoding': ('red', 'green', 4, "encoding: 'green' is none of index, red"),
    'no field in common': ('seg/{frame}', 'seg/{scene}', 3, 'field {scene} is in no template of images'),
    'a template out of the folder': ('rgb/', '../rgb/', 2, 'expected a path under the folder'),
    'a brace left open': ('rgb/{frame}', 'rgb/{frame', 2, 'expected a path under the folder'),
    'no id': ('id: 1, ', '', 7, 'class house has no id'),
    'no number': ('sky: 0', 'sky: blue', 8, "'blue' is no id"),
    'an id twice': ('sky: 0', 'sky: 7', 8, 'sky: id 7 is given to another class above'),
    'a class that is ignored': ('2-5', '1-5', 1, 'id 1 is given to another class above'),
    'a class twice': ('  sky', '  house', 8, "'house' stands here for the second time"),
    'a name in another case': ('  sky', '  House', 8, "name 'House' is given to class house above"),
    'a colour twice': ('sky: 0', "sky: {id: 0, colour: '#466e46'}", 8, 'colour [70, 110, 70] is given to class house'),
    'no colour': ("'#466e46'", "'#466e4'", 7, "'#466e4' is no colour"),
    'an alias to nowhere': ('is: road', 'is: raod', 6, "'raod' is a class of no known label space; did you mean road?"),
    'one class': ('  house', '#  house', 5, 'expected 2 to 150'),
    'a list for classes': ('classes:\n', 'classes: [a, b]\nobtain:\n', 5, 'a list has no room for ids'),
    'a split that is nothing': ('{list: train.txt}', '7', 11, 'split train: expected all'),
    'a split by folder without the field': ('{list: train.txt}', 'learn', 11, 'there is no field {split} in images'),
    'no YAML': ('ignored: 2-5', 'ignored: [2', 10, 'this is no YAML'),
}


@pytest.mark.parametrize('what', WRONG)
def test_a_wrong_page_is_told_with_its_line(tmp_path, what):
    right, wrong, line, told = WRONG[what]
    assert TOWN.count(right) >= 1
    page = TOWN.replace(right, wrong, 1)
    if what == 'one class':
        page = page.replace('  sky', '#  sky')
    (tmp_path / 'dataset.yaml').write_text(page)
    with pytest.raises(AshError) as e:
        description_in(tmp_path / 'dataset.yaml')
    message = str(e.value)
    assert message.startswith(f'{tmp_path}/dataset.yaml, line ') and told in message
    if line > 1:
        assert f', line {line}: ' in message
    assert '\n' not in message and len(message) < 400


def test_a_page_that_does_not_fit_the_folder(tmp_path, capsys):
    for k in range(2):
        put(tmp_path / f'rgb/{k}.png', np.zeros((8, 8, 3), np.uint8))
        put(tmp_path / f'seg/{k}.png', np.zeros((8, 8, 3), np.uint8))
    (tmp_path / 'train.txt').write_text('0\n1\n')
    for right, wrong, line, told in (
        ('', '', 0, ''),
        ('rgb/', 'images/', 2, 'images is not a folder'),
        ('{frame}.png', '{frame}.tif', 2, 'holds no images of town: nothing there is rgb/{frame}.tif'),
        ('seg/{frame}', 'seg/{frame}_s', 3, 'none of the 2 images has one, is the template right?'),
        ('train.txt', 'list.txt', 11, 'list.txt is missing: the list of this split belongs there'),
    ):
        (tmp_path / 'dataset.yaml').write_text(TOWN.replace(right, wrong, 1))
        code = main(['prepare', str(tmp_path), '--workers', '1'])
        said = capsys.readouterr().err.strip().splitlines()
        assert code == (2 if line else 0)
        if line:
            assert told in said[-1] and f'line {line} of {tmp_path}/dataset.yaml' in said[-1]
    (tmp_path / 'train.txt').write_text('0\nseven\n')
    (tmp_path / 'dataset.yaml').write_text(TOWN)
    assert main(['prepare', str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert 'train.txt, line 2: seven is no image of this data set' in said
    assert f'(split train: line 11 of {tmp_path}/dataset.yaml)' in said


def test_from_carla_to_camvid(real, tmp_path, capsys):
    "Thirteen classes in the red channel, scored on photographs with eleven: one command each."
    lyft, camvid = real / 'carla/lyft', real / 'camvid'
    if not lyft.is_dir():
        pytest.skip('no samples of CARLA here')
    run('prepare', 'carla_lyft', '--root', lyft, '--out', tmp_path / 'ready', '--size', '240x180', '--workers', 1)
    run('compare', '--source', 'carla_lyft', '--root', f'carla_lyft={tmp_path / "ready"}', '--root', f'camvid={camvid}',
        '--target', 'camvid', '--methods', 'source_only,ash', '--seeds', 1, '--out', tmp_path / 'c', *TINY)  # fmt: skip
    runs, learned = pd.read_csv(tmp_path / 'c/runs.csv'), load_run(tmp_path / 'c/ash-0')
    assert set(runs.images) == {101} and len(learned.space) == 13 and learned.space != CITYSCAPES
    assert {'sky', 'building', 'pole', 'road', 'pavement', 'fence', 'car', 'pedestrian'} <= set(runs.columns)
    told = ''.join(capsys.readouterr())
    assert 'only carla_lyft has' in told and 'bicyclist' in told
    assert Path(tmp_path / 'c/figures/preview.json').stat().st_size
