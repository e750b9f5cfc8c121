"What we wrote ourselves, against NumPy in float64 and numerical gradients; IoU against its definition by sets."

import math

import numpy as np
import pytest
import torch
from torch.autograd import gradcheck

from ash_nb.core.config import generator
from ash_nb.data.labels import CITYSCAPES, IGNORE, PROTOCOLS
from ash_nb.hallucinators.ash import ASH, AdaINHallucinator, InstanceNorm, modulate, restraint, smooth
from ash_nb.hallucinators.contract import Hallucination, Hallucinator
from ash_nb.methods.learner import Learner, make_stylizer, rate
from ash_nb.methods.losses import (
    adversarial_loss,
    clan_weight_map,
    class_weights,
    feature_loss,
    focal_cross_entropy,
    maxsquare_loss,
    pyramid,
    pyramid_loss,
    segmentation_loss,
    self_information,
    weight_discrepancy,
    weighted_bce,
)
from ash_nb.methods.presets import preset
from ash_nb.methods.step import condition, hallucinate, step
from ash_nb.methods.terms import adversarial, discriminator_input
from ash_nb.networks.adain import NOISE, adain, channel_stats, orthogonal_matrix, perturb, style_distance
from ash_nb.numbers.evaluation import Evaluation, confusion_matrix, iou, predict, score_batch
from ash_nb.runs.batches import class_counts
from ash_nb.runs.training import classwise_rows


def rand(*shape, seed=0, grad=True):
    return torch.randn(shape, generator=generator(seed, *shape), dtype=torch.float64).requires_grad_(grad)


def probs(*shape, seed=0):
    return rand(*shape, seed=seed).softmax(1)


def labels(*shape, classes=5):
    return torch.randint(classes, shape, generator=generator(1, *shape)).masked_fill(
        torch.rand(shape, generator=generator(2, *shape)) < 0.2, IGNORE
    )


def close(ours, theirs, tol=1e-12):
    np.testing.assert_allclose(ours.detach().numpy() if hasattr(ours, 'detach') else ours, theirs, rtol=tol, atol=tol)


# --- forward passes, written again in NumPy


def np_stats(f, eps=1e-5):
    f = np.asarray(f)
    return f.mean((2, 3), keepdims=True), np.sqrt(f.var((2, 3), ddof=1, keepdims=True) + eps)


def test_adain_is_equation_1():
    x, s = rand(2, 3, 5, 4, grad=False).numpy(), 2 + 3 * rand(2, 3, 6, 7, seed=1, grad=False).numpy()
    (mx, sx), (ms, ss) = np_stats(x), np_stats(s)
    close(adain(torch.tensor(x), torch.tensor(s)), ss * (x - mx) / sx + ms)
    low = adain(torch.tensor(x).float(), torch.tensor(s).float())
    assert low.dtype == torch.float32
    close(low, ss * (x - mx) / sx + ms, 1e-5)
    for a, b in zip(channel_stats(adain(torch.tensor(x), torch.tensor(s))), (ms, ss)):
        close(a, b, 1e-4)  # eps alone is between them
    close(
        channel_stats(torch.full((1, 1, 1, 1), 2.0, dtype=torch.float64))[1], [[[[1e-5**0.5]]]]
    )  # a single position has no spread


def test_modulation_is_equation_3():
    f, g, b = (rand(2, 3, 4, 4, seed=k, grad=False) for k in range(3))
    close(modulate(f, g, b, 0.7), f.numpy() * (g.numpy() + 0.7) + b.numpy())
    close(smooth(torch.tensor([[[[1.0]], [[0.0]]]], dtype=torch.float64), 0.1), [[[[0.95]], [[0.05]]]])


