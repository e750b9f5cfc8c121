"What a user can get wrong, at every entry point: one sentence, exit code 2, nothing half done."

import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from ash_nb.cli import main
from ash_nb.core.config import field_table
from ash_nb.core.files import load_tensors, write_json
from ash_nb.methods.presets import preset
from ash_nb.runs.folder import load_run
from ash_nb.runs.training import train

tiny = preset(
    'streetworld',
    method='ash',
    body='plain',
    scenes=6,
    width=96,
    height=64,
    test_width=96,
    test_height=64,
    batch_size=2,
    steps=4,
    log_every=1,
    checkpoint_every=2,
    classwise_every=2,
)
words = [
    f'{k}={getattr(tiny, k)}'
    for k in (
        'body',
        'scenes',
        'width',
        'height',
        'test_width',
        'test_height',
        'batch_size',
        'log_every',
        'checkpoint_every',
        'classwise_every',
    )
]
options = ['--steps', '4', '--device', 'cpu', *(x for w in words for x in ('--set', w))]


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    return train(tiny, tmp_path_factory.mktemp('runs') / 'a', device='cpu', progress=False)


def fails(capsys, *args, says):
    assert main([str(a) for a in args]) == 2
    error = capsys.readouterr().err
    assert says in error and 'Traceback' not in error and error.splitlines()[-1].startswith('ash-nb')
    return error


def camvid(root, image=(48, 36), label=(48, 36), ids=3):
    for folder in ('val', 'valannot'):
        (root / folder).mkdir(parents=True)
    Image.fromarray(np.zeros((*image[::-1], 3), np.uint8)).save(root / 'val' / 'a.png')
    Image.fromarray(np.full(label[::-1], ids, np.uint8)).save(root / 'valannot' / 'a.png')
    return root


def test_train_again_resumes_or_says_that_it_is_finished(tmp_path, capsys):
    args = ['train', '--method', 'ash', '--out', str(tmp_path / 'a'), *options]
    assert main(args) == 0 and 'finished after 4 steps' in capsys.readouterr().out
    stamp = (tmp_path / 'a' / 'metrics.csv').stat().st_mtime_ns
    assert main(args) == 0 and (tmp_path / 'a' / 'metrics.csv').stat().st_mtime_ns == stamp


def test_evaluate_writes_the_promised_json(run, tmp_path, capsys):
    import json

    root = camvid(tmp_path / 'camvid')
    assert (
        main(
            [
                'evaluate',
                str(run.path),
                '--target',
                'camvid',
                '--root',
                str(root),
                '--json',
                str(tmp_path / 'out.json'),
                '--device',
                'cpu',
            ]
        )
        == 0
    )
    record = json.loads((tmp_path / 'out.json').read_text())
    assert (
        set(record) - {'rule', 'rule_hash', 'protocols'}
        == {'target', 'split', 'images', 'protocol', 'miou', 'iou', 'mean_over', 'classes'}
        and record['rule'] == 'ash'
        and record['protocol'] == 'camvid11'
        and record['images'] == 1
    )
    assert len(record['iou']) == 11 and 0 <= record['miou'] <= 1 and record['mean_over'] == 'truth_or_prediction'
    seen = [v for v in record['iou'].values() if v is not None]
    assert len(record['classes']) == len(seen) and record['miou'] == pytest.approx(np.mean(seen))
    printed = capsys.readouterr().out
    assert f'over {len(seen)} of 11 classes (in neither truth nor prediction: ' in printed
    if len(seen) > 1:
        assert 'over the classes in the truth mIoU' in printed and '1 of 11 classes (not in the truth: ' in printed


@pytest.mark.parametrize(
    'change, says',
    [
        (dict(image=(50, 36)), 'is 50 x 36 but its label'),
        (dict(ids=77), 'unknown label id 77'),
    ],
)
def test_bad_pairs_are_named(run, tmp_path, capsys, change, says):
    error = fails(
        capsys, 'evaluate', run.path, '--target', 'camvid', '--root', camvid(tmp_path / 'c', **change), says=says
    )
    assert 'a.png' in error


