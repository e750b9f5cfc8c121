"Every stylizer that ships keeps one contract, in any precision and at any size, and the judge can tell them apart."

import os
from importlib.resources import files

import pytest
import torch
from conftest import MANY
from hypothesis import given, settings
from hypothesis import strategies as st

from ash_nb.core.config import generator
from ash_nb.data.streetworld.appearances import street
from ash_nb.data.streetworld.paintings import painting
from ash_nb.methods.learner import SHIPPED, Learner, make_stylizer
from ash_nb.methods.presets import preset
from ash_nb.networks.adain import adain
from ash_nb.networks.sharp import SHARP_WEIGHTS
from ash_nb.networks.stylizer import encoder_levels
from ash_nb.numbers.judge import adain_on_rgb, judge, quarter_vgg, untouched

nets = {name: load() for name, load in SHIPPED.items()}
sides = st.integers(9, 41)


def batch(pictures):
    return torch.stack([torch.from_numpy(p).permute(2, 0, 1) / 255 for p in pictures])


@pytest.fixture(scope='module')
def streets():
    drawn = [street(seed) for seed in range(71, 75)]
    return batch([p for p, _ in drawn]), torch.stack([torch.from_numpy(t).long() for _, t in drawn])


@pytest.mark.parametrize('name', nets)
@settings(max_examples=8 * MANY, deadline=None)
@given(sides, sides, sides, sides)
def test_any_size_comes_back_in_its_size(name, h, w, p, q):
    images, styles = torch.rand(2, 3, h, w, generator=generator(h, 'i')), torch.rand(1, 3, p, q)
    features = nets[name].encode(images)
    assert features.shape[1] == nets[name].channels
    made = nets[name].stylize(images, styles)
    assert made.shape == images.shape and 0 <= made.min() and made.max() <= 1


@pytest.mark.parametrize('name', nets)
def test_the_gradient_of_a_picture_reaches_every_channel_and_no_weight(name, streets):
    net, style = nets[name], batch([painting(93)])
    features = adain(net.encode(streets[0][:1]), net.encode(style)).requires_grad_()
    net.decode(features, (180, 240)).square().mean().backward()
    # a channel that is silent under this style may have none
    assert (features.grad.abs().amax((0, 2, 3)) > 0).float().mean() > 0.9
    assert not any(p.requires_grad or p.grad is not None for p in net.parameters())


@pytest.mark.parametrize('name', nets)
@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16, torch.float64])
def test_converted_weights_make_nearly_the_same_picture(name, dtype, streets):
    "A run converts parameters alone: what a network keeps as a buffer has to follow its input."
    net, style = SHIPPED[name](), batch([painting(96)])
    for p in net.parameters():
        p.data = p.data.to(dtype)
    off = net.stylize(streets[0][:1], style).float() - nets[name].stylize(streets[0][:1], style)
    assert off.abs().mean() < (1e-5 if dtype == torch.float64 else 0.03)


@pytest.mark.parametrize('precision', ['bf16', 'float32'])
def test_ash_learns_through_the_sharp_stylizer(precision):
    config = preset('streetworld', method='ash', precision=precision, body='plain', pretrained=False)
    learner = Learner(config)
    assert learner.hallucinator.stylizer.channels == 75
    images, probs = torch.rand(1, 3, 64, 64), torch.full((1, len(learner.space), 16, 16), 1 / len(learner.space))
    made = learner.hallucinator(images, probs, torch.rand(1, 3, 64, 64), generator(0, 'x'))
    made.images.square().mean().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in learner.networks['ash'].parameters())


def test_a_configuration_names_it():
    assert make_stylizer(preset('streetworld')).channels == 75
    assert make_stylizer(preset('streetworld', stylizer='small')).channels == 64


def test_it_ships_in_half_precision_and_under_two_megabytes():
    from ash_nb.core.files import load_tensors

    path = files('ash_nb') / 'weights' / SHARP_WEIGHTS
    assert os.path.getsize(path) < 2e6
    assert {v.dtype for v in load_tensors(path).values()} == {torch.float16}


def test_the_judge_puts_them_in_order(streets, real):
    "The rows that the table of stylizers prints, on a few scenes: who keeps edges, and who reaches textures."
    scenes, labels = streets
    vgg, styles = quarter_vgg(real / 'vgg19_quarter'), batch([painting(seed) for seed in range(93, 97)])
    everybody = {'untouched': untouched, 'rgb': adain_on_rgb, 'vgg': vgg.stylize}
    everybody |= {name: net.stylize for name, net in nets.items()}
    judges = {'vgg': lambda x: encoder_levels(vgg.encoder, x)}
    rows = {name: judge(restyle, scenes, labels, styles, judges) for name, restyle in everybody.items()}
    assert rows['small']['edges'] < 0.6 < 1 < rows['sharp']['edges'] and rows['vgg']['edges'] < 0.8
    for level in (2, 3, 4):
        d = {name: row[f'vgg_statistics_{level}'] for name, row in rows.items()}
        assert d['sharp'] < min(d[name] for name in ('untouched', 'rgb', 'small'))
    assert rows['vgg']['vgg_statistics_4'] < rows['small']['vgg_statistics_4']
