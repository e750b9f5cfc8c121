"What can go wrong around a run: each fault is made, and the run stops with one sentence or goes on to the same bits."

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from soak import difference, flip_bits, poison_steps, small, soak

import ash_nb.runs.batches
import ash_nb.runs.training
from ash_nb.cli import main
from ash_nb.core.config import AshError, Stopped
from ash_nb.data.datasets import StreetWorld
from ash_nb.data.prepare import write_gta5
from ash_nb.data.streetworld.appearances import street
from ash_nb.methods.registry import METHODS, adapts
from ash_nb.runs.batches import style_data
from ash_nb.runs.folder import Run, load_run, only_one
from ash_nb.runs.record import prepare_run
from ash_nb.runs.training import train

go = dict(device='cpu', workers=0, progress=False)
plain = small(6, method='source_only', checkpoint_every=2)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    return train(small(6, checkpoint_every=2), tmp_path_factory.mktemp('runs') / 'whole', **go)


@pytest.fixture
def disk(tmp_path):
    "A disk of 4 MB; skips where none can be mounted."
    path = tmp_path / 'disk'
    path.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=4m', 'tmpfs', path], capture_output=True).returncode:
        pytest.skip('no disk can be mounted here: needs root')
    yield path
    subprocess.run(['umount', path])


@pytest.fixture
def streets(tmp_path):
    "Six pairs in CamVid's layout, of which 03.png is cut off."
    for folder in ('val', 'valannot'):
        (tmp_path / 'camvid' / folder).mkdir(parents=True)
    for k in range(6):
        Image.fromarray(street(k, 96, 72)[0]).save(tmp_path / f'camvid/val/{k:02d}.png')
        Image.fromarray(np.full((72, 96), k, np.uint8)).save(tmp_path / f'camvid/valannot/{k:02d}.png')
    torn = tmp_path / 'camvid/val/03.png'
    torn.write_bytes(torn.read_bytes()[:3000])
    return tmp_path / 'camvid'


def at_step(monkeypatch, number, act):
    "Let something happen at the beginning of a step."
    step = ash_nb.runs.training.step

    def stepped(learner, images, labels, styles, n, target=None):
        if n == number:
            act()
        return step(learner, images, labels, styles, n, target)

    monkeypatch.setattr(ash_nb.runs.training, 'step', stepped)


def again(run, out, keep):
    "Copy a run as it was after its checkpoint `keep`, and let it go on."
    shutil.copytree(run.path, out)
    for p in Run(out).checkpoints:
        if p.name > keep:
            shutil.rmtree(p)
    return train(run.config, out, **go)


# --- the same bits


def test_random_kills():
    report = soak(9, steps=12, fresh_every=9, progress=False)
    assert report['kills'] == 9 and report['runs_compared'] and report['command_line_processes_killed']
    assert report['different_files'] == report['unreadable_checkpoints'] == report['other_errors'] == [], report


@pytest.mark.parametrize('method', METHODS)
def test_every_method_goes_on_to_the_same_bits(tmp_path, method):
    c = small(3, method=method, views=2, checkpoint_every=2, jitter=0.5)
    if adapts(c):
        c = replace(c, target='streetworld-night')
    run = train(c, tmp_path / 'whole', **go)
    assert difference(run, again(run, tmp_path / 'cut', 'step-0000002')) == []


def test_generators_of_python_numpy_and_torch_have_no_part_in_a_run(whole, tmp_path):
    "No global generator is read (another state, the same bits) or moved (the state is the same afterwards)."
    random.seed(5)
    np.random.seed(5)
    torch.manual_seed(5)
    before = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()
    run = train(whole.config, tmp_path / 'a', **go)
    assert difference(whole, run) == []
    assert before[:2] == (random.getstate(), np.random.get_state()[1].tolist()) and torch.equal(
        before[2], torch.get_rng_state()
    )


def test_workers_change_nothing(tmp_path, streets):
    c = replace(plain, source='camvid', split='val', root=str(streets), skip_bad=True)
    assert difference(train(c, tmp_path / '0', **go), train(c, tmp_path / '2', **go | dict(workers=2))) == []


