"""Put wrong edits into the core, one at a time, and count how many the tests notice.

    python tests/mutate.py --edits 100 --json nbs/results/mutations.json

An edit changes one place of one exported module: a sign, a comparison, a constant, a mapping, an order of arguments,
a lost `detach`, a line left out. Messages, drawing, bookkeeping and what only a GPU runs (ASIDE) are left alone, as is
what changes speed or memory alone. The module's own notebook is run against it, cell by cell (cells that are exported
define nothing: their names come from the changed module), then the test files named below; the first failure ends it.
Every edit is tried in a process forked from one that has imported the libraries, with a limit of time; an edit that
makes the tests hang is caught as well.
"""

import argparse
import ast
import importlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from functools import partial
from pathlib import Path

os.environ |= {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'MPLBACKEND': 'agg'}
root = Path(__file__).parent.parent
SAME_BITS = 'test_every_method_goes_on_to_the_same_bits'
OTHERS = 'test_somebody_elses_hallucinator'
CORE = {  # module -> notebook, and pytest files with a choice of tests
    'networks.adain': ('networks/01_adain', ['test_numerics.py']),
    'methods.losses': ('methods/03_losses', ['test_numerics.py']),
    'data.labels': ('data/01_labels', ['test_numerics.py', 'test_datasets.py']),
    'hallucinators.contract': ('hallucinators/01_contract', ['test_numerics.py', 'test_gradients.py::' + OTHERS]),
    'hallucinators.ash': ('hallucinators/02_ash', ['test_numerics.py']),
    'numbers.evaluation': (
        'numbers/01_evaluation',
        ['test_numerics.py', 'test_distributed.py::test_confusion_matrices_are_summed'],
    ),
    'core.files': ('core/03_files', ['test_fuzz.py']),
    'methods.terms': ('methods/04_terms', ['test_numerics.py']),
    'methods.guard': ('methods/05_guard', ['test_faults.py::' + SAME_BITS]),
    'methods.learner': ('methods/06_learner', ['test_numerics.py']),
    'methods.step': ('methods/07_step', ['test_numerics.py', 'test_faults.py::' + SAME_BITS]),
    'runs.batches': ('runs/01_batches', ['test_numerics.py', 'test_faults.py']),
    'runs.folder': ('runs/02_folder', ['test_faults.py']),
    'runs.record': ('runs/03_record', ['test_silent.py', 'test_faults.py']),
    'runs.log': ('runs/04_log', ['test_faults.py']),
    'runs.training': ('runs/05_training', ['test_numerics.py', 'test_faults.py']),
}
COMPARED = 'methods/08_compared'  # run after every edit of the step and its parts
# of test_faults.py: those that take a second or so
QUICK = 'signal or late or looking or removed or skip or cut_off or nan_and or two_processes or first or paintings'

LIBRARIES = (
    *('fastcore.test', 'hypothesis', 'matplotlib.pyplot', 'pandas', 'pytest', 'scipy.stats', 'timm', 'torch'),
    *('torchmetrics', 'torchmetrics.functional.classification', 'torchvision'),
)

ASIDE = {
    'legend',
    'flush_folder',
    'provenance',
    'reset_peak',
    'log_session',
    '_peak_mb',
    'tensorboard_log',
    '_session',
    '_show',
    'pick_device',
    'fast_bf16',
    'to_channels_last',
    'keep_memory',
    'on_one_line',
    'short_number',
    'check_hallucinator',
    'score_table',
    'autocast',
}


def module_file(folder, module) -> Path:
    "Return the file of an exported module."
    return folder / 'ash_nb' / (module.replace('.', '/') + '.py')


# --- edits


def quiet(tree) -> set:
    "Nodes whose change no test need notice: annotations, messages, docstrings."
    silent = set()
    for n in ast.walk(tree):
        out = (
            [n.exc]
            if isinstance(n, ast.Raise)
            else [n]
            if isinstance(n, (ast.JoinedStr, ast.AnnAssign)) and not getattr(n, 'value', None)
            else []
        )
        if isinstance(n, ast.JoinedStr):
            out = [n]
        if isinstance(n, (ast.FunctionDef, ast.Lambda)):
            out += [a.annotation for a in ast.walk(n.args) if isinstance(a, ast.arg) and a.annotation] + [
                getattr(n, 'returns', None)
            ]
        if isinstance(n, ast.Call) and getattr(n.func, 'id', '') in ('print', 'tqdm'):
            out.append(n)
        if isinstance(n, (ast.Import, ast.ImportFrom)) or getattr(n, 'name', '') in ASIDE:
            out.append(n)
        for o in out:
            if o is not None:
                silent |= {id(x) for x in ast.walk(o)}
    return silent


