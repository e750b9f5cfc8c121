"What `ash-nb predict` writes is read by another's tool, and is what `evaluate` scores."

import json
import os
import subprocess
import sys
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.core.files import read_json
from ash_nb.data.datasets import open_dataset
from ash_nb.data.labels import CITYSCAPES
from ash_nb.methods.presets import preset, with_method
from ash_nb.numbers.evaluation import confusion_matrix
from ash_nb.numbers.rules import RULES
from ash_nb.runs.predict import id_table, predict_files
from ash_nb.runs.scoring import evaluate_run
from ash_nb.runs.training import train

SHARED = Path(os.environ.get('ASH_SHARED', Path(__file__).resolve().parents[2] / 'shared'))
SAMPLES = SHARED / 'data/cityscapes'
CAMVID = SHARED / 'data/camvid'

tiny = preset(
    'streetworld',
    body='plain',
    scenes=6,
    batch_size=2,
    width=96,
    height=64,
    test_width=96,
    test_height=64,
    steps=6,
    checkpoint_every=6,
)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(with_method(tiny, 'source_only', 0), tmp_path_factory.mktemp('predict') / 'run', 'cpu', progress=False)


def picture(path, size=(40, 30), seed=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)
    return path


# --- another's tool


@pytest.fixture(scope='session')
def their_python(tmp_path_factory):
    "A Python of its own that has cityscapesscripts, which calls what NumPy 2.4 no longer has."
    place = tmp_path_factory.mktemp('theirs')
    venv.create(place, with_pip=False)
    python = place / ('Scripts/python.exe' if os.name == 'nt' else 'bin/python')
    pip = [sys.executable, '-m', 'pip', '--python', python, 'install', '-q', '--no-compile']  # ours, for that Python
    done = subprocess.run([*pip, 'cityscapesscripts', 'numpy<2'], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f'cityscapesscripts cannot be installed here: {done.stderr.strip()[-200:]}')
    return str(python)


