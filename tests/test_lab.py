"The stylization preview in a real JupyterLab and a real browser: a slider and a class button change the picture."

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest
from test_page import chromium, flags

root = Path(__file__).parent.parent


@pytest.fixture
def lab(tmp_path):
    "Serve a copy of the notebooks by JupyterLab; yields its address."
    (tmp_path / 'nbs').mkdir()
    shutil.copy(root / 'nbs' / 'start/02_preview.ipynb', tmp_path / 'nbs')
    (tmp_path / 'config' / 'labconfig').mkdir(parents=True)
    (tmp_path / 'config' / 'labconfig' / 'page_config.json').write_text(
        '{"disabledExtensions": {"@jupyterlab/apputils-extension:announcements": true}}'
    )
    (tmp_path / 'config' / 'labconfig' / 'default_setting_overrides.json').write_text(
        '{"@jupyterlab/notebook-extension:tracker": {"windowingMode": "none"}}'
    )  # cells out of sight are there, too
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        port = s.getsockname()[1]
    folders = {
        k: str(tmp_path / v)
        for k, v in dict(
            JUPYTER_CONFIG_DIR='config',
            JUPYTER_DATA_DIR='data',
            JUPYTER_RUNTIME_DIR='runtime',
            JUPYTERLAB_WORKSPACES_DIR='workspaces',
            JUPYTERLAB_SETTINGS_DIR='settings',
        ).items()
    }
    command = [
        sys.executable,
        '-m',
        'jupyterlab',
        '--no-browser',
        '--allow-root',
        '--ip=127.0.0.1',
        f'--port={port}',
        '--ServerApp.port_retries=0',
        f'--ServerApp.root_dir={tmp_path / "nbs"}',
        '--IdentityProvider.token=',
        '--LabApp.expose_app_in_browser=True',
        '--LabApp.extension_manager=readonly',
    ]
    server = subprocess.Popen(
        command,
        env=os.environ | folders | {'PYTHONPATH': str(root), 'TQDM_DISABLE': '1', 'OMP_NUM_THREADS': '1'},
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / 'log').open('w'),
    )
    for _ in range(120):
        try:
            urllib.request.urlopen(f'http://127.0.0.1:{port}/api/status')
            break
        except OSError:
            time.sleep(0.5)
    yield f'http://127.0.0.1:{port}'
    server.terminate()
    server.wait(30)


@pytest.mark.skipif(not chromium, reason='needs a Chromium (Debian: apt-get install chromium)')
def test_preview_in_jupyterlab(lab):
    from playwright.sync_api import expect, sync_playwright

    artifacts = root / 'artifacts'
    artifacts.mkdir(exist_ok=True)
    with sync_playwright() as pw:
        page = pw.chromium.launch(executable_path=chromium, args=flags).new_page(viewport=dict(width=1366, height=900))
        page.goto(f'{lab}/doc/tree/02_preview.ipynb?reset')
        page.wait_for_function('window.jupyterapp?.shell.currentWidget?.sessionContext?.isReady', timeout=90_000)
        page.evaluate("() => { jupyterapp.commands.execute('notebook:run-all-cells') }")
        slider = page.locator('.widget-slider .noUi-handle')
        try:
            slider.nth(1).wait_for(timeout=180_000)
        finally:
            page.screenshot(path=artifacts / 'preview.png')
        picture = page.locator('.widget-image').nth(3)  # street, painting, AdaIN, ASH
        expect(picture).to_be_visible(timeout=60_000)
        picture.scroll_into_view_if_needed()

        def changes(action):
            "Act, and wait until the ASH picture is another one."
            before = picture.get_attribute('src')
            action()
            page.wait_for_function(
                '([img, before]) => img.src && img.src != before',
                arg=[picture.element_handle(), before],
                timeout=30_000,
            )

        def alpha_down():
            slider.nth(1).focus()
            for _ in range(8):
                page.keyboard.press('ArrowLeft')

        changes(alpha_down)
        expect(page.locator('.widget-readout').nth(1)).to_have_text('0.60')
        changes(lambda: page.get_by_role('button', name='road', exact=True).click())
        page.get_by_role('button', name='panels with zoom').click()
        page.frame_locator('iframe').locator('canvas').nth(4).wait_for(timeout=30_000)
        page.screenshot(path=artifacts / 'preview.png')
        assert page.evaluate("document.querySelector('.jp-WindowedPanel-outer')?.scrollWidth ?? 0") <= 1366