SWAPS = {
    ast.Add: '-',
    ast.Sub: '+',
    ast.Mult: '/',
    ast.Div: '*',
    ast.Pow: '*',
    ast.FloorDiv: '*',
    ast.Mod: '+',
    ast.Lt: '<=',
    ast.LtE: '<',
    ast.Gt: '>=',
    ast.GtE: '>',
    ast.Eq: '!=',
    ast.NotEq: '==',
    ast.Is: 'is not',
    ast.IsNot: 'is',
    ast.In: 'not in',
    ast.NotIn: 'in',
    ast.And: 'or',
    ast.Or: 'and',
    ast.BitOr: '&',
    ast.BitAnd: '|',
}


def edits(source: str) -> list:  # of (what kind, line, begin, end, new text), begin and end in characters
    "List every edit that this tool knows to make in a module."
    tree, starts = ast.parse(source), [0]
    silent = quiet(tree)
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line.encode()))
    raw, found = source.encode(), []

    def span(n):
        return starts[n.lineno - 1] + n.col_offset, starts[n.end_lineno - 1] + n.end_col_offset

    def text(n):
        return raw[slice(*span(n))].decode()

    def add(kind, n, new, place=None):
        found.append((kind, n.lineno, *(place or span(n)), new))

    def between(a, b, new, kind, n):  # replace the operator between two nodes
        lo, hi = span(a)[1], span(b)[0]
        if not set(raw[lo:hi].decode()) & set('#\n()'):
            add(kind, n, f' {new} ', (lo, hi))

    for n in ast.walk(tree):
        if id(n) in silent:
            continue
        if isinstance(n, ast.BinOp) and type(n.op) in SWAPS:
            between(n.left, n.right, SWAPS[type(n.op)], 'sign', n)
        if isinstance(n, ast.Compare) and len(n.ops) == 1 and type(n.ops[0]) in SWAPS:
            between(n.left, n.comparators[0], SWAPS[type(n.ops[0])], 'comparison', n)
        if isinstance(n, ast.BoolOp):
            between(n.values[0], n.values[1], SWAPS[type(n.op)], 'comparison', n)
        if isinstance(n, ast.UnaryOp) and isinstance(n.op, (ast.USub, ast.Not)):
            add('sign', n, f'({text(n.operand)})')
        if isinstance(n, ast.Constant) and isinstance(n.value, (bool, int, float)):
            add(
                'constant',
                n,
                repr(
                    not n.value
                    if isinstance(n.value, bool)
                    else n.value + 1
                    if isinstance(n.value, int)
                    else n.value * 1.5 or 0.5
                ),
            )
        if isinstance(n, ast.IfExp):
            add('order', n, f'({text(n.orelse)} if {text(n.test)} else {text(n.body)})')
        if (
            isinstance(n, ast.Call)
            and len(n.args) > 1
            and not any(isinstance(a, ast.Starred) for a in n.args[:2])
            and text(n.args[0]) != text(n.args[1])
        ):
            add('order', n, f'{text(n.args[1])}, {text(n.args[0])}', (span(n.args[0])[0], span(n.args[1])[1]))
        if (
            isinstance(n, ast.Call)
            and isinstance(n.func, ast.Attribute)
            and n.func.attr in ('detach', 'abs', 'sqrt', 'eval')
        ):
            add('detach' if n.func.attr == 'detach' else 'lost call', n, f'({text(n.func.value)})')
        if (
            isinstance(n, ast.Dict)
            and len(n.values) > 1
            and all(n.keys)
            and text(n.values[0]) != text(n.values[1])
            and not text(n).count('\n') > 3
        ):
            k = len(found) % (len(n.values) - 1)
            one, other = n.values[k], n.values[k + 1]
            if text(one) != text(other):
                (begin, middle), (middle_end, end) = span(one), span(other)
                swapped = f'{text(other)}{raw[middle:middle_end].decode()}{text(one)}'
                add('mapping', n, swapped, (begin, end))
        if isinstance(n, ast.Tuple) and len(n.elts) > 2 and all(isinstance(e, ast.Constant) for e in n.elts):
            k = len(found) % (len(n.elts) - 1)
            if text(n.elts[k]) != text(n.elts[k + 1]):
                add(
                    'mapping',
                    n,
                    f'{text(n.elts[k + 1])}, {text(n.elts[k])}',
                    (span(n.elts[k])[0], span(n.elts[k + 1])[1]),
                )
        if isinstance(n, ast.Expr) and isinstance(n.value, ast.Call):
            add('lost line', n, 'pass')
        if isinstance(n, ast.AugAssign):
            add('lost line', n, 'pass')
    return found


