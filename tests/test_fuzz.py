"Generated bad input to everything that reads: files, records, settings, command lines. A result or an AshError."

import io
import json
import os
import struct
import zlib
from collections import Counter
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from readers import to_train_ids
from safetensors.torch import save

import ash_nb.bench
import ash_nb.demo
import ash_nb.runs.compare
import ash_nb.runs.forecast
import ash_nb.runs.training
from ash_nb.cli import main
from ash_nb.core.config import AshError, Config, parse_field
from ash_nb.core.config import settings as read_settings
from ash_nb.core.files import load_state, load_tensors, read_json, sha256, write_hashed, write_json
from ash_nb.data.copies import READING
from ash_nb.data.datasets import open_dataset
from ash_nb.data.pictures import read_ids, read_picture
from ash_nb.official import read_checkpoint
from ash_nb.runs.folder import Run, load_run
from ash_nb.runs.log import append_row, truncate_log

CASES = int(os.environ.get('ASH_FUZZ_CASES', 60))  # of each test; the soak tool asks for more
tried = Counter()


def often(n=1):
    "Return settings for so many times the usual number of cases."
    return settings(
        max_examples=max(1, int(n * CASES)),
        derandomize=True,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope='module', autouse=True)
def count():
    yield
    if where := os.environ.get('ASH_FUZZ_JSON'):
        Path(where).write_text(json.dumps(tried))


def answers(what, call):
    "Call; count whether there was an answer or an AshError, one line without a traceback. All else fails the test."
    tried[f'{what}: tried'] += 1
    try:
        return call()
    except AshError as e:
        tried[f'{what}: refused'] += 1
        assert str(e) and 'Traceback' not in str(e)


def picture(kind, mode, size=(9, 7)):
    out = io.BytesIO()
    Image.new(mode, size, 3).save(out, kind)
    return out.getvalue()


pictures = [
    picture(k, m)
    for k, modes in dict(
        PNG=('RGB', 'RGBA', 'L', 'P', '1', 'LA', 'I;16'),
        JPEG=('RGB', 'L', 'CMYK'),
        BMP=('RGB', 'P'),
        WEBP=('RGB',),
        PPM=('RGB', 'L'),
        TIFF=('RGB', 'L', 'F', 'I;16'),
        GIF=('P',),
    ).items()
    for m in modes
]


def png16(w, h):  # as SYNTHIA's labels
    def chunk(kind, data):
        return struct.pack('>I', len(data)) + kind + data + struct.pack('>I', zlib.crc32(kind + data))

    return (
        b'\x89PNG\r\n\x1a\n'
        + chunk(b'IHDR', struct.pack('>IIBBBBB', w, h, 16, 2, 0, 0, 0))
        + chunk(b'IDAT', zlib.compress(bytes(h * (1 + 6 * w))))
        + chunk(b'IEND', b'')
    )


pictures.append(png16(4, 3))


@st.composite
def damaged(draw, whole):  # bytes with some put in, changed, cut off
    data = bytearray(draw(st.sampled_from(whole)))
    for _ in range(draw(st.integers(0, 6))):
        if data:
            data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.integers(0, len(data)))
    return bytes(data[:cut] if draw(st.booleans()) else data[:cut] + draw(st.binary(max_size=20)) + data[cut:])


@given(st.one_of(st.binary(max_size=300), damaged(pictures)))
@often(6)
def test_pictures_and_labels(tmp_path_factory, data):
    path = scratch(tmp_path_factory) / 'a.png'
    path.write_bytes(data)
    for photo in (False, True):
        image = answers('pictures', lambda photo=photo: read_picture(path, photo))
        assert image is None or (image.ndim == 3 and image.shape[0] == 3 and image.dtype == torch.uint8)
    label = answers('labels', lambda: to_train_ids(read_ids(path), 'gta5', path))
    assert label is None or (label.ndim == 2 and label.dtype == np.uint8)


_scratch = []


def scratch(factory):
    if not _scratch:
        _scratch.append(factory.mktemp('fuzz'))
    return _scratch[0]


odd = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**70), 2**70),
        st.floats(),
        st.text(max_size=8),
        st.sampled_from(['../x', '/etc/passwd', '\0', 'images', '', 'a' * 300]),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
    max_leaves=4,
)

