"The stylization preview in a real JupyterLab and a real browser: what is seen at any width, and what a hand can do."

import shutil

import numpy as np
import pytest
from PIL import Image
from servers import root, served
from test_page import chromium, flags


@pytest.fixture
def lab(tmp_path):
    "Serve a copy of the notebooks by JupyterLab; yields its address."
    (tmp_path / 'nbs').mkdir()
    shutil.copy(root / 'nbs' / 'start/02_preview.ipynb', tmp_path / 'nbs')
    (tmp_path / 'settings.ini').write_text('[DEFAULT]\nruns = runs\n')  # pictures are kept beside runs
    whole = {'@jupyterlab/notebook-extension:tracker': {'windowingMode': 'none'}}  # cells out of sight are there, too
    with served(tmp_path / 'nbs', tmp_path, **whole) as address:
        yield address


PANELS = 'street,painting,AdaIN,ASH,ASH − AdaIN,changed by,segmentation of the street'.split(',')
WIDTHS = (390, 1024, 1280, 1366, 1440, 1920)
BOXES = """live => [...live.querySelectorAll('figure:not([hidden]), button, input, select, canvas')]
    .filter(node => node.checkVisibility()).map(node => node.getBoundingClientRect())
    .map(box => [box.left, box.right, box.width])"""
CONTROLS = """live => [...live.querySelectorAll('button, input, select, summary, textarea, [tabindex]')]
    .filter(node => node.checkVisibility())"""
NAMES = f"""live => ({CONTROLS})(live).map(n => n.getAttribute('aria-label') || n.textContent.trim()
    || n.closest('label')?.textContent.trim() || '')"""
LOOKS = """live => Object.fromEntries([...live.querySelectorAll('.panels figure')]
    .map(f => [f.dataset.panel, f.querySelector('canvas').toDataURL()]))"""


class Preview:
    "The preview in a page: what it shows, and waiting for the next answer."

    def __init__(self, page):
        self.page, self.live = page, page.locator('.ash-live')

    def looks(self) -> dict:
        "Return what each panel shows."
        return self.live.evaluate(LOOKS)

    def changed(self, act, among=('ASH',)) -> set:
        "Act, wait until these panels show something else and Python has answered; return all panels that do."
        before = self.looks()
        act()
        all_moved = f'among.every(k => ({LOOKS})(live)[k] !== before[k])'
        wait = f'([live, before, among]) => {all_moved}'
        self.page.wait_for_function(wait, arg=[self.live.element_handle(), before, list(among)], timeout=30_000)
        self.settle()
        return {k for k, look in self.looks().items() if look != before.get(k)}

    def settle(self):
        "Wait until nothing is under way."
        self.page.locator('.ash-live[aria-busy=false]').wait_for(timeout=30_000)
        self.page.wait_for_timeout(60)  # and is drawn

    def button(self, name):
        "Find a button by its whole name."
        return self.live.get_by_role('button', name=name, exact=True)


def opened(page, lab) -> Preview:
    "Open the preview's notebook, run it, and wait for the live grid."
    page.goto(f'{lab}/doc/tree/02_preview.ipynb?reset')
    page.wait_for_function('window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady', timeout=90_000)
    page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
    try:
        page.locator('.ash-live .panels canvas').nth(9).wait_for(timeout=180_000)
    finally:
        page.screenshot(path=root / 'artifacts' / 'preview.png')
    preview = Preview(page)
    preview.settle()
    return preview


def fits(preview, width):
    "Every panel and control is inside the notebook's window, and large enough to hit."
    preview.page.set_viewport_size(dict(width=width, height=900))
    preview.page.wait_for_timeout(250)
    for left, right, wide in preview.live.evaluate(BOXES):
        assert 0 <= left and right <= width and wide > 20, (width, left, right)
    end = preview.live.evaluate('live => live.getBoundingClientRect().right')
    bars = preview.page.locator('.ash-scroll').evaluate_all('all => all.map(b => b.getBoundingClientRect().right)')
    assert len(bars) == 2 and max(bars) <= end + 1, (width, end, bars)
    assert preview.page.evaluate("document.querySelector('.jp-WindowedPanel-outer').scrollWidth") <= width