def test_clocks_and_time_zones_have_no_part_in_a_run(whole, tmp_path, monkeypatch):
    ticks = iter(range(10**9, 0, -3600))  # an hour back at each look
    monkeypatch.setattr(time, 'time', lambda: float(next(ticks)))
    monkeypatch.setenv('TZ', 'Pacific/Kiritimati')
    time.tzset()
    run = train(whole.config, tmp_path / 'a', **go)
    monkeypatch.undo()
    time.tzset()
    assert difference(whole, run) == [] and (run.table('sessions.csv').seconds >= 0).all()


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_a_signal_finishes_the_step_and_saves(whole, tmp_path, monkeypatch, number):
    at_step(monkeypatch, 3, lambda: os.kill(os.getpid(), number))
    with pytest.raises(Stopped, match=f'{number.name} after step 4 of 6'):
        train(whole.config, tmp_path / 'a', **go)
    monkeypatch.undo()
    assert load_run(tmp_path / 'a').checkpoints[-1].name == 'step-0000004'
    assert difference(whole, train(whole.config, tmp_path / 'a', **go)) == []


def test_a_trained_run_is_opened_for_looking(whole):
    assert not any(n.training for n in whole.learner().networks.values())


def test_a_loss_that_comes_late_has_its_column(tmp_path):
    c = small(6, begin=0.5, checkpoint_every=2)
    run = train(c, tmp_path / 'a', **go)
    assert run.metrics.adversarial.isna().tolist() == [True] * 3 + [False] * 3
    assert difference(run, again(run, tmp_path / 'cut', 'step-0000002')) == []


# --- disk and folder


def test_a_full_disk(disk, tmp_path):
    c = replace(small(6, checkpoint_every=1), keep_checkpoints=9)
    with pytest.raises(
        AshError, match=r'cannot write .*: No space left on device; free some space or choose another folder'
    ):
        train(c, disk / 'a', **go)
    run = load_run(disk / 'a')
    done = len(run.checkpoints)
    assert 0 < done < 6 and not run.damage() and not (run.path / 'checkpoints/.part').exists()
    subprocess.run(['mount', '-o', 'remount,size=30m', disk], check=True)
    assert difference(train(c, tmp_path / 'whole', **go), train(c, disk / 'a', **go)) == []


def test_a_disk_that_becomes_read_only(disk, monkeypatch):
    c = small(6, checkpoint_every=2)
    subprocess.run(['mount', '-o', 'remount,size=30m', disk], check=True)
    at_step(monkeypatch, 3, lambda: subprocess.run(['mount', '-o', 'remount,ro', disk], check=True))
    with pytest.raises(AshError, match='Read-only file system; allow writing there or choose another folder'):
        train(c, disk / 'a', **go)
    monkeypatch.undo()
    with pytest.raises(AshError, match='Read-only file system'):
        train(c, disk / 'a', **go)
    subprocess.run(['mount', '-o', 'remount,rw', disk], check=True)
    assert train(c, disk / 'a', **go).finished
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    assert train(c, disk / 'a', **go).finished  # a finished run is only looked at


@pytest.mark.parametrize('log_every', [1, 10])
def test_a_folder_that_is_removed(tmp_path, monkeypatch, log_every):
    at_step(monkeypatch, 3, lambda: shutil.rmtree(tmp_path / 'a'))
    with pytest.raises(
        AshError,
        match='No such file or directory; a folder of this path is gone'
        if log_every == 1
        else 'has been removed or emptied, so step 4 cannot be saved',
    ):
        train(replace(plain, log_every=log_every), tmp_path / 'a', **go)
    assert not (tmp_path / 'a').exists()


def test_two_processes_on_one_folder(whole, tmp_path):
    with (
        only_one(tmp_path / 'a'),
        pytest.raises(AshError, match='is being trained by another process: wait for it, or choose another folder'),
    ):
        train(whole.config, tmp_path / 'a', **go)
    assert not (tmp_path / 'a' / 'config.json').exists()  # nothing of the second is left in it


def test_another_run_that_was_there_first(whole, tmp_path):
    "Two processes begin in one empty folder; the one that gets the lock second finds the other's record."
    prepare_run(whole.config, Run(tmp_path / 'a'))
    with pytest.raises(AshError, match='seed is 0 there and 1 here'):
        prepare_run(replace(whole.config, seed=1), Run(tmp_path / 'a'))


def test_a_folder_of_paintings_is_looked_into(whole, streets):
    assert style_data(replace(whole.config, styles=str(streets / 'val'))).names == [f'{k:02d}.png' for k in range(6)]


def test_no_resume(whole, capsys):
    assert main(['train', '--out', str(whole.path), '--no-resume', '--device', 'cpu']) == 2
    assert 'holds a run already: choose another folder, or leave out --no-resume' in capsys.readouterr().err


# --- data


