"""Write a page for each data set: how it is obtained, where its files lie, what `ash-nb prepare` says, what is wrong.

python data_prep/pages.py            # say which pages are not as the descriptions have them; exit code 1 if any
python data_prep/pages.py --write    # make them so
"""

import contextlib
import io
import os
import sys
import tempfile
from pathlib import Path

from ash_nb.data.descriptions import Description, shipped_description, shipped_names

root = Path(__file__).resolve().parent.parent
shared = Path(os.environ.get('ASH_SHARED', root.parent / 'shared')) / 'data'
sys.path.insert(0, str(root / 'tests'))
import layouts  # noqa: E402

HERE = 'ash_nb/assets/datasets/{}.yaml'
BEGIN, END = '<!-- table: made by data_prep/pages.py -->', '<!-- end of table -->'
REAL = {  # folders of real samples, and the split that there is
    'camvid': ('camvid', 'val'),
    'carla_lyft': ('carla/lyft', 'train'),
    'carlascapes': ('carla/carlascapes', 'train'),
    'cityscapes': ('cityscapes', 'train'),
    'gta5': ('gta5', 'train'),
    'kitti': ('kitti', 'val'),
    'paintings': ('paintings', 'train'),
}
ENCODINGS = {
    'index': 'the grey value, or the index of a palette, is the id',
    'red': 'the red channel is the id',
    'id16': '16 bits, the first channel is the id',
    'colour': 'the exact colour is the class',
    'panoptic': 'red + 256 green + 65,536 blue is the number of a segment, whose id stands in a JSON file',
}


# --- where files lie


def shown(text: str, d: Description) -> str:
    "Write the folders of the splits into a template."
    folders = [s.folders[0] for s in d.splits.values() if s.folders]
    return text.replace('{split}', '|'.join(folders)) if folders else text


def branches(paths: list) -> dict:  # folder or file -> what is below it
    "Sort paths into a tree."
    out = {}
    for path in paths:
        below = out
        for part in path.split('/'):
            below = below.setdefault(part, {})
    return out


def drawn(below: dict, lead: str = '') -> list:  # lines
    "Draw a tree; folders that hold one thing alone share its line."
    lines = []
    for k, (name, inner) in enumerate(below.items()):
        while len(inner) == 1:
            (only, inner_of_it), *_ = inner.items()
            name, inner = f'{name}/{only}', inner_of_it
        last = k == len(below) - 1
        lines += [f'{lead}{"└── " if last else "├── "}{name}{"/" if inner else ""}']
        lines += drawn(inner, lead + ('    ' if last else '│   '))
    return lines


def layout(d: Description) -> list:  # lines
    "Say where images, labels and lists lie."
    images, labels = [t.text for t in d.images], [x.template.text for x in d.labels]
    lists = [s.listed[0] for s in d.splits.values() if s.listed]
    segments = [f for x in d.labels for f in x.segments]
    first = [shown(t, d) for t in (*images[:1], *labels[:1], *segments, *dict.fromkeys(lists))]
    lines = ['```text', 'DIR/', *drawn(branches(first)), '```', '']
    for what, others in (('image', images[1:]), ('label', labels[1:])):
        if others:
            lines += [f'An {what}' if what == 'image' else f'A {what}']
            lines[-1] += ' may also lie at ' + ', or '.join(f'`{shown(t, d)}`' for t in others) + '.'
    named = ['What stands in braces differs from file to file; an image and its label share it.']
    if any('...}' in t for t in images):
        named += ['Three dots in braces: folders below are read, too.']
    if lists:
        named += ['A list is needed for the split that it names, and for no other.']
    return lines + [' '.join(named if labels else named[1:])]


# --- what is said of it


def read_as(d: Description) -> str:
    "Say how labels are read, and as what."
    if not d.labels:
        return 'There are no labels.'
    how = dict.fromkeys(f'{ENCODINGS[x.encoding]}' for x in d.labels)
    own = any(x.holds == 'own' for x in d.labels)
    named = [x.template.text.split('_')[-1] for x in d.labels if x.holds != 'own']
    also = f' Files that end in `{named[0]}` hold train ids.' if named and own else ''
    lacks = [c for c in d.space.classes if c not in d.has]
    space = f'the {len(d.space)} classes of Cityscapes' if d.space.name == 'cityscapes' else 'classes of its own'
    which = f': {", ".join(d.space.classes)}' if d.space.name != 'cityscapes' else ''
    without = f', without {", ".join(lacks)}' if lacks else ''
    return f'In labels, {"; or ".join(how)}. They are read as {space}{which}{without}.{also}'


def about(d: Description) -> list:  # lines
    "Say what a data set is and how it is obtained."
    told = {
        'use': ', '.join(d.role),
        'splits': ', '.join(f'`{k}`' + (f' ({d.counts[k]:,})' if k in d.counts else '') for k in d.splits),
        **{k: str(v) for k, v in d.obtain.items() if k not in ('steps', 'unverified')},
        'not verified': str(d.obtain.get('unverified', '')),
    }
    rows = [f'| {k} | {v} |' for k, v in told.items() if v]
    steps = ['', f'Before use: {d.obtain["steps"]}.'] if 'steps' in d.obtain else []
    parts = ['', f'Each value of `{{{d.parts}}}` is a target of its own, too: `{d.name}-VALUE`.'] if d.parts else []
    return [d.about, '', '| | |', '| --- | --- |', *rows, *steps, *parts]


