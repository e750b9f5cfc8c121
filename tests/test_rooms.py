"Lower rooms know nothing of higher ones, and no two modules import each other."

import ast
from pathlib import Path

package = Path(__file__).parent.parent / 'ash_nb'
# from the ground up; official reads published checkpoints into networks and hallucinators, so it stands above both
ROOMS = (
    'core',
    'data',
    'networks',
    'hallucinators',
    'official',
    'methods',
    'numbers',
    'runs',
    'look',
    'parity',
    'demo',
    'bench',
    'cli',
)
modules = {p.relative_to(package).with_suffix('').as_posix().replace('/', '.'): p for p in package.rglob('*.py')}
modules = {name: p for name, p in modules.items() if not name.rpartition('.')[2].startswith('_')}


def only_for_types(node):
    return isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.unparse(node.test)


def imports(name, everywhere):
    "The modules that a module imports: anywhere in it, or when it is itself imported."
    tree = ast.parse(modules[name].read_text())
    spared = {id(n) for top in ast.walk(tree) if only_for_types(top) for n in ast.walk(top)}
    nodes = ast.walk(tree) if everywhere else tree.body
    for node in nodes:
        if isinstance(node, ast.ImportFrom) and node.level and id(node) not in spared:
            base = name.split('.')[: -node.level]
            to = '.'.join([*base, *(node.module or '').split('.')]).strip('.')
            yield from ([to] if to in modules else [f'{to}.{a.name}'.strip('.') for a in node.names])
        elif isinstance(node, ast.ImportFrom) and (node.module or '').startswith('ash_nb') and id(node) not in spared:
            to = node.module.removeprefix('ash_nb').strip('.')
            yield from ([to] if to in modules else [f'{to}.{a.name}'.strip('.') for a in node.names])


def room(name):
    return ROOMS.index(name.split('.')[0])


def test_every_module_stands_in_a_room():
    assert {name.split('.')[0] for name in modules} == set(ROOMS)


def test_nothing_runs_upwards():
    up = [(a, b) for a in modules for b in imports(a, everywhere=True) if b in modules and room(b) > room(a)]
    assert not up, up


def test_there_are_no_circles():
    known = {a: {b for b in imports(a, everywhere=False) if b in modules} for a in modules}
    while known:
        free = [a for a, needs in known.items() if not needs & known.keys()]
        assert free, f'these import each other: {sorted(known)}'
        known = {a: needs for a, needs in known.items() if a not in free}