def test_noise_is_orthogonal_and_scales_with_its_strength():
    q = orthogonal_matrix(6, generator(0, 'q'), 3, like=rand(1, grad=False))
    close(q @ q.mT, np.broadcast_to(np.eye(6), (3, 6, 6)))
    close(orthogonal_matrix(6, generator(0, 'q'), 1, 0.0, like=rand(1, grad=False)), np.eye(6)[None])
    drawn = torch.randn((1, 6, 6), generator=generator(0, 'q')).double().numpy()
    m, r = np.linalg.qr(0.7 * np.eye(6) + 0.3 * drawn / 6**0.5)
    close(
        orthogonal_matrix(6, generator(0, 'q'), 1, 0.3, like=rand(1, grad=False)),
        m * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :],
    )
    f = rand(2, 6, 5, 8, grad=False)
    close(
        perturb(f, 'orthogonal', 1.0, generator(0, 'z')).square().sum(1), f.square().sum(1)
    )  # a rotation of each position's channels
    for shape in ((2, 3, 5, 8), (2, 3, 8, 5)):
        f = rand(*shape, grad=False)
        v = perturb(f, 'elementwise', 1.0, generator(0, 'z')) / f - 1  # rows, or columns, are orthonormal
        v = v if shape[2] > shape[3] else v.mT
        close(v.mT @ v, np.broadcast_to(np.eye(5), (2, 3, 5, 5)), 1e-9)
        close(
            perturb(f, 'elementwise', 0.25, generator(0, 'z')) / f - 1,
            (0.25 * (v if shape[2] > shape[3] else v.mT)).numpy(),
            1e-9,
        )
    f, drawn = rand(1, 2, 4, 4, grad=False), torch.randn((1, 2, 4, 4), generator=generator(0, 'z')).double().numpy()
    q, r = np.linalg.qr(drawn)
    v = q * np.sign(np.diagonal(r, axis1=-2, axis2=-1))[..., None, :]  # square maps: as the wide ones
    close(perturb(f, 'elementwise', 1.0, generator(0, 'z')) / f - 1, v.swapaxes(-1, -2), 1e-9)
    f = rand(2, 3, 5, 8, grad=False)
    moved = perturb(f, 'stat', 0.5, generator(0, 'z'))
    u = torch.randn((2, 2, 3, 1, 1), generator=generator(0, 'z')).double().numpy()
    mean = f.numpy().mean((2, 3), keepdims=True)
    close(moved, (f.numpy() - mean) * (1 + 0.5 * u[0]) + mean * (1 + 0.5 * u[1]))
    for kind in NOISE:
        close(perturb(f, kind, 0.0, generator(0, 'z')), f)


def test_instance_norm_and_ash():
    x = rand(2, 3, 4, 5, grad=False)
    close(
        InstanceNorm()(x),
        (x.numpy() - x.numpy().mean((2, 3), keepdims=True)) / np.sqrt(x.numpy().var((2, 3), keepdims=True) + 1e-5),
    )
    gamma, beta = ASH(5, 4, 6).double()(probs(2, 5, 16, 24))
    assert gamma.shape == beta.shape == (2, 6, 4, 6) and not torch.equal(gamma, beta)


def np_ce(logits, y):
    z = logits - logits.max(1, keepdims=True)
    return np.take_along_axis(np.log(np.exp(z).sum(1, keepdims=True)) - z, np.where(y == IGNORE, 0, y)[:, None], 1)[
        :, 0
    ]  # -log p of the true class


