"Two to 150 classes: a learner, every method, checkpoints, the record, Figure 4, pictures, report and preview."

import json
import os
import subprocess
import sys
import types
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from test_gradients import compare, learner_of, of

from ash_nb.core.config import AshError
from ash_nb.core.files import write_json
from ash_nb.data.labels import CITYSCAPES, IGNORE, LabelSpace, Protocol, known_protocol, meet
from ash_nb.data.labels import legend as draw_legend
from ash_nb.hallucinators.ash import ASH, classwise_l1
from ash_nb.hallucinators.contract import HALLUCINATORS, make_hallucinator
from ash_nb.look import figures, pages, plots
from ash_nb.look.report import classwise_blocks, folder_report, scores_table
from ash_nb.look.widgets import Preview, PreviewWidget, channels_html
from ash_nb.methods.guard import NotFinite
from ash_nb.methods.learner import Learner
from ash_nb.methods.losses import class_weights
from ash_nb.methods.presets import preset
from ash_nb.methods.reference import reference_step
from ash_nb.methods.registry import METHODS, adapts, styles_per_image
from ash_nb.methods.step import step
from ash_nb.networks.adain import perturb
from ash_nb.numbers.analysis import contributions
from ash_nb.runs import forecast, record, training
from ash_nb.runs.batches import class_counts
from ash_nb.runs.folder import Run, load_run

SIZES = (2, 4, 60, 150)
TINY = dict(body='plain', width=64, height=64, test_width=64, test_height=64, batch_size=2, steps=2, begin=0.0)
TINY |= dict(pretrained=False, scenes=4, classwise_every=1, checkpoint_every=1, log_every=1, views=2)


def space_of_size(n):
    "A list of classes of one's own: names that are none of Cityscapes', colours that are made."
    return LabelSpace(f'own{n}', [f'thing {k}' for k in range(n)])


@pytest.fixture(params=SIZES)
def space(request):
    return space_of_size(request.param)


def batch_of(c, space, seed=0):
    "What a step takes: images, labels with some ignored, styles, number, target images."
    g = torch.Generator().manual_seed(seed)

    def draw(n):
        return torch.rand(n, 3, c.height, c.width, generator=g)

    labels = torch.randint(len(space), (c.batch_size, c.height, c.width), generator=g)
    labels[:, :5] = IGNORE
    styles = draw(c.batch_size * styles_per_image(c))
    return draw(c.batch_size), labels, styles, 1, draw(c.batch_size) if adapts(c) else None