@pytest.mark.skipif(not SAMPLES.is_dir(), reason=f'{SAMPLES} is not here: four Cityscapes pairs in the original tree')
def test_cityscapes_own_script_counts_the_same(run, their_python, tmp_path):
    "Our mean IoU of our predictions is theirs, to the last digit."
    truth = tmp_path / 'cityscapes'
    for kind in ('gtFine', 'leftImg8bit'):
        (truth / kind).mkdir(parents=True)
        (truth / kind / 'val').symlink_to(SAMPLES / kind / 'train')
    out = tmp_path / 'out'
    command = ['predict', run.path, truth / 'leftImg8bit' / 'val', '--out', out, '--ids', 'cityscapes', '--colours']
    assert main(list(map(str, [*command, '--device', 'cpu']))) == 0
    files = sorted(p.name for p in (out / 'aachen').iterdir())
    assert files == sorted(p.name for p in (SAMPLES / 'leftImg8bit/train/aachen').iterdir())
    assert {Image.open(p).size for p in (out / 'aachen').iterdir()} == {(2048, 1024)}
    env = os.environ | dict(CITYSCAPES_DATASET=str(truth), CITYSCAPES_RESULTS=str(out), MPLBACKEND='agg')
    env.pop('PYTHONPATH', None)
    script = 'cityscapesscripts.evaluation.evalPixelLevelSemanticLabeling'
    done = subprocess.run([their_python, '-m', script], env=env, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    theirs = json.loads((truth / 'evaluationResults/resultPixelLevelSemanticLabeling.json').read_text())
    ours = evaluate_run(run, 'cityscapes', truth, 'val')
    for name in CITYSCAPES.classes:
        a, b = ours.iou[name], theirs['classScores'][name]
        assert a == b or (a != a and b != b), (name, a, b)
    assert ours.miou == pytest.approx(theirs['averageScoreClasses'], rel=1e-15)
    assert sum(v == v for v in ours.iou.values()) > 10


# --- evaluate and predict


@pytest.mark.skipif(not CAMVID.is_dir(), reason=f'{CAMVID} is not here: CamVid in 480 x 360')
@pytest.mark.parametrize('rule', ['ash', 'rein', 'robustnet', 'daformer'])
def test_a_prediction_is_what_is_scored(run, rule, monkeypatch):
    data = open_dataset('camvid', CAMVID, 'val', CITYSCAPES)
    monkeypatch.setattr(type(data), '__len__', lambda self: 5)
    e = evaluate_run(run, 'camvid', CAMVID, rule=rule)
    for k in range(5):
        guess = run.predict(data[k]['image'], rule=rule, target='camvid')
        np.testing.assert_array_equal(confusion_matrix(guess, np.asarray(data[k]['label'])), e.counts[data[k]['name']])


@pytest.mark.parametrize('rule', RULES)
def test_every_rule_predicts_at_a_picture_s_own_size(run, rule):
    image = np.random.default_rng(0).integers(0, 256, (61, 83, 3), dtype=np.uint8)
    guess = run.predict(image, rule=rule)
    assert guess.shape == (61, 83) and guess.dtype == np.uint8 and guess.max() < 19
    assert (run.predict(image, True, rule=rule).argmax(0) == guess).all()


# --- files


def test_a_bad_file_is_named_and_the_rest_is_done(run, tmp_path, capsys):
    good = [picture(tmp_path / 'in' / f'{k}.png', seed=k) for k in range(3)]
    (tmp_path / 'in' / '1b.png').write_bytes(b'no picture')
    words = ['predict', run.path, tmp_path / 'in', '--out', tmp_path / 'out', '--device', 'cpu', '--batch-size', '2']
    assert main(list(map(str, words))) == 1
    said = capsys.readouterr()
    assert '1b.png cannot be read' in said.err and '3 pictures segmented by rule ash' in said.out
    assert sorted(p.name for p in (tmp_path / 'out').glob('*.png')) == [p.name for p in good]


@pytest.mark.parametrize('words, says', [(['nowhere.png'], 'there is no such file'), (['in', '--ids', 'x'], '--ids x')])
def test_a_mistake_is_told_before_anything_is_written(run, tmp_path, capsys, monkeypatch, words, says):
    picture(tmp_path / 'in' / 'a.png')
    monkeypatch.chdir(tmp_path)
    assert main(['predict', str(run.path), *words, '--out', 'out']) == 2
    assert says in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_two_inputs_of_one_name_do_not_overwrite_each_other(run, tmp_path):
    paths = [picture(tmp_path / d / 'x.png', seed=k) for k, d in enumerate('abc')]
    paths += [picture(tmp_path / 'a' / 'X.PNG', seed=9)] if sys.platform == 'linux' else []
    written, bad = predict_files(run, paths, tmp_path / 'out', progress=False)
    names = [str(p).casefold() for p in written]
    assert len(set(names)) == len(paths) and not bad
    for path, file in zip(paths, written):
        np.testing.assert_array_equal(np.asarray(Image.open(file)), run.predict(path))
    stamps = [p.stat().st_mtime_ns for p in written]
    assert predict_files(run, paths, tmp_path / 'out', progress=False)[0] == written
    assert all(p.stat().st_mtime_ns > t for p, t in zip(written, stamps))


def test_what_is_no_prediction_is_never_overwritten(run, tmp_path):
    path = picture(tmp_path / 'x.png')
    before = path.read_bytes()
    with pytest.raises(AshError, match='x.png exists already and is no prediction'):
        predict_files(run, [path], tmp_path, progress=False)
    assert path.read_bytes() == before and not (tmp_path / 'predictions.json').exists()


def test_the_folder_says_how_its_predictions_were_made(run, tmp_path):
    predict_files(run, [picture(tmp_path / 'x.png')], tmp_path / 'out', 'cityscapes', rule='rein', progress=False)
    record = read_json(tmp_path / 'out' / 'predictions.json')
    assert (record['rule'], record['rule_hash'], record['ids']) == ('rein', RULES['rein'].hash, 'cityscapes')
    assert record['files'] == ['x.png'] and record['step'] == 6
    ids = np.unique(np.asarray(Image.open(tmp_path / 'out' / 'x.png')))
    assert set(ids) <= set(id_table('cityscapes'))


# --- another label space


@pytest.mark.skipif(not (SHARED / 'data/carla/lyft').is_dir(), reason=f'{SHARED}/data/carla/lyft is not here: CARLA')
def test_a_run_of_other_classes_predicts_and_is_scored_in_its_own(tmp_path, capsys):
    "Thirteen classes of CARLA: ids, colours, probabilities, and a protocol of what CamVid has, too."
    c = replace(tiny, source='carla_lyft', root=str(SHARED / 'data/carla/lyft'), steps=2, checkpoint_every=2)
    run = train(with_method(c, 'source_only', 0), tmp_path / 'run', 'cpu', progress=False)
    path, out = picture(tmp_path / 'in' / 'a.png'), tmp_path / 'out'
    words = ['predict', run.path, path, '--out', out, '--colours', '--probabilities', '--device', 'cpu']
    assert main(list(map(str, words))) == 0
    ids = np.asarray(Image.open(out / 'a.png'))
    assert ids.max() < len(run.space) and len(run.space) != 19
    np.testing.assert_array_equal(np.asarray(Image.open(out / 'colours/colours-a.png')), run.space.colours[ids])
    with np.load(out / 'probabilities/probabilities-a.npz') as kept:
        assert kept['probabilities'].shape == (len(run.space), 30, 40) and tuple(kept['classes']) == run.space.classes
    assert main(['predict', str(run.path), str(path), '--out', str(out), '--ids', 'carla_lyft', '--device', 'cpu']) == 0
    own = np.asarray(Image.open(out / 'a.png'))
    np.testing.assert_array_equal(own, id_table('carla_lyft', run.space)[ids])
    if CAMVID.is_dir():
        e = evaluate_run(run, 'camvid', CAMVID, rule='daformer')
        assert e.confusion.shape == (len(run.space),) * 2 and 0 < len(e.iou) < len(run.space)
        assert main(['evaluate', str(run.path), '--target', 'camvid', '--root', str(CAMVID), '--protocol', '16']) == 2
        assert 'protocol 16 is made of 19 classes, and label space' in capsys.readouterr().err
