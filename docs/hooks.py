"Build the site from notebooks, README and docstrings: navigation by decade, links between notebooks, no dead link."

import json
import re
import shutil
from html import unescape
from pathlib import Path
from urllib.parse import unquote

from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

root = Path(__file__).parent.parent
notebooks = sorted(p.stem for p in (root / 'nbs').glob('[0-9]*.ipynb'))
modules = sorted(p.stem for p in (root / 'ash_nb').glob('*.py') if not p.stem.startswith('_'))
groups = {
    '0': 'Words and foundations',
    '1': 'Data',
    '2': 'Networks',
    '3': 'Learning',
    '4': 'Looking',
    '5': 'Experiments',
    '6': "The paper's tables",
}


def reading_copy(folder):
    "Write the notebooks as a reader wants them: no hidden cells, no directives, no code that only shows something."
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    for n in notebooks:
        book = json.loads((root / 'nbs' / f'{n}.ipynb').read_text())
        book['cells'] = [c for c in book['cells'] if not ''.join(c['source']).startswith(('#| hide', '#| default_exp'))]
        for c in book['cells']:
            if ''.join(c['source']).startswith('#| echo: false'):
                c['metadata']['tags'] = ['hide_input']
            c['source'] = [line for line in c['source'] if not (c['cell_type'] == 'code' and line.startswith('#|'))]
        (folder / f'{n}.ipynb').write_text(json.dumps(book))
    (folder / 'style.css').write_text(
        '.jp-InputPrompt, .jp-OutputPrompt {display: none !important} '
        '.jupyter-wrapper .jp-Cell-inputWrapper {margin-left: 0} '
        '.md-typeset h1 {font-weight: 500; color: inherit} '
        '.jupyter-wrapper table {font-size: .64rem}'
    )


def on_config(config):
    "Order the pages: front page, tour, notebooks by decade, reference."
    config.docs_dir = str(root / 'build' / 'pages')
    reading_copy(Path(config.docs_dir))
    pages = {title: [f'{n}.ipynb' for n in notebooks if n[0] == digit] for digit, title in groups.items()}
    config.nav = [
        {'ash_nb': 'index.md'},
        {'The tour': '53_tour.ipynb'},
        *({t: p} for t, p in pages.items()),
        {'Reference': [f'api/{m}.md' for m in modules]},
    ]
    return config


def on_files(files, config):
    "Add the front page from README.md and a page of docstrings for each module."
    made = {'index.md': (root / 'README.md').read_text()} | {
        f'api/{m}.md': f'# {m}\n\n::: ash_nb.{m}\n' for m in modules
    }
    for path, text in made.items():
        files.append(File.generated(config, path, content=text))
    return files


_literal = re.compile(r'(<(pre|code|script|style|svg|head)\b.*?</\2>)', re.S)


def equations(text):
    "Turn $...$ and $$...$$ outside code into MathML, which browsers show without a script."
    from latex2mathml.converter import convert

    def math(m):
        return convert(unescape(m[1] or m[2]), display='block' if m[1] else 'inline')

    out = []
    for k, part in enumerate(_literal.split(text)):
        if k % 3 == 0:  # text
            out.append(re.sub(r'\$\$([^$<]+)\$\$|\$([^$<\n]+?)\$', math, part))
        elif k % 3 == 1:  # literal; what follows it is the name of its tag alone
            out.append(part)
    return ''.join(out)


def on_post_page(output, page, config):
    "Make a link of every notebook that is named in code type, and show equations."
    up, output = '../' * page.url.count('/'), equations(output) if page.file.src_uri.endswith('.ipynb') else output
    return re.sub(
        r'<code>(\d\d_\w+)</code>',
        lambda m: f'<a href="{up}{m[1]}.html"><code>{m[1]}</code></a>' if m[1] in notebooks else m[0],
        output,
    )


def on_post_build(config):
    "Stop at a link to a page or a part of a page that is not there, and at anything fetched from elsewhere."
    site, dead = Path(config.site_dir), []
    pages = {p: p.read_text() for p in site.rglob('*.html') if p.name != '404.html'}
    anchors = {p: set(re.findall(r'\bid="([^"]+)"', t)) | {''} for p, t in pages.items()}
    for page, text in pages.items():
        for kind, link in re.findall(r'<(?:a|link|script|img)\b[^>]*?\b(href|src)="([^"]*)"', text):
            link = unquote(unescape(link))
            if link.startswith(('data:', 'mailto:', 'javascript:')) or (
                link.startswith('http') and kind == 'href' and '.css' not in link
            ):
                continue
            path, _, part = link.partition('#')
            target = (page.parent / path.split('?')[0]).resolve() if path else page.resolve()
            if link.startswith('http') or not target.exists() or (target in anchors and part not in anchors[target]):
                dead.append(f'{page.relative_to(site)}: {link}')
    if dead:
        raise PluginError(f'{len(dead)} dead links:\n' + '\n'.join(dead[:40]))