def test_missing_label_unreadable_image_missing_folder(run, tmp_path, capsys):
    evaluate = ('evaluate', run.path, '--target', 'camvid', '--root')
    fails(capsys, *evaluate, tmp_path / 'nothing', says='is not a folder')
    root = camvid(tmp_path / 'c')
    (root / 'valannot' / 'a.png').rename(root / 'valannot' / 'b.png')
    fails(capsys, *evaluate, root, says='no label for')
    (root / 'valannot' / 'b.png').rename(root / 'valannot' / 'a.png')
    (root / 'val' / 'a.png').write_bytes((root / 'val' / 'a.png').read_bytes()[:50])
    fails(capsys, *evaluate, root, says='cannot be read as an image')
    fails(capsys, 'evaluate', run.path, '--target', 'cityscapes', says='where is cityscapes? Say --root cityscapes=DIR')


@pytest.mark.parametrize(
    'args, says',
    [
        (['--method', 'asch'], "unknown method 'asch'"),
        (['--preset', 'streetwrold'], "unknown preset 'streetwrold'"),
        (['--set', 'lambda=1'], "unknown configuration field 'lambda'"),
        (['--set', 'lambda_adv'], 'expected FIELD=VALUE'),
        (['--steps', '0'], '--steps 0: expected a whole number, 1 or more'),
        (['--seed', '-1'], '--seed -1: expected a whole number, 0 or more'),
        (['--device', 'gpu'], "unknown device 'gpu'"),
        (['--set', 'styles=no-such-folder'], 'no-such-folder is not a folder'),
    ],
)
def test_wrong_words(tmp_path, capsys, args, says):
    given = dict(zip(args[::2], args[1::2]))
    base = [
        x
        for k, v in (('--preset', 'streetworld'), ('--device', 'cpu'), ('--steps', '4'))
        if k not in given
        for x in (k, v)
    ]
    fails(capsys, 'train', '--out', tmp_path / 'a', *base, *[x for w in words for x in ('--set', w)], *args, says=says)


def test_missing_training_data_is_told_first(tmp_path, capsys):
    fails(
        capsys,
        'train',
        '--preset',
        'gta5',
        '--out',
        tmp_path / 'a',
        '--device',
        'cpu',
        says='where is gta5? Say --root gta5=DIR',
    )
    fails(
        capsys,
        'train',
        '--preset',
        'gta5',
        '--root',
        tmp_path / 'gta5',
        '--out',
        tmp_path / 'a',
        '--device',
        'cpu',
        says='is not a folder: expected GTA5',
    )
    assert not (tmp_path / 'a').exists()


def test_another_configuration_is_refused_with_the_difference(run, capsys):
    before = {p: p.read_bytes() for p in run.path.rglob('*') if p.is_file()}
    fails(
        capsys,
        'train',
        '--method',
        'ash',
        '--seed',
        '3',
        '--out',
        run.path,
        *options,
        says='seed is 0 there and 3 here',
    )
    assert {p: p.read_bytes() for p in run.path.rglob('*') if p.is_file()} == before


def test_folders_that_are_no_runs(tmp_path, capsys):
    fails(capsys, 'figures', tmp_path / 'nothing', says='is not a run folder')
    write_json(tmp_path / 'config.json', {'config': {'method': 'ash', 'colour': 1}}, sealed=True)
    fails(capsys, 'evaluate', tmp_path, '--target', 'unseen', says='another version of ash_nb')
    (tmp_path / 'config.json').write_text((tmp_path / 'config.json').read_text().replace('ash', 'asm'))
    fails(capsys, 'evaluate', tmp_path, '--target', 'unseen', says='config.json is damaged or was edited')
    (tmp_path / 'config.json').write_text('{')
    fails(capsys, 'evaluate', tmp_path, '--target', 'unseen', says='cannot be read as JSON')


