"How our code reads: the table of tests/style.py holds, and ruff finds nothing."

import subprocess
import sys
from pathlib import Path

import pytest

root = Path(__file__).parent.parent
EVERYTHING = ('nbs', 'ash_nb', 'tests', 'docs', 'data_prep')


def test_the_table_of_style_holds():
    done = subprocess.run([sys.executable, root / 'tests/style.py'], capture_output=True, text=True)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize('words', (['check', *EVERYTHING], ['format', '--check', 'nbs', 'tests', 'docs', 'data_prep']))
def test_ruff_finds_nothing(words):
    done = subprocess.run([sys.executable, '-m', 'ruff', *words], cwd=root, capture_output=True, text=True)
    assert done.returncode == 0, f'{done.stdout[-3000:]}\nrun: make format'