def words(c, *more):
    return [
        'train',
        '--method',
        c.method,
        '--steps',
        str(c.steps),
        '--device',
        'cpu',
        '--workers',
        '0',
        *more,
        *[
            x
            for k in (
                'body',
                'width',
                'height',
                'test_width',
                'test_height',
                'batch_size',
                'precision',
                'log_every',
                'checkpoint_every',
                'source',
                'split',
                'scenes',
            )
            for x in ('--set', f'{k}={getattr(c, k)}')
        ],
    ]


@pytest.mark.parametrize('workers', [0, 1])
def test_an_image_cut_off_stops_the_run_with_its_name(streets, tmp_path, workers):
    c = replace(plain, source='camvid', split='val', root=str(streets))
    with pytest.raises(AshError) as told:
        train(c, tmp_path / 'a', **go | dict(workers=workers))
    assert str(told.value).startswith(f'{streets}/val/03.png cannot be read as an image') and '\n' not in str(
        told.value
    )


def test_skip_bad_counts_and_lists(streets, tmp_path, capsys):
    out = tmp_path / 'a'
    args = words(replace(plain, source='camvid', split='val'), '--root', str(streets), '--skip-bad', '--out', str(out))
    assert main(args) == 0
    run, listed = load_run(out), load_run(out).table('skipped.csv')
    assert (
        f'{len(listed)} times a sample could not be read and another took its place: {out}/skipped.csv'
        in capsys.readouterr().out
    )
    assert (
        set(listed.name) == {'val/03.png'}
        and len(listed) >= 2
        and listed.reason.str.contains('cannot be read as an image').all()
    )  # 12 samples of 6: twice
    assert difference(run, again(run, tmp_path / 'cut', 'step-0000002')) == []
    for p in (streets / 'val').iterdir():
        p.write_bytes(b'')
    with pytest.raises(AshError, match='none of 6 samples can be read: .*cannot be read as an image'):
        train(run.config, tmp_path / 'b', **go)


class Deadly(StreetWorld):
    "Its second sample kills who reads it, as the system does for want of memory."

    def __getitem__(self, k):
        if k == 1 and torch.utils.data.get_worker_info():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__getitem__(k)


def test_a_worker_that_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(ash_nb.runs.batches, 'source_data', lambda c: Deadly(6, width=64, height=64))
    cause, remedy = 'most likely for lack of memory', 'run the same command again, with fewer --workers'
    with pytest.raises(AshError, match=f'a loader process was killed, {cause}: {remedy}'):
        train(plain, tmp_path / 'a', **go | dict(workers=1))
    assert train(plain, tmp_path / 'a', **go).finished


# --- processes that a script starts

HEAD = """
import os, signal, sys
import torch
import ash_nb.runs.batches
from ash_nb import preset, train
from ash_nb.runs.compare import compare
from ash_nb.data.datasets import StreetWorld
from ash_nb.data.loading import Loader
from ash_nb.data.prepare import prepare, run_parallel
tiny = preset('streetworld', method='source_only', body='plain', width=64, height=64, scenes=6, steps=2)

class Mine(StreetWorld):
    def __getitem__(self, k):
        if torch.utils.data.get_worker_info(): act()
        return super().__getitem__(k)

def act(*task): pass
def kill(*task): os.kill(os.getpid(), signal.SIGKILL)
def leave(*task): sys.exit(3)
def local():
    class Local(StreetWorld): pass
    return Local(4)
def with_mine():
    ash_nb.runs.batches.source_data = lambda c: Mine(6, width=64, height=64)
    train(tiny, 'runs', 'cpu', workers=1, progress=False)
def work(does): list(run_parallel(does, [(k,) for k in range(9)], 2))
"""
TRAIN = "train(tiny, 'runs', 'cpu', workers=1, progress=False)"
COMPARE = "compare(['source_only'], 2, ['streetworld-night'], 'runs', tiny, device='cpu,cpu', images=2, progress=False)"
PREPARE = "prepare('gta5', 'gta5', 'ready', workers=2, progress=False)"
GUARD = "each process that a script starts runs that script again: put what yours does under if __name__ == '__main__':"
MEMORY, ABOVE = 'most likely for lack of memory: run the same command again', 'what it said stands above'


