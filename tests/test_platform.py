"What a run needs of the system and says where it is missing, other conditions than it began with, and its bar."

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch
from soak import small
from tqdm import tqdm

from ash_nb.core.distributed import start_method
from ash_nb.core.files import read_json, write_json
from ash_nb.methods.learner import Learner
from ash_nb.methods.registry import METHODS, adapts, styles_per_image
from ash_nb.methods.step import step
from ash_nb.methods.terms import SHORT_NAMES, on_one_line
from ash_nb.runs.folder import load_run, lock
from ash_nb.runs.log import peak_memory
from ash_nb.runs.record import conditions
from ash_nb.runs.training import BAR, _show, train

go = dict(device='cpu', workers=0, progress=False)
plain = small(4, method='source_only', checkpoint_every=2)

# --- a system without POSIX

# In place of such a system: modules and functions are taken away before anything is imported, processes only spawned.
BARE = """
import os, signal, sys
for name in ('fcntl', 'resource', 'termios', 'tty', 'pty', 'pwd', 'grp', 'syslog'): sys.modules[name] = None
import multiprocessing.context as context
for name in ('fork', 'forkserver'): context._concrete_contexts.pop(name, None)
context._default_context.get_all_start_methods = lambda: ['spawn']
import multiprocessing
multiprocessing.get_all_start_methods = lambda: ['spawn']
for name in ('SIGKILL', 'SIGBUS', 'SIGHUP', 'SIGALRM'): delattr(signal, name)
for name in ('fork', 'killpg', 'getuid', 'sysconf', 'O_DIRECTORY', 'posix_fadvise'): delattr(os, name)
"""
TRAIN = """
import importlib, pkgutil
import ash_nb
from ash_nb import preset, train, load_run
from ash_nb.runs.compare import compare
from ash_nb.data.prepare import prepare, write_gta5
if __name__ == '__main__':
    for m in pkgutil.walk_packages(ash_nb.__path__, 'ash_nb.'): importlib.import_module(m.name)
    small = dict(body='plain', width=64, height=64, scenes=6, steps=2, log_every=1, checkpoint_every=1)
    c = preset('streetworld', method='ash', precision='float32', **small)
    run = train(c, 'run', 'cpu', workers=1, progress=False)
    print(len(run.metrics), run.finished, run.table('sessions.csv').peak_mb.isna().all())
    rows = compare(['ash'], 1, ['streetworld-night'], '.', c, images=2, progress=False)
    print(rows.miou.between(0, 1).all(), rows.peak_mb.isna().all())
    write_gta5('gta5', 3, (96, 64))
    print(prepare('gta5', 'gta5', 'ready', workers=2, progress=False)['samples'])
"""