class Drawn(torch.utils.data.Dataset):
    "Pictures and labels of any label space, as a data set gives them."

    protocol = own = None

    def __init__(self, space, n=4, size=(64, 64)):
        self.space = self.own = space
        self.protocol, self.names, self.size = meet(space, space).protocol.name, [f'{k}' for k in range(n)], size

    def __len__(self):
        return len(self.names)

    def __getitem__(self, k):
        from torchvision import tv_tensors

        g = torch.Generator().manual_seed(k)
        coarse = torch.randint(len(self.space), (8, 8), generator=g)
        label = coarse.repeat_interleave(self.size[0] // 8, 0).repeat_interleave(self.size[1] // 8, 1).to(torch.uint8)
        colour = torch.as_tensor(self.space.colours)[label.long()].permute(2, 0, 1)
        return dict(image=tv_tensors.Image(colour), label=tv_tensors.Mask(label), name=self.names[k])


@contextmanager
def learning_from(data):
    "Let every configuration name a source that is this data set."
    with pytest.MonkeyPatch.context() as patch:
        for module in (training, record, forecast):
            patch.setattr(module, 'space_of', lambda c: data.space)
        patch.setattr(record, 'taught_by', lambda c: data.space.classes)
        for module in (training, record, figures):
            patch.setattr(module, 'source_data', lambda c: data)
        patch.setattr('ash_nb.runs.batches.source_data', lambda c: data)
        yield


@pytest.fixture(scope='module')
def runs(tmp_path_factory):
    "A run of two steps for each number of classes, trained when it is asked for first."
    made = {}

    def run(n, method='ash'):
        if (n, method) not in made:
            c, data = preset('streetworld', **TINY | dict(method=method, source='gta5')), Drawn(space_of_size(n))
            out = tmp_path_factory.mktemp(f'run{n}') / f'{method}-0'
            with learning_from(data):
                made[n, method] = training.train(c, out, device='cpu', progress=False), data
        return made[n, method]

    return run


# --- networks and steps


@pytest.mark.parametrize('name', HALLUCINATORS)
def test_hallucinators_are_made_for_the_classes_of_the_run(name):
    c = preset('streetworld', **TINY)
    stylizer = Learner(replace(c, method='ash')).hallucinator.stylizer
    h = make_hallucinator(name, c, stylizer, 7)
    if 'gate' in h.learned:
        assert len(h.gate.theta) == 7
    if 'ash' in h.learned:
        assert h.ash.trunk[0].in_channels == 7
    if 'shade' in name:
        assert getattr(h, 'inner', h).styles == 7


def test_all_networks_know_as_many_classes_as_the_space(space):
    learner = Learner(preset('streetworld', **TINY | dict(method='ash')), space=space)
    first = learner.discriminator.convolutions[0].in_channels, learner.hallucinator.ash.trunk[0].in_channels
    answers = [x.shape[1] for x in learner.segment(torch.rand(1, 3, 64, 64)).heads]
    assert (*first, *answers) == (len(space),) * 4


@pytest.mark.parametrize('n', SIZES)
@pytest.mark.parametrize('method', METHODS)
def test_a_step_of_every_method(method, n):
    c = preset('streetworld', **TINY | dict(method=method))
    c = replace(c, target='streetworld-night') if adapts(c) else c
    learner = Learner(c, space=space_of_size(n))
    if learner.hallucinator is not None and learner.hallucinator.fits_styles:
        learner.hallucinator.fit(
            [dict(image=torch.randint(256, (3, 64, 64), dtype=torch.uint8)) for _ in range(3)],
            torch.Generator().manual_seed(0),
        )
    try:
        losses = step(learner, *batch_of(c, learner.space))
        while learner.guard.waiting:
            learner.guard.read()
    except NotFinite as e:
        pytest.fail(str(e))
    assert losses and all(np.isfinite(float(v)) for v in losses.values()), losses


@pytest.mark.parametrize('condition', ('predictions', 'labels', 'uniform'))
def test_a_step_with_balanced_weights_and_every_condition(space, condition):
    c = preset('streetworld', **TINY | dict(method='ash_segmentation_loss', condition=condition, focal=2.0))
    learner = Learner(c, space=space)
    learner.class_weights = class_weights(class_counts(Drawn(space), len(space)), 0.999)
    assert learner.class_weights.shape == (len(space),)
    assert all(np.isfinite(float(v)) for v in step(learner, *batch_of(c, space)).values())


@pytest.mark.parametrize('n', (2, 4, 60))
def test_a_step_is_the_published_one_with_any_classes(n, monkeypatch):
    "The oracle of tests/test_gradients.py, with another number of classes."
    import test_gradients

    space = space_of_size(n)
    monkeypatch.setattr(test_gradients, 'Learner', lambda c: Learner(c, space=space))
    fast, slow = (learner_of('plain', method='ash') for _ in range(2))
    images, labels, styles, number, _ = batch_of(fast.config, space)
    images, styles = images.double(), styles.double()

    def same_noise(features, generator):
        return perturb(features, fast.config.noise, 1.0, generator)

    a = step(fast, images, labels, styles, number)
    b = reference_step(slow, images, labels, styles, number, same_noise, literal=False)
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-9, atol=1e-12)
    compare(of(fast), of(slow), 1e-7)


def test_no_class_counts_twice():
    counts = class_counts([dict(label=torch.tensor([[0, 0, 59, 255]]))], 60)
    assert counts.shape == (60,) and counts.sum() == 3 and counts[59] == 1


# --- runs


