"The report opens in a real browser: every picture is decoded, nothing is fetched, nothing sticks out on a phone."

import shutil
from pathlib import Path

import pytest

from ash_nb.look.figures import comparison_figures
from ash_nb.methods.presets import preset
from ash_nb.runs.compare import compare

chromium = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
flags = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-quic',
    '--no-first-run',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
]
tiny = preset(
    'streetworld',
    body='plain',
    scenes=6,
    width=96,
    height=64,
    test_width=96,
    test_height=64,
    batch_size=2,
    steps=6,
    checkpoint_every=3,
    classwise_every=2,
    log_every=1,
)


@pytest.mark.skipif(not chromium, reason='needs a Chromium (Debian: apt-get install chromium)')
def test_report_in_a_browser(tmp_path):
    from playwright.sync_api import sync_playwright

    runs = compare(
        ['source_only', 'ash'],
        2,
        ['streetworld-day', 'streetworld-fog'],
        tmp_path / 'c',
        tiny,
        images=3,
        device='cpu',
        progress=False,
    )
    page_file = comparison_figures(tmp_path / 'c', runs)[-1]
    artifacts = Path(__file__).parent.parent / 'artifacts'
    artifacts.mkdir(exist_ok=True)
    with sync_playwright() as pw:
        browser, asked = pw.chromium.launch(executable_path=chromium, args=flags), []
        for width in (1280, 390):
            page = browser.new_page(viewport=dict(width=width, height=900))
            page.on('request', lambda r: asked.append(r.url))
            page.goto(page_file.as_uri())
            assert (
                page.evaluate('[...document.images].every(i => i.complete && i.naturalWidth > 50)')
                and page.locator('img').count() >= 5
            )
            assert page.evaluate('document.documentElement.scrollWidth') <= width
            page.screenshot(path=artifacts / f'report-{width}.png', full_page=True)
    assert all(u.startswith(('file:', 'data:')) for u in asked)