def test_losses_are_their_formulas():
    x, y = rand(2, 5, 4, 6, grad=False), labels(2, 4, 6)
    ce, known, w = np_ce(x.numpy(), y.numpy()), (y != IGNORE).numpy(), np.array([0.5, 1, 2, 3, 4.0])
    close(focal_cross_entropy(x, y, 0), ce[known].mean())
    close(focal_cross_entropy(x, y, 2), ((1 - np.exp(-ce)) ** 2 * ce)[known].mean())
    close(focal_cross_entropy(x, y, 0, torch.tensor(w)), (w[np.where(known, y.numpy(), 0)] * ce)[known].mean())
    assert focal_cross_entropy(x, torch.full_like(y, IGNORE), 0) == 0
    close(
        focal_cross_entropy(
            x,
            torch.full_like(y, IGNORE).index_put((torch.tensor(1), torch.tensor(2), torch.tensor(3)), torch.tensor(4)),
            0,
        ),
        np_ce(x.numpy(), np.full((2, 4, 6), 4))[1, 2, 3],
    )
    close(segmentation_loss((x, 2 * x), y), ce[known].mean() + np_ce(2 * x.numpy(), y.numpy())[known].mean())
    d, m = rand(2, 1, 4, 6, grad=False), rand(2, 1, 4, 6, seed=3, grad=False).sigmoid()
    p = 1 / (1 + np.exp(-d.numpy()))
    close(adversarial_loss(d, True), -np.log(p).mean())
    close(adversarial_loss(d, False), -np.log(1 - p).mean())
    close(weighted_bce(d, 1, m, 0.4, 10), (-np.log(p) * (0.4 + 10 * m.numpy())).mean())
    close(weighted_bce(d, 0, m), (-np.log(1 - p) * (0.4 + 40 * m.numpy())).mean())
    a, b = probs(2, 5, 3, 4).detach().numpy(), probs(2, 5, 3, 4, seed=1).detach().numpy()
    close(
        clan_weight_map(torch.tensor(a), torch.tensor(b))[:, 0],
        1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1),
    )
    close(self_information(torch.tensor(a)), -a * np.log(a) / math.log(5))
    sizes = np.stack([(a.argmax(1) == k).sum((1, 2)) for k in range(5)], 1)
    weight = 1 / (np.take_along_axis(sizes, a.argmax(1).reshape(2, -1), 1) ** 0.2 * 12**0.8)
    close(maxsquare_loss(torch.tensor(a)), -(weight[:, None] * a.reshape(2, 5, -1) ** 2).sum() / 10)
    close(feature_loss(torch.tensor(a), torch.tensor(b)), ((a - b) ** 2).sum((2, 3)).mean())
    f = rand(2, 3, 8, 8, grad=False).numpy()
    blocks = [f.reshape(2, 3, n, 8 // n, n, 8 // n).mean((3, 5)) for n in (1, 2, 4, 8)]
    for ours, theirs in zip(pyramid(torch.tensor(f)), blocks):
        close(ours, theirs)
    close(
        pyramid_loss(torch.tensor(f), [torch.zeros(2, 3, n, n, dtype=torch.float64) for n in (1, 2, 4, 8)]),
        np.mean([abs(x).mean() for x in blocks]),
    )


def test_class_weights_are_those_of_cui_et_al():
    counts, beta = np.array([5e6, 2e5, 100, 0]), 0.9999
    n = np.maximum(counts / 1000, 1)
    w = (1 - beta) / (1 - beta**n)
    w = np.where(counts > 0, w * 3 / w[:3].sum(), 1)
    close(class_weights(torch.tensor(counts), beta), w, 1e-6)
    close(class_weights(torch.tensor(counts), 0.0), [1, 1, 1, 1], 1e-6)


def hallucinated(*tensors):  # source features, features, style
    source, features, style = tensors
    return Hallucination(
        None, source, features, channel_stats(source), channel_stats(style), channel_stats(features * style)
    )


def test_restraint_is_equations_7_to_9():
    def mse(a, b):
        return ((a - b) ** 2).mean().item()

    def both(a, b):
        return sum(mse(x, y) for x, y in zip(a, b))

    h = hallucinated(*(rand(2, 3, 4, 5, seed=k, grad=False) for k in range(3)))
    content = 2 * mse(h.features, h.source_features)
    style, away = 3 * both(h.stats, h.style_stats), 5 * both(h.stats, h.source_stats)
    close(restraint(h, 2, 3, 5), content + style - away)
    style, away = 3 * mse(channel_stats(h.features)[0], h.stats[0]), 5 * mse(h.stats[0], h.source_stats[0])
    close(restraint(h, 2, 3, 5, 1, 'modulated'), content + style - away)


def test_weight_discrepancy_is_one_plus_the_cosine():
    a, b = (torch.nn.Conv2d(2, 2, 1).double() for _ in range(2))
    u, v = (torch.cat([p.flatten() for p in m.parameters()]).detach().numpy() for m in (a, b))
    close(weight_discrepancy(a, b), 1 + u @ v / np.linalg.norm(u) / np.linalg.norm(v))
    assert abs(weight_discrepancy(a, a).item() - 2) < 1e-12


def test_rates_and_conditions():
    close([rate(k, 100, 0.05, 0.9) for k in (0, 4, 5, 99)], [0.2, 1, 0.95**0.9, 0.01**0.9])
    logits, y = rand(1, 19, 2, 2, grad=False).float(), torch.tensor([[[3, 3, IGNORE, 0]] * 4])
    e = np.exp(logits.numpy())
    close(condition('predictions', logits, y), e / e.sum(1, keepdims=True), 1e-6)
    close(condition('uniform', logits, y), np.full((1, 19, 2, 2), 1 / 19), 1e-6)
    shares = condition('labels', logits, y)
    close(shares[0, :4, 0, 0], [0, 0, 0, 1], 1e-6)
    close(shares[0, :2, 0, 1], [0.5 + 0.5 / 19, 0.5 / 19], 1e-6)
    assert not condition('predictions', logits.requires_grad_(), y).requires_grad


def test_predictions_are_summed_in_float32():
    "In bf16, 256 + 0.5 is 256: a tie that the first class would win."
    large = torch.full((1, 19, 2, 2), 256.0).bfloat16()
    small = torch.zeros(1, 19, 2, 2).index_fill(1, torch.tensor(7), 0.5).bfloat16()

    def heads(images):
        return large, small

    assert (predict(heads, torch.zeros(1, 3, 4, 4), (4, 4)) == 7).all()
    sample = dict(name='x', image=torch.zeros(3, 4, 4), label=torch.full((4, 4), 7))
    ((name, counts),) = score_batch(heads, [sample], 'cpu')
    assert counts[7, 7] == 16 == counts.sum()


def test_the_published_encoder_is_the_encoder(monkeypatch):
    monkeypatch.setattr('ash_nb.official.load_official', lambda kind, path: (kind, path))
    monkeypatch.setattr('ash_nb.methods.learner.Stylizer', lambda encoder, decoder, images: (encoder, decoder))
    assert make_stylizer(preset('gta5', encoder_weights='e.pth', decoder_weights='d.pth')) == (
        ('encoder', 'e.pth'),
        ('decoder', 'd.pth'),
    )


def test_clan_weights_begin_when_the_warm_up_ends():
    learner = Learner(
        preset(
            'streetworld',
            method='clan',
            second_view='stylized',
            body='plain',
            width=64,
            height=64,
            local_weight=10.0,
            warmup=0.5,
            steps=10,
        )
    )
    heads = [rand(1, 19, 8, 8, seed=k, grad=False).float() for k in range(2)]
    plain = adversarial_loss(learner.discriminator(discriminator_input(learner, heads)), True)
    assert adversarial(learner, heads, True, 4) == plain < adversarial(learner, heads, True, 5)


def test_alpha_is_drawn_from_its_range():
    def share(low):
        return AdaINHallucinator(None, alpha=0.5, alpha_min=low).share(500, generator(0, 'a'))

    assert (share(-1.0) == 0.5).all()
    for low in (0.0, 0.2):
        assert low <= share(low).min() < low + 0.01 and 0.49 < share(low).max() <= 0.5


def test_classes_are_counted_in_samples_spread_over_the_data():
    data = [dict(label=torch.full((2, 3), k)) for k in range(6)]
    assert (
        class_counts(data, 19, 3).nonzero().flatten().tolist() == [0, 2, 4] and class_counts(data, 19, 200).sum() == 36
    )


def test_what_is_not_modulated_climbs_the_loss_too():
    p = torch.ones(1, 3, 2, 2, requires_grad=True)
    grad = rand(1, 3, 2, 2, grad=False).float()
    assert Hallucinator().harden(Hallucination(2 * p), grad, None) == {}
    close(p.grad, -2 * grad.numpy(), 1e-6)


def test_each_view_of_a_step_has_its_own_draws():
    learner = Learner(
        preset(
            'streetworld',
            method='domain_randomization',
            body='plain',
            width=64,
            height=64,
            views=2,
            alpha_min=0.1,
            precision='float32',
        )
    )
    images, styles = (torch.rand(1, 3, 64, 64, generator=generator(0, k)) for k in 'xs')
    views = [hallucinate(learner, images, None, torch.cat([styles, styles]), 3, k).images for k in (0, 1, 1)]
    assert torch.equal(views[1], views[2]) and not torch.equal(views[0], views[1])


def test_a_step_leaves_the_batch_as_it_was():
    for method in ('advstyle', 'ash'):
        learner = Learner(preset('streetworld', method=method, body='plain', width=64, height=64, batch_size=2))
        batch = dict(
            images=torch.rand(2, 3, 64, 64, generator=generator(0, 'x')),
            labels=torch.zeros(2, 64, 64, dtype=torch.long),
        )
        before = batch['images'].clone()
        step(learner, *batch.values(), torch.rand(2, 3, 64, 64, generator=generator(0, 's')), 0)
        assert torch.equal(batch['images'], before) and not batch['images'].requires_grad


def test_the_classwise_measurement_moves_nothing():
    learner = Learner(preset('streetworld', method='ash', body='plain', width=64, height=64))
    before = [b.clone() for b in learner.segmenter.buffers()]
    rows = classwise_rows(learner, [torch.rand(1, 3, 64, 64, generator=generator(0, 'x'))], 3)
    assert (
        len(rows) == 19
        and learner.segmenter.training
        and all(torch.equal(a, b) for a, b in zip(before, learner.segmenter.buffers()))
    )


# --- gradients

x, y = (2, 5, 4, 6), (2, 4, 6)
GRADIENTS = {
    'channel_stats': (channel_stats, [rand(2, 3, 4, 5)]),
    'adain': (adain, [rand(2, 3, 4, 5), rand(2, 3, 6, 4, seed=1)]),
    'modulate': (
        lambda f, g, b: modulate(f, g, b, 0.5),
        [rand(1, 2, 6, 8), rand(1, 2, 3, 4, seed=1), rand(1, 2, 3, 4, seed=2)],
    ),
    **{f'noise {k}': (lambda f, k=k: perturb(f, k, 0.7, generator(0, 'z')), [rand(2, 3, 4, 5)]) for k in NOISE},
    'instance norm': (InstanceNorm(), [rand(2, 3, 4, 5)]),
    'ash': (
        lambda p: ASH(3, 2, 2).double().requires_grad_(False)(p) if torch.manual_seed(0) else None,
        [rand(1, 3, 8, 8)],
    ),
    'cross entropy': (lambda a: focal_cross_entropy(a, labels(*y), 0), [rand(*x)]),
    'focal': (lambda a: focal_cross_entropy(a, labels(*y), 2, torch.arange(1.0, 6.0)), [rand(*x)]),
    'segmentation': (lambda a, b: segmentation_loss((a, b), labels(2, 8, 12)), [rand(*x), rand(*x, seed=1)]),
    'adversarial': (lambda a: adversarial_loss(a, True), [rand(2, 1, 3, 4)]),
    'weighted bce': (lambda a, m: weighted_bce(a, 1.0, m, 0.4, 10), [rand(2, 1, 3, 4), rand(2, 1, 3, 4, seed=1)]),
    'clan weights': (lambda a, b: clan_weight_map(a.softmax(1), b.softmax(1)), [rand(*x), rand(*x, seed=1)]),
    'self-information': (lambda a: self_information(a.softmax(1)), [rand(*x)]),
    'maxsquare': (lambda a: maxsquare_loss(a.softmax(1)), [rand(*x)]),
    'pyramid': (
        lambda a: pyramid_loss(a, [p.detach() + 0.3 for p in pyramid(rand(1, 2, 8, 8, seed=4))]),
        [rand(1, 2, 8, 8)],
    ),
    'features': (feature_loss, [rand(2, 3, 2, 2), rand(2, 3, 2, 2, seed=1)]),
    'style distance': (
        lambda a, b: style_distance(channel_stats(a), channel_stats(b)),
        [rand(2, 3, 4, 4), rand(2, 3, 4, 4, seed=1)],
    ),
    **{
        f'restraint {t}': (
            lambda *a, t=t: restraint(hallucinated(*a), 2, 3, 5, target=t),
            [rand(1, 2, 3, 4, seed=k) for k in range(3)],
        )
        for t in ('style', 'modulated')
    },
}


@pytest.mark.parametrize('name', GRADIENTS)
def test_gradients_are_those_of_finite_differences(name):
    function, inputs = GRADIENTS[name]
    assert gradcheck(function, inputs, eps=1e-6, atol=1e-6, rtol=1e-4)


# --- IoU

NAMED = {
    'sky': 'sky',
    'building': 'building',
    'wall': 'building',
    'fence': 'fence',
    'pole': 'pole',
    'traffic light': 'sign symbol',
    'traffic sign': 'sign symbol',
    'vegetation': 'tree',
    'terrain': 'tree',
    'road': 'road',
    'sidewalk': 'pavement',
    'person': 'pedestrian',
    'rider': 'bicyclist',
    'motorcycle': 'bicyclist',
    'bicycle': 'bicyclist',
    'car': 'car',
    'truck': 'car',
    'bus': 'car',
    'train': 'car',
}
LEFT_OUT = {
    '19': set(),
    '16': {'terrain', 'truck', 'train'},
    '13merged': {'wall', 'fence', 'pole', 'terrain', 'truck', 'train'},
    'camvid11': set(),
}


def by_sets(
    prediction, label, protocol
):  # (N, P) each -> (N, classes) IoU as |A and B| / |A or B| over pixels whose true class is scored
    if protocol == '13':
        return by_sets(prediction, label, '16')[
            :, [PROTOCOLS['16'].classes.index(c) for c in CITYSCAPES.classes if c not in LEFT_OUT['13merged']]
        ]
    name = [NAMED[c] if protocol == 'camvid11' else c for c in CITYSCAPES.classes] + ['nothing']
    truth, guess = (np.array(name, object)[np.minimum(ids, 19)] for ids in (label, prediction))
    scored = list(PROTOCOLS[protocol].classes)
    assert set(scored) == {n for c, n in zip(CITYSCAPES.classes, name) if c not in LEFT_OUT[protocol]}
    counted = np.isin(truth, scored)
    a, b = ((np.stack([x == c for c in scored], 1) & counted[:, None]) for x in (truth, guess))
    both, either = (a & b).sum(2), (a | b).sum(2)
    return np.divide(both, either, out=np.full(both.shape, np.nan), where=either > 0)


@pytest.mark.parametrize('protocol', PROTOCOLS)
def test_iou_is_intersection_over_union(protocol, n=2500):
    rng = np.random.default_rng(len(protocol))
    few = rng.integers(1, 20, (n, 1))  # some maps hold few classes, some many
    label, prediction = rng.integers(0, 10**6, (2, n, 40)) % few
    label[rng.random(label.shape) < 0.2] = IGNORE
    label[: n // 50] = IGNORE  # nothing is labelled
    for k, wanted in enumerate(by_sets(prediction, label, protocol)):
        matrix = confusion_matrix(torch.from_numpy(prediction[k]), torch.from_numpy(label[k]))
        values, mean = iou(matrix, protocol)
        np.testing.assert_array_equal(values, wanted)
        assert mean == np.nanmean(wanted) if (wanted == wanted).any() else mean != mean
    assert Evaluation('x', 'val', 1, protocol, matrix).iou == pytest.approx(
        dict(zip(PROTOCOLS[protocol].classes, wanted)), nan_ok=True
    )