def test_a_run_is_trained_recorded_and_read_again(space, runs):
    run, data = runs(len(space))
    again = load_run(run.path)
    assert again.finished and again.space == space and again.taught == space.classes
    kept = json.loads((run.path / 'config.json').read_text())
    assert kept['label_space'] == json.loads(json.dumps(space.json())) and kept['taught'] == list(space.classes)
    learner = again.learner()
    assert learner.space == space and learner.segmenter(torch.rand(1, 3, 64, 64))[0].shape[1] == len(space)
    rows = again.table('classwise.csv')
    assert len(rows) == 2 * len(space) and set(rows['class']) == set(range(len(space)))
    with learning_from(data):  # nothing is left to do
        assert training.train(run.config, run.path, device='cpu', progress=False).finished


def test_a_checkpoint_is_the_same_after_it_was_read(space, tmp_path):
    c = preset('streetworld', **TINY | dict(method='ash'))
    learner, other = Learner(c, space=space), Learner(replace(c, seed=1), space=space)
    run = Run(tmp_path / 'run')
    with learning_from(Drawn(space)):
        record.prepare_run(c, run, learner)
    step(learner, *batch_of(c, space))
    run.save_checkpoint(learner, 1)
    assert run.load_checkpoint(other) == 1
    for name, network in learner.networks.items():
        for a, b in zip(network.state_dict().values(), other.networks[name].state_dict().values()):
            assert torch.equal(a, b)
    wrong = Learner(c, space=space_of_size(3))
    with pytest.raises(AshError, match='does not fit this configuration: size mismatch'):
        run.load_networks(wrong, run.checkpoints[0])


def test_a_source_of_other_classes_is_refused_with_what_differs(runs):
    run, data = runs(4)
    swapped = LabelSpace('own4', [data.space.classes[k] for k in (0, 2, 1, 3)])
    for now, told in (
        (CITYSCAPES, '4 of own4 then and 19 of cityscapes now, only then thing 0, thing 1, thing 2, thing 3; only now'),
        (swapped, 'the same in another order, class 1 is thing 1 there and thing 2 here'),
    ):
        with learning_from(Drawn(now)), pytest.raises(AshError, match='was trained on other classes') as e:
            training.train(run.config, run.path, device='cpu', progress=False)
        assert told in str(e.value)


def test_a_run_of_an_older_version_stays_readable(runs, tmp_path):
    run, _ = runs(4)
    old = run.record
    for k in ('label_space', 'taught'):
        del old[k]
    for k in ('jitter', 'second_view'):
        del old['config'][k]
    write_json(tmp_path / 'old/config.json', old, sealed=True)
    found = load_run(tmp_path / 'old')
    assert (found.config, found.space, found.taught) == (run.config, CITYSCAPES, CITYSCAPES.classes)
    old['config']['shiny'] = 3
    write_json(tmp_path / 'old/config.json', old, sealed=True)
    with pytest.raises(AshError, match="field 'shiny' is unknown here"):
        load_run(tmp_path / 'old')


def test_a_forecast_counts_the_classes_of_the_source():
    c = preset('streetworld', **TINY | dict(method='ash'))
    with learning_from(Drawn(space_of_size(150))):
        many = forecast.step_forecast(c)
    assert many['weights'] > forecast.step_forecast(c)['weights']


# --- Figure 4


def test_figure_4_names_the_classes_of_the_run(space, runs):
    log = runs(len(space))[0].table('classwise.csv')
    named = contributions(log, space)
    assert list(named.name[: len(space)]) == list(space.classes)
    fig = plots.figure4(log.assign(pixels=5), np.arange(64).reshape(8, 8) % len(space), space=space)
    fig.draw_without_rendering()
    for ax in fig.axes[:4]:
        texts = [t for t in ax.texts if not t.get_text().endswith('are named')]
        assert (len(texts) < len(space)) == (len(ax.texts) > len(texts)) == (len(space) > 30)
        assert 0 < len(texts) <= len(space) and all(t.get_text() in space.classes for t in texts)
        boxes = [t.get_window_extent() for t in texts]
        assert all(fig.bbox.y0 <= b.y0 and b.y1 <= fig.bbox.y1 for b in boxes)


