"""Run every test: notebooks in sync and clean, every notebook executed, then pytest.

Both halves always run; the last line counts.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

root = Path(__file__).parent.parent
CORES = max(1, min(4, len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count() or 1))
bin = Path(sys.executable).parent
env = os.environ | {
    'OMP_NUM_THREADS': '1',
    'TQDM_DISABLE': '1',
    'VIRTUAL_ENV': sys.prefix,
    'PATH': f'{bin}{os.pathsep}{os.environ["PATH"]}',
}


def run(*command) -> tuple:  # its exit code, its standard output
    "Run a command, showing what it prints as it comes."
    process = subprocess.Popen(command, cwd=root, env=env, text=True, stdout=subprocess.PIPE)
    lines = []
    for line in process.stdout:
        print(line, end='', flush=True)
        lines.append(line)
    return process.wait(), ''.join(lines)


def count(pattern, text) -> int:
    return sum(map(int, re.findall(pattern, text, re.M)))


def notebooks() -> tuple:  # how many passed, how many failed
    "Execute every notebook; none at all is a failure."
    code, text = run(bin / 'nbdev-test', '--timing', '--n-workers', str(CORES))
    failed = len(re.findall(r'^\t\S+\.ipynb$', text, re.M)) or int(code != 0)
    done = len(re.findall(r'\.ipynb: \d+ secs$', text, re.M))
    return max(0, done - failed), failed or int(done == 0)


def tests() -> tuple:  # how many passed, how many failed
    "Run pytest; no test at all is a failure."
    spread = (
        '-n',
        str(CORES),
        '--dist',
        'worksteal',
    )  # one process a core, each takes from the others when it has no more
    code, text = run(sys.executable, '-m', 'pytest', '-rs', *spread)
    last = text.splitlines()[-1] if text else ''
    return count(r'(\d+) passed', last), count(r'(\d+) (?:failed|error)', last) or int(code != 0)


if __name__ == '__main__':
    halves = {'notebooks': notebooks(), 'pytest': tests()}
    for name, (passed, failed) in halves.items():
        print(f'{name}: {passed} passed, {failed} failed')
    passed, failed = (sum(x) for x in zip(*halves.values()))
    print(f'{passed} passed, {failed} failed')
    sys.exit(failed > 0)
