"Averages of weights: what is judged is what is scored, predicted and kept; a half-made average is made again."

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ash_nb
from ash_nb.cli import main
from ash_nb.core.config import AshError
from ash_nb.core.files import load_tensors, read_json, recorded_digest, write_json
from ash_nb.methods.average import Average
from ash_nb.runs.averages import average_checkpoints, mean_of
from ash_nb.runs.folder import judged, load_run

SMALL = dict(body='plain', pretrained=False, scenes=4, width=96, height=64, batch_size=2, steps=4, checkpoint_every=1)
SMALL |= dict(keep_checkpoints=4, log_every=1, precision='float32', method='source_only', ema=0.6)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    config = ash_nb.preset('streetworld', **SMALL)
    return ash_nb.train(config, tmp_path_factory.mktemp('runs') / 'a', 'cpu', 0, progress=False)


def test_the_average_of_a_run_is_that_of_the_formula(run):
    last = [load_tensors(p / 'segmenter.safetensors') for p in run.checkpoints]
    kept = [load_tensors(p / 'segmenter_ema.safetensors') for p in run.checkpoints]
    names = [n for n, _ in run.learner().segmenter.named_parameters()]
    for k in last[0]:
        mean = last[0][k].double().numpy()
        for t, (w, e) in enumerate(zip(last, kept)):
            a = min(1 - 1 / (t + 1), 0.6)
            mean = a * mean + (1 - a) * w[k].double().numpy() if k in names else w[k].numpy()
            assert np.allclose(e[k].numpy(), mean, atol=1e-6), (k, t)


def test_what_is_judged_is_what_is_scored(run):
    ash_nb.evaluate_run(run, 'streetworld-fog', images=2)
    key = read_json(next((run.path / 'evaluations').glob('streetworld-fog-*.json')))['key']
    assert key['weights'] == recorded_digest(judged(run.checkpoints[-1]))
    assert judged(run.checkpoints[-1]).name == 'segmenter_ema.safetensors'
    picture = torch.randint(256, (3, 64, 96), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    a = run.predict(picture, True)
    plain = run.learner()
    plain.segmenter.load_state_dict(load_tensors(run.checkpoints[-1] / 'segmenter.safetensors'))
    assert a.shape == (19, 64, 96) and not torch.equal(
        next(run.learner().segmenter.parameters()), next(plain.segmenter.parameters())
    )


def test_the_command_line_chooses_a_checkpoint(run, tmp_path, capsys):
    ask = ['evaluate', str(run.path), '--target', 'streetworld-fog', '--images', '2', '--device', 'cpu']
    scores = {}
    for which in ('last', 'best_on_source', 'average'):
        file = tmp_path / f'{which}.json'
        assert main([*ask, '--checkpoint', which, '--json', str(file)]) == 0, capsys.readouterr().err
        scores[which] = read_json(file)['miou']
    again = load_run(run.path / 'average')
    assert again.record['averaged']['norm']['access'] == 'source'
    assert scores['average'] == ash_nb.evaluate_run(again, 'streetworld-fog', images=2).miou
    assert main([*ask, '--checkpoint', 'newest']) == 2
    assert 'choose one of last, best_on_source, average' in capsys.readouterr().err


def test_a_half_made_average_is_made_again(run, tmp_path):
    made = average_checkpoints(run, out=tmp_path / 'mean', images=4)
    whole = load_tensors(judged(made.checkpoints[-1]))
    record = dict(made.record)
    record['averaged'] = {k: v for k, v in record['averaged'].items() if k != 'norm'}
    write_json(made.path / 'config.json', record, sealed=True)  # killed before its statistics were estimated
    judged(made.checkpoints[-1]).unlink()
    again = load_tensors(judged(average_checkpoints(run, out=tmp_path / 'mean', images=4).checkpoints[-1]))
    assert all(torch.equal(v, again[k]) for k, v in whole.items())
    with pytest.raises(AshError, match='state.pt is missing'):  # it is no run to go on with
        ash_nb.train(made.config, made.path, 'cpu', 0, progress=False)


@given(st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=30), st.floats(0, 0.999))
@settings(max_examples=80, deadline=None)
def test_an_average_lies_between_what_it_has_seen(walk, ema):
    net = nn.Linear(1, 1, bias=False)
    average, by_hand = Average(net, ema), None
    for t, w in enumerate(walk):
        net.weight.data.fill_(w)
        average.update(t)
        a = min(1 - 1 / (t + 1), ema)
        by_hand = w if t == 0 else a * by_hand + (1 - a) * w
    got = float(average.weights[0])
    assert abs(got - by_hand) < 1e-4 and min(walk) - 1e-5 <= got <= max(walk) + 1e-5


@given(st.integers(1, 5), st.integers(0, 2**31))
@settings(max_examples=40, deadline=None)
def test_the_mean_of_states_is_numpys(n, seed):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n, 3, 2)).astype(np.float32)
    states = [
        {'body.w': torch.from_numpy(v), 'head.w': torch.from_numpy(v + 1), 'n': torch.tensor(k)}
        for k, v in enumerate(values)
    ]
    whole, body = mean_of(states), mean_of(states, 'body.')
    assert np.allclose(whole['body.w'], values.astype(np.float64).mean(0), atol=1e-7) and int(whole['n']) == n - 1
    assert np.allclose(whole['head.w'], values.mean(0) + 1, atol=1e-6)
    assert torch.equal(body['head.w'], states[0]['head.w']) and torch.equal(body['body.w'], whole['body.w'])