def test_stylize(run, tmp_path, capsys):
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / 'a.png')
    assert (
        main(
            [
                'stylize',
                str(tmp_path / 'a.png'),
                str(tmp_path / 'a.png'),
                '--run',
                str(run.path),
                '--out',
                str(tmp_path / 'o.png'),
            ]
        )
        == 0
    )
    assert Image.open(tmp_path / 'o.png').size == (80, 64)
    fails(
        capsys, 'stylize', tmp_path / 'b.png', tmp_path / 'a.png', '--out', tmp_path / 'o.png', says='b.png is missing'
    )
    fails(
        capsys,
        'stylize',
        tmp_path / 'a.png',
        tmp_path / 'a.png',
        '--out',
        tmp_path / 'o.png',
        '--alpha',
        '-1',
        says='alpha = -1',
    )


def test_unwritable_run_folder(tmp_path, capsys):
    (tmp_path / 'file').write_text('')
    fails(capsys, 'train', '--out', tmp_path / 'file' / 'a', *options, says='cannot write')


def test_full_disk_keeps_the_last_good_checkpoint(tmp_path):
    "A limit on file size is the kernel's own refusal to write, as a full disk's is."
    code = (
        'import resource, signal, sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n'
        'from ash_nb.cli import main\nfrom ash_nb.runs.training import Run\nold = Run.save_checkpoint\n'
        'def save(self, learner, step):\n'
        '    if step > 2: resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))\n'
        '    old(self, learner, step)\n'
        'Run.save_checkpoint = save\nsys.exit(main(sys.argv[1:]))'
    )
    args = ['train', '--method', 'ash', '--out', str(tmp_path / 'a'), *options]
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert (
        done.returncode == 2
        and 'cannot write' in done.stderr
        and 'File too large' in done.stderr
        and 'Traceback' not in done.stderr
    ), done.stderr
    last = load_run(tmp_path / 'a').checkpoints[-1]
    assert last.name == 'step-0000002' and load_tensors(last / 'segmenter.safetensors')
    assert main(args) == 0 and load_run(tmp_path / 'a').finished


def test_a_stopped_run_ends_with_the_same_bits(run, tmp_path):
    args = ['train', '--method', 'ash', '--out', str(tmp_path / 'a'), *options]
    code = (
        'import os, signal, sys\nfrom ash_nb.cli import main\nimport ash_nb.runs.training\n'
        'old = ash_nb.runs.training.step\n'
        'def step(learner, images, labels, styles, number, target=None):\n'
        '    if number == 2: os.kill(os.getpid(), signal.SIGTERM)\n'
        '    return old(learner, images, labels, styles, number, target)\n'
        'ash_nb.runs.training.step = step\nsys.exit(main(sys.argv[1:]))'
    )
    done = subprocess.run([sys.executable, '-c', code, *args], capture_output=True, text=True)
    assert done.returncode == 130 and 'run the same command again' in done.stderr, done.stderr
    assert load_run(tmp_path / 'a').checkpoints[-1].name == 'step-0000003'
    assert main(args) == 0
    for name in ('segmenter', 'ash', 'discriminator'):
        a, b = (load_tensors(r / f'checkpoints/step-0000004/{name}.safetensors') for r in (run.path, tmp_path / 'a'))
        assert all((a[k] == b[k]).all() for k in a)
    assert (tmp_path / 'a' / 'metrics.csv').read_text() == (run.path / 'metrics.csv').read_text()


# --- whole numbers

NUMBERS = [
    ('train', '--steps', 1),
    ('train', '--seed', 0),
    ('train', '--workers', 0),
    ('evaluate', '--images', 1),
    ('compare', '--images', 1),
    ('compare', '--seeds', 1),
    ('compare', '--steps', 1),
    ('compare', '--workers', 0),
    ('predict', '--batch-size', 1),
    ('stylize', '--seed', 0),
    ('stylize', '--limit', 1),
    ('prepare', '--workers', 0),
    ('demo', '--steps', 1),
    ('bench', '--repeats', 1),
    ('figures', '--dpi', 1),
]
NEEDED = {
    'train': ['--out', 'nowhere/a'],
    'evaluate': ['nowhere/a', '--target', 'unseen'],
    'compare': ['--methods', 'ash', '--out', 'nowhere/a'],
    'predict': ['nowhere/a', 'a.png', '--out', 'nowhere/b'],
    'stylize': ['a.png', 'b.png', '--out', 'nowhere/a.png'],
    'prepare': ['gta5'],
    'demo': ['--out', 'nowhere/a'],
    'bench': ['step'],
    'figures': ['nowhere/a', '--format', 'pdf'],
}


