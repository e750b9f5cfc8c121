"A method from a module outside the package: in every process, in the table, in the plot."

import os
import subprocess
import sys

import pandas as pd
import pytest

MODULE = """
import torch

from ash_nb.hallucinators.contract import HALLUCINATORS, Hallucination, Hallucinator
from ash_nb.methods.registry import Method, add_method


@HALLUCINATORS.register('negative')
class Negative(Hallucinator):
    "Show the negative of the street."

    def forward(self, images, probs, styles, generator):
        return Hallucination(1 - images.detach())


add_method(
    Method('negative', 'its negative, with labels', 'negative', segmentation=True, label='Negative', colour='#123456')
)
"""
TINY = 'body=plain,pretrained=false,scenes=4,width=64,height=64,test_width=64,test_height=64,batch_size=2'
SETTINGS = [word for text in TINY.split(',') for word in ('--set', text)]


def run(*words, folder, plugins='my_negative'):
    env = os.environ | {'ASH_NB_PLUGINS': plugins, 'TQDM_DISABLE': '1', 'OMP_NUM_THREADS': '1'}
    command = [sys.executable, '-m', 'ash_nb.cli', *map(str, words)]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / 'my_negative.py').write_text(MODULE)
    return tmp_path


def test_a_method_of_ones_own_takes_part_in_a_comparison_on_two_processes(folder):
    words = ('compare', '--methods', 'source_only,negative', '--seeds', '1', '--target', 'streetworld-night')
    done = run(*words, '--images', '2', '--steps', '2', '--device', 'cpu,cpu', '--out', 'c', *SETTINGS, folder=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    assert set(pd.read_csv(folder / 'c/runs.csv').method) == {'source_only', 'negative'}
    assert 'negative' in done.stdout
    report = (folder / 'c/report.html').read_text()
    assert 'Negative' in report


def test_its_look_is_its_own(folder):
    script = 'from ash_nb.methods.registry import label_of, looks\n'
    script += 'print(label_of("negative"), looks(["negative"])["negative"]["color"])'
    env = os.environ | {'ASH_NB_PLUGINS': str(folder / 'my_negative.py')}
    done = subprocess.run([sys.executable, '-c', script], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ['Negative', '#123456'], done.stderr


def test_without_its_module_it_is_unknown_and_told_where_to_name_it(folder):
    done = run('train', '--method', 'negative', '--steps', '1', '--out', 'a', folder=folder, plugins='')
    assert done.returncode == 2 and "unknown method 'negative'" in done.stderr and 'ASH_NB_PLUGINS' in done.stderr


@pytest.mark.parametrize('text, told', (('1/0', 'ZeroDivisionError'), ('import no_such_module', 'no_such_module')))
def test_a_broken_module_is_named(folder, text, told):
    (folder / 'my_broken.py').write_text(text)
    done = run('train', '--method', 'ash', '--steps', '1', '--out', 'a', folder=folder, plugins='my_broken')
    assert done.returncode == 2 and 'plug-in my_broken cannot be imported' in done.stderr and told in done.stderr
    assert 'Traceback' not in done.stderr


def test_which_module_was_imported_first_changes_nothing():
    script = """if True:
        import os, sys, torch, torchvision, timm, pandas, scipy  # once: each order is a fork of this process
        for order in sys.argv[1:]:
            if os.fork() == 0:
                for module in order.split():
                    __import__(module)
                from ash_nb.hallucinators.contract import HALLUCINATORS
                print(*HALLUCINATORS, flush=True)
                os._exit(0)
            assert os.wait()[1] == 0
    """
    modules = ['ash_nb.hallucinators.' + m for m in ('gate', 'features', 'images', 'asm', 'ash')]
    orders = [[], modules, modules[::-1], modules[2:3]]
    words = [sys.executable, '-c', script, *(' '.join(order) for order in orders)]
    found = subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()
    assert len(found) == len(orders) and len(set(found)) == 1 and 'ash' in found[0].split()