def applied(source, edit):
    kind, line, begin, end, new = edit
    raw = source.encode()
    return (raw[:begin] + new.encode() + raw[end:]).decode()


def described(m, edit) -> dict:
    "Say what an edit is."
    raw = module_file(root, m).read_bytes()
    return dict(
        module=m,
        kind=edit[0],
        line=raw.decode().splitlines()[edit[1] - 1].strip(),
        edit=f'{raw[edit[2] : edit[3]].decode()} -> {edit[4]}',
    )


def choose(n, seed) -> list:  # of (module, edit)
    "Choose edits at random: modules take turns, within each the kinds do; an edit that is no Python is not chosen."
    rng, chosen, pools = random.Random(seed), [], {}
    for m in CORE:
        kinds = {}
        for e in edits(module_file(root, m).read_text()):
            kinds.setdefault(e[0], []).append(e)
        for k in kinds.values():
            rng.shuffle(k)
        pools[m] = kinds
    while len(chosen) < n:
        for m, kinds in pools.items():
            kind = rng.choice([k for k in kinds if kinds[k]])
            edit = kinds[kind].pop()
            try:
                compile(applied(module_file(root, m).read_text(), edit), m, 'exec')
            except SyntaxError:
                continue
            chosen.append((m, edit))
    return chosen[:n]


# --- trying them


def cells(notebook) -> list:
    "Return the code of a notebook that is not exported, without what needs a live notebook."
    nb = json.loads((root / 'nbs' / f'{notebook}.ipynb').read_text())
    code = [''.join(c['source']) for c in nb['cells'] if c['cell_type'] == 'code']
    return [
        c
        for c in code
        if not c.startswith(('#| export', '#| default_exp', '#| eval: false', '#| slow', '#| gpu'))
        and not c.lstrip().startswith(('%', '!'))
    ]


def run_cells(module, skip=()):
    "Run a notebook's test cells, but for some, with the names of its exported module. Raises what a cell raises."
    space = dict(vars(importlib.import_module(f'ash_nb.{module}'))) | {
        'display': lambda *a: None,
        '__name__': '__main__',
    }
    space.pop('__file__', None)
    for k, c in enumerate(cells(CORE[module][0])):
        if k in skip:
            continue
        exec(compile(c, f'{CORE[module][0]}, test cell {k}', 'exec'), space)


def attempt(folder, module, skip, tests):
    "In this process: import the package from `folder`, run the cells, then the tests. Raises what fails."
    sys.path[:0] = [str(folder), str(folder / 'tests')]
    os.environ['PYTHONPATH'] = str(folder)
    os.chdir((folder / 'nbs' / CORE[module][0]).parent)
    run_cells(module, skip)
    if tests and module in ('methods.terms', 'methods.learner', 'methods.step'):
        compared = {'__name__': '__main__'}
        for k, c in enumerate(cells(COMPARED)):
            exec(compile(c, f'{COMPARED}, {k}', 'exec'), compared)
    import pytest

    for t in CORE[module][1] if tests else ():
        if pytest.main(
            ['-q', '-x', '-p', 'no:cacheprovider', '--rootdir', str(folder), str(folder / 'tests' / t)]
            + (['-k', QUICK] if t == 'test_faults.py' else [])
        ):
            raise AssertionError(t)


def forked(function, limit) -> str:
    "Run a function in a forked process; return '' when it ends well, else how it ended."
    reader, writer = os.pipe()
    pid = os.fork()
    if not pid:
        os.setpgid(0, 0)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        try:
            function()
            told = ''
        except BaseException as e:
            told = f'{type(e).__name__}: {str(e).strip()[:160]}' or 'failed'
        os.write(writer, told.encode()[:1000])
        os._exit(bool(told))
    os.close(writer)
    end = time.monotonic() + limit
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            break
        time.sleep(0.01)
    else:
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        status, told = 1, 'hangs'
        os.close(reader)
        return told
    told = os.read(reader, 1000).decode(errors='replace')
    os.close(reader)
    return told if status else ''


