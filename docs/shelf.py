"""The shelf: the order in which the notebooks are read. README, the site's contents and every "Next" come from here,
and it folds away hidden cells.

python docs/shelf.py            # say what is not as the shelf has it; exit code 1 if anything
python docs/shelf.py --write    # make it so
"""

import json
import os
import re
import sys
from pathlib import Path
from typing import NamedTuple

root = Path(__file__).resolve().parent.parent
BEGIN, END = '<!-- shelf: made by docs/shelf.py -->', '<!-- end of shelf -->'


class Room(NamedTuple):
    "A folder of notebooks; within it, their numbers are the order."

    folder: str  # under nbs/
    title: str  # in README and site
    about: str  # one line


ROOMS = (
    Room(
        'start',
        'Start here',
        'the whole job in one sitting, the preview, your own streets, your own hallucinator, a GPU, tracking',
    ),
    Room('data', 'Data', 'classes, pictures, procedural streets and paintings, data sets, loaders'),
    Room('networks', 'Networks', 'AdaIN and noise, encoder and decoder, segmenter, discriminator, weights'),
    Room('hallucinators', 'Hallucinators', 'the contract, ASH, and every other way to make a street harder'),
    Room('methods', 'Methods', 'what can be compared, the losses, Algorithm 1 on one screen'),
    Room('numbers', 'Numbers', 'IoU, intervals, the analysis of Figure 4'),
    Room('runs', 'Runs', 'the run folder, the loop, comparisons, forecasts'),
    Room('look', 'Looking', 'plots, tables, figures, reports, widgets'),
    Room('results', 'Results', 'what came out: unseen streets, figures, the six tables, speed, reliability'),
    Room('core', 'Workshop: core', 'configuration, registry, files, devices, processes'),
    Room('workshop', 'Workshop: tools', 'published checkpoints, the demo, benchmarks, the command line'),
)


class Notebook(NamedTuple):
    "A notebook on the shelf."

    path: Path  # its file
    title: str  # of its first cell
    summary: str  # the quote under it


def read(path: Path) -> dict:
    "Read a notebook."
    return json.loads(path.read_text())


def notebook(path: Path) -> Notebook:
    "Read title and summary of a notebook."
    first = ''.join(read(path)['cells'][0]['source'])
    title, summary = re.match(r'# (.+)', first), re.search(r'^> (.+)', first, re.M)
    if not title or not summary:
        raise SystemExit(f'{path}: its first cell has no title, or no summary that begins with >')
    return Notebook(path, title[1].strip(), summary[1].strip())


def shelf() -> list[Notebook]:
    "List all notebooks in reading order. Stops for one that stands in no room."
    found = [p for r in ROOMS for p in sorted((root / 'nbs' / r.folder).glob('*.ipynb'))]
    stray = {p for p in (root / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts} - set(found)
    if stray:
        raise SystemExit(f'in no room of docs/shelf.py: {", ".join(map(str, sorted(stray)))}')
    return [notebook(p) for p in found]


def link(to: Notebook, start: Path, short: bool = False) -> str:
    "Write a link from a file to a notebook, by its title or, short, by what stands before a colon in it."
    title = re.split('[:,?]', to.title)[0] if short else to.title
    return f'[{title}]({os.path.relpath(to.path, start.parent)})'


def last_words(book: Notebook, after: Notebook | None, first: Notebook) -> str:
    "Write what the last line of a notebook is to be."
    if after is None:
        return f'This was the last one. Back to the first: {link(first, book.path)}.'
    return f'Next: {link(after, book.path)}. {after.summary}'


def with_next(nb: dict, words: str) -> dict:
    "Return the notebook with that last line, in place of the one that it has."
    last = nb['cells'][-1]
    lines = ''.join(last['source']).split('\n')
    kept = '\n'.join(line for line in lines if not line.startswith(('Next: ', 'This was the last one.'))).rstrip()
    text = (kept + '\n\n' if kept else '') + words
    last = dict(last, source=text.splitlines(keepends=True))
    return dict(nb, cells=[*nb['cells'][:-1], last])


def with_folds(nb: dict) -> dict:
    "Return the notebook with the code of hidden cells folded away in JupyterLab, as the site leaves it out."
    cells = []
    for cell in nb['cells']:
        first = ''.join(cell['source']).split('\n')[0].split()
        if cell['cell_type'] == 'code' and first[:2] in (['#|', 'hide'], ['#|', 'default_exp']):
            folded = dict(cell['metadata'].get('jupyter', {}), source_hidden=True)
            cell = dict(cell, metadata=dict(cell['metadata'], jupyter=folded))
        cells.append(cell)
    return dict(nb, cells=cells)


def readme_table(books: list[Notebook]) -> str:
    "Write the table of the README: a row a room."
    rows = ['| room | notebooks |', '| --- | --- |']
    for room in ROOMS:
        inside = [b for b in books if b.path.parent.name == room.folder]
        links = ' · '.join(link(b, root / 'README.md', short=True) for b in inside)
        rows.append(f'| **{room.title}**: {room.about} | {links} |')
    return '\n'.join([BEGIN, *rows, END])


def wanted() -> dict[Path, str]:
    "Return what each file is to hold."
    books, out = shelf(), {}
    for book, after in zip(books, [*books[1:], None]):
        nb = with_folds(with_next(read(book.path), last_words(book, after, books[0])))
        out[book.path] = json.dumps(nb, indent=1, ensure_ascii=False) + '\n'
    text = (root / 'README.md').read_text()
    before, _, rest = text.partition(BEGIN)
    out[root / 'README.md'] = before + readme_table(books) + rest.partition(END)[2]
    return out


def main() -> int:
    "Write the shelf, or say what is not as it has it."
    odd = [p for p, text in wanted().items() if p.read_text() != text]
    for path in odd:
        if '--write' in sys.argv[1:]:
            path.write_text(wanted()[path])
        else:
            print(f'{path.relative_to(root)}: not as the shelf has it; run: make shelf')
    return int(bool(odd) and '--write' not in sys.argv[1:])


if __name__ == '__main__':
    sys.exit(main())
