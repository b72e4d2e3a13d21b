"""Curvature of a regression: a Gaussian likelihood of variance 1, against autograd in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from curvature_comparison import errors, largest_difference
from curvature_models import classification_batch, sharpened, tiny_bert
from curvature_oracle import oracle, relative_error
from torch import Tensor, nn

from mats.curvature import CollectionSettings, collect
from mats.curvature.labels import normals
from mats.curvature.losses import regression_losses
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch
from mats.errors import InputsMismatch

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")


def tiny_regressor() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(2)
    shape: dict[str, Any] = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = BertConfig(vocab_size=23, intermediate_size=16, max_position_embeddings=20, num_labels=1, **shape)
    return sharpened(BertForSequenceClassification(config))


def regression_batch(count: int, first: int = 0) -> Batch:
    labels = torch.tensor([0.5 * (n % 7) - 1 for n in range(first, first + count)])
    return replace(classification_batch(count, first), task="text_regression", labels=labels)


def measured(model: nn.Module, **settings: Any) -> Any:
    batches = [regression_batch(4), regression_batch(3, 4)]
    return collect(model, batches, replace(EVERYTHING, **settings))


def squared(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    """½ (y − f)²."""
    yield 1.0, (batch.labels[0].double() - logits[0, 0]) ** 2 / 2


def gaussian(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    """E over y ~ N(f, 1) by Gauss–Hermite quadrature: exact for the gradients' products up to the fourth."""
    points, weights = torch.tensor([-(3**0.5), 0.0, 3**0.5]), torch.tensor([1 / 6, 2 / 3, 1 / 6])
    for point, weight in zip(points.double(), weights.double(), strict=True):
        yield float(weight), (logits[0, 0].detach() + point - logits[0, 0]) ** 2 / 2


def drawn(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    noise = normals(3, batch.example_ids)[0]
    yield 1.0, (logits[0, 0].detach() + noise - logits[0, 0]) ** 2 / 2


@pytest.mark.parametrize(("labels", "losses"), [("empirical", squared), ("exact", gaussian), ("sampled", drawn)])
def test_all_statistics_equal_those_of_autograd(labels: str, losses: Any) -> None:
    model = tiny_regressor()
    truth = oracle(model, [(1.0, regression_batch(1, n)) for n in range(7)], losses)
    plan, sums = measured(model, labels=labels, seed=3)
    found = errors(plan, sums, truth)
    assert set(found) == set(STATISTICS)
    assert max(found.values()) < 1e-6, found
    for layer in plan.layers:
        expected = truth.output_fourth[layer.weight, layer.kind]
        assert sums.fourth_moments[f"layer:{layer.name}"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("labels", "losses"), [("empirical", gaussian), ("exact", squared), ("sampled", squared)])
def test_the_comparison_tells_labels_apart(labels: str, losses: Any) -> None:
    model = tiny_regressor()
    truth = oracle(model, [(1.0, regression_batch(1, n)) for n in range(7)], losses)
    plan, sums = measured(model, labels=labels, seed=3)
    assert errors(plan, sums, truth)["output_gram"] > 0.1


def test_draws_average_to_the_expectation_and_do_not_depend_on_batches() -> None:
    model = tiny_regressor()
    key = "output_gram/bert.pooler.dense"
    exact = measured(model, labels="exact")[1]
    total = torch.zeros_like(exact.tensors[key])
    many = [regression_batch(32)]
    expected = collect(model, many, replace(EVERYTHING, labels="exact"))[1].tensors[key]
    for seed in range(60):
        settings = CollectionSettings(("output_gram",), "sampled", seed=seed)
        total += collect(model, many, settings)[1].tensors[key] / 60
    assert relative_error(total, expected) < 0.1
    sampled = measured(model, labels="sampled", seed=3)[1]
    together = collect(model, [regression_batch(7)], replace(EVERYTHING, labels="sampled", seed=3))[1]
    assert largest_difference(together, sampled) < 1e-6
    assert relative_error(sampled.tensors[key], exact.tensors[key]) > 0.05


def test_normals_are_normal() -> None:
    values = normals(0, [f"example-{n}" for n in range(20000)])
    assert torch.isfinite(values).all()
    assert float(values.mean()) == pytest.approx(0, abs=0.03)
    assert float(values.pow(2).mean()) == pytest.approx(1, abs=0.03)
    assert float(values.pow(4).mean()) == pytest.approx(3, abs=0.15)
    assert not torch.equal(values, normals(1, [f"example-{n}" for n in range(20000)]))


def test_the_loss_is_half_the_squared_error() -> None:
    losses = regression_losses(torch.tensor([1.0, 2.0]), torch.tensor([3.0, 2.5]))
    assert losses.tolist() == [2.0, 0.125]


def test_a_head_of_several_outputs_is_refused() -> None:
    with pytest.raises(InputsMismatch, match=r"logits of shape \[\d, 3\]; a regression has one output"):
        collect(tiny_bert(), [regression_batch(4)], EVERYTHING)