def copy(folder):
    for name in ('ash_nb', 'nbs', 'tests'):
        shutil.copytree(root / name, folder / name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
    for name in ('pyproject.toml', 'settings.ini'):
        shutil.copy(root / name, folder)
    return folder


def first_failing_cell(folder, module, skip):
    "In this process: raise KeyError with the number of the cell that fails."
    try:
        attempt(folder, module, skip, False)
    except BaseException as e:
        frames = [f.filename for f in traceback.extract_tb(e.__traceback__) if 'test cell' in f.filename]
        raise KeyError(int(frames[-1].rsplit(' ', 1)[1])) from None


def baseline(folder, modules) -> dict:  # module -> (cells that do not run outside a notebook, seconds)
    "Find the cells that fail without any edit, and stop if a test does."
    kept = {}
    for m in modules:
        skip, start = [], time.monotonic()
        if not forked(partial(attempt, folder, m, skip, True), 900):
            kept[m] = ([], time.monotonic() - start)
            print(f'{m}: {kept[m][1]:.0f} s', file=sys.stderr, flush=True)
            continue
        while told := forked(partial(attempt, folder, m, skip, False), 600):
            number = forked(partial(first_failing_cell, folder, m, skip), 600)
            if not number.startswith('KeyError'):
                sys.exit(f'{m}: {told}; {number}')
            skip.append(int(number.split()[1]))
        if told := forked(partial(attempt, folder, m, skip, True), 900):
            sys.exit(f'{m}: without any edit, {told}')
        kept[m] = (skip, time.monotonic() - start)
        print(f'{m}: {len(cells(CORE[m][0]))} cells, left out {skip}, {kept[m][1]:.0f} s', file=sys.stderr, flush=True)
    return kept


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--edits', type=int, default=100)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--json', type=Path, help='file for the report')
    p.add_argument(
        '--again',
        action='store_true',
        help='try those alone that survived in the report of --json, with the tests as they are now',
    )
    args = p.parse_args()
    for name in LIBRARIES:  # once, for all forks
        importlib.import_module(name)
    torch = importlib.import_module('torch')
    torch.set_num_threads(1)
    begin, chosen = time.monotonic(), [(m, e, described(m, e)) for m, e in choose(args.edits, args.seed)]
    caught = [d for m, e, d in chosen]
    if args.again:
        before = json.loads(args.json.read_text())['survivors']
        caught = [d for d in caught if d not in before]
        chosen = [c for c in chosen if c[2] in before]
    else:
        caught = []
    survivors, hangs = [], 0
    with tempfile.TemporaryDirectory() as d:
        folder = copy(Path(d))
        kept = baseline(folder, {m for m, e, d in chosen})
        for k, (m, edit, known) in enumerate(chosen):
            file = module_file(folder, m)
            source = file.read_text()
            file.write_text(applied(source, edit))
            shutil.rmtree(folder / 'ash_nb' / '__pycache__', ignore_errors=True)
            told = forked(partial(attempt, folder, m, kept[m][0], True), 60 + 3 * kept[m][1])
            file.write_text(source)
            (caught if told else survivors).append(known)
            hangs += told == 'hangs'
            outcome = 'caught' if told else 'SURVIVED'
            line = f'{known["line"][:90]} | {edit[4][:40]} | {told[:80]}'
            print(f'{k + 1:3} {m:12} {edit[0]:10} {outcome:8} {line}', flush=True)

    def of(m):
        mine, all_of_mine = (sum(d['module'] == m for d in those) for those in (caught, caught + survivors))
        return f'{mine} of {all_of_mine}'

    report = dict(
        edits=args.edits,
        caught=len(caught),
        of_which_hang=hangs,
        by_module={m: of(m) for m in CORE},
        survivors=survivors,
        seconds=round(time.monotonic() - begin),
        seed=args.seed,
    )
    print(json.dumps(report, indent=1))
    if args.json:
        args.json.write_text(json.dumps(report, indent=1) + '\n')


if __name__ == '__main__':
    main()
