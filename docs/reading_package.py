"""A copy of the package for the reference: patched methods stand in classes, comments of parameters in docstrings.

The package is made from notebooks, where a method may have a cell of its own; a reader looks for it under its class."""

import ast
import io
import textwrap
import tokenize
from pathlib import Path


def comments(source: str) -> dict[int, str]:
    "Return the comment of each line that has one."
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    return {t.start[0]: t.string.lstrip('# ').strip() for t in tokens if t.type == tokenize.COMMENT}


def patched_class(node: ast.stmt) -> str:
    "Return the name of the class that a function is patched onto; empty for any other statement."
    if not isinstance(node, ast.FunctionDef) or not node.args.args:
        return ''
    patches = [d for d in node.decorator_list if ast.unparse(d).split('(')[0] == 'patch']
    owner = node.args.args[0].annotation
    return ast.unparse(owner) if patches and owner is not None else ''


def as_method(node: ast.FunctionDef, lines: list[str]) -> str:
    "Write a patched function as a method."
    kept = [ast.unparse(d) for d in node.decorator_list]
    decorators = ['property' if 'as_prop' in d else d for d in kept if d.split('(')[0] != 'patch' or 'as_prop' in d]
    text = '\n'.join([*(f'@{d}' for d in decorators), *lines[node.lineno - 1 : node.end_lineno]])
    return '\n' + textwrap.indent(text, '    ')


def with_methods(source: str) -> str:
    "Move patched functions into their classes, where these stand in the same module."
    lines, tree = source.splitlines(), ast.parse(source)
    ends = {n.name: n.end_lineno for n in tree.body if isinstance(n, ast.ClassDef)}
    moved = {n: patched_class(n) for n in tree.body if patched_class(n) in ends}
    added = {name: ''.join(as_method(n, lines) + '\n' for n, to in moved.items() if to == name) for name in ends}
    gone = {k for n in moved for k in range(n.decorator_list[0].lineno, n.end_lineno + 1)}
    out = []
    for k, line in enumerate(lines, 1):
        out += [] if k in gone else [line]
        out += [added[name] for name, end in ends.items() if end == k and added[name]]
    return '\n'.join(out) + '\n'


def told(node: ast.FunctionDef, comment: dict[int, str]) -> list[str]:
    "List what the comments say of a function's parameters."
    args = [*node.args.posonlyargs, *node.args.args, node.args.vararg, *node.args.kwonlyargs, node.args.kwarg]
    return [f'    {a.arg}: {comment[a.end_lineno]}' for a in args if a and a.end_lineno in comment and a.arg != 'self']


def with_parameters(source: str) -> str:
    "Write the comments of parameters into docstrings, as sections Args."
    lines, comment = source.splitlines(), comments(source)
    functions = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.FunctionDef) and told(n, comment)]
    for node in sorted(functions, key=lambda n: -n.body[0].lineno):
        first, text = node.body[0], ast.get_docstring(node) or ''
        doc = f'{text}\n\nArgs:\n' + '\n'.join(told(node, comment))
        indent = ' ' * first.col_offset
        block = textwrap.indent('"""' + doc.strip('\n').replace('\\', '\\\\').replace('"""', "'''") + '\n"""', indent)
        end = first.end_lineno if text else first.lineno - 1
        lines[first.lineno - 1 : end] = block.split('\n')
    return '\n'.join(lines) + '\n'


def reading_package(package: Path, folder: Path) -> None:
    "Write the copy of a package into a folder."
    for file in package.rglob('*.py'):
        to = folder / package.name / file.relative_to(package)
        to.parent.mkdir(parents=True, exist_ok=True)
        text = file.read_text()
        to.write_text(text if file.stem.startswith('_modidx') else with_parameters(with_methods(text)))
