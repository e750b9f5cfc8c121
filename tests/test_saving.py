"A notebook that JupyterLab opens and saves stays as it was: the hook of docs/jupyter_server_config.py cleans it."

import asyncio
import json
import os
import shutil
import subprocess
import sys
import urllib.request

import pytest
from servers import free_port, root, wait_for

BOOKS = sorted(p.relative_to(root) for p in (root / 'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts)


@pytest.fixture(scope='module')
def copy(tmp_path_factory):
    "Copy the notebooks, and what says how nbdev cleans them."
    folder = tmp_path_factory.mktemp('copy')
    shutil.copytree(root / 'nbs', folder / 'nbs', ignore=shutil.ignore_patterns('.ipynb_checkpoints'))
    shutil.copy(root / 'pyproject.toml', folder)
    return folder


def as_run(nb: dict) -> dict:
    "Return a notebook as a kernel leaves it: counted, trusted, with the kernel's own words."
    for k, cell in enumerate(nb['cells']):
        cell['metadata'] |= {'trusted': True, 'execution': {'iopub.status.busy': 'now'}}
        if cell['cell_type'] == 'code':
            cell['execution_count'] = k + 1
    nb['metadata'] |= {'language_info': {'name': 'python', 'version': '3.11.7'}}
    return nb


def test_every_notebook_is_saved_as_it_was(copy):
    from jupyter_server.services.contents.largefilemanager import AsyncLargeFileManager
    from traitlets.config import Config, PyFileConfigLoader

    config = Config(PyFileConfigLoader('jupyter_server_config.py', path=str(root / 'docs')).load_config())
    manager = AsyncLargeFileManager(root_dir=str(copy), config=config)

    async def save_all():
        for book in BOOKS:
            model = await manager.get(str(book))
            saved = dict(type='notebook', format='json', content=as_run(model['content']))
            await manager.save(saved, str(book))

    asyncio.run(save_all())
    changed = [str(b) for b in BOOKS if (copy / b).read_bytes() != (root / b).read_bytes()]
    assert not changed, changed


def test_a_server_with_what_make_setup_installs_has_the_hook(copy, tmp_path):
    assert 'cp docs/jupyter_server_config.py .venv/etc/jupyter/' in (root / 'Makefile').read_text()
    (tmp_path / 'etc').mkdir()
    shutil.copy(root / 'docs/jupyter_server_config.py', tmp_path / 'etc')
    port = free_port()
    words = ['--no-browser', '--allow-root', '--ip=127.0.0.1', f'--port={port}', '--IdentityProvider.token=']
    words += ['--ServerApp.disable_check_xsrf=True', '--ServerApp.port_retries=0']
    places = {f'JUPYTER_{n}_DIR': str(tmp_path / n) for n in ('CONFIG', 'DATA', 'RUNTIME')}
    places['JUPYTER_CONFIG_PATH'] = str(tmp_path / 'etc')  # as .venv/etc/jupyter is one
    command = [sys.executable, '-m', 'jupyter_server', *words]
    with (tmp_path / 'log').open('w') as log:
        server = subprocess.Popen(command, cwd=copy, env=os.environ | places, stdout=log, stderr=log)
    book, url = BOOKS[0], f'http://127.0.0.1:{port}/api'
    try:
        wait_for(f'{url}/status')
        content = as_run(json.load(urllib.request.urlopen(f'{url}/contents/{book}'))['content'])
        body = json.dumps(dict(type='notebook', format='json', content=content)).encode()
        ask = urllib.request.Request(f'{url}/contents/{book}', body, {'Content-Type': 'application/json'}, method='PUT')
        assert urllib.request.urlopen(ask).status == 200
    finally:
        server.terminate()
        server.wait(30)
    assert (copy / book).read_bytes() == (root / book).read_bytes()
