"How our code reads: the table of tests/style.py holds, and ruff finds nothing."

import json
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


def shown_code(path):
    "Yield the lines of code blocks in prose: a page does not wrap a list with commas."
    text = path.read_text()
    if path.suffix == '.ipynb':
        cells = json.loads(text)['cells']
        text = '\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    for block in text.split('```')[1::2]:
        yield from block.splitlines()


def test_commands_fit_the_page():
    pages = [root / 'README.md', *root.glob('nbs/**/*.ipynb')]
    long = [f'{p.relative_to(root)}: {line}' for p in pages for line in shown_code(p) if len(line) > 120]
    assert not long and len(pages) > 100, long
