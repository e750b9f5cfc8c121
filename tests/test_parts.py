"A comparison in parts: they never meet, one that dies is started again, and the tables are those of one process."

import os
import signal
import string
import subprocess
import sys
import threading
from dataclasses import replace
from itertools import product

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.core.files import read_json, write_atomic
from ash_nb.methods.presets import method_settings, preset, written_out
from ash_nb.methods.registry import label_of
from ash_nb.runs.compare import compare, part_of_run, read_part
from ash_nb.runs.folder import Run, run_name
from ash_nb.runs.training import train

COST = ['seconds_a_step', 'peak_mb']
WORDS, SEEDS = ('source_only', 'ash:delta=0|1'), 2
CELLS = [(word, seed) for seed in range(SEEDS) for word in written_out(WORDS)]
SIZE = dict(width=96, height=64, test_width=96, test_height=64)
FIELDS = dict(SIZE, body='plain', scenes=6, batch_size=2, checkpoint_every=2, log_every=1, classwise_every=3)
tiny = preset('streetworld', steps=4, **FIELDS)
ask = dict(methods=WORDS, seeds=SEEDS, targets=['streetworld-fog'], config=tiny, images=2, device='cpu', progress=False)

# the command line in a process that is killed when its first run has saved step 2 of 4
DIES = """
import os, signal, sys
from ash_nb import cli
from ash_nb.runs import training

def dies(run, learner, done, save=training._save):
    save(run, learner, done)
    os.kill(os.getpid(), signal.SIGKILL)

training._save = dies
cli.main(sys.argv[1:])
"""


def words(out, *more) -> list:
    "Write the command that all parts have in common."
    changes = [x for name, value in FIELDS.items() for x in ('--set', f'{name}={value}')]
    common = ['--methods', ','.join(WORDS), '--seeds', SEEDS, '--target', 'streetworld-fog', '--images', 2]
    return [str(x) for x in ('compare', *common, '--steps', 4, '--device', 'cpu', *changes, '--out', out, *more)]


def started(code: list, *args) -> subprocess.Popen:
    "Start a part in a process of its own."
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    return subprocess.Popen([sys.executable, *code, *args], env=os.environ | {'OMP_NUM_THREADS': '1'}, **pipes)


@pytest.fixture(scope='module')
def one(tmp_path_factory):
    "Folder of the comparison as one process makes it."
    out = tmp_path_factory.mktemp('one') / 'c'
    assert main(words(out)) == 0
    return out


def test_four_processes_one_killed_make_the_tables_of_one(one, tmp_path, capsys):
    out, mine = tmp_path / 'c', {k: [c for c in CELLS if part_of_run(*c, 4) == k] for k in (1, 2, 3, 4)}
    dying = max(mine, key=lambda k: len(mine[k]))
    cli = {k: ['-m', 'ash_nb.cli'] if k != dying else ['-c', DIES] for k in mine}
    parts = {k: started(cli[k], *words(out, '--part', f'{k}/4')) for k in mine}
    ends = {k: (*p.communicate(), p.returncode) for k, p in parts.items()}
    assert {k: code for k, (_, _, code) in ends.items()} == {k: -signal.SIGKILL * (k == dying) for k in mine}, ends
    for k, cells in mine.items():
        told = (
            ', '.join(f'{word} seed {seed}' for word, seed in cells)
            or 'none of these runs fell to it (shares are drawn by a hash of method and seed)'
        )
        assert k == dying or f'part {k}/4 is finished: {told}; ' in ends[k][0]
    assert not [p for p in out.iterdir() if p.is_file()]  # no file that parts would share

    found, lost = compare(**ask, out=out, collect=True), [run_name(*cell) for cell in mine[dying]]
    said, states = capsys.readouterr().err, dict.fromkeys(lost, 'not begun') | {lost[0]: 'after step 2 of 4'}
    assert read_json(out / 'protocol.json')['missing'] == states
    assert all(f'{name} ({why})' in said for name, why in states.items())
    assert [(r.method, r.seed) for r in found.itertuples()] == [cell for cell in CELLS if cell not in mine[dying]]

    again = started(['-m', 'ash_nb.cli'], *words(out, '--part', f'{dying}/4'))
    assert again.communicate() and again.returncode == 0
    assert main(words(out, '--collect')) == 0
    tables = ('table.csv', 'table.md', 'table.tex', 'rules.csv', 'classes.csv', 'protocol.json')
    for name in tables:
        assert (out / name).read_bytes() == (one / name).read_bytes(), name
    both = [pd.read_csv(folder / 'runs.csv').drop(columns=COST).to_csv() for folder in (out, one)]
    assert both[0] == both[1]
    for cell in CELLS:
        for name in ('metrics.csv', 'checkpoints/step-0000004/segmenter.safetensors'):
            assert (out / run_name(*cell) / name).read_bytes() == (one / run_name(*cell) / name).read_bytes()


