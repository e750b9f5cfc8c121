"Gradients of a step with several backward passes: memory of their own, and the sum of what each pass gives alone."

import copy
import functools
from contextlib import contextmanager
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import ash_nb.networks.segmenter
from ash_nb.hallucinators.contract import HALLUCINATORS, Hallucination, Hallucinator
from ash_nb.methods.learner import Learner, unshare
from ash_nb.methods.presets import preset
from ash_nb.methods.reference import reference_step
from ash_nb.methods.registry import METHODS, adapts, styles_per_image
from ash_nb.methods.step import step
from ash_nb.networks.adain import perturb
from ash_nb.networks.bodies import BODY_KINDS, DeepLabBody, Lite0Body, PlainBody, Residual
from ash_nb.networks.segmenter import Head, _as_product, _by_branch, both_heads


@functools.cache
def _short(convention):
    with torch.random.fork_rng(devices=[]):
        body = DeepLabBody(convention)
    body.layer1, body.layer2, body.layer3, body.layer4 = body.layer1[:1], body.layer2[:1], nn.Identity(), nn.Identity()
    body.features = 512
    return body


def short(convention):
    "The first two blocks of ResNet-101, at stride 8: 512 features in a tenth of the time."
    return copy.deepcopy(_short(convention))


short.early = DeepLabBody.early


class WidePlain(PlainBody):
    "The small body with so many features that its heads are one matrix product."

    features = 264

    def __init__(self):
        super().__init__()
        self.append(Residual(64, self.features))


BUILDS = {
    'plain': ('plain', PlainBody),
    'wide plain': ('plain', WidePlain),
    'lite0': ('lite0', Lite0Body),
    'short resnet101': ('resnet101', short),
    'resnet101': ('resnet101', DeepLabBody),
}


@contextmanager
def body_of(build):
    "Let the segmenter be built with that body."
    name, made = BUILDS[build]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(BODY_KINDS, name, made)
        yield name


def learner_of(build, **changes):
    "A learner in float64 whose heads and discriminator answer something from the first step on."
    with body_of(build) as body:
        small = dict(width=64, height=64, batch_size=2, views=2, steps=10, precision='float32', warmup=0.0)
        c = preset('streetworld', **dict(body=body, pretrained=False, begin=0.0, lambda_adv=0.5) | small | changes)
        if adapts(c):
            c = replace(c, target='streetworld-night')
        learner = Learner(c)
    for n in [*learner.networks.values()] + [learner.hallucinator] * (learner.hallucinator is not None):
        n.double()
    with torch.no_grad():
        segmenter = learner.segmenter
        for net, factor in ((segmenter.head1, 20.0), (segmenter.head2, 30.0), (learner.discriminator, 4.0)):
            for p in net.parameters() if net else ():
                p.mul_(factor)
    return learner


def inputs(c, seed=0):
    "Images, labels, style images and target images of a step."
    g = torch.Generator().manual_seed(seed)

    def draw(n):
        return torch.rand(n, 3, c.height, c.width, generator=g, dtype=torch.float64)

    batch = dict(images=draw(c.batch_size), labels=torch.randint(19, (c.batch_size, c.height, c.width), generator=g))
    styles = draw(c.batch_size * styles_per_image(c))
    return *batch.values(), styles, 3, draw(c.batch_size) if adapts(c) else None


def of(learner):
    named = {f'{k}.{name}': p for k, n in learner.networks.items() for name, p in n.named_parameters()}
    return {k: p.grad for k, p in named.items() if p.grad is not None}


def places(tensors):
    return [t.untyped_storage().data_ptr() for t in tensors]


def alone(a, b, features):
    return a(features), b(features)


@contextmanager
def apart(learner):
    "Add gradients up by hand: each backward pass starts without any, and what it gives is copied before it is added."
    backward, weights = torch.autograd.backward, [p for n in learner.networks.values() for p in n.parameters()]

    def passed(*args, **kw):
        before = [p.grad for p in weights]
        for p in weights:
            p.grad = None
        backward(*args, **kw)
        for p, old in zip(weights, before):
            new = None if p.grad is None else p.grad.clone()
            p.grad = new if old is None else old if new is None else old + new

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.autograd, 'backward', passed)
        patch.setattr(ash_nb.networks.segmenter, 'both_heads', alone)
        yield


