"""Measure how our code reads, hold it to its goals, and name what misses them.

python tests/style.py                             # the table; exit code 1 where a goal is missed
python tests/style.py nbs/data/15_datasets.ipynb  # what misses a goal in one notebook, line by line
"""

import argparse
import ast
import io
import json
import re
import statistics
import sys
import tokenize
from pathlib import Path
from typing import NamedTuple

root = Path(__file__).parent.parent
WIDTH, CELL, FUNCTION = 120, 12, 45
RICH = ('image/png', 'image/jpeg', 'image/svg+xml', 'text/html', 'text/markdown')
DEFINES = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


class Fault(NamedTuple):
    "Something that misses a goal, and where."

    where: str  # file and line or cell
    what: str  # what is wrong


def notebooks() -> list:
    "List all notebooks, in folders or not."
    return sorted(p for p in (root / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


def exported(cell: dict) -> bool:
    "Tell whether a cell goes into the package."
    return cell['cell_type'] == 'code' and bool(re.search(r'^#\|\s*exporti?\b', ''.join(cell['source']), re.M))


def code_lines(source: str) -> list:
    "List the lines of a cell or function that hold code or a comment."
    return [line for line in source.splitlines() if line.strip() and not line.startswith('#|')]


def plain(source: str) -> str:
    "Take what only a notebook understands out of a cell."
    return '\n'.join('' if line.startswith(('%', '!')) else line for line in source.splitlines())


def only_imports(source: str) -> bool:
    "Tell whether a cell does nothing but import."
    return all(isinstance(n, (ast.Import, ast.ImportFrom)) for n in ast.parse(plain(source)).body)


def proves(cell: dict) -> bool:
    "Tell whether a cell tests something or shows a picture or table."
    source = ''.join(cell['source'])
    if cell['cell_type'] != 'code' or exported(cell):
        return False
    shown = any(kind in o.get('data', {}) for o in cell.get('outputs', []) for kind in RICH)
    return shown or bool(re.search(r'\btest_\w+\(|\bassert\b|ExceptionExpected|expect_fail', source))


def statements(tree) -> list:
    "List every statement, docstrings aside."
    return [n for n in ast.walk(tree) if isinstance(n, ast.stmt)]


def public(tree) -> list:
    "List public functions and classes, and the public methods of public classes."
    out = []
    for node in tree.body:
        if isinstance(node, DEFINES) and not node.name.startswith('_'):
            out.append(node)
            if isinstance(node, ast.ClassDef):
                out += [n for n in node.body if isinstance(n, DEFINES) and not n.name.startswith('_')]
    return out


def signatures(tree) -> list:
    "List what a caller sees the parameters of: public functions and methods, and how public classes are made."
    made = [
        n
        for c in tree.body
        if isinstance(c, ast.ClassDef) and not c.name.startswith('_')
        for n in c.body
        if isinstance(n, ast.FunctionDef) and n.name == '__init__'
    ]
    return [n for n in public(tree) if not isinstance(n, ast.ClassDef)] + made


def parameters(function) -> list:
    "List the parameters of a function, `self` and `cls` aside."
    a = function.args
    every = [*a.posonlyargs, *a.args, *a.kwonlyargs, *(x for x in (a.vararg, a.kwarg) if x)]
    return [x for x in every if x.arg not in ('self', 'cls')]


def comments(source: str) -> set:
    "Return the numbers of the lines that end in a comment."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0] for t in tokens if t.type == tokenize.COMMENT}


def measure_module(path: Path) -> dict:
    "Measure one module: counts, and the faults behind them."
    source = path.read_text()
    tree, lines, noted = ast.parse(source), source.splitlines(), comments(source)
    name, faults = str(path.relative_to(root)), []
    listed = source[: source.find('\n# %% ', source.find('# %% auto'))].count('\n') + 1  # __all__ is nbdev's
    wide = [k for k, line in enumerate(lines, 1) if len(line) > WIDTH and k > listed]
    faults += [Fault(f'{name}:{k}', f'{len(lines[k - 1])} columns') for k in wide]
    starts = [s.lineno for s in statements(tree)]
    shared = sorted({k for k in starts if starts.count(k) > 1})
    functions = [n for n in ast.walk(tree) if isinstance(n, (ast.FunctionDef, ast.AsyncFunctionDef))]
    lengths = [len(code_lines('\n'.join(lines[n.lineno - 1 : n.end_lineno]))) for n in functions]
    faults += [
        Fault(f'{name}:{n.lineno}', f'{n.name} has {k} lines') for n, k in zip(functions, lengths) if k > FUNCTION
    ]
    defined = public(tree)
    told = [n for n in defined if ast.get_docstring(n)]
    faults += [Fault(f'{name}:{n.lineno}', f'{n.name} has no docstring') for n in defined if n not in told]
    given = [(f, p) for f in signatures(tree) for p in parameters(f)]
    named = [x for x in given if x[1].annotation or {x[1].lineno, x[1].lineno - 1} & noted]
    faults += [
        Fault(f'{name}:{p.lineno}', f'parameter {p.arg} of {f.name} has neither type nor comment')
        for f, p in given
        if (f, p) not in named
    ]
    nodes = sum(1 for _ in ast.walk(tree))
    return dict(
        lines=len(lines),
        code=len(code_lines(source)),
        wide=len(wide),
        statements=len(starts),
        shared=sum(starts.count(k) for k in shared),
        nodes=nodes,
        functions=lengths,
        defined=len(defined),
        told=len(told),
        given=len(given),
        named=len(named),
        faults=faults,
    )


