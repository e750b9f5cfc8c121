"Sampling by class: what is kept of labels is never stale, runs go on to the same bits, and mixtures work."

import json
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import ash_nb
from ash_nb.core.config import AshError
from ash_nb.core.files import load_tensors
from ash_nb.data.sampling import LEAST, ClassUniform, Layout, RareClass, class_chances, tile_centres
from ash_nb.data.transforms import train_transform
from ash_nb.runs import batches

PAGE = 'images: "i/{n}.png"\nlabels: "l/{n}.png"\nclasses: {floor: 0, wall: 1, lamp: 2}\n'


def put(root, k, lamp, size=(60, 80)):
    "Write a picture whose lamp has so many rows."
    label = np.zeros(size, np.uint8)
    label[:20] = 1
    label[20 : 20 + lamp, :10] = 2
    for folder in ('i', 'l'):
        (root / folder).mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((*size, 3), 40 * k, np.uint8)).save(root / f'i/{k}.png')
    Image.fromarray(label).save(root / f'l/{k}.png')


@pytest.fixture
def lamps(tmp_path, monkeypatch):
    "Four pictures, one with a lamp, and a folder of runs of our own."
    monkeypatch.setenv('ASH_NB_RUNS', str(tmp_path / 'runs'))
    root = tmp_path / 'lamps'
    for k in range(4):
        put(root, k, 12 * (k == 2))
    (root / 'dataset.yaml').write_text(PAGE)
    batches._layouts.clear()
    return root


def config(root, **more):
    own = dict(source='lamps', root=str(root), scenes=0, body='plain', pretrained=False, width=64, height=64)
    own |= dict(batch_size=2, steps=4, checkpoint_every=2, log_every=1, precision='float32', method='source_only')
    return ash_nb.preset('streetworld', **own | more)


def kept(tmp_path):
    return sorted((tmp_path / 'runs/.layouts').glob('*.safetensors'))


def test_what_is_kept_is_read_again_and_never_stale(lamps, tmp_path, monkeypatch):
    c = config(lamps, sampling='rare_class')
    data = batches.source_data(c)
    assert batches.kept_layout(data, 3).counts[:, 2].tolist() == [0, 0, 120, 0]
    assert len(kept(tmp_path)) == 1
    batches._layouts.clear()  # another process
    with monkeypatch.context() as m:
        m.setattr(batches, 'layout_of', lambda *given: pytest.fail('labels were read again'))
        assert batches.kept_layout(batches.source_data(c), 3).counts[:, 2].tolist() == [0, 0, 120, 0]
    before = (lamps / 'l/1.png').stat()
    put(lamps, 1, 3)
    os.utime(lamps / 'l/1.png', ns=(before.st_atime_ns, before.st_mtime_ns + 10**9))
    assert batches.kept_layout(batches.source_data(c), 3).counts[:, 2].tolist() == [0, 30, 120, 0]
    (lamps / 'dataset.yaml').write_text(PAGE.replace('wall: 1, lamp: 2', 'wall: 2, lamp: 1'))  # the ids mean others
    assert batches.kept_layout(batches.source_data(c), 3).counts[:, 2].tolist() == [1600] * 4
    assert len(kept(tmp_path)) == 3


def test_a_damaged_file_is_read_again_aloud_and_a_folder_that_cannot_be_written_stops_nobody(lamps, tmp_path, capsys):
    c = config(lamps, sampling='rare_class')
    batches.kept_layout(batches.source_data(c), 3)
    kept(tmp_path)[0].write_bytes(b'torn')
    batches._layouts.clear()
    assert batches.kept_layout(batches.source_data(c), 3).counts[2, 2] == 120
    assert 'is damaged' in capsys.readouterr().err
    for file in (tmp_path / 'runs/.layouts').iterdir():
        file.unlink()
    (tmp_path / 'runs/.layouts').rmdir()
    (tmp_path / 'runs/.layouts').write_text('a file where a folder should be')
    batches._layouts.clear()
    assert batches.kept_layout(batches.source_data(c), 3).counts[2, 2] == 120
    assert 'the labels are read again next time' in capsys.readouterr().err