def compare(ours, theirs, within=1e-9):
    "Both have the same gradients, up to rounding of the largest of each network."
    assert ours.keys() == theirs.keys() and ours
    largest = {}  # of each network
    for k, g in theirs.items():
        network = k.split('.')[0]
        largest[network] = max(largest.get(network, 0.0), float(g.abs().max()))
    wrong = {}
    for k, g in theirs.items():
        error = float((ours[k] - g).abs().max())
        scale = max(float(g.abs().max()), 1e-6 * largest[k.split('.')[0]])
        if error > within * scale:
            wrong[k] = error
    assert not wrong, wrong


# --- every method, on every body and both paths


@pytest.mark.parametrize('build', [b for b in BUILDS if b != 'resnet101'])
@pytest.mark.parametrize('method', METHODS)
def test_a_step_adds_up_what_each_loss_gives_alone(method, build):
    fast, slow = (learner_of(build, method=method) for _ in range(2))
    given = inputs(fast.config)
    step(fast, *given)
    with apart(slow):
        step(slow, *given)
    grads = of(fast)
    assert len(set(places(grads.values()))) == len(grads), 'two gradients share memory'
    compare(grads, of(slow))


@pytest.mark.parametrize('method', METHODS)
def test_what_is_computed_twice_has_the_same_gradients(method):
    "With checkpointing: the same losses, gradients and statistics, with changed features, two gradients of a pass."
    once, twice = (learner_of('short resnet101', method=method, checkpointing=k) for k in (False, True))
    given = inputs(once.config)
    a, b = step(once, *given), step(twice, *given)
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-12, atol=1e-12)
    compare(of(twice), of(once))
    for u, v in zip(once.segmenter.buffers(), twice.segmenter.buffers()):
        torch.testing.assert_close(u, v, rtol=1e-12, atol=1e-12)


def test_the_papers_body_and_checkpointing():
    "ResNet-101 as it is: the sum of separate passes, and the same with checkpointing."
    c = dict(method='ash_segmentation_loss', batch_size=1)
    fast, slow, again = (learner_of('resnet101', **c, checkpointing=k == 2) for k in range(3))
    given = inputs(fast.config)
    step(fast, *given)
    with apart(slow):
        step(slow, *given)
    step(again, *given)
    assert len(set(places(of(fast).values()))) == len(of(fast))
    compare(of(fast), of(slow))
    compare(of(again), of(fast))


@pytest.mark.parametrize('build', [b for b in BUILDS if b != 'resnet101'])
def test_a_step_is_the_published_one(build):
    "The oracle: Algorithm 1 with nothing shared, its heads one by one."
    fast, slow = (learner_of(build, method='ash') for _ in range(2))
    images, labels, styles, number, _ = inputs(fast.config)
    a = step(fast, images, labels, styles, number)

    def same_noise(features, generator):
        return perturb(features, fast.config.noise, 1.0, generator)

    b = reference_step(slow, images, labels, styles, number, same_noise, literal=False)
    for k in a:
        torch.testing.assert_close(a[k], b[k], rtol=1e-9, atol=1e-12)
    compare(of(fast), of(slow), 1e-7)


@pytest.mark.parametrize('optimizer', ['sgd', 'adamw'])
@pytest.mark.parametrize('method', ['ash', 'gated_dsu', 'asm'])
def test_nothing_that_learns_shares_memory(method, optimizer):
    "Weights, statistics, gradients, what optimizers and the guard keep: each its own."
    learner = learner_of('wide plain', method=method, optimizer=optimizer)
    given = inputs(learner.config)
    learner.guard.remember()
    for _ in range(2):
        step(learner, *given)
    tensors = [t for n in learner.networks.values() for t in (*n.parameters(), *n.buffers())]
    tensors += of(learner).values()
    kept = [v for o in learner.optimizers.values() for s in o.state.values() for v in s.values()]
    tensors += [v for v in kept if isinstance(v, torch.Tensor)]
    tensors += [b for kept in learner.guard.kept for b in kept]
    assert len(set(places(tensors))) == len(tensors)


