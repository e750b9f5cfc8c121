"What went wrong without a word when strangers tried the kit: each recipe, and what is said or computed now."

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from readers import ID_MAPS, CamVid, Gta5

import ash_nb.runs.training
from ash_nb.cli import main
from ash_nb.core.config import AshError, Stopped
from ash_nb.core.files import read_json
from ash_nb.data.datasets import open_dataset
from ash_nb.data.descriptions import describe
from ash_nb.data.labels import CITYSCAPES, translation_table
from ash_nb.data.prepare import prepare, write_gta5
from ash_nb.data.streetworld.appearances import street
from ash_nb.data.streetworld.paintings import painting
from ash_nb.methods.presets import preset, with_method
from ash_nb.networks.discriminator import Discriminator
from ash_nb.numbers.evaluation import confusion_matrix, iou, score_batch
from ash_nb.official import load_official, published_state
from ash_nb.runs.compare import compare
from ash_nb.runs.folder import Run
from ash_nb.runs.record import files_digest
from ash_nb.runs.scoring import evaluate_run
from ash_nb.runs.training import train

go = dict(device='cpu', progress=False)
tiny = preset(
    'streetworld',
    method='source_only',
    body='plain',
    scenes=6,
    width=64,
    height=64,
    test_width=64,
    test_height=64,
    batch_size=2,
    steps=6,
    checkpoint_every=2,
    log_every=1,
)


TO_CAMVID = translation_table(CITYSCAPES, describe('camvid').space).copy()
TO_CAMVID[255] = 11