@pytest.mark.parametrize('sampling', ['rare_class', 'class_uniform'])
def test_a_run_goes_on_to_the_same_bits_whatever_reads(lamps, tmp_path, sampling):
    c = config(lamps, sampling=sampling, ema=0.9)
    whole = ash_nb.train(c, tmp_path / 'whole', 'cpu', 0, progress=False)
    names = [n for batch, *_ in batches.batches(c, 0) for n in batch['names']]
    assert len(names) == 8 and (sampling != 'rare_class' or {Path(n).stem for n in names} == {'2'})
    ash_nb.train(replace(c), tmp_path / 'cut', 'cpu', 2, progress=False)
    last = tmp_path / 'cut/checkpoints/step-0000004'
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    cut = ash_nb.train(c, tmp_path / 'cut', 'cpu', 0, progress=False)
    for name in ('segmenter', 'segmenter_ema'):
        a, b = (load_tensors(r.checkpoints[-1] / f'{name}.safetensors') for r in (whole, cut))
        assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    other = ash_nb.train(replace(c, sampling='uniform'), tmp_path / 'uniform', 'cpu', 0, progress=False)
    first = next(iter(a))
    b = load_tensors(other.checkpoints[-1] / 'segmenter_ema.safetensors')
    assert not all(torch.equal(a[k], b[k]) for k in a), first


def test_labels_without_classes_are_refused_in_one_sentence(lamps, tmp_path):
    for k in range(4):
        Image.fromarray(np.full((60, 80), 255, np.uint8)).save(lamps / f'l/{k}.png')
    (lamps / 'dataset.yaml').write_text(PAGE + 'ignored: [255]\n')
    for sampling in ('rare_class', 'class_uniform'):
        with pytest.raises(AshError, match='no label map holds a class; set sampling=uniform'):
            list(batches.batches(config(lamps, sampling=sampling), 0))


counts_of = st.lists(st.lists(st.integers(0, 5000), min_size=4, max_size=4), min_size=1, max_size=6)


@given(counts_of, st.integers(0, 2**40))
@settings(max_examples=60, deadline=None)
def test_rare_class_draws_what_is_there(rows, seed):
    counts = torch.tensor(rows)
    layout = Layout(counts, torch.full((len(rows), 2), 400), torch.empty(0, 4))
    if not counts.any():
        with pytest.raises(AshError, match='no label map holds a class'):
            RareClass([], seed, None, layout=layout, area=1.0)
        return
    total = counts.sum(0).double().numpy()
    weight = np.where(total > 0, np.exp(-(total / total.sum() - (total / total.sum())[total > 0].min()) / 0.01), 0)
    assert np.allclose(class_chances(counts).numpy(), weight / weight.sum(), atol=1e-12)
    stream = RareClass([], seed, None, layout=layout, area=1.0)
    for k in range(20):
        c, places = stream.wanted(k)
        enough = [i for i in range(len(rows)) if counts[i, c] > LEAST * 160_000]
        assert sorted(places) == (enough or [i for i in range(len(rows)) if counts[i, c]]) and places


@given(st.integers(1, 70), st.integers(1, 70), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_the_middle_of_a_class_lies_in_its_tile(h, w, seed):
    label = np.random.default_rng(seed).choice([0, 1, 255], (h, w)).astype(np.uint8)
    found, side, k = tile_centres(label, 2), min(h, w), 0
    for top in range(0, h, side):
        for left in range(0, w, side):
            tile = label[top : top + side, left : left + side]
            for c in sorted(set(tile.ravel()) - {255}):
                ys, xs = np.nonzero(tile == c)
                wanted = [c, (top + ys.mean() + 0.5) / h, (left + xs.mean() + 0.5) / w]
                assert np.allclose(found[k], wanted, atol=1e-12)
                k += 1
    assert k == len(found) and (found[:, 1:] > 0).all() and (found[:, 1:] < 1).all()


def test_both_reach_the_loop_from_the_command_line(lamps):
    for word in ('source_only:sampling=rare_class', 'source_only:sampling=class_uniform:ema=0.99'):
        c = ash_nb.preset('streetworld', method=word)
        assert c.sampling in word and json.dumps(c.ema)
    with pytest.raises(AshError, match='sampling'):
        ash_nb.preset('streetworld', sampling='rare')


def test_crops_are_around_a_point_wherever_it_lies():
    from torchvision import tv_tensors

    for y, x in ((0.0, 0.0), (0.99, 0.99), (0.5, 0.02), (1.0, 0.3)):
        label = torch.zeros(90, 120, dtype=torch.uint8)
        row, column = min(89, int(90 * y)), min(119, int(120 * x))
        label[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3] = 1
        sample = dict(image=tv_tensors.Image(label[None].expand(3, -1, -1)), label=tv_tensors.Mask(label))
        for seed in range(20):
            torch.manual_seed(seed)
            assert (train_transform(48, 36, (1.1, 1.7), around=(y, x))(sample)['label'] == 1).any(), (y, x, seed)
    assert ClassUniform.__getitem__ is not RareClass.__getitem__