# --- the heads and the cure, with generated inputs


@settings(max_examples=30, deadline=None)
@given(
    st.sampled_from([_by_branch, _as_product]),
    st.integers(1, 4),
    st.integers(1, 5),
    st.lists(st.integers(1, 9), min_size=1, max_size=4, unique=True),
    st.integers(1, 4),
    st.sampled_from([torch.contiguous_format, torch.channels_last]),
    st.integers(0, 99),
)
def test_heads_after_several_losses(way, classes, features, dilations, losses, order, seed):
    torch.manual_seed(seed)
    heads = [Head(features, classes, dilations).double().to(memory_format=order) for _ in range(2)]
    x, factors = torch.randn(2, features, 6, 7, dtype=torch.float64), torch.randn(losses, 2, dtype=torch.float64)
    weights = [p for h in heads for p in h.parameters()]

    def summed(answer):
        for p in weights:
            p.grad = None
        for u, v in factors:
            a, b = answer()
            (u * a.square().sum() + v * b.sin().sum()).backward()
        return [p.grad for p in weights]

    found = summed(lambda: way(list(zip(heads[0].branches, heads[1].branches)), x).chunk(2, 1))
    assert len(set(places(found))) == len(found)
    for a, b in zip(found, summed(lambda: alone(*heads, x))):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize('features', [256, 257])
def test_both_heads_take_the_path_that_their_width_says(features, monkeypatch):
    taken = []

    def told(way):
        return lambda pairs, x: taken.append(way) or way(pairs, x)

    monkeypatch.setattr(ash_nb.networks.segmenter, '_as_product', told(_as_product))
    monkeypatch.setattr(ash_nb.networks.segmenter, '_by_branch', told(_by_branch))
    both_heads(Head(features, 2), Head(features, 2), torch.zeros(1, features, 3, 3))
    assert taken == [_as_product if features > 256 else _by_branch]


@settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.integers(1, 4))
def test_gradients_that_share_memory_are_parted(of_which, passes):
    "Parameters whose views are summed, in groups: the gradient of each is that of one pass, times the passes."
    weights = [torch.zeros(1, 3, requires_grad=True) for _ in of_which]
    for _ in range(passes):
        terms = []
        for group in set(of_which):
            together = sum(w.view(-1) for w, k in zip(weights, of_which) if k == group)
            terms.append((group + 1) * together)
        sum(terms).sum().backward()
        unshare(weights)
    assert len(set(places([w.grad for w in weights]))) == len(weights)
    for w, k in zip(weights, of_which):
        assert w.grad.tolist() == [[passes * (k + 1.0)] * 3]


class Added(Hallucinator):
    "A hallucinator whose two weights are joined as in a sum of views, as anybody's may be."

    copies = 3

    def __init__(self, config, stylizer=None):
        super().__init__()
        self.one, self.two = (nn.Parameter(torch.zeros(1, 3)) for _ in range(2))
        self.learned = {'added': self}

    def forward(self, images, probs, styles, generator):
        return Hallucination(images.detach() + 2 * (self.one.view(-1) + self.two.view(-1)).view(1, 3, 1, 1))


def test_somebody_elses_hallucinator(monkeypatch):
    monkeypatch.setitem(HALLUCINATORS, 'added', Added)
    monkeypatch.setitem(METHODS, 'added', replace(METHODS['randconv'], name='added', hallucinator='added'))
    fast, slow = (learner_of('plain', method='added') for _ in range(2))
    given = inputs(fast.config)
    step(fast, *given)
    with apart(slow):
        step(slow, *given)
    compare(of(fast), of(slow))
    assert torch.equal(fast.hallucinator.one.grad, fast.hallucinator.two.grad)
