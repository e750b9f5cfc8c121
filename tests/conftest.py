"Where real samples lie, if they do: ASH_SHARED, or ../shared beside the repository."

import os
from pathlib import Path

import pytest

shared = Path(os.environ.get('ASH_SHARED', Path(__file__).parent.parent.parent / 'shared'))


@pytest.fixture
def real():
    "Folder of real samples; skips where there is none."
    if not (shared / 'data').is_dir():
        pytest.skip('no real samples here: set ASH_SHARED to a folder that holds data/')
    return shared / 'data'
