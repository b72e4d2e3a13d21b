"""TIES against its formulas, written out in NumPy float64 on whole flattened models, and against its own variants."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.errors import RequestError, ShapeMismatch
from mats.methods import TiesSettings, elementwise
from mats.methods.thresholds import WholeModels
from mats.methods.ties_trim import TrimRule
from mats.progress import Silent

SHAPES = {"embedding.weight": (37, 6), "layer.bias": (6,), "layer.weight": (6, 6), "scale": ()}


class InMemorySampler:
    """Every entry of the first `count` of each tensor: a poor sample, as the methods must survive."""

    def __init__(self, base, models, stride=1):
        self.base, self.models, self.stride = base, models, stride
        self.calls = 0

    def numel(self, name):
        return self.base[name].numel()

    def sample(self, model, name, count):
        self.calls += 1
        source = self.base if model is None else self.models[model]
        return source[name].flatten()[:: self.stride][:count]


def random_models(count, *, seed=0, spread=1.0, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    base = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in SHAPES.items()}
    models = []
    for _ in range(count):
        factors = {name: spread**k for k, name in enumerate(SHAPES)}  # tensors of different size of change
        models.append(
            {n: (v + factors[n] * torch.randn(v.shape, generator=generator)).to(dtype) for n, v in base.items()}
        )
    return base, models


def run(method, base, models, *, weights=None, sampler=None, device="cpu", order=None):
    """A whole merge the way the engine drives it; returns the merged tensors and how many were merged twice."""
    merge = elementwise(method, weights or [1.0] * len(models))
    names = list(order or base)
    read = lambda source, name: source[name].to(device, copy=True)  # noqa: E731
    merge.prepare(lambda i, n: read(models[i], n), lambda n: read(base, n), names, Silent(), sampler=sampler)
    once = lambda name: merge.merge(name, read(base, name), (read(model, name) for model in models))  # noqa: E731
    merged = {name: once(name) for name in names}
    again = merge.deferred()
    merged |= {name: once(name) for name in again}
    return {name: tensor.cpu() for name, tensor in merged.items()}, again


def published(base, models, *, density=0.2, scale=1.0, zero_votes="majority", weights=None, scope="global"):
    """The published algorithm on the matrix [models, entries], names in alphabetical order, nothing streamed."""
    names = sorted(base)
    flat = lambda state: np.concatenate([state[n].double().numpy().ravel() for n in names])  # noqa: E731
    start = flat(base)
    changes = np.stack([flat(model) - start for model in models])
    changes = changes.astype(np.float32).astype(np.float64)
    sections = [slice(0, start.size)]
    if scope == "tensor":
        ends = np.cumsum([base[n].numel() for n in names])
        sections = [slice(int(e) - base[n].numel(), int(e)) for n, e in zip(names, ends, strict=True)]
    for row, section in itertools.product(changes, sections):
        part = row[section]
        k = part.size - int(part.size * density)
        if k > 0:
            part[np.abs(part) < np.sort(np.abs(part))[k - 1]] = 0.0
    weight = np.ones(len(models)) if weights is None else np.asarray(weights, dtype=float)
    votes = changes * weight[:, None]
    elected = np.sign(votes.sum(0))
    if zero_votes == "majority":
        elected[elected == 0] = np.sign(elected.sum()) or -1.0
    elif zero_votes == "positive":
        elected[elected == 0] = 1.0
    agree = (np.sign(votes) == elected) & (votes != 0)
    mass = (votes * agree).sum(0)
    count = (np.abs(weight)[:, None] * agree).sum(0)
    result = start + scale * mass / np.where(count > 0, count, 1.0)
    ends = np.cumsum([base[n].numel() for n in names])
    return {
        n: torch.from_numpy(result[e - base[n].numel() : e].reshape(tuple(base[n].shape)))
        for n, e in zip(names, ends, strict=True)
    }


def distance(left, right):
    """Largest difference of two entries, relative to the size of the right one (or absolute below 1)."""
    gaps = ((left[n].double() - right[n].double()).abs() / right[n].double().abs().clamp(min=1) for n in left)
    return max(float(gap.max()) for gap in gaps)


@pytest.mark.parametrize("density", [0.05, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_equals_the_published_algorithm(device, count, density):
    base, models = random_models(count, seed=count, spread=3.0)
    expected = published(base, models, density=density, scale=0.7)
    settings = TiesSettings(density=density, scale=0.7)
    for sampler in (None, InMemorySampler(base, models, stride=2)):
        merged, _ = run(settings, base, models, device=device, sampler=sampler)
        assert distance(merged, expected) < 1e-6  # a few fp32 roundings


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_task_vectors_are_taken_in_fp32_whatever_is_stored(dtype):
    """Differences rounded to the stored dtype would tie where they do not, and trim something else."""
    base, models = random_models(3, seed=4, spread=0.2, dtype=dtype)
    expected = published(base, models, density=0.35)
    for sampler in (None, InMemorySampler(base, models)):
        merged, _ = run(TiesSettings(density=0.35), base, models, sampler=sampler)
        assert distance(merged, expected) < 1e-6
    mixed = [{name: value.float() for name, value in models[0].items()}, *models[1:]]
    merged, _ = run(TiesSettings(density=0.35), base, mixed)
    assert distance(merged, published(base, mixed, density=0.35)) < 1e-6


def test_trimming_each_tensor_on_its_own_is_another_method():
    base, models = random_models(3, spread=4.0)
    per_tensor, _ = run(TiesSettings(trim_scope="tensor"), base, models)
    assert distance(per_tensor, published(base, models, scope="tensor")) < 1e-6
    assert distance(per_tensor, published(base, models)) > 0.1


def test_magnitudes_that_tie_are_all_kept():
    """bf16 weights differ by few distinct steps, so ties at the threshold are the rule, not the exception."""
    base = {name: torch.zeros(shape) for name, shape in SHAPES.items()}
    steps = torch.tensor([-0.5, -0.25, 0.25, 0.5, 1.0])
    generator = torch.Generator().manual_seed(3)
    models = [{n: steps[torch.randint(5, s, generator=generator)] for n, s in SHAPES.items()} for _ in range(3)]
    for density in (0.1, 0.2, 0.21, 0.4, 0.7):
        expected = published(base, models, density=density)
        for sampler in (None, InMemorySampler(base, models)):
            merged, _ = run(TiesSettings(density=density), base, models, sampler=sampler)
            assert distance(merged, expected) < 1e-6


def cancelling_models():
    """Two models whose changes cancel exactly at many places, over a majority that only the last tensors decide."""
    base, (first, *_) = random_models(1, seed=5)
    second = {name: 2 * base[name] - value for name, value in first.items()}
    base = {name: torch.zeros_like(value) for name, value in base.items()}
    first = {name: value.round(decimals=1) for name, value in first.items()}
    second = {name: -value for name, value in first.items()}
    first["layer.weight"] = torch.rand(6, 6) + 0.5  # these agree, on positive
    second["layer.weight"] = torch.rand(6, 6) + 0.5
    first["layer.bias"] = -torch.rand(6) - 5.0  # met first, these agree on negative
    second["layer.bias"] = -torch.rand(6) - 5.0
    return base, [first, second]


@pytest.mark.parametrize("rule", ["majority", "zero", "positive"])
def test_votes_that_cancel_follow_the_rule(rule):
    base, models = cancelling_models()
    order = ["layer.bias", "embedding.weight", "scale", "layer.weight"]
    merged, again = run(TiesSettings(density=0.9, zero_votes=rule), base, models, order=order)
    assert distance(merged, published(base, models, density=0.9, zero_votes=rule)) < 1e-6
    if rule == "majority":
        assert "embedding.weight" in again  # merged under the first majority, then once more under the last
    else:
        assert again == ()
    other = "zero" if rule != "zero" else "majority"
    assert distance(merged, published(base, models, density=0.9, zero_votes=other)) > 0.1  # the rule decides something


def test_without_any_majority_cancelled_votes_go_to_the_negative():
    base = {"w": torch.zeros(4)}
    models = [{"w": torch.tensor([1.0, -2.0, 3.0, -1.0])}, {"w": torch.tensor([-1.0, 2.0, -3.0, 1.0])}]
    merged, _ = run(TiesSettings(density=1.0), base, models)
    assert merged["w"].tolist() == [-1.0, -2.0, -3.0, -1.0]


def test_zero_votes_are_only_those_that_were_kept():
    """Where every model was trimmed, nobody votes, and the entry stays at the base whatever the majority."""
    base, models = random_models(2, seed=9)
    merged, again = run(TiesSettings(density=0.1), base, models)
    untouched = sum(int((merged[name] == base[name]).sum()) for name in base)
    assert untouched > 0.7 * sum(value.numel() for value in base.values())
    assert again == ()


def test_weights_count_in_the_vote_and_in_the_mean():
    base, models = random_models(3, seed=11)
    for weights in ([2.0, 1.0, 0.5], [1.0, -1.0, 1.0], [1.0, 0.0, 3.0]):
        merged, _ = run(TiesSettings(), base, models, weights=weights)
        assert distance(merged, published(base, models, weights=weights)) < 1e-6
        assert distance(merged, published(base, models)) > 0.1


@settings(max_examples=25, deadline=None)
@given(
    seed=st.integers(0, 10_000),
    density=st.floats(0.01, 1.0),
    order=st.permutations(range(4)),
    names=st.permutations(list(SHAPES)),
)
def test_neither_the_order_of_models_nor_of_tensors_matters(seed, density, order, names):
    base, models = random_models(4, seed=seed, dtype=torch.bfloat16)
    method = TiesSettings(density=density)
    straight, _ = run(method, base, models)
    shuffled, _ = run(method, base, [models[i] for i in order], order=names)
    assert distance(straight, shuffled) < 1e-6


def test_a_sample_that_misleads_costs_passes_and_not_exactness(monkeypatch):
    base, models = random_models(2, seed=1)
    misleading = InMemorySampler(base, [{n: v + 1e3 for n, v in model.items()} for model in models])
    stages = []
    progress = Silent()
    monkeypatch.setattr(progress, "start", lambda description, total: stages.append(description))
    reader, base_reader = (lambda i, n: models[i][n].clone()), (lambda n: base[n].clone())
    rule = TrimRule("top_k", 0.2)
    found = WholeModels(reader, base_reader, list(base), 2, progress, misleading).cuts(rule)
    exact = WholeModels(reader, base_reader, list(base), 2, Silent()).cuts(rule)
    assert found == exact
    assert len(stages) == 3


def test_tied_and_integer_tensors_count_as_stored():
    """An integer buffer is the base's and takes no part in the threshold."""
    base, models = random_models(2, seed=2)
    expected = published(base, models)
    base = {"steps": torch.arange(500), **base}
    models = [{"steps": torch.arange(500) * 1000, **model} for model in models]
    merged, _ = run(TiesSettings(), base, models)
    assert torch.equal(merged.pop("steps"), torch.arange(500))
    assert distance(merged, expected) < 1e-6


def test_wrong_use_is_refused():
    base, models = random_models(2)
    with pytest.raises(ShapeMismatch, match=r"layer.bias: model 1 has shape \(5,\), expected \(6,\)"):
        run(TiesSettings(trim_scope="tensor"), base, [models[0], {**models[1], "layer.bias": torch.zeros(5)}])
    with pytest.raises(ShapeMismatch, match=r"layer.bias: a model's tensor has shape \(5,\), the base's \(6,\)"):
        run(TiesSettings(), base, [models[0], {**models[1], "layer.bias": torch.zeros(5)}])
    with pytest.raises(RequestError, match=r"ties: the models' weights \[0.0, 0.0\] are all 0"):
        elementwise(TiesSettings(), [0, 0])
    with pytest.raises(RequestError, match="differences from a base model"):
        elementwise(TiesSettings(trim_scope="tensor"), [1]).merge("w", None, [torch.ones(2)])
    with pytest.raises(RuntimeError, match="before TiesMerge"):
        elementwise(TiesSettings(), [1]).merge("w", torch.ones(2), [torch.ones(2)])
