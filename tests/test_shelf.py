"The shelf: one order for README, site and every notebook's Next; names are links; pictures come first."

import json
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

import pytest

root = Path(__file__).parent.parent
sys.path.insert(0, str(root / 'docs'))
import shelf  # noqa: E402

books = shelf.shelf()


def source(cell):
    return ''.join(cell['source'])


def test_the_files_are_as_the_shelf_has_them():
    done = subprocess.run([sys.executable, root / 'docs/shelf.py'], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


def test_next_leads_from_the_tour_through_every_notebook_once():
    at, met = root / 'nbs/start/01_tour.ipynb', []
    while at:
        assert at not in met, f'{at} is met twice'
        met.append(at)
        last = source(shelf.read(at)['cells'][-1])
        found = re.search(r'^Next: \[[^]]+\]\(([^)]+)\)', last, re.M)
        at = (at.parent / found[1]).resolve() if found else None
    assert met == [b.path for b in books]


@pytest.mark.parametrize('book', books, ids=lambda b: f'{b.path.parent.name}/{b.path.stem}')
def test_a_notebook_opens_with_a_picture_and_hides_what_draws_it(book):
    cells = json.loads(book.path.read_text())['cells']
    assert source(cells[0]).startswith('# ') and '\n> ' in source(cells[0]), 'opens with a title and a one-line summary'
    shown = [c for c in cells if c['cell_type'] == 'code' and any('data' in o for o in c.get('outputs', []))]
    before = [c for c in (cells[: cells.index(shown[0])] if shown else cells) if c['cell_type'] == 'code']
    read = [source(c) for c in before if not c['metadata'].get('jupyter', {}).get('source_hidden')]
    read = [s for s in read if not s.startswith('#| hide') and not re.fullmatch(r'#\| default_exp \S+', s.strip())]
    opening = ''.join(source(c) for c in cells[:2] if c['cell_type'] == 'markdown')
    something_else = any(sign in opening for sign in ('$$', '![', '| --- |'))  # an equation, a picture file, a table
    assert not read or something_else, f'code before the first picture: {read[0][:80]!r}'
    first = next((c for c in cells if c['cell_type'] == 'code' and source(c).startswith('#| echo: false')), None)
    if first and len(source(first).splitlines()) > 12:
        assert first['metadata'].get('jupyter', {}).get('source_hidden'), 'the code of a long picture is to be hidden'


@pytest.mark.parametrize('book', books, ids=lambda b: f'{b.path.parent.name}/{b.path.stem}')
def test_hidden_cells_are_folded_in_jupyterlab(book):
    hidden = [c for c in shelf.read(book.path)['cells'] if re.match(r'#\| (hide|default_exp)\b(?!_)', source(c))]
    assert all(c['metadata'].get('jupyter', {}).get('source_hidden') for c in hidden if c['cell_type'] == 'code')


def prose(book) -> list:
    return [source(c) for c in shelf.read(book.path)['cells'] if c['cell_type'] == 'markdown']


FILES = [root / name for name in ('README.md', 'CONTRIBUTING.md', 'data_prep/README.md')]
PAGES = [(b.path, prose(b)) for b in books] + [(p, [p.read_text()]) for p in FILES]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page[0].relative_to(root)))
def test_commands_fit_the_page(page):
    "A page does not wrap a list with commas."
    shown = [line for block in '\n'.join(page[1]).split('```')[1::2] for line in block.splitlines()]
    assert not [line for line in shown if len(line) > 120]


@pytest.mark.parametrize('page', PAGES, ids=lambda page: str(page[0].relative_to(root)))
def test_every_link_to_a_file_leads_to_one(page):
    path, texts = page
    for text in texts:
        text = re.sub(r'```.*?```', '', text, flags=re.S)
        for target in re.findall(r'(?<!\\)\[[^]]*\]\(([^)\s]+)\)', text):
            if not target.startswith(('http', '#', 'mailto:', 'attachment:')):
                assert (path.parent / unquote(target.partition('#')[0])).exists(), f'{path}: dead link {target}'
        loose = re.findall(
            r'`((?:start|data|networks|hallucinators|methods|numbers|runs|look|results|core|workshop)/\d\d_\w+)`', text
        )
        assert not loose, f'{path}: names of notebooks are links: {loose}'