@pytest.mark.parametrize(
    'does, guarded, told',
    [
        (TRAIN, False, GUARD),
        (PREPARE, False, GUARD),
        (COMPARE, False, GUARD),
        ('with_mine()', True, None),
        ('act = kill', False, f'a loader process was killed, {MEMORY}, with fewer --workers (0: none)'),
        ('act = leave', False, f'a loader process ended with exit code 3; {ABOVE}'),
        ('act = 1 if __name__ == "__main__" else missing', False, f'a loader process ended with exit code 1; {ABOVE}'),
        ('work(kill)', True, f'a process was killed, {MEMORY}, with fewer --workers'),
        ('work(leave)', True, f'a process ended with exit code 3; {ABOVE}'),
        ('list(Loader(local(), 1, num_workers=1))', True, 'a loader process cannot be sent what it needs ('),
    ],
)
def test_a_process_that_ends_is_told_with_its_cause(tmp_path, does, guarded, told):
    "A real script: the last line is a sentence, which names memory only for a process that was killed."
    if 'gta5' in does:
        write_gta5(tmp_path / 'gta5', 4, (96, 64))
    if does.startswith('act'):
        does, guarded = does + "\nif __name__ == '__main__': with_mine()", False
    (tmp_path / 'script.py').write_text(HEAD + ("if __name__ == '__main__': " if guarded else '') + does)
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    if told is None:
        assert done.returncode == 0, done.stderr[-2000:]
    else:
        last = done.stderr.strip().splitlines()[-1]
        assert done.returncode and last.startswith(f'ash_nb.core.config.AshError: {told}'), done.stderr[-2000:]
        assert ('memory' in last) == (MEMORY in told) and done.stderr.count('AshError') == 1


def test_a_class_that_was_typed_in(tmp_path):
    "Code on standard input, a class typed in as in a notebook: neither can be imported, told before a start."
    code = HEAD + "if __name__ == '__main__': with_mine()"
    runs = [
        (['-'], code, 'a script that is read from <stdin> cannot start processes, '),
        (['-c', code], '', 'Mine is defined in a notebook or typed in, where other processes cannot import it: '),
        (['-c', HEAD + TRAIN], '', None),
    ]
    for words, typed, told in runs:
        given = dict(input=typed, cwd=tmp_path, capture_output=True, text=True, timeout=300)
        done = subprocess.run([sys.executable, *words], **given)
        if told is None:
            assert done.returncode == 0, done.stderr
        else:
            last = done.stderr.strip().splitlines()[-1]
            assert last.startswith(f'ash_nb.core.config.AshError: {told}') and 'start no processes (workers=0)' in last


def test_workers_below_zero(tmp_path):
    with pytest.raises(AshError, match='workers = -1: expected 0 or more'):
        train(plain, tmp_path / 'a', **go | dict(workers=-1))


# --- memory


def test_out_of_memory(tmp_path):
    "The system refuses memory beyond a limit: by the error of the allocator in the middle of a step."
    code = (
        'import resource, sys\nfrom ash_nb.cli import main\nimport ash_nb.runs.training\n'
        'old = ash_nb.runs.training.step\n'
        'def step(*args):\n'
        "    used = int(open('/proc/self/statm').read().split()[0])*resource.getpagesize()\n"
        '    resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))\n'
        '    return old(*args)\n'
        'ash_nb.runs.training.step = step\nsys.exit(main(sys.argv[1:]))'
    )
    c = small(4, method='source_only', width=256, height=256, batch_size=4)
    done = subprocess.run(
        [sys.executable, '-c', code, *words(c, '--out', str(tmp_path / 'a'))], capture_output=True, text=True
    )
    assert done.returncode == 2 and 'Traceback' not in done.stderr, done.stderr
    remedy = 'lower batch_size (now 4) or width and height (now 256 x 256), or set precision=bf16'
    assert f'ash-nb train: out of memory: {remedy}' in done.stderr, done.stderr


# --- numbers and bits


def test_nan_and_infinity_stop_a_step_before_the_weights(tmp_path, monkeypatch):
    c = small(2)
    step = ash_nb.runs.training.step

    def stepped(learner, images, labels, styles, n, target=None):
        images[0, 0, 0, 0] = float('nan')
        return step(learner, images, labels, styles, n, target)

    monkeypatch.setattr(ash_nb.runs.training, 'step', stepped)
    told = r'step 1 of 2: segmentation, .* is NaN or infinite; no weight was changed. '
    samples = r'Samples: source-\d+, source-\d+, painting-\d+, painting-\d+\. Batch, networks'
    with pytest.raises(AshError, match=told + samples):
        train(c, tmp_path / 'a', **go)
    monkeypatch.undo()
    report = poison_steps(16, seed=1)
    assert report['stopped_with_the_samples_named'] == report['places'] == 16, report
    assert report['poisoned_weights'] == report['not_stopped'] == report['wrong_message'] == []


def test_every_flipped_bit_is_found():
    report = flip_bits(210, seed=1)
    assert report['missed'] == report['crashed'] == [] and len(report['by_kind']) == 7
