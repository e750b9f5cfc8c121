"The reference shows every public name with its parameters, and patched methods under their classes."

import ast
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root / 'docs'))
from reading_package import patched_class, with_methods, with_parameters  # noqa: E402

MODULES = sorted(p for p in (root / 'ash_nb').rglob('*.py') if not p.stem.startswith('_'))
SAMPLE = """
class A:
    "An a."

    def __init__(
        self,
        size: int,  # in pixels
    ):
        self.size = size


@patch
def grow(
    self: A,
    by: int = 1,  # pixels
) -> int:
    "Grow."
    return self.size + by


@patch(as_prop=True)
def area(self: A) -> int:
    "Its area."
    return self.size**2


class B:
    "A b."


@patch
def grow(self: B):
    "Grow, too."
"""


def test_methods_stand_in_their_classes_with_their_parameters():
    text = with_parameters(with_methods(SAMPLE))
    names = dict(patch=lambda f: f)
    exec('from __future__ import annotations\n' + text, names)
    a = names['A'](3)
    assert (a.grow(), a.area, a.grow.__doc__) == (4, 9, 'Grow.\n\n        Args:\n            by: pixels\n        ')
    assert names['A'].__init__.__doc__.split() == ['Args:', 'size:', 'in', 'pixels']
    assert names['B'].grow.__doc__ == 'Grow, too.' and 'grow' not in names


@pytest.mark.parametrize('file', MODULES, ids=lambda p: str(p.relative_to(root / 'ash_nb')))
def test_nothing_of_a_module_is_missing(file):
    source = file.read_text()
    before, after = ast.parse(source), ast.parse(with_parameters(with_methods(source)))
    kinds = (ast.FunctionDef, ast.ClassDef)
    count = [sum(isinstance(n, kinds) for n in ast.walk(tree)) for tree in (before, after)]
    assert count[0] == count[1]
    local = {n.name for n in before.body if isinstance(n, ast.ClassDef)}
    assert not [n.name for n in after.body if patched_class(n) in local]
