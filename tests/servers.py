"A JupyterLab for the tests that look at widgets, and what every test of a server needs: a free port, and patience."

import json
import os
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

root = Path(__file__).parent.parent


def free_port() -> int:
    "Find a port of this machine that nobody listens at."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def wait_for(url: str) -> None:
    "Wait until an address answers, a minute at most."
    for _ in range(120):
        try:
            urllib.request.urlopen(url)
            return
        except OSError:
            time.sleep(0.5)


@contextmanager
def served(folder: Path, home: Path, **overrides: dict) -> Iterator[str]:
    "Serve a folder by JupyterLab whose own files lie in another, with settings by plugin; yields its address."
    (home / 'config' / 'labconfig').mkdir(parents=True, exist_ok=True)
    quiet = {'disabledExtensions': {'@jupyterlab/apputils-extension:announcements': True}}
    (home / 'config' / 'labconfig' / 'page_config.json').write_text(json.dumps(quiet))
    (home / 'config' / 'labconfig' / 'default_setting_overrides.json').write_text(json.dumps(overrides))
    port, names = free_port(), ('CONFIG_DIR', 'DATA_DIR', 'RUNTIME_DIR')
    places = {f'JUPYTER_{n}': str(home / n.partition('_')[0].lower()) for n in names}
    places |= {f'JUPYTERLAB_{n}_DIR': str(home / n.lower()) for n in ('WORKSPACES', 'SETTINGS')}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}']
    command += ['--ServerApp.port_retries=0', f'--ServerApp.root_dir={folder}', '--IdentityProvider.token=']
    command += ['--LabApp.expose_app_in_browser=True', '--LabApp.extension_manager=readonly']
    env = os.environ | places | {'PYTHONPATH': str(root), 'TQDM_DISABLE': '1', 'OMP_NUM_THREADS': '1'}
    with (home / 'log').open('w') as log:
        server = subprocess.Popen(command, env=env, stdout=subprocess.DEVNULL, stderr=log)
    try:
        wait_for(f'http://127.0.0.1:{port}/api/status')
        yield f'http://127.0.0.1:{port}'
    finally:
        server.terminate()
        server.wait(30)