def no_serious_finding(preview):
    "axe-core has nothing serious to say, where it is installed."
    names = preview.live.evaluate(NAMES)
    assert names and all(names), names
    sides = preview.live.evaluate(
        "live => [...live.querySelectorAll('.panels canvas')].map(c => [c.role, c.ariaLabel])"
    )
    assert all(role == 'img' and label for role, label in sides)
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        return
    for place in ('.ash-live', '.ash-scroll'):
        found = Axe().run(preview.page, context=place).response['violations']
        assert [(v['id'], v['help']) for v in found if v['impact'] in ('serious', 'critical')] == []


def every_control_by_keyboard(preview):
    "Tab reaches every control."
    preview.live.evaluate("live => live.querySelector('details').open = true")
    count = preview.live.evaluate(f'live => ({CONTROLS})(live).map((n, k) => n.dataset.place = k).length')
    preview.live.evaluate(f'live => ({CONTROLS})(live)[0].focus()')
    met = set()
    for _ in range(count):
        met.add(preview.page.evaluate('document.activeElement.dataset.place'))
        preview.page.keyboard.press('Tab')
    assert len(met) == count, (count, len(met))


def zoom_and_pan(preview):
    "All linked panels move together; the page's own wheel is left alone until the grid has been clicked."
    page, grid = preview.page, preview.live.locator('.panels')
    canvas = preview.live.locator('[data-panel="AdaIN"] canvas')
    canvas.scroll_into_view_if_needed()
    box, linked = canvas.bounding_box(), {'street', 'AdaIN', 'ASH', 'truth', 'segmentation of the street'}
    page.mouse.move(box['x'] + box['width'] / 3, box['y'] + 20)
    page.wait_for_timeout(80)
    assert preview.live.locator('.readout td').first.inner_text().strip() != '–'
    zoomed = preview.live.locator('.zoomed')
    page.mouse.wheel(0, -1)
    page.wait_for_timeout(60)
    assert zoomed.inner_text() == 'whole picture'
    grid.focus()
    moved = preview.changed(lambda: page.mouse.wheel(0, -100), linked)
    assert linked <= moved and 'painting' not in moved and zoomed.inner_text() == '1.3 ×'
    assert linked <= preview.changed(lambda: [page.keyboard.press('ArrowLeft') for _ in range(12)], linked)
    assert linked <= preview.changed(lambda: page.keyboard.press('+'), linked)
    assert linked <= preview.changed(lambda: page.keyboard.press('0'), linked)
    assert zoomed.inner_text() == 'whole picture'
    page.keyboard.press('Enter')
    preview.live.locator('.point tbody tr').nth(3).wait_for()
    preview.settle()


def two_fingers(preview):
    "Two fingers that part zoom all linked panels, without a mouse."
    canvas = preview.live.locator('[data-panel="ASH"] canvas')
    canvas.scroll_into_view_if_needed()
    box, touch = canvas.bounding_box(), preview.page.context.new_cdp_session(preview.page)
    middle, y = box['x'] + box['width'] / 2, box['y'] + box['height'] / 2

    def fingers(kind, *places):
        points = [dict(x=x, y=y, id=k) for k, x in enumerate(places)]
        touch.send('Input.dispatchTouchEvent', dict(type=kind, touchPoints=points))

    fingers('touchStart', middle - 10)
    fingers('touchStart', middle - 10, middle + 10)
    for apart in (14, 18, 22, 26, 30):
        fingers('touchMove', middle - apart, middle + apart)
    fingers('touchEnd')
    preview.page.wait_for_timeout(80)
    assert float(preview.live.locator('.zoomed').inner_text().split()[0]) > 1.5
    preview.changed(preview.button('Show the whole picture').click)


def classes_by_click(preview):
    "A click on a region switches its class off, a button or undo switches it on again."
    canvas = preview.live.locator('[data-panel="segmentation of the street"] canvas')
    preview.changed(canvas.click)
    off = preview.live.locator('.chip[aria-pressed=false]')
    assert off.count() == 1 and 'is switched off' in preview.live.locator('.message').inner_text()
    preview.changed(preview.button('undo').click)
    assert off.count() == 0
    preview.changed(preview.button('building').click)
    preview.changed(preview.button('reset').click)
    assert off.count() == 0