def test_collecting_trains_nothing_and_evaluates_nothing_again(one):
    kept = [p for p in one.rglob('*') if p.suffix == '.safetensors' or p.parent.name == 'evaluations']
    before = {p: p.stat().st_mtime_ns for p in kept}
    found = compare(**ask, out=one, collect=True)
    assert len(found) == len(CELLS) and {p: p.stat().st_mtime_ns for p in kept} == before
    assert sorted(p for p in one.rglob('*') if p in before) == sorted(kept) and not list(one.rglob('*.part'))


def test_a_run_of_another_configuration_is_not_collected(one):
    with pytest.raises(AshError, match='lr is 0.02 there and 0.5 here'):
        compare(**ask | dict(config=replace(tiny, lr=0.5)), out=one, collect=True)


@pytest.mark.parametrize(
    'more, says',
    [
        (['--part', '0/4'], "part '0/4': expected K/N with K from 1 to N, for example 2/4"),
        (['--part', '5/4'], "part '5/4': expected K/N"),
        (['--part', '2'], "part '2': expected K/N"),
        (['--part', 'two/4'], "part 'two/4': expected K/N"),
        (['--part', '1/0'], "part '1/0': expected K/N"),
        (['--collect'], 'none of the 6 runs is finished: source_only-0 (not begun), ash+delta=0-0 (not begun), '),
        (['--methods', 'ash:delta=0|x'], "delta = 'x': expected float"),
        (['--methods', 'ash:delta=0|0'], 'one is named twice, as ash:delta=0 and as ash:delta=0'),
        (['--methods', 'ash:delta=0|1,ash:delta=1.0'], 'one is named twice, as ash:delta=1 and as ash:delta=1.0'),
        (['--methods', 'ash:noise=stat|loud'], "unknown noise 'loud': choose one of none, "),
        (['--methods', 'ash:label_smoothing=0|2'], 'label_smoothing = 2.0'),
        (['--baseline', 'ash:delta=0|1'], "unknown baseline 'ash:delta=0|1': choose one of source_only, ash:delta=0, "),
    ],
)
def test_mistakes_are_told_before_anything_is_written(tmp_path, capsys, more, says):
    assert main(words(tmp_path / 'c', *more)) == 2
    said = capsys.readouterr().err
    assert says in said and said.count('\n') == 1 and not (tmp_path / 'c').exists(), said


def test_a_part_is_not_collected(tmp_path):
    with pytest.raises(AshError, match='part 1/2 and collect: first all parts are trained'):
        compare(**ask, out=tmp_path / 'c', part='1/2', collect=True)
    with pytest.raises(SystemExit):
        main(words(tmp_path / 'c', '--part', '1/2', '--collect'))


names = st.text(string.ascii_lowercase + '_:=.0123456789', min_size=1, max_size=20)


@given(st.lists(st.tuples(names, st.integers(0, 99)), unique=True, max_size=30), st.integers(1, 40))
def test_each_run_belongs_to_one_part_whatever_else_is_compared(cells, n):
    found = [part_of_run(*cell, n) for cell in cells]
    assert all(1 <= k <= n for k in found)
    assert [part_of_run(*cell, n) for cell in reversed(cells)] == found[::-1]
    assert {part_of_run(*cell, 1) for cell in cells} <= {1}


@given(st.integers(-3, 9), st.integers(-3, 9), st.sampled_from(['/', '', '//', ' / ', ',', '/+', '/0x']))
def test_a_part_is_two_numbers_in_order(k, n, sign):
    text = f'{k}{sign}{n}'
    if sign == '/' and 1 <= k <= n:
        assert read_part(text) == (k, n)
    else:
        with pytest.raises(AshError) as told:
            read_part(text)
        assert repr(text) in str(told.value)