@pytest.mark.parametrize('n', SIZES)
def test_classes_are_taken_away_one_by_one(n):
    "One class after another, against one batch of all."
    torch.manual_seed(0)
    ash, probs = ASH(n, 8, 16), torch.randn(1, n, 16, 16).softmax(1)
    rows = classwise_l1(ash, probs)
    assert [r['class'] for r in rows] == list(range(n)) and sum(r['pixels'] for r in rows) == 256
    with torch.no_grad():
        whole = ash(probs)[0].abs().sum()
        for k in {0, n // 2, n - 1}:
            gone = probs.clone()
            gone[:, k] = 0
            np.testing.assert_allclose(rows[k]['gamma'], float(whole - ash(gone)[0].abs().sum()), atol=2e-2)


# --- pictures


def test_label_maps_and_legends_have_the_colours_of_the_space(space):
    label = (np.arange(40 * 60) % len(space)).reshape(40, 60)
    label[:3] = IGNORE
    picture = plots.as_picture(label, space)
    assert (picture[3:] == space.colours[label[3:]]).all() and not picture[:3].any()
    fig = plots.qualitative([picture], [label], dict(source_only=[label], ash=[label * 0]), change=True, space=space)
    shown = [t.get_text() for t in fig.legends[0].get_texts()]
    assert shown == [*space.classes, 'repaired', 'broken', 'wrong in both']
    assert draw_legend(space) and plots.show_grid([label], space=space)


def test_a_scored_class_has_the_colour_of_its_first_class(space):
    table = tuple(0 if k < 2 else 255 for k in range(len(space)))
    found = plots.class_colours(Protocol('some', ('first two', 'nothing'), table), space)
    assert found['first two'] == tuple(space.colours[0] / 255) and found['nothing'] == (0.6, 0.6, 0.6)


def test_scores_of_many_classes_fit_on_a_page(space):
    protocol = meet(space, space).protocol
    g = np.random.default_rng(0)
    rows = [dict(method=m, seed=s, **dict(zip(space.classes, g.random(len(space))))) for m in METHODS for s in (0, 1)]
    bars = plots.iou_bars(pd.DataFrame(rows[:4]), plots.class_colours(protocol, space))
    assert bars.get_size_inches()[0] < 14 and sum(len(ax.get_xticks()) for ax in bars.axes) == len(space)
    confusion = g.integers(0, 50, (len(space), len(space)))
    heat = plots.confusion_heatmap(confusion, space.classes)
    assert max(heat.get_size_inches()) < 15
    assert [t.get_text() for t in heat.axes[0].get_yticklabels()] == list(space.classes)


# --- pages


def scored(space):
    "An evaluation's stand-in: IoU of every class of the space."
    p = known_protocol(meet(space, space).protocol)
    of = dict(protocol=p.name, images=3, split='val', miou=0.5, iou=dict.fromkeys(p.classes, 0.25), rule='ash')
    return types.SimpleNamespace(**of, basis=lambda: 'all')


def test_pieces_of_a_report(space, runs):
    text = scores_table({'day': scored(space)}, space)
    for name, colour in zip(space.classes, space.palette):
        assert name in text and 'rgb({},{},{})'.format(*colour) in text
    assert pages.palette_stops(space).count('rgb(') == len(space)
    run, _ = runs(len(space))
    assert classwise_blocks(run.table('classwise.csv'), False, space)
    report = folder_report(run.path).read_text()
    assert pages.palette_stops(space) in report and pages.palette_stops() not in report


def test_figures_of_a_run(space, runs):
    run, data = runs(len(space))
    with learning_from(data):
        files = figures.hallucination_figures(run, run.learner(), run.path / 'figures')
        assert [f.name for f in files] == ['stylization.jpg', 'preview.json', 'figure4.png']
        scene, label, _ = figures._preview_scene(run.config, 1, run.space)
    assert scene.shape == (1, 3, 64, 64) and label.max() < len(space)
    assert (label == np.asarray(data[len(data) - 1]['label'])).all()


# --- the preview


def test_the_preview(space, runs, tmp_path):
    run, data = runs(len(space))
    image, label = data[0]['image'].as_subclass(torch.Tensor) / 255, np.asarray(data[0]['label'])
    p = Preview({'street': image}, {'painting': torch.rand(3, 64, 64)}, run, {'street': label})
    widget = PreviewWidget(p, tmp_path / 'out.png')
    assert len(widget.toggles) == len(p.gains) == len(space)
    assert [name for name, _ in widget.parts['chosen'].options] == list(space.classes)
    widget.set_gain(len(space) - 1, 0.0)
    assert p.settings['gains'] == {space.classes[-1]: 0.0}
    widget.parts['first'].value, widget.parts['second'].value = 0, len(space) - 1
    widget.parts['swap'].click()
    assert widget.message.value.startswith(f'thing 0 and thing {len(space) - 1} are exchanged')
    widget.parts['reset'].click()
    assert set(p.gains) == {1.0} and p.by_channel().shape[0] == len(p.shares()) == len(space)
    assert [c['name'] for c in widget.grid.classes] == list(space.classes)
    assert 'ash-scroll' in channels_html({'gamma': p.by_channel()}, range(len(space)), space)
    assert widget.save().is_file()


# --- one command, from a folder with a page of its own to a report


def written(folder, n, split, seed, images=4, size=(96, 64)):
    "Write pictures, label maps and a page of YAML with n classes, of which every second has a name of another's."
    rng = np.random.default_rng(seed)
    for k in range(images):
        ids = rng.integers(0, n, (8, 12)).repeat(8, 0).repeat(8, 1).astype(np.uint8)
        picture = (ids[..., None] * np.array([3, 5, 7]) + seed).astype(np.uint8)
        for kind, array in (('images', picture), ('labels', ids)):
            (folder / kind / split).mkdir(parents=True, exist_ok=True)
            Image.fromarray(array).save(folder / kind / split / f'{k}.png')
    classes = '\n'.join(f'  thing {k}: {{id: {k}}}' for k in range(n))
    page = f'name: {folder.name}\nimages: "images/{{split}}/{{frame}}.png"\nlabels: "labels/{{split}}/{{frame}}.png"\n'
    page += f'encoding: index\nrole: [source, target]\nsplits: {{{split}: {split}}}\nclasses:\n{classes}\n'
    (folder / 'dataset.yaml').write_text(page)
    return folder


@pytest.mark.parametrize('n, m, scored', [(4, 4, 4), (60, 60, 60), (2, 150, 2)])
def test_from_two_folders_to_a_report(n, m, scored, tmp_path):
    "Compare two methods, draw everything; then draw it again in another process, which has seen no class before."
    ours, theirs = written(tmp_path / 'synthetic', n, 'train', 0), written(tmp_path / 'real', m, 'val', 9)
    fields = TINY | dict(source=ours.name, root=ours)
    words = [word for k, v in fields.items() if k != 'steps' for word in ('--set', f'{k}={v}')]
    compared = ['compare', '--methods', 'source_only,ash', '--seeds', '1', '--steps', '2', '--device', 'cpu']
    compared += ['--target', theirs.name, '--root', f'{theirs.name}={theirs}', '--out', tmp_path / 'c', *words]
    env = os.environ | dict(TQDM_DISABLE='1', OMP_NUM_THREADS='1')
    done = subprocess.run(
        [sys.executable, '-m', 'ash_nb.cli', *map(str, compared)], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    report = (tmp_path / 'c/report.html').read_text()
    again = f'import ash_nb.look.report as r; r.folder_report({str(tmp_path / "c")!r})'
    drawn = subprocess.run([sys.executable, '-c', again], cwd=tmp_path, env=env, capture_output=True, text=True)
    assert drawn.returncode == 0, drawn.stderr[-3000:]
    assert len((tmp_path / 'c/report.html').read_text()) == len(report)
    runs = pd.read_csv(tmp_path / 'c/runs.csv')
    assert {f'thing {k}' for k in range(scored)} <= set(runs.columns)
    run = load_run(tmp_path / 'c/ash-0')
    assert len(run.space) == n and run.space.name == 'synthetic'
    assert pages.palette_stops(run.space) in report