def faults(d: Description) -> list:  # lines
    "List what is known to be wrong, with the files."
    lines = []
    for f in d.faults:
        frames = [f'{f.frames[0]} to {f.frames[-1]}'] if len(f.frames) > 4 else [str(n) for n in f.frames]
        where = ', '.join((*frames, *(f'`{n}`' for n in f.names)))
        lines += [f'- {f.told}' + (f': {where}' if where else '') + '.']
    return lines or ['None are known here.']


def told(command: str, said: str) -> list:  # lines
    "Show what was typed and what was said."
    return [f'`{command}` says:', '', '```text', said.strip(), '```', '']


def page(name: str, said: str, of_faulty: str = '') -> str:
    "Write the page of a data set from its description, and from what `ash-nb prepare` says of a sample and a bad copy."
    d, made = shipped_description(name), name not in REAL
    command, split = f'ash-nb prepare {name} --root DIR', sample_of(name)[1]
    usual = split == ('val' if 'val' in d.splits else next(iter(d.splits)))
    lines = [f'# {d.title}', '', *about(d), '', '## What must lie where', '', *layout(d), '']
    lines += [f'Its description: [{name}.yaml](../{HERE.format(name)}). {read_as(d)}', '']
    of = 'files that a test writes in the layout of the set, each value once' if made else 'a few of its real files'
    lines += [
        '## What `ash-nb prepare` says',
        '',
        f'Of {of},',
        *told(command + f' --split {split}' * (not usual), said),
    ]
    lines += ['## What is known to be wrong', '', *faults(d), '']
    if of_faulty:
        lines += [
            f'A bad copy, which a test writes: {layouts.FAULTY[name].__doc__} Of it,',
            *told(f'{command} --split train', of_faulty),
        ]
    return '\n'.join(lines)


# --- what prepare says


def kept(name: str) -> tuple:  # of a sample, of a bad copy
    "Return what prepare said when the page was written; '' where there is no page."
    file = root / 'data_prep' / f'{name}.md'
    text = file.read_text('utf-8') if file.is_file() else ''
    said = [part.partition('\n```')[0] for part in text.split('says:\n\n```text\n')[1:]]
    return (*said, '', '')[:2]


def says(name: str, folder: str | Path, split: str | None = None) -> str:
    "Return what prepare says of a folder, which is called DIR."
    from ash_nb.data.prepare import prepare

    with contextlib.redirect_stderr(io.StringIO()):
        text = prepare(name, folder, None, split, workers=1, progress=False)['text']
    return text.replace(str(folder), 'DIR').replace(str(root / 'ash_nb'), 'ash_nb')


def sample_of(name: str) -> tuple:  # folder of real files, or the layout that a test writes; split
    "Say which sample of a data set prepare is shown."
    made = next((x for x in layouts.LAYOUTS if x.name == name), None)
    return REAL[name] if name in REAL else (made, made.split)


def prepared(name: str) -> tuple:  # of a sample, of a bad copy
    "Let prepare look at real files where they are, else at files as the owners lay them out; and at a bad copy."
    bad = ''
    if name in layouts.FAULTY:
        with tempfile.TemporaryDirectory() as d:
            layouts.FAULTY[name](Path(d))
            bad = says(name, d, 'train').split('\n| class')[0]
    sample, split = sample_of(name)
    if name in REAL:
        there = (shared / sample).is_dir()
        return says(name, shared / sample, split) if there else kept(name)[0], bad
    with tempfile.TemporaryDirectory() as d:
        layouts.write_layout(sample, Path(d))
        return says(name, d, split), bad


def overview() -> str:
    "Write the table of README.md."
    rows = ['| data set | use | labels |', '| --- | --- | --- |']
    for name in shipped_names():
        d = shipped_description(name)
        own = d.space.name != 'cityscapes'
        of = f'{len(d.has)} of its own' if own else f'{len(d.has)} of Cityscapes'
        rows += [f'| [{d.title}]({name}.md): `{name}` | {", ".join(d.role)} | {of if d.labels else "none"} |']
    return '\n'.join(rows)


def wanted(fresh: bool = True) -> dict:  # file -> text
    "Write all pages and the table of README.md; fresh: let prepare look at the samples anew."
    folder = root / 'data_prep'
    out = {folder / f'{n}.md': page(n, *(prepared(n) if fresh else kept(n))) for n in shipped_names()}
    readme = (folder / 'README.md').read_text('utf-8')
    before, rest = readme.split(BEGIN)
    return out | {folder / 'README.md': f'{before}{BEGIN}\n{overview()}\n{END}{rest.split(END)[1]}'}


def main() -> int:
    "Compare the pages with what they should be, or write them."
    stale = {f: t for f, t in wanted().items() if not f.is_file() or f.read_text('utf-8') != t}
    if '--write' in sys.argv:
        for file, text in stale.items():
            file.write_text(text, 'utf-8')
        return 0
    for file in stale:
        print(f'{file.relative_to(root)} is not as its description has it: python data_prep/pages.py --write')
    return bool(stale)


if __name__ == '__main__':
    sys.exit(main())
