"The run table in a real JupyterLab and a real browser: it finds a later run by itself, sorts, and opens by keyboard."

import json
import shutil
from pathlib import Path

import pytest
from servers import root, served
from test_page import chromium, flags, tiny

from ash_nb.runs.compare import compare

WIDTHS = (390, 1024, 1366, 1920)


def a_notebook(folder: Path, source: str) -> Path:
    "Write a notebook with one cell."
    cell = dict(cell_type='code', id='one', execution_count=None, metadata={}, outputs=[], source=[source])
    kernel = dict(display_name='python3', language='python', name='python3')
    folder.mkdir(exist_ok=True)
    nb = dict(cells=[cell], metadata=dict(kernelspec=kernel), nbformat=4, nbformat_minor=5)
    (folder / 'one.ipynb').write_text(json.dumps(nb))
    return folder / 'one.ipynb'


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    "Open the browser of a tiny comparison; yields the page, and the folder of the runs."
    from playwright.sync_api import sync_playwright

    tmp = tmp_path_factory.mktemp('browse')
    targets = ['streetworld-day', 'streetworld-fog']
    compare(['source_only', 'ash'], 2, targets, tmp / 'c', tiny, images=3, device='cpu', progress=False)
    notebook = a_notebook(tmp / 'nbs', f'from ash_nb.look.browse import RunBrowser\nRunBrowser({str(tmp / "c")!r})')
    with served(tmp / 'nbs', tmp / 'home') as lab, sync_playwright() as pw:
        page = pw.chromium.launch(executable_path=chromium, args=flags).new_page(viewport=dict(width=1366, height=900))
        page.errors = []
        page.on('pageerror', lambda e: page.errors.append(str(e)))
        page.goto(f'{lab}/doc/tree/{notebook.name}?reset')
        page.wait_for_function('window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady', timeout=90_000)
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        page.locator('.ash-runs tbody tr').nth(5).wait_for(timeout=90_000)
        yield page, tmp / 'c'


needs_chromium = pytest.mark.skipif(not chromium, reason='needs a Chromium (Debian: apt-get install chromium)')


def texts(page, column):
    "Read a column of the table."
    return page.locator(f'.ash-runs tbody tr td:nth-child({column})').all_inner_texts()


@needs_chromium
def test_the_table_stays_within_its_window_light_and_dark(page):
    page, _ = page
    artifacts = root / 'artifacts'
    artifacts.mkdir(exist_ok=True)
    for theme in ('JupyterLab Dark', 'JupyterLab Light'):
        change = f"jupyterapp.commands.execute('apputils:change-theme', {{theme: '{theme}'}})"
        page.evaluate(f'async () => {{ await {change} }}')
        for width in WIDTHS:
            page.set_viewport_size(dict(width=width, height=900))
            page.wait_for_timeout(300)
            box = page.locator('.ash-scroller').bounding_box()
            assert box['x'] >= 0 and box['x'] + box['width'] <= width, (theme, width, box)
            page.screenshot(path=artifacts / f'runs-{theme[11:].lower()}-{width}.png')
    page.set_viewport_size(dict(width=1366, height=900))
    assert not page.errors


@needs_chromium
def test_every_control_of_the_table_has_a_name(page):
    page, _ = page
    named = '[...document.querySelectorAll(".ash-runs button, .ash-runs input")].map(b => b.ariaLabel || b.innerText)'
    names = page.evaluate(named)
    assert len(names) >= 10 and all(names), names
    assert page.locator('.ash-runs img:not([alt])').count() == 0


@needs_chromium
def test_a_click_on_a_head_sorts(page):
    page, _ = page
    page.get_by_role('button', name='seed', exact=True).click()
    assert texts(page, 4)[-4:] == ['1', '1', '0', '0'] or texts(page, 4)[:4] == ['1', '1', '0', '0']
    assert page.locator('th[aria-sort=descending]').count() == 1


@needs_chromium
def test_a_run_is_opened_by_keyboard(page):
    page, _ = page
    page.locator('[data-run="ash-0"]').focus()
    page.keyboard.press('Enter')
    page.get_by_role('tab', name='errors').wait_for(timeout=60_000)
    page.locator('figure img[alt^="errors of ASH"]').wait_for(timeout=60_000)
    assert page.locator('[data-run="ash-0"]').get_attribute('aria-expanded') == 'true'
    assert page.evaluate('document.activeElement.dataset.run') == 'ash-0'  # the focus stays where it was
    page.screenshot(path=root / 'artifacts/runs-opened.png')


@needs_chromium
def test_a_run_that_starts_later_is_found_without_a_click(page):
    page, folder = page
    shutil.copytree(folder / 'source_only-0', folder / 'later')
    try:
        page.locator('[data-run="later"]').wait_for(timeout=60_000)
    finally:
        shutil.rmtree(folder / 'later')
    assert not page.errors