def test_without_what_windows_lacks(tmp_path):
    "Every module is imported, a run trained with a loader process and scored, data prepared; what is missing is named."
    (tmp_path / 'script.py').write_text(BARE + TRAIN)
    done = subprocess.run([sys.executable, 'script.py'], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.split() == ['2', 'True', 'True', 'True', 'True', '3'], done.stdout
    assert 'this system has no file locks: see to it that no other process trains in run' in done.stderr
    assert 'this system does not tell the peak memory of a process: peak_mb in sessions.csv stays empty' in done.stderr
    assert 'Traceback' not in done.stderr


def test_locks_of_windows(tmp_path, monkeypatch):
    "Where there is no fcntl, msvcrt's lock is taken; one that is taken is told as such."
    taken = []

    class Msvcrt:
        LK_NBLCK = 2

        @staticmethod
        def locking(handle, mode, n):
            if taken:
                raise OSError(13, 'Permission denied')
            taken.append((mode, n))

    monkeypatch.setitem(sys.modules, 'fcntl', None)
    monkeypatch.setitem(sys.modules, 'msvcrt', Msvcrt)
    with open(tmp_path / 'a', 'w') as file:
        assert (lock(file), lock(file), taken) == (True, False, [(2, 1)])
    monkeypatch.setitem(sys.modules, 'msvcrt', None)
    with open(tmp_path / 'a') as file:
        assert lock(file) is None


@pytest.mark.parametrize('system, unit', [('darwin', 1), ('linux', 1024)])
def test_peak_memory_has_the_unit_of_the_system(monkeypatch, system, unit):
    class Resource:
        RUSAGE_SELF = 0

        class getrusage:
            def __init__(self, who):
                self.ru_maxrss = 12345

    monkeypatch.setitem(sys.modules, 'resource', Resource)
    monkeypatch.setattr(sys, 'platform', system)
    assert peak_memory(torch.device('cpu')) == 12345 * unit


def test_processes_are_started_as_the_system_can(monkeypatch):
    import multiprocessing

    assert start_method() in multiprocessing.get_all_start_methods()
    monkeypatch.setattr(multiprocessing, 'get_all_start_methods', lambda: ['spawn'])
    assert start_method() == 'spawn'


# --- other conditions than a run began with


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    "A run with one of its two checkpoints taken away."
    import shutil

    run = train(plain, tmp_path_factory.mktemp('runs') / 'half', **go)
    shutil.rmtree(run.checkpoints[-1])
    return run


def copy(run, out, change):
    "Copy a run with another record of what it was begun with."
    import shutil

    shutil.copytree(run.path, out)
    record = read_json(out / 'config.json', sealed=True)
    change(record)
    write_json(out / 'config.json', record, sealed=True)
    return out


@pytest.mark.parametrize(
    'key, value',
    [
        ('threads', 64),
        ('torch', '1.0'),
        ('device', 'cuda'),
        ('precision', 'bfloat16'),
        ('processes', 4),
        ('processor', 'abacus'),
    ],
)
def test_a_run_that_goes_on_under_other_conditions_says_so(half, tmp_path, capsys, key, value):
    now = conditions(Learner(plain))[key]
    out = copy(half, tmp_path / 'a', lambda record: record['provenance']['conditions'].update({key: value}))
    assert train(plain, out, **go).finished
    told = f'{out} goes on under other conditions than it began with, so not to the same bits: '
    assert capsys.readouterr().err == told + f'{key} {value} then and {now} now\n'


@pytest.mark.parametrize(
    'change',
    [
        lambda r: None,
        lambda r: r['provenance'].pop('conditions'),
        lambda r: r.pop('provenance'),
        lambda r: r.update(provenance=[]),
        lambda r: r['provenance'].update(conditions='?'),
    ],
)
def test_the_same_conditions_and_older_records_say_nothing(half, tmp_path, capsys, change):
    out = copy(half, tmp_path / 'a', change)
    assert train(plain, out, **go).finished and load_run(out).finished
    assert capsys.readouterr().err == ''


def test_threads_are_recorded_and_told(tmp_path):
    "In a process of its own: begun with one thread, gone on with two, then again with one."
    code = (
        'import shutil, sys, torch\nfrom soak import small\nfrom ash_nb.runs.training import train\n'
        "c = small(4, method='source_only', checkpoint_every=2)\n"
        'for threads in (1, 2, 1):\n'
        '    torch.set_num_threads(threads)\n'
        "    run = train(c, sys.argv[1], device='cpu', workers=0, progress=False)\n"
        '    shutil.rmtree(run.checkpoints[-1])\n'
        "    print('---', file=sys.stderr)"
    )
    env = os.environ | {'PYTHONPATH': os.pathsep.join([os.path.dirname(__file__), *sys.path])}

    words = [sys.executable, '-c', code, str(tmp_path / 'a')]
    done = subprocess.run(words, capture_output=True, text=True, env=env, check=True)
    said = done.stderr.split('---\n')
    assert said[0] == said[2] == said[3] == '' and said[1].endswith(
        'so not to the same bits: threads 1 then and 2 now\n'
    )
    assert json.loads((tmp_path / 'a' / 'config.json').read_text())['provenance']['conditions']['threads'] == 1


# --- the bar


def losses_of(method, **changes):
    "The losses that a step of a method logs."
    c = small(10, method=method, views=2, begin=0.0, warmup=0.0, **changes)
    if adapts(c):
        c = replace(c, target='streetworld-night')
    g = torch.Generator().manual_seed(0)
    images = torch.rand(4, 3, c.height, c.width, generator=g)
    batch = dict(
        images=images[: c.batch_size], labels=torch.randint(19, (c.batch_size, c.height, c.width), generator=g)
    )
    styles = images[: c.batch_size * styles_per_image(c)]
    return step(Learner(c), *batch.values(), styles, 3, images[: c.batch_size] if adapts(c) else None)


@pytest.mark.parametrize('method', METHODS)
def test_the_bar_of_every_method_fits_80_columns(method):
    "With the paper's steps, a day left, and any losses: distinct short names, a bar, and nothing cut."
    logged = losses_of(method)
    assert logged.keys() <= SHORT_NAMES.keys()
    for values in (logged, *(dict.fromkeys(logged, v) for v in (9.999, 1.2345e-5, 0.012345, float('nan')))):
        shown = dict(total=100_000, desc=f'{method} seed 10: ', bar_format=BAR, ncols=80, disable=False)
        with open(os.devnull, 'w') as nowhere, tqdm(file=nowhere, **shown) as bar:
            assert len(str(bar)) <= 80 and str(bar).startswith(f'{method} seed 10: ')
            bar.n = 99_999
            _show(bar, values)
            bar.start_t -= 86_399 * 99_999  # as if a day were left
            text = str(bar)
            assert len(text) <= 80 and '99999/100000 ' in text and text.endswith(on_one_line(values)), text
            assert all(f' {SHORT_NAMES[k]} ' in text for k in values) and len({SHORT_NAMES[k] for k in values}) == len(
                values
            )


@pytest.mark.parametrize('value', [-9.5, 123.0, 1234.0, -0.01, 1e30, 0.0, float('inf'), 6.1e-39])
def test_any_number_is_short(value):
    assert len(on_one_line(dict(segmentation=value))) <= len('seg') + 1 + 6


def test_metrics_keep_the_long_names(tmp_path, capfd):
    run = train(small(2, log_every=1), tmp_path / 'a', **go | dict(progress=True))
    assert {'segmentation', 'adversarial', 'restraint', 'discriminator'} <= set(run.metrics.columns)
    if not os.environ.get('TQDM_DISABLE'):
        assert 'ash seed 0: 100%|' in capfd.readouterr().err