@pytest.mark.parametrize('verb, option, least', NUMBERS)
def test_every_whole_number_is_checked_before_anything_is_done(verb, option, least, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for odd in (str(least - 1), '-7', '1.5', 'nan', 'x', ''):
        error = fails(
            capsys, verb, *NEEDED[verb], option, odd, says=f'{option} {odd}: expected a whole number, {least} or more'
        )
        assert len(error.splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_no_option_takes_any_integer():
    "Whoever adds an option for a number says what is allowed."
    from ash_nb.cli import parser

    verbs = next(a for a in parser()._actions if a.choices).choices
    assert not [(v, a.option_strings) for v, p in verbs.items() for a in p._actions if a.type is int]
    assert {
        (v, a.option_strings[0])
        for v, p in verbs.items()
        for a in p._actions
        if getattr(a.type, '__name__', '') == 'kind'
    } == {(v, o) for v, o, _ in NUMBERS}


@pytest.mark.parametrize('size', ['0x0', '0x720', '1280x-1', '1280', 'axb', '1280x720x3', 'nanxnan'])
def test_a_size_has_two_sides(tmp_path, capsys, size):
    fails(
        capsys,
        'prepare',
        'gta5',
        '--root',
        tmp_path,
        '--out',
        tmp_path / 'o',
        '--size',
        size,
        says=f'--size {size}: expected WIDTHxHEIGHT',
    )


@pytest.mark.parametrize('alpha', ['nan', 'inf', '-0.1', '1.1'])
def test_alpha_is_a_share(tmp_path, capsys, alpha):
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / 'a.png')
    fails(
        capsys,
        'stylize',
        tmp_path / 'a.png',
        tmp_path / 'a.png',
        '--out',
        tmp_path / 'o.png',
        '--alpha',
        alpha,
        says='alpha = ',
    )
    assert not (tmp_path / 'o.png').exists()


# --- a reader that goes away


def piped(*args, unbuffered=False):  # (exit code, error) of a verb whose output nobody reads
    import os

    read, write = os.pipe()
    os.close(read)
    env = os.environ | ({'PYTHONUNBUFFERED': '1'} if unbuffered else {})
    done = subprocess.run(
        [sys.executable, '-m', 'ash_nb.cli', *map(str, args)], stdout=write, stderr=subprocess.PIPE, text=True, env=env
    )
    os.close(write)
    return done.returncode, done.stderr


@pytest.mark.parametrize('unbuffered', [False, True])
def test_a_closed_pipe_ends_quietly_with_every_file_written(run, tmp_path, unbuffered):
    evaluate = [
        'evaluate',
        run.path,
        '--target',
        'camvid',
        '--root',
        camvid(tmp_path / 'camvid'),
        '--json',
        tmp_path / 'o.json',
        '--device',
        'cpu',
    ]
    compare = [
        'compare',
        '--methods',
        'source_only',
        '--seeds',
        '1',
        '--target',
        'streetworld-fog',
        '--images',
        '2',
        '--out',
        tmp_path / 'c',
        *options,
    ]
    Image.fromarray(np.zeros((64, 80, 3), np.uint8)).save(tmp_path / 'a.png')
    verbs = {
        'methods': ['methods'],
        'fields': ['fields'],
        'help': ['--help'],
        'train help': ['train', '--help'],
        'forecast': ['train', '--forecast'],
        'evaluate': evaluate,
        'train': ['train', '--out', tmp_path / 't', *options],
        'compare': compare,
        'stylize': ['stylize', tmp_path / 'a.png', tmp_path / 'a.png', '--out', tmp_path / 's.png'],
        'predict': ['predict', run.path, tmp_path / 'a.png', '--out', tmp_path / 'p', '--device', 'cpu'],
        'figures': ['figures', run.path],
        'bench': ['bench', 'step', '--size', 'tiny', '--repeats', '1', '--json', tmp_path / 'b.json'],
    }
    short = ('evaluate', 'train', 'compare') if unbuffered else tuple(verbs)
    for name, args in verbs.items():
        if name not in short:
            continue
        code, error = piped(*args, unbuffered=unbuffered)
        assert code in (0, 141), (name, code, error)
        for word in ('Traceback', 'BrokenPipe', 'Exception ignored'):
            assert word not in error, (name, error)
    for name in (
        'o.json',
        't/metrics.csv',
        'c/runs.csv',
        'c/table.csv',
        'c/report.html',
        *(() if unbuffered else ('b.json', 's.png')),
    ):
        assert (tmp_path / name).is_file(), name
    assert unbuffered or (run.path / 'report.html').is_file()


def test_a_mistake_keeps_its_code_when_nobody_reads(tmp_path):
    code, error = piped('evaluate', tmp_path / 'nothing', '--target', 'unseen')
    assert code == 2 and 'is not a run folder' in error


def test_head_reads_a_line(tmp_path):
    code = f'set -o pipefail; {sys.executable} -m ash_nb.cli methods | head -1'
    done = subprocess.run(['bash', '-c', code], capture_output=True, text=True)
    assert done.stdout.startswith('method') and done.stderr == '' and done.returncode in (0, 141)


def test_a_broken_connection_that_is_not_the_output_is_told(monkeypatch):
    def broken(args):
        raise BrokenPipeError(32, 'Broken pipe')

    monkeypatch.setattr('ash_nb.cli._methods', broken)
    with pytest.raises(BrokenPipeError):
        main(['methods'])


def test_fields_are_listed_by_group_in_120_columns(capsys):
    assert main(['fields']) == 0
    lines = capsys.readouterr().out.splitlines()
    listed = [line.split()[0] for line in lines[1:] if line[0] != ' ' or line[2] != ' ']
    rows = field_table()
    expected = [r['field'] for r in rows]
    for group in ('schedule', 'method', 'networks', 'data'):
        expected.insert([r['group'] for r in rows].index(group), group)
    assert listed == expected and max(map(len, lines)) <= 120


def test_fields_are_found_by_a_part_of_the_name(capsys):
    assert main(['fields', 'lr', 'networks']) == 0
    out = capsys.readouterr().out
    assert 'head_lr_mult' in out and 'rate of the heads over the rate of the body' in out and 'stylizer' in out
    assert 'lambda_adv' not in out


@pytest.mark.parametrize(
    'word, says',
    [
        ('lamda', "no field of the configuration is called 'lamda': did you mean lambda_adv"),
        ('steeps', "no field of the configuration is called 'steeps': did you mean steps"),
        ('qqqq', "no field of the configuration is called 'qqqq': ash-nb fields lists them all"),
    ],
)
def test_an_unknown_field_is_answered_by_near_ones(capsys, word, says):
    fails(capsys, 'fields', word, says=says)


def test_help_of_train_says_where_fields_are_listed(capsys):
    with pytest.raises(SystemExit):
        main(['train', '--help'])
    assert '`ash-nb fields` lists them' in ' '.join(capsys.readouterr().out.split())


def test_methods_name_their_papers_and_plug_ins_come_last(tmp_path, monkeypatch):
    found = 'from ash_nb.methods.registry import Method, add_method'
    own = "add_method(Method('aaa_mine', 'x', paper='Doe et al., ICCV 2031'))"
    (tmp_path / 'mine.py').write_text(f'{found}\n{own}\n')
    monkeypatch.setenv('ASH_NB_PLUGINS', 'mine')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path), prepend=os.pathsep)
    command = [sys.executable, '-m', 'ash_nb.cli', 'methods']
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    assert lines[-1].split(maxsplit=2) == ['aaa_mine', 'none', 'x; Doe et al., ICCV 2031']
    assert any(line.endswith('adversarial loss only; Tjio et al., WACV 2022') for line in lines)