good = dict(
    name='val/0.png',
    image='images/0.png',
    image_sha256=sha256(pictures[0]),
    label='labels/0.png',
    label_sha256=sha256(pictures[2]),
)
names = st.sampled_from([*good, 'stamp', 'problem'])


@given(
    st.lists(
        st.one_of(
            odd,
            st.dictionaries(names, odd).map(lambda d: good | d),
            st.sets(names).map(lambda s: {k: v for k, v in good.items() if k not in s}),
        ),
        min_size=1,
        max_size=3,
    ),
    st.dictionaries(st.sampled_from(['dataset', 'split', 'protocol', 'complete', 'index_sha256']), odd, max_size=1),
    st.booleans(),
    st.sampled_from(range(len(pictures))),
    st.sampled_from(range(len(pictures))),
)
@often(3)
def test_prepared_copies(tmp_path_factory, records, changes, whole, image, label):
    "Whoever makes a copy can make its digests, too."
    root = scratch(tmp_path_factory) / 'copy'
    for folder in ('images', 'labels'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    (root / 'images/0.png').write_bytes(pictures[image])
    (root / 'labels/0.png').write_bytes(pictures[label])
    digests = dict(image_sha256=sha256(pictures[image]), label_sha256=sha256(pictures[label]))

    def fit(r):
        return r | digests if isinstance(r, dict) and whole else r

    index = '\n'.join(json.dumps(fit(r)) for r in records).encode('utf-8', 'surrogatepass')
    (root / 'index.jsonl').write_bytes(index)
    write_json(
        root / 'prepared.json',
        dict(
            dataset='camvid',
            split='val',
            protocol='camvid11',
            reading=READING,
            complete=True,
            index_sha256=sha256(index),
        )
        | changes,
        sealed=True,
    )

    def read():
        data = open_dataset('camvid', root)
        for s in (data[k] for k in range(len(data))):
            assert s['image'].shape[0] == 3 and ('label' not in s or s['label'].shape == s['image'].shape[1:])

    answers('prepared copies', read)


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(alphabet='[]DEFAULT=:%$\n \tworkersdevice0123#;-', max_size=80).map(str.encode),
        st.dictionaries(st.sampled_from(['workers', 'device', 'runs', 'gta5', '%']), st.text(max_size=9)).map(
            lambda d: ('[DEFAULT]\n' + '\n'.join(f'{k} = {v}' for k, v in d.items())).encode()
        ),
    )
)
@often(3)
def test_settings(tmp_path_factory, data):
    path = scratch(tmp_path_factory) / 'settings.ini'
    path.write_bytes(data)
    found = answers('settings', lambda: read_settings(str(path)))
    assert found is None or isinstance(found['workers'], int)


fieldnames = st.sampled_from([f.name for f in fields(Config)])


@given(st.dictionaries(fieldnames, odd, max_size=3))
@often(4)
def test_configurations(tmp_path_factory, given_values):
    c = answers('configurations', lambda: Config(**given_values))
    run = Run(scratch(tmp_path_factory) / 'run')
    write_json(
        run.path / 'config.json', dict(config={f.name: f.default for f in fields(Config)} | given_values), sealed=True
    )
    again = answers('config.json', lambda: load_run(run.path).config)
    assert again == c


@given(odd, odd)
@often(2)
def test_records(tmp_path_factory, whole, config):
    path = scratch(tmp_path_factory) / 'record' / 'config.json'
    write_json(path, whole)
    answers('config.json', lambda: read_json(path, sealed=True))
    write_json(path, {'config': config}, sealed=True)
    answers('config.json', lambda: load_run(path.parent))


@given(
    st.one_of(fieldnames, st.text(max_size=8)),
    st.one_of(
        st.text(max_size=12),
        st.integers().map(str),
        st.floats().map(str),
        st.sampled_from(['1e999', 'nan', '-0', '１', '9' * 5000, 'TRUE']),
    ),
)
@often(4)
def test_fields_as_typed(name, text):
    answers('fields as typed', lambda: Config(**{name: parse_field(name, text)}))


