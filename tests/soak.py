"""Kill a small run at random instants, over and over, and compare what is left at the end with one never killed.

python tests/soak.py --kills 200 --flips 1000 --poisons 200 --cases 10000 --json nbs/results/reliability.json
"""

import argparse
import filecmp
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault('OMP_NUM_THREADS', '1')
import torch

from ash_nb.core.config import AshError
from ash_nb.core.files import load_state, load_tensors
from ash_nb.methods.presets import preset
from ash_nb.runs import training
from ash_nb.runs.batches import source_data, style_data
from ash_nb.runs.folder import LOGS, Run
from ash_nb.runs.training import train

LATEST = {}  # the batch that a step is taken with


def small(steps=24, **changes):
    "A run of two seconds whose checkpoints follow closely on each other."
    return preset(
        'streetworld',
        **dict(
            method='ash',
            body='plain',
            scenes=6,
            width=64,
            height=64,
            test_width=64,
            test_height=64,
            batch_size=2,
            discriminator_width=16,
            discriminator_layers=3,
            ash_width=32,
            precision='float32',
            steps=steps,
            log_every=1,
            checkpoint_every=3,
            classwise_every=6,
        )
        | changes,
    )


def child(config, out) -> int:
    "Fork a process that trains; return its number. It exits with 0 when the run is finished."
    pid = os.fork()
    if pid:
        return pid
    try:
        os.setpgid(0, 0)
        for s in (signal.SIGINT, signal.SIGTERM):
            signal.signal(s, signal.SIG_DFL)
        with open(out.parent / 'stderr.txt', 'a') as f:
            os.dup2(f.fileno(), 2)
        train(config, out, device='cpu', workers=0, progress=False)
    except BaseException as e:
        print(f'{type(e).__name__}: {e}', file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def fresh(config, out) -> int:
    "Start the command line in a process of its own; return its number."
    words = [
        x
        for k, v in asdict(config).items()
        if v != getattr(preset('streetworld'), k) and k not in ('method', 'steps')
        for x in ('--set', f'{k}={v}')
    ]
    log = open(out.parent / 'stderr.txt', 'a')
    return subprocess.Popen(
        [
            sys.executable,
            '-m',
            'ash_nb.cli',
            'train',
            '--method',
            config.method,
            '--steps',
            str(config.steps),
            '--device',
            'cpu',
            '--workers',
            '0',
            '--out',
            str(out),
            *words,
        ],
        stdout=log,
        stderr=log,
        env=os.environ | {'TQDM_DISABLE': '1'},
    ).pid


def await_end(pid, seconds, until=lambda: False):
    "Wait for a process to end, some seconds, or something to happen; return its exit status, or None while it lives."
    end = time.perf_counter() + seconds
    while time.perf_counter() < end and not until():
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return status
        time.sleep(0.0003)


def kill(pid, writing) -> tuple:  # (whether it was alive, whether a checkpoint was half written)
    "Kill a process; what it has half written stays."
    os.kill(pid, signal.SIGKILL)
    status = os.waitpid(pid, 0)[1]
    return os.WIFSIGNALED(status), writing()


def unreadable(run) -> list:
    "Return the messages of checkpoints that cannot be read."
    told = []
    for folder in run.checkpoints:
        try:
            for p in folder.glob('*.safetensors'):
                load_tensors(p)
            load_state(folder / 'state.pt')
        except AshError as e:
            told.append(str(e))
    return told


def bits(x):
    "Spell out a nested state, tensors by their bytes."
    if isinstance(x, torch.Tensor):
        return (
            str(x.dtype),
            tuple(x.shape),
            x.contiguous().view(-1).view(torch.uint8).numpy().tobytes() if x.numel() else b'',
        )
    if isinstance(x, dict):
        return [(k, bits(v)) for k, v in x.items()]
    return [bits(v) for v in x] if isinstance(x, (list, tuple)) else repr(x)


def difference(a, b) -> list:
    """Name the files of two finished runs that are not the same to the bit.

    A pickle of equal floats depends on which of them are one object: states are compared by what they hold.
    """
    last = [r.checkpoints[-1] for r in (a, b)]
    names = [p.name for p in last[0].iterdir() if p.suffix == '.safetensors']
    pairs = [(last[0] / n, last[1] / n) for n in names] + [
        (a.path / n, b.path / n) for n in LOGS if (a.path / n).exists() or (b.path / n).exists()
    ]
    odd = [x.name for x, y in pairs if not (y.exists() and filecmp.cmp(x, y, shallow=False))]
    return odd + ['state.pt'] * (bits(load_state(last[0] / 'state.pt')) != bits(load_state(last[1] / 'state.pt')))


def soak(kills=200, steps=24, seed=0, fresh_every=20, progress=True, **changes) -> dict:
    "Kill until `kills` processes have died, then let the last run end; compare every run that ends with the reference."
    torch.set_num_threads(1)
    rng, config, begin = random.Random(seed), small(steps, **changes), time.perf_counter()
    report = dict(
        kills=0,
        while_a_checkpoint_was_written=0,
        command_line_processes_killed=0,
        before_the_first_checkpoint=0,
        runs_compared=0,
        different_files=[],
        unreadable_checkpoints=[],
        other_errors=[],
        seconds_of_life=[],
        of_which_writing=[],
    )
    with tempfile.TemporaryDirectory() as d:
        d = Path(d)
        for data in (source_data(config), style_data(config)):
            [data[k] for k in range(len(data))]  # drawn once, for all children
        pid, start = child(config, d / 'reference'), time.perf_counter()
        if await_end(pid, 600):
            raise SystemExit((d / 'stderr.txt').read_text())
        whole = time.perf_counter() - start  # what a process lives if it is let
        out = d / 'run0'
        while report['kills'] < kills or out.exists():
            if not out.exists():
                out = d / f'run{report["runs_compared"]}'
            ended = attack(config, out, rng, whole, report, kills, fresh_every)
            if progress:
                died, compared, seconds = report['kills'], report['runs_compared'], time.perf_counter() - begin
                told = f'\r{died} kills, {compared} runs compared, {seconds:.0f} s'
                print(told, end='', file=sys.stderr, flush=True)
            if not ended:
                continue
            report['runs_compared'] += 1
            report['different_files'] += [f'{out.name}/{n}' for n in difference(Run(d / 'reference'), Run(out))]
            shutil.rmtree(out)
    return report | dict(seconds=round(time.perf_counter() - begin), steps_of_a_run=steps, seed=seed)


def attack(config, out, rng, whole, report, kills, fresh_every) -> bool:  # whether the run ended
    "Train until a random instant, or a random moment of a random checkpoint's writing, and kill; note what is left."
    run, part = Run(out), out / 'checkpoints' / '.part'
    command_line = fresh_every and report['kills'] % fresh_every == fresh_every - 1
    pid = (fresh if command_line else child)(config, out)
    aimed, last, born = rng.random() < 0.5, report['kills'] >= kills, time.perf_counter()
    limit = 600 if last else rng.uniform(0, 0.9 * whole + 6 * bool(command_line))
    status = await_end(pid, limit)
    if status is None and aimed:
        status = await_end(pid, 60, part.exists) if not part.exists() else None
    if status is None and aimed:
        status = await_end(pid, rng.uniform(0, 0.01))
    if status is None:
        died, half = kill(pid, part.exists)
        if died and not command_line:
            report['of_which_writing' if half else 'seconds_of_life'].append(round(time.perf_counter() - born, 2))
        report['kills'] += died
        report['while_a_checkpoint_was_written'] += died and half
        report['command_line_processes_killed'] += died and bool(command_line)
        report['before_the_first_checkpoint'] += died and not run.checkpoints
        report['unreadable_checkpoints'] += unreadable(run)
        if died:
            return False
    elif status:
        report['other_errors'].append((out.parent / 'stderr.txt').read_text()[-500:])
    return True


def damageable(folder) -> dict:
    "Make one of every kind of file that is loaded again; return kind -> (files, what reads them)."
    import numpy as np
    from PIL import Image

    import ash_nb
    from ash_nb.data.datasets import open_dataset
    from ash_nb.data.prepare import prepare
    from ash_nb.data.streetworld.appearances import street
    from ash_nb.networks.sharp import SHARP_WEIGHTS, sharp_stylizer
    from ash_nb.networks.stylizer import SMALL_WEIGHTS, small_stylizer

    run = train(small(2), folder / 'run', device='cpu', workers=0, progress=False)
    for name in ('val', 'valannot'):
        (folder / 'raw' / name).mkdir(parents=True)
    for k in range(2):
        Image.fromarray(street(k, 96, 72)[0]).save(folder / f'raw/val/{k}.png')
        Image.fromarray(np.full((72, 96), k, np.uint8)).save(folder / f'raw/valannot/{k}.png')
    prepare('camvid', folder / 'raw', folder / 'copy', workers=1, progress=False)
    weights = shutil.copytree(Path(ash_nb.__file__).parent / 'weights', folder / 'weights')

    def checkpoint():
        if run.damage():
            raise AshError(run.damage())

    last, copy = run.checkpoints[-1], folder / 'copy'
    return {
        'checkpoint: networks': (
            [p for p in last.iterdir() if '.safetensors' in p.name and not p.name.endswith('.sha256')],
            checkpoint,
        ),
        'checkpoint: optimizers': ([last / 'state.pt'], checkpoint),
        'checkpoint: digests': (list(last.glob('*.sha256')), checkpoint),
        'config.json': ([run.path / 'config.json'], lambda: run.config),
        'weights of the package': (
            [p for p in weights.iterdir() if p.suffix in ('.safetensors', '.sha256')],
            lambda: (small_stylizer(weights / SMALL_WEIGHTS), sharp_stylizer(weights / SHARP_WEIGHTS)),
        ),
        'prepared copy: images and labels': (
            [p for f in ('images', 'labels') for p in (copy / f).rglob('*.*')],
            lambda: list(open_dataset('camvid', copy)),
        ),
        'prepared copy: index': ([copy / 'index.jsonl', copy / 'prepared.json'], lambda: open_dataset('camvid', copy)),
    }


def flip_bits(flips=1000, seed=0) -> dict:
    "Flip one random bit of one random file, many times, and count how often it is found; kinds of files take turns."
    rng, tried, missed, crashed = random.Random(seed), {}, [], []
    with tempfile.TemporaryDirectory() as d:
        kinds = damageable(Path(d))
        for k in range(flips):
            kind = list(kinds)[k % len(kinds)]
            files, read = kinds[kind]
            path = rng.choice(files)
            whole = path.read_bytes()
            bit = rng.randrange(8 * len(whole))
            path.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
            tried[kind] = tried.get(kind, 0) + 1
            try:
                read()
                missed.append(f'{kind}: {path.name}, bit {bit}')
            except AshError:
                pass
            except Exception as e:
                crashed.append(f'{kind}: {path.name}, bit {bit}: {type(e).__name__}: {e}')
            path.write_bytes(whole)
        for _, read in kinds.values():
            read()  # whole again: none of them refuses what is good
    return dict(flips=flips, by_kind=tried, missed=missed, crashed=crashed, seed=seed)


def poison(rng, number, where, value, called):
    """Return a step that puts a value which is no number into one place of what a given step reads or computes.

    With it comes a list that tells the samples.
    """
    step, seen = training.step, []

    def anywhere(x):
        x.view(-1)[rng.randrange(x.numel())] = value
        return x

    def stepped(learner, images, labels, styles, n, target=None):
        if n != number:
            return step(learner, images, labels, styles, n, target)
        seen.extend(LATEST['names'])
        if where == 'image':
            anywhere(images)
        elif where == 'style image':
            anywhere(styles)
        name, place = rng.choice(called)
        hook = None
        if where == 'gradient':
            hook = rng.choice([p for p in learner.networks[name].parameters() if p.requires_grad]).register_hook(
                lambda g: anywhere(g.clone(memory_format=torch.contiguous_format))
            )
        if where == 'activation':
            hook = (
                learner.networks[name]
                .get_submodule(place)
                .register_forward_hook(lambda m, i, o: anywhere(o.clone(memory_format=torch.contiguous_format)))
            )
        try:
            return step(learner, images, labels, styles, n, target)
        finally:
            if hook:
                hook.remove()

    return stepped, seen


def poison_steps(poisons=200, seed=0) -> dict:
    "Put NaN or infinity into random places of a short run and look at what has become of its weights."
    rng, config, step, states, called = random.Random(seed), small(4, checkpoint_every=9), training.step, [], []
    batches = training.batches
    torch.set_num_threads(1)

    def remembered(learner, *args):  # the states before each step, and the convolutions that are called as modules
        states.append({k: bits(dict(sorted(n.state_dict().items()))) for k, n in learner.networks.items()})
        hooks = [
            m.register_forward_hook(lambda *a, place=(k, name): called.append(place))
            for k, n in learner.networks.items()
            for name, m in n.named_modules()
            if isinstance(m, torch.nn.Conv2d)
        ]
        losses = step(learner, *args)
        for h in hooks:
            h.remove()
        return losses

    def named_batches(*args):
        for given in batches(*args):
            LATEST['names'] = given[0]['names']
            yield given

    report = dict(
        places=0, stopped_with_the_samples_named=0, poisoned_weights=[], not_stopped=[], wrong_message=[], by_place={}
    )
    with tempfile.TemporaryDirectory() as d:
        training.batches = named_batches
        training.step = remembered
        try:
            train(config, Path(d) / 'clean', device='cpu', workers=0, progress=False)
        finally:
            training.step = step
        for k in range(poisons):
            number, where, value = (
                rng.randrange(4),
                ('image', 'style image', 'gradient', 'activation')[k % 4],
                rng.choice([float('nan'), float('inf')] + [float('-inf')] * (k % 4 == 2)),
            )
            if where == 'activation':
                value = float('nan')  # an infinity can vanish in a ReLU or a clamp
            training.step, seen = poison(rng, number, where, value, sorted(set(called)))
            out, told = Path(d) / str(k), ''
            try:
                train(config, out, device='cpu', workers=0, progress=False)
            except AshError as e:
                told = str(e)
            finally:
                training.step = step
            kept, name = out / 'inspection' / f'step-{number + 1:07d}', f'{where} {value} in step {number + 1}'
            report['places'] += 1
            report['by_place'][where] = report['by_place'].get(where, 0) + 1
            if not told:
                report['not_stopped'].append(name)
            elif not all(n in told for n in seen) or f'step {number + 1} of 4: ' not in told:
                report['wrong_message'].append(f'{name}: {told}')
            else:
                report['stopped_with_the_samples_named'] += 1
                if {
                    n: bits(dict(sorted(load_tensors(kept / f'{n}.safetensors').items()))) for n in states[number]
                } != states[number]:
                    report['poisoned_weights'].append(name)
            shutil.rmtree(out)
        training.batches = batches
    return report | dict(seed=seed)


def bad_inputs(cases=10000, seed=0) -> dict:
    "Let tests/test_fuzz.py generate about `cases` bad inputs; its tests fail at anything but an answer or an AshError."
    with tempfile.TemporaryDirectory() as d:
        file = Path(d) / 'tried.json'
        done = subprocess.run(
            [
                sys.executable,
                '-m',
                'pytest',
                '-q',
                '-p',
                'no:cacheprovider',
                str(Path(__file__).parent / 'test_fuzz.py'),
            ],
            capture_output=True,
            text=True,
            env=os.environ | {'ASH_FUZZ_CASES': str(cases // CASES_PER_UNIT + 1), 'ASH_FUZZ_JSON': str(file)},
        )
        tried = json.loads(file.read_text()) if file.exists() else {}
    return dict(
        tried=sum(v for k, v in tried.items() if k.endswith('tried')),
        refused=sum(v for k, v in tried.items() if k.endswith('refused')),
        crashes=done.stdout[-3000:] if done.returncode else 0,
        by_reader=tried,
    )


CASES_PER_UNIT = 42  # inputs that the tests of test_fuzz.py try together for ASH_FUZZ_CASES = 1
PARTS = {'kills': soak, 'flips': flip_bits, 'poisons': poison_steps, 'cases': bad_inputs}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in PARTS:
        p.add_argument(f'--{name}', type=int, default=0)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--json', type=Path, help='file that takes the figures; those of parts that are not run stay')
    args = p.parse_args()
    for name, part in PARTS.items():
        if not (n := getattr(args, name)):
            continue
        figures = part(n, seed=args.seed)
        print(json.dumps({name: figures}, indent=1))
        if args.json:  # a line for each list of numbers
            text = json.dumps(
                (json.loads(args.json.read_text()) if args.json.exists() else {}) | {name: figures}, indent=1
            )
            args.json.write_text(
                re.sub(r'\[\s*([\d.,\s]+?)\s*\]', lambda m: f'[{", ".join(m[1].replace(",", " ").split())}]', text)
                + '\n'
            )


if __name__ == '__main__':
    main()
