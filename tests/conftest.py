"""Where real samples lie, if they do (ASH_SHARED, or ../shared beside the repository), and how many cases are made up.

ASH_NB_CASES=5 python -m pytest tests    # five times as many as by default
"""

import os
from pathlib import Path

import pytest

MANY = int(os.environ.get('ASH_NB_CASES', 1))  # times as many generated cases
shared = Path(os.environ.get('ASH_SHARED', Path(__file__).parent.parent.parent / 'shared'))


@pytest.fixture
def real():
    "Folder of real samples; skips where there is none."
    if not (shared / 'data').is_dir():
        pytest.skip('no real samples here: set ASH_SHARED to a folder that holds data/')
    return shared / 'data'