@given(
    st.one_of(
        st.binary(max_size=120),
        st.lists(st.lists(st.one_of(st.integers().map(str), st.text(max_size=5)), max_size=4).map(','.join), max_size=5)
        .map('\n'.join)
        .map(lambda s: s.encode('utf-8', 'replace')),
    ),
    st.integers(0, 9),
)
@often(3)
def test_logs(tmp_path_factory, data, step):
    run = Run(scratch(tmp_path_factory) / 'log')
    run.path.mkdir(exist_ok=True)
    (run.path / 'metrics.csv').write_bytes(data)
    answers('logs', lambda: run.metrics)
    answers('logs', lambda: truncate_log(run.path / 'metrics.csv', step))
    answers('logs', lambda: append_row(run.path / 'metrics.csv', dict(step=step + 1, loss=0.5)))


state = io.BytesIO()
torch.save({'step': 3, 'optimizers': {'a': torch.ones(3)}}, state)
weights = [state.getvalue(), save({'a': torch.ones(3, 2)})]


@given(st.one_of(st.binary(max_size=100), damaged(weights)), st.one_of(st.none(), st.binary(max_size=90)))
@often(3)
def test_weights(tmp_path_factory, data, digest):
    path = scratch(tmp_path_factory) / 'w.pt'
    write_hashed(path, data)
    if digest is not None:
        Path(f'{path}.sha256').write_bytes(digest)
    for read in (load_tensors, load_state, read_checkpoint):
        answers('weights', lambda read=read: read(path))


VERBS = {
    'methods': [],
    'fields': [],
    'train': [
        '--method',
        '--seed',
        '--steps',
        '--set',
        '--device',
        '--workers',
        '--preset',
        '--root',
        '--skip-bad',
        '--no-resume',
        '--forecast',
    ],
    'evaluate': ['--target', '--root', '--split', '--protocol', '--device', '--images'],
    'compare': ['--methods', '--seeds', '--target', '--baseline', '--protocol', '--steps', '--set'],
    'stylize': ['--alpha', '--seed', '--run'],
    'figures': ['--target', '--root'],
    'prepare': ['--root', '--split', '--size', '--workers', '--lossless'],
    'bench': [],
    'demo': ['--steps', '--device'],
}
words = st.one_of(
    st.text(max_size=8),
    st.sampled_from(
        [
            'ash',
            'camvid',
            'unseen',
            'streetworld-night',
            '0',
            '-1',
            '1e9',
            'nan',
            'cpu',
            'cuda:x',
            'lr=0',
            'lr=x',
            'steps',
            '=',
            'ash:delta=',
            'ash:delta=0',
            'ash,ash',
            '..',
            '/',
            'x' * 300,
            '1280x720',
            '0x0',
            'axb',
            '-h',
        ]
    ),
)


@pytest.fixture
def idle(monkeypatch):
    "Let no verb begin what takes minutes: only the words are tried."

    def stop(*args, **kw):
        raise AshError('reached')

    for module, name in (
        (ash_nb.runs.training, 'train'),
        (ash_nb.runs.compare, 'compare'),
        (ash_nb.demo, 'demo'),
        (ash_nb.bench, 'bench'),
    ):
        monkeypatch.setattr(module, name, stop)
    monkeypatch.setattr(ash_nb.runs.forecast, 'step_forecast', stop)


@given(
    st.sampled_from(list(VERBS)).flatmap(
        lambda v: st.tuples(
            st.just(v),
            st.lists(
                st.one_of(
                    words.map(lambda w: [w]),
                    *([st.tuples(st.sampled_from(VERBS[v]), words).map(list)] * 3 if VERBS[v] else []),
                ),
                max_size=5,
            ),
        )
    )
)
@often(4)
def test_command_lines(idle, tmp_path_factory, capsys, line):
    verb, groups = line
    out = ['--out', str(scratch(tmp_path_factory) / 'file' / 'x')] if verb in ('train', 'compare', 'stylize') else []
    (scratch(tmp_path_factory) / 'file').touch()
    tried['command lines: tried'] += 1
    try:
        code = main([verb, *out, *(w for g in groups for w in g if '\0' not in w)])
    except SystemExit as e:
        code = e.code  # argparse: of words that it does not know, or after --help
    assert code in (0, 2), code
    tried['command lines: refused'] += code == 2
    assert 'Traceback' not in capsys.readouterr().err