FIELDS_OF = ('delta', 'alpha', 'lambda_adv', 'label_smoothing')
values = st.lists(st.integers(0, 10**6).map(lambda k: repr(k / 10**6)), min_size=1, max_size=4, unique=True)


@given(st.dictionaries(st.sampled_from(FIELDS_OF), values, max_size=3))
def test_several_values_are_every_combination(chosen):
    found = written_out(['ash' + ''.join(f':{field}={"|".join(v)}' for field, v in chosen.items())])
    wanted = [dict(zip(chosen, map(float, combination))) for combination in product(*chosen.values())]
    assert [{k: method_settings(word)[k] for k in chosen} for word in found] == wanted
    assert len(set(found)) == len(found) and written_out(found) == found
    assert len({label_of(word) for word in found}) == len(found)  # tables and plots tell them apart


@given(names.filter(lambda word: '|' not in word))
def test_a_word_of_one_value_stays_as_it_is(word):
    assert written_out([word]) == [word]


def test_tables_name_each_value_as_it_was_written():
    found = [label_of(word) for word in written_out(['ash:lambda_adv=0.001|0.01|0.1'])]
    assert found == ['ASH, lambda_adv=0.001', 'ASH, lambda_adv=0.01', 'ASH, lambda_adv=0.1']


@settings(max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 300_000), min_size=2, max_size=4, unique=True))
def test_writers_of_one_file_do_not_meet(tmp_path, sizes):
    file, wrong = tmp_path / 'score.json', []

    def write(size):
        for _ in range(10):
            try:
                write_atomic(file, bytes(size))
                if len(file.read_bytes()) not in sizes:
                    wrong.append('half a file')
            except AshError as e:
                wrong.append(str(e))

    writers = [threading.Thread(target=write, args=(size,)) for size in sizes]
    for action in ('start', 'join'):
        for writer in writers:
            getattr(writer, action)()
    assert not wrong and [p.name for p in tmp_path.iterdir()] == ['score.json']


def test_tensorboard_and_callback_have_the_rows_of_the_log(tmp_path):
    events = pytest.importorskip('tensorboard.backend.event_processing.event_accumulator')
    rows, c = [], replace(tiny, log_every=3, method='ash')  # rows at step 3, and at 4, the last
    run = train(c, tmp_path / 'a', 'cpu', 0, False, True, lambda run, row: rows.append(row))
    assert rows == run.metrics.to_dict('records') and [row['step'] for row in rows] == [3, 4]
    board = events.EventAccumulator(str(run.path / 'tensorboard'))
    board.Reload()
    assert sorted(board.Tags()['scalars']) == sorted(rows[0].keys() - {'step'})
    for name in board.Tags()['scalars']:
        shown = [(e.step, e.value) for e in board.Scalars(name)]
        assert shown == [(row['step'], pytest.approx(row[name], rel=1e-6)) for row in rows]


def test_a_callback_that_fails_loses_nothing(one, tmp_path, capsys):
    def tracking_is_down(run, row):
        raise ConnectionError('no route to host')

    compare(**ask | dict(seeds=1), out=tmp_path / 'c', on_log=tracking_is_down)
    told = capsys.readouterr().err.splitlines()
    assert all('no route to host; training goes on, and metrics.csv has every row' in line for line in told)
    for word in written_out(WORDS):
        name = run_name(word, 0)
        assert (tmp_path / 'c' / name / 'metrics.csv').read_bytes() == (one / name / 'metrics.csv').read_bytes()
        assert Run(tmp_path / 'c' / name).finished and any(name in line for line in told)


def test_a_callback_is_told_each_row_and_at_last_the_scores(tmp_path):
    told = []
    runs = compare(**ask | dict(seeds=1), out=tmp_path / 'c', on_log=lambda run, row: told.append((run.path.name, row)))
    for row in runs.itertuples():
        name = run_name(row.method, 0)
        *losses, scores = [r for n, r in told if n == name]
        assert losses == Run(tmp_path / 'c' / name).metrics.to_dict('records')
        assert scores == {'step': 4, 'miou/streetworld-fog': row.miou}