def camvid(root, n=3, shade=0):
    for folder in ('val', 'valannot'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    for k in range(n):
        Image.fromarray(street(k + shade, 96, 72)[0]).save(root / f'val/{k}.png')
        Image.fromarray(TO_CAMVID[street(k, 96, 72)[1]]).save(root / f'valannot/{k}.png')
    return root


# --- which files a run learned from


def test_a_run_is_not_gone_on_with_on_other_files(tmp_path):
    real = replace(tiny, source='camvid', split='val', scenes=0, root=str(camvid(tmp_path / 'a')))
    run = train(real, tmp_path / 'run', **go)
    assert read_json(run.path / 'config.json', sealed=True)['data']['source']['samples'] == 3
    assert train(real, tmp_path / 'run', **go).finished
    camvid(tmp_path / 'a', shade=50)  # the same names, other pictures
    with pytest.raises(AshError, match='trained on other files as source: 3 samples'):
        train(real, tmp_path / 'run', **go)
    (tmp_path / 'a' / 'val' / '2.png').unlink()
    with pytest.raises(AshError, match='2 in .* now'):
        train(real, tmp_path / 'run', **go)


def test_a_comparison_takes_no_run_of_other_files(tmp_path, monkeypatch):
    shared = replace(tiny, source='camvid', split='val', scenes=0)
    for name, shade in (('a', 0), ('b', 50)):
        camvid(tmp_path / name, shade=shade)
    monkeypatch.setenv('ASH_NB_CAMVID', str(tmp_path / 'a'))
    compare(['source_only'], 1, ['streetworld-day'], tmp_path / 'c', shared, images=2, **go)
    monkeypatch.setenv('ASH_NB_CAMVID', str(tmp_path / 'b'))
    with pytest.raises(AshError, match='trained on other files'):
        compare(
            ['source_only', 'source_only:jitter=0.1'], 1, ['streetworld-day'], tmp_path / 'c', shared, images=2, **go
        )


def test_a_copy_of_the_same_files_elsewhere_is_the_same(tmp_path):
    digests = [files_digest(CamVid(camvid(tmp_path / name))) for name in ('a', 'b')]
    assert digests[0] == digests[1] != files_digest(CamVid(camvid(tmp_path / 'c', 2)))


# --- what the user sets


def test_what_the_user_sets_beats_a_methods_default():
    shared = preset('streetworld', local_weight=10.0, method='source_only')
    assert (
        with_method(shared, 'clan').local_weight == 10 and with_method(shared, 'clan:local_weight=3').local_weight == 3
    )
    assert with_method(preset('streetworld'), 'clan').local_weight == 40
    assert (
        with_method(preset('colours'), 'advent').damping is False
        and with_method(preset('colours', damping=True), 'maxsquare').damping
    )


@pytest.mark.parametrize(
    'words, says',
    [
        (['train', '--set', 'preset=best'], 'say --preset'),
        (['train', '--set', 'seed=7'], '--seed'),
        (['train', '--set', 'scenes=0'], 'scenes = 0'),
        (['compare', '--methods', 'ash', '--set', 'method=fact'], '--methods'),
        (['compare', '--methods', 'ash', '--set', 'seed=1'], '--seeds'),
    ],
)
def test_settings_that_would_be_dropped_are_refused(tmp_path, capsys, words, says):
    assert (
        main([*words, '--out', str(tmp_path / 'o')]) == 2
        and says in capsys.readouterr().err
        and not (tmp_path / 'o').exists()
    )


# --- numbers


@pytest.mark.parametrize(
    'spoil',
    [
        lambda m: 100 * m / m.sum(),
        lambda m: m / m.sum(),
        lambda m: m - 1,
        lambda m: np.where(m > 300, np.nan, m),
        lambda m: m > 20,
    ],
)
def test_a_matrix_that_holds_no_counts_is_refused(spoil):
    m = np.random.default_rng(0).integers(0, 50, (19, 19)) + np.eye(19, dtype=int) * 300
    assert iou(m.astype(float))[1] == iou(m)[1] == iou(torch.tensor(m).numpy())[1]
    with pytest.raises(AshError, match='no counts'):
        iou(spoil(m))


@pytest.mark.parametrize(
    'store',
    [
        lambda a: a[:, ::-1],
        lambda a: a.astype('>i4'),
        lambda a: a.astype('>u2'),
        lambda a: a.tolist(),
        np.asfortranarray,
        lambda a: Image.fromarray(a),
        torch.from_numpy,
    ],
)
def test_arrays_as_people_have_them_count_alike(store):
    a = np.random.default_rng(0).integers(0, 19, (5, 7)).astype(np.uint8)
    plain = confusion_matrix(
        torch.from_numpy(np.ascontiguousarray(np.asarray(store(a)).astype(int))), torch.from_numpy(a.astype(int))
    )
    assert np.array_equal(confusion_matrix(store(a), a), plain)


@pytest.mark.parametrize(
    'odd',
    [
        np.ma.masked_array(np.zeros((2, 2), int), [[True, False], [False, False]]),
        np.array([[None, 1], [2, 3]], object),
        np.array([['a', 'b'], ['c', 'd']]),
    ],
)
def test_what_cannot_be_counted_is_refused(odd):
    with pytest.raises(ValueError):
        confusion_matrix(odd, np.zeros((2, 2), int))


def test_answers_of_nan_are_no_prediction():
    def heads(images):
        return (torch.full((1, 19, 2, 2), float('nan')),) * 2

    with pytest.raises(AshError, match='x: the segmenter answers NaN'):
        list(score_batch(heads, [dict(name='x', image=torch.zeros(3, 4, 4), label=torch.zeros(4, 4))], 'cpu'))


@pytest.mark.parametrize(
    'spoil, says',
    [
        (lambda x: x.fill_(float('nan')), 'NaN or infinity'),
        (lambda x: x.fill_(float('inf')), 'NaN or infinity'),
        (lambda x: x.to(torch.int8), 'int8'),
        (lambda x: x > 0, 'bool'),
    ],
)
def test_weights_that_are_none(tmp_path, spoil, says):
    state = {k: v.clone() for k, v in published_state('discriminator', Discriminator(19)).items()}
    state['conv3.weight'] = spoil(state['conv3.weight'])
    torch.save(state, tmp_path / 'w.pth')
    with pytest.raises(AshError, match=f'conv3.weight holds {says}|conv3.weight holds .*{says}'):
        load_official('discriminator', tmp_path / 'w.pth')


# --- runs


def stop_in_step(monkeypatch, number):
    "Let this process be asked to stop at the beginning of a step."
    step = ash_nb.runs.training.step

    def stopped(learner, images, labels, styles, n, target=None):
        if n == number:
            os.kill(os.getpid(), 15)
        return step(learner, images, labels, styles, n, target)

    monkeypatch.setattr(ash_nb.runs.training, 'step', stopped)


def test_a_stop_displaces_no_checkpoint(tmp_path, monkeypatch):
    whole = train(replace(tiny, keep_checkpoints=3), tmp_path / 'whole', **go)
    stop_in_step(monkeypatch, 4)
    with pytest.raises(Stopped):
        train(replace(tiny, keep_checkpoints=3), tmp_path / 'again', **go)
    assert [p.name[-1] for p in Run(tmp_path / 'again').checkpoints] == ['2', '4', '5']
    monkeypatch.undo()
    again = train(replace(tiny, keep_checkpoints=3), tmp_path / 'again', **go)
    assert [p.name for p in again.checkpoints] == [p.name for p in whole.checkpoints]


def test_a_run_whose_cost_was_never_written_is_compared(tmp_path):
    rows = compare(['source_only'], 1, ['streetworld-day'], tmp_path / 'c', tiny, images=2, **go)
    (tmp_path / 'c' / 'source_only-0' / 'sessions.csv').unlink()
    again = compare(['source_only'], 1, ['streetworld-day'], tmp_path / 'c', tiny, images=2, **go)
    assert again.miou.tolist() == rows.miou.tolist() and again.seconds_a_step.isna().all()


def test_an_unfinished_run_says_so_and_nothing_scored_is_lost(tmp_path, capsys, monkeypatch):
    stop_in_step(monkeypatch, 2)
    with pytest.raises(Stopped):
        train(tiny, tmp_path / 'run', **go)
    root = camvid(tmp_path / 'camvid')
    torn = root / 'val' / '2.png'
    torn.write_bytes(torn.read_bytes()[:900])
    assert (
        main(
            [
                'evaluate',
                str(tmp_path / 'run'),
                '--target',
                'streetworld-day,camvid',
                '--root',
                str(root),
                '--images',
                '2',
                '--device',
                'cpu',
                '--json',
                str(tmp_path / 'o.json'),
            ]
        )
        == 2
    )
    out, error = capsys.readouterr()
    assert 'is not finished: scored after 3 of 6 steps' in error and '2.png' in error
    assert 'streetworld-day val: mIoU' in out and (tmp_path / 'o.json').is_file()
    assert main(['evaluate', str(tmp_path / 'run'), '--target', 'streetworld-day,streetworld-day']) == 2


def test_the_device_is_named_as_everywhere(tmp_path):
    run = train(tiny, tmp_path / 'run', **go)
    assert evaluate_run(str(run.path), 'streetworld-day', images=1, device='auto').images == 1


# --- files


def test_a_palette_that_was_rearranged_is_refused(tmp_path):
    from ash_nb.data.labels import CITYSCAPES, IGNORE

    write_gta5(tmp_path, 2, (96, 64))
    colours = np.zeros((256, 3), np.uint8)
    for i, t in ID_MAPS['gta5'].items():
        if t != IGNORE:
            colours[i] = CITYSCAPES.colours[t]
    colours[34] = 0, 0, 142  # GTA5's licence plates
    for p in (tmp_path / 'labels').iterdir():
        picture = Image.open(p)
        picture.load()
        picture.putpalette(colours.tobytes())
        picture.save(p)
    ids = [s['label'] for s in Gta5(tmp_path)]
    p = tmp_path / 'labels/00001.png'
    before = np.array(Image.open(p).convert('RGB'))
    used = sorted(np.unique(np.array(Image.open(p))))
    Image.open(p).remap_palette([*used[::-1]]).save(p)
    assert np.array_equal(before, np.array(Image.open(p).convert('RGB'))) and len(ids) == 2
    with pytest.raises(AshError, match='00001.png paints id .* its palette was rearranged'):
        list(Gta5(tmp_path))


def test_a_turned_photograph_beside_a_label_without_a_tag_is_told(tmp_path, capsys):
    root = camvid(tmp_path / 'camvid')
    tags = Image.Exif()
    tags[0x112] = 3
    for p in (root / 'val').iterdir():
        Image.open(p).save(p, exif=tags)
    list(CamVid(root))
    assert capsys.readouterr().err.count('images carry a rotation tag that their labels lack') == 1


def test_names_of_old_bytes(tmp_path, capsys):
    root = camvid(tmp_path / 'camvid', 2)
    for folder in ('val', 'valannot'):
        os.rename(root / folder / '1.png', os.fsencode(root / folder) + b'/stra\xdfe.png')
    assert main(['prepare', 'camvid', '--root', str(root), '--out', str(tmp_path / 'copy'), '--workers', '1']) == 0
    run = train(tiny, tmp_path / 'run', **go)
    assert main(['evaluate', str(run.path), '--target', 'camvid', '--root', str(root), '--device', 'cpu']) == 0
    assert len(list(open_dataset('camvid', tmp_path / 'copy'))) == 2


def test_no_two_samples_of_a_copy_share_a_file(tmp_path):
    (tmp_path / 'raw').mkdir()
    for k, name in enumerate(('a.jpg', 'a.png', 'a.jpg.jpg', 'A.JPG', 'a.jpg.png')):
        Image.fromarray(painting(k)).save(tmp_path / 'raw' / name, 'PNG')
    prepare('paintings', tmp_path / 'raw', tmp_path / 'copy', lossless=True, workers=1, progress=False)
    samples = {s['name']: s['image'] for s in open_dataset('paintings', tmp_path / 'copy')}
    assert len(samples) == 5 and all(
        torch.equal(x, s['image']) for s in open_dataset('paintings', tmp_path / 'raw') for x in [samples[s['name']]]
    )


def test_no_copy_through_a_link_into_the_raw_data(tmp_path):
    root = camvid(tmp_path / 'raw')
    (tmp_path / 'link').symlink_to(root / 'val')
    with pytest.raises(AshError, match='nothing was written'):
        prepare('camvid', root, tmp_path / 'link' / 'copy', workers=1, progress=False)
    assert not (root / 'val' / 'copy').exists()


def test_scores_on_shrunk_labels_say_so(tmp_path, capsys):
    prepare('camvid', camvid(tmp_path / 'raw'), tmp_path / 'copy', size=(40, 30), workers=1, progress=False)
    run = train(tiny, tmp_path / 'run', **go)
    assert (
        main(['evaluate', str(run.path), '--target', 'camvid', '--root', str(tmp_path / 'copy'), '--device', 'cpu'])
        == 0
    )
    assert 'shrunk to cover 40 x 30: labels are scored at that size' in capsys.readouterr().err


@pytest.mark.parametrize(
    'out, says',
    [
        ('o.pdf', 'expected the name of an image file'),
        ('o', 'expected the name'),
        ('s.png', 'is one of the pictures to read'),
    ],
)
def test_stylize_writes_pictures_and_never_over_what_it_reads(tmp_path, capsys, out, says):
    for name in ('s.png', 'p.png'):
        Image.fromarray(street(1, 40, 30)[0]).save(tmp_path / name)
    before = (tmp_path / 's.png').read_bytes()
    assert (
        main(['stylize', str(tmp_path / 's.png'), str(tmp_path / 'p.png'), '--out', str(tmp_path / out)]) == 2
        and says in capsys.readouterr().err
    )
    assert (tmp_path / 's.png').read_bytes() == before


def test_labels_of_a_split_without_public_ones_are_no_train_ids(tmp_path):
    for name, a in (
        ('leftImg8bit/test/ulm/a_leftImg8bit.png', np.zeros((4, 6, 3))),
        ('gtFine/test/ulm/a_gtFine_labelIds.png', np.resize([0, 1, 2, 3], (4, 6))),
    ):
        (tmp_path / name).parent.mkdir(parents=True)
        Image.fromarray(a.astype(np.uint8)).save(tmp_path / name)
    assert (np.asarray(open_dataset('cityscapes', tmp_path, 'test')[0]['label']) == 255).all()


@pytest.mark.parametrize('ids', [[0, 2, 8, 10, 13, 19], [0, 1, 3, 9, 11, 14], [1, 2, 7, 8, 10, 13, 255]])
def test_other_conventions_of_train_ids_are_suspected_too(tmp_path, ids):
    "19 for ignored; train id + 1; one file of two converted."
    for k, values in enumerate(([7, 11, 21, 23, 26], ids)):
        for folder, a in (('image_2', np.zeros((6, 8, 3))), ('semantic', np.resize(values, (6, 8)))):
            (tmp_path / 'training' / folder).mkdir(parents=True, exist_ok=True)
            Image.fromarray(a.astype(np.uint8)).save(tmp_path / f'training/{folder}/{k}.png')
    with pytest.raises(AshError, match='1 of 2 label files .* look like train ids'):
        open_dataset('kitti', tmp_path)