def measure_notebook(path: Path) -> dict:
    "Measure one notebook: lengths of exported cells, which of them are proved, and the faults behind them."
    name, faults, lengths, proved, run, longest = str(path.relative_to(root)), [], [], [], 0, 0
    cells = json.loads(path.read_text())['cells']
    out = [k for k, c in enumerate(cells) if exported(c) and not only_imports(''.join(c['source']))]
    for k, following in zip(out, [*out[1:], len(cells)]):
        source = ''.join(cells[k]['source'])
        lengths.append(len(code_lines(source)))
        first = next((line for line in code_lines(source)), '')[:60]
        if lengths[-1] > CELL:
            faults.append(Fault(f'{name} cell {k}', f'{lengths[-1]} lines: {first}'))
        proved.append(any(proves(c) for c in cells[k + 1 : following]))
        run = 0 if proved[-1] else run + 1
        longest = max(longest, run)
        if not proved[-1]:
            faults.append(Fault(f'{name} cell {k}', f'no test or picture before the next: {first}'))
    wide = [
        (k, line) for k, c in enumerate(cells) if c['cell_type'] == 'code' for line in ''.join(c['source']).splitlines()
    ]
    wide = [(k, line) for k, line in wide if len(line) > WIDTH]
    faults += [Fault(f'{name} cell {k}', f'{len(line)} columns: {line.strip()[:60]}') for k, line in wide]
    return dict(cells=lengths, proved=proved, longest=longest, wide=len(wide), faults=faults)


def share(part: int, whole: int) -> float:
    "Return a share in percent; of nothing, all."
    return 100.0 if whole == 0 else 100 * part / whole


def table(modules: list, books: list) -> list:  # rows: what, value as text, goal as text, whether it is met
    "Put the measures of all modules and notebooks beside their goals."
    total = {k: sum(m[k] for m in modules) for k in modules[0] if k not in ('functions', 'faults')}
    lengths = sorted(n for m in modules for n in m['functions'])
    median, p90 = statistics.median(lengths), lengths[int(0.9 * len(lengths))]
    cells, proved = [n for b in books for n in b['cells']], [p for b in books for p in b['proved']]
    wide = total['wide'] + sum(b['wide'] for b in books)
    nodes = total['nodes'] / total['code']
    shared = share(total['shared'], total['statements'])
    told, named = share(total['told'], total['defined']), share(total['named'], total['given'])
    short = share(sum(n <= CELL for n in cells), len(cells))
    shown, longest = share(sum(proved), len(proved)), max(b['longest'] for b in books)
    return [
        (
            'function lines, median / p90 / max',
            f'{median:.0f} / {p90} / {lengths[-1]}',
            '8 / 20 / 45',
            lengths[-1] <= 45,
        ),
        ('lines over 120 columns', str(wide), '0', wide == 0),
        ('syntax nodes a line', f'{nodes:.1f}', '<= 10', nodes <= 10),
        ('statements sharing a line', f'{shared:.1f} %', '<= 3 %', shared <= 3),
        ('public functions with docstring', f'{told:.1f} %', '100 %', told == 100),
        ('public parameters with a type or a comment', f'{named:.1f} %', '100 %', named == 100),
        ('exported cells of <= 12 lines', f'{short:.1f} %', '>= 80 %', short >= 80),
        ('exported cells followed by a test or a picture', f'{shown:.1f} %', '>= 95 %', shown >= 95),
        ('longest run of exported cells with neither', str(longest), '<= 2', longest <= 2),
    ]


def all_modules() -> list:
    "List the exported modules."
    return sorted(p for p in (root / 'ash_nb').rglob('*.py') if p.name != '_modidx.py')


def main() -> int:
    "Print the table, or the faults of the files named."
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('files', nargs='*', help='notebooks whose faults are listed, with those of their modules')
    args = parser.parse_args()
    if not args.files:
        rows = table([measure_module(p) for p in all_modules()], [measure_notebook(p) for p in notebooks()])
        for what, value, goal, met in rows:
            print(f'{what:48} {value:>14}   goal {goal:12} {"" if met else "MISSED"}')
        return int(not all(met for *_, met in rows))
    for path in (Path(f).resolve() for f in args.files):
        text = path.read_text()
        module = re.search(r'#\| default_exp ([\w.]+)', text)
        faults = measure_notebook(path)['faults']
        if module:
            faults += measure_module(root / 'ash_nb' / (module[1].replace('.', '/') + '.py'))['faults']
        for where, what in faults:
            print(f'{where}: {what}')
    return 0


if __name__ == '__main__':
    sys.exit(main())
