"""Build the site from notebooks, README and docstrings: rooms as the shelf has them, no dead link."""

import json
import re
import shutil
import sys
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import shelf  # noqa: E402
from reading_package import reading_package  # noqa: E402

root = shelf.root
books = shelf.shelf()
modules = sorted(
    p.relative_to(root / 'ash_nb').with_suffix('').as_posix().replace('/', '.')
    for p in (root / 'ash_nb').rglob('*.py')
    if not p.stem.startswith('_')
)
STYLE = """
.jp-InputPrompt, .jp-OutputPrompt { display: none !important }
.jupyter-wrapper .jp-Cell-inputWrapper { margin-left: 0 }
.md-typeset h1 { font-weight: 500; color: inherit }
.jupyter-wrapper table { font-size: .64rem }
.md-grid { max-width: 78rem }
.md-typeset .jp-RenderedImage img, .md-typeset img[src$="hero.jpg"] { max-width: 100%; height: auto }
[data-md-color-scheme="slate"] .jp-RenderedImage img { background: #fff; border-radius: 3px; padding: 2px }
[data-md-color-scheme="slate"] .jupyter-wrapper { --jp-layout-color0: transparent; --jp-layout-color1: transparent }
[data-md-color-scheme="slate"] .jupyter-wrapper {
  --jp-content-font-color1: var(--md-typeset-color);
  --jp-ui-font-color1: var(--md-typeset-color);
  --jp-cell-editor-background: var(--md-code-bg-color);
  --jp-rendermime-table-row-background: var(--md-code-bg-color);
  --jp-rendermime-table-row-hover-background: var(--md-code-bg-color);
}
[data-md-color-scheme="slate"] .jupyter-wrapper :is(td, th, pre, .jp-RenderedHTMLCommon) {
  color: var(--md-typeset-color);
}
"""


shutil.rmtree(root / 'build' / 'package', ignore_errors=True)
reading_package(root / 'ash_nb', root / 'build' / 'package')  # now: the reference looks for it before any event


def page_of(book) -> str:
    "Name the page of a notebook within the site's sources."
    return f'{book.path.parent.name}/{book.path.name}'


def for_readers(nb: dict) -> dict:
    "Leave out hidden cells, directives, and the code of cells that only show something."
    cells = [c for c in nb['cells'] if not ''.join(c['source']).startswith(('#| hide', '#| default_exp'))]
    for c in cells:
        if ''.join(c['source']).startswith('#| echo: false'):
            c['metadata']['tags'] = ['hide_input']
        if c['cell_type'] == 'code':
            c['source'] = [line for line in c['source'] if not line.startswith('#|')]
        else:  # beside the site's pages lie no other files of the repository
            c['source'] = [
                re.sub(r'\[([^]]+)\]\((?:\.\./)+[^)]*\.(?:md|py|csv|json)\)', r'`\1`', x) for x in c['source']
            ]
    return dict(nb, cells=cells)


def reading_copy(folder: Path) -> None:
    "Write the notebooks as a reader wants them."
    shutil.rmtree(folder, ignore_errors=True)
    for book in books:
        to = folder / page_of(book)
        to.parent.mkdir(parents=True, exist_ok=True)
        to.write_text(json.dumps(for_readers(shelf.read(book.path))))
    (folder / 'style.css').write_text(STYLE)
    shutil.copy(root / 'docs/hero.jpg', folder)


def front_page() -> str:
    "Return README as the site's front page: links to notebooks lead to their pages, other files are only named."
    text = (root / 'README.md').read_text().replace('](docs/hero.jpg)', '](hero.jpg)').replace('](nbs/', '](')
    return re.sub(r'\[([^]]+)\]\((?:CONTRIBUTING|CHANGELOG|data_prep|CITATION)[^)]*\)', r'\1', text)


def on_config(config):
    "Order the pages: front page, then room by room, then the reference."
    config.docs_dir = str(root / 'build' / 'pages')
    reading_copy(Path(config.docs_dir))
    rooms = [{r.title: [page_of(b) for b in books if b.path.parent.name == r.folder]} for r in shelf.ROOMS]
    config.nav = [{'ash_nb': 'index.md'}, *rooms, {'Reference': [f'api/{m}.md' for m in modules]}]
    return config


def on_files(files, config):
    "Add the front page from README.md and a page of docstrings for each module."
    made = {'index.md': front_page()} | {f'api/{m}.md': f'# {m}\n\n::: ash_nb.{m}\n' for m in modules}
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


_literal = re.compile(r'(<(pre|code|script|style|svg|head)\b.*?</\2>)', re.S)


def equations(text: str) -> str:
    "Turn $...$ and $$...$$ outside code into MathML, which browsers show without a script."
    from latex2mathml.converter import convert

    def mathml(found):
        return convert(unescape(found[1] or found[2]), display='block' if found[1] else 'inline')

    parts = _literal.split(text)  # text, a literal piece, its tag, text, ...
    parts = [re.sub(r'\$\$([^$<]+)\$\$|\$([^$<\n]+?)\$', mathml, p) if k % 3 == 0 else p for k, p in enumerate(parts)]
    return ''.join(p for k, p in enumerate(parts) if k % 3 != 2)


def on_post_page(output, page, config):
    "Show equations, and let links to notebooks lead to their pages."
    if page.file.src_uri.endswith('.ipynb'):
        output = equations(output)
    output = output.replace('build/package/ash_nb', 'ash_nb')  # where the reference was read
    return re.sub(r'(href="(?!http)[^"]*)\.ipynb', r'\1.html', output)


def leads_outside(kind: str, link: str) -> bool:
    "Tell whether a link is none to a file, or one that a reader may follow to elsewhere."
    if link.startswith(('data:', 'mailto:', 'javascript:')):
        return True
    return link.startswith('http') and kind == 'href' and '.css' not in link


def as_prose(text: str) -> str:
    "Leave out of what the search shows the code, the prompts of cells and the signs of links."
    text = re.sub(r'<pre\b.*?</pre>', ' ', text, flags=re.S)
    return re.sub(r'(?:In|Out)\s*\[[\d ]*\]:|¶', '', text).strip()


def search_prose(site: Path) -> None:
    "Let the search find and show prose, headings and names, not raw code."
    file = site / 'search' / 'search_index.json'
    index = json.loads(file.read_text())
    for entry in index['docs']:
        entry |= dict(title=as_prose(entry['title']) or entry['title'], text=as_prose(entry['text']))
    file.write_text(json.dumps(index))


def on_post_build(config):
    "Stop at a link to a page or a part of a page that is not there, and at anything fetched from elsewhere."
    site, dead = Path(config.site_dir), []
    search_prose(site)
    pages = {p: p.read_text() for p in site.rglob('*.html') if p.name != '404.html'}
    anchors = {p: set(re.findall(r'\bid="([^"]+)"', t)) | {''} for p, t in pages.items()}
    for page, text in pages.items():
        for kind, link in re.findall(r'<(?:a|link|script|img)\b[^>]*?\b(href|src)="([^"]*)"', text):
            link = unquote(unescape(link))
            if leads_outside(kind, link):
                continue
            path, _, part = link.partition('#')
            target = (page.parent / path.split('?')[0]).resolve() if path else page.resolve()
            missing = target in anchors and part not in anchors[target]
            if link.startswith('http') or not target.exists() or missing:
                dead.append(f'{page.relative_to(site)}: {link}')
    if dead:
        raise PluginError(f'{len(dead)} dead links:\n' + '\n'.join(dead[:40]))