def own_photo(preview, tmp_path):
    "A photo of twelve megapixels comes at the run's size and shape, and the preview goes on with it."
    row = np.linspace(0, 255, 4000).astype(np.uint8)
    Image.fromarray(np.broadcast_to(row[None, :, None], (3000, 4000, 3))).save(tmp_path / 'my photo.jpg', quality=90)
    choose = preview.live.locator('[data-drop=image] input[type=file]')
    assert 'ASH' in preview.changed(lambda: choose.set_input_files(tmp_path / 'my photo.jpg'), ('street', 'ASH'))
    assert preview.live.evaluate("live => live.style.getPropertyValue('--shape')") == '240 / 180'
    assert preview.button('street: my photo').get_attribute('aria-pressed') == 'true'
    preview.changed(lambda: preview.live.get_by_label('alpha', exact=True).press('PageDown'))
    preview.changed(preview.button('undo').click)
    preview.changed(preview.button('undo').click, ('street', 'ASH'))


def the_rest(preview, tmp_path):
    "Wipe, contact sheet, code, checkpoints that play, and a saved picture."
    preview.button('Wipe between two panels').click()
    wipe = preview.live.locator('.wipe canvas')
    before = wipe.evaluate('c => c.toDataURL()')
    preview.live.get_by_label('Where the left panel ends').press('ArrowRight')
    preview.page.wait_for_timeout(80)
    assert before != wipe.evaluate('c => c.toDataURL()')
    preview.button('Wipe between two panels').click()
    preview.button('alpha × delta').click()
    preview.live.locator('.sheet .cell').nth(15).wait_for()
    preview.changed(preview.button('alpha 0.25, delta 1.5').click)
    assert preview.live.get_by_label('alpha', exact=True).input_value() == '0.25'
    preview.button('copy settings as code').click()
    assert 'preview.alpha = 0.25' in preview.live.get_by_label('Settings as code').input_value()
    preview.changed(preview.button('Play the steps').click)
    assert preview.button('Play the steps').get_attribute('aria-pressed') == 'true'
    preview.button('Play the steps').click()
    preview.settle()
    preview.button('save PNG and PDF').click()
    preview.settle()
    kept = sorted((tmp_path / 'pictures').iterdir())
    assert [f.suffix for f in kept] == ['.pdf', '.png'] and Image.open(kept[1]).width > 1000


@pytest.mark.skipif(not chromium, reason='needs a Chromium (Debian: apt-get install chromium)')
def test_preview_in_jupyterlab(lab, tmp_path):
    from playwright.sync_api import sync_playwright

    (root / 'artifacts').mkdir(exist_ok=True)
    with sync_playwright() as pw:
        page = pw.chromium.launch(executable_path=chromium, args=flags).new_page(viewport=dict(width=1366, height=900))
        faults = []
        page.on('console', lambda m: faults.append(m.text) if m.type == 'error' else None)
        page.on('pageerror', lambda e: faults.append(str(e)))
        preview = opened(page, lab)
        titles = list(preview.looks())
        assert len(titles) == 10 and all(any(t.startswith(k) for t in titles) for k in PANELS)
        scores = preview.live.locator('[data-panel^=segmentation] .note').all_inner_texts()
        assert len(scores) == 2 and all('% of the pixels right, mIoU' in text for text in scores)

        def alpha_down():
            preview.live.get_by_label('alpha', exact=True).focus()
            for _ in range(8):
                page.keyboard.press('ArrowLeft')

        assert {'ASH', 'AdaIN', 'errors on the ASH image'} <= preview.changed(alpha_down)
        assert preview.live.locator('.number').first.inner_text() == '0.60'
        zoom_and_pan(preview)
        two_fingers(preview)
        classes_by_click(preview)
        own_photo(preview, tmp_path)
        the_rest(preview, tmp_path)
        every_control_by_keyboard(preview)
        for theme in ('Light', 'Dark'):
            page.evaluate(
                "t => jupyterapp.commands.execute('apputils:change-theme', {theme: t})", f'JupyterLab {theme}'
            )
            page.wait_for_function(f"document.body.dataset.jpThemeLight === '{str(theme == 'Light').lower()}'")
            for width in WIDTHS:
                fits(preview, width)
            no_serious_finding(preview)
            preview.live.evaluate('live => live.scrollIntoView()')
            page.screenshot(path=root / 'artifacts' / f'preview-{theme.lower()}.png')
        assert faults == []
