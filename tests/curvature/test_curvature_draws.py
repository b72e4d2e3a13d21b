"""Several draws of sampled labels: their mean, from one forward, converging to the expectation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from curvature_comparison import errors, largest_difference
from curvature_models import (
    classification_batch,
    image_batch,
    language_batch,
    seq2seq_batch,
    tiny_bert,
    tiny_gpt2,
    tiny_t5,
)
from curvature_oracle import oracle, relative_error, written_out_loss
from test_curvature_regression import regression_batch, tiny_regressor
from torch import Tensor

from mats.curvature import CollectionSettings, collect
from mats.curvature.labels import draw_labels, normals, uniforms
from mats.curvature.losses import scored_positions
from mats.curvature.passes import passes
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch

SAMPLED = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64", labels="sampled", seed=3)


def drawn_again(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    """Each of four draws, a quarter of the weight each: labels by the tested function, losses by the oracle's."""
    for repetition in range(4):
        aligned, labels = scored_positions(batch, logits)
        drawn = draw_labels(aligned, labels, 3, batch.example_ids, repetition)[0]
        labels = drawn if batch.labels.dim() == 1 else torch.cat([batch.labels[:, :1], drawn[None]], 1)
        if batch.task == "text_to_text":
            labels = drawn[None]
        yield 1 / 4, written_out_loss(replace(batch, labels=labels), logits)


@pytest.mark.parametrize(
    ("make_model", "make_batch"),
    [(tiny_bert, classification_batch), (tiny_t5, seq2seq_batch), (tiny_gpt2, language_batch)],
)
def test_draws_are_averaged(make_model, make_batch, device: str) -> None:
    model = make_model()
    truth = oracle(model, [(1.0, make_batch(1, n)) for n in range(4)], drawn_again)
    plan, sums = collect(model.to(device), [make_batch(3), make_batch(1, 3)], replace(SAMPLED, draws=4))
    found = errors(plan, sums, truth)
    assert set(found) == set(STATISTICS)
    assert max(found.values()) < 1e-6, found


class LinearClassifier(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.classifier = torch.nn.Linear(192, 4).double()

    def forward(self, pixel_values: Tensor) -> Tensor:
        return self.classifier(pixel_values.flatten(1) / 8)


def test_the_error_falls_like_one_over_the_root_of_the_draws() -> None:
    model, batch, key = LinearClassifier(), image_batch(16), "output_gram/classifier"

    def measured(labels: str, **options: int) -> Tensor:
        return collect(model, [batch], CollectionSettings(("output_gram",), labels, **options))[1].tensors[key]

    exact = measured("exact")
    error = {}
    for draws in (1, 4, 64):
        found = [measured("sampled", draws=draws, seed=seed) for seed in range(24)]
        error[draws] = (sum(relative_error(gram, exact) ** 2 for gram in found) / len(found)) ** 0.5
    assert 1.4 < error[1] / error[4] < 2.9, error
    assert 2.8 < error[4] / error[64] < 5.7, error
    # Unbiased: the mean over seeds is nearer still, as 24 times as many draws are.
    assert relative_error(sum(found) / len(found), exact) < 0.4 * error[64]


def test_one_draw_is_the_first_of_several() -> None:
    assert torch.equal(uniforms(5, ["a", "b"], 4), uniforms(5, ["a", "b"], 4, 0))
    later = [uniforms(5, ["a", "b"], 4, repetition) for repetition in range(4)]
    assert len({tuple(values.flatten().tolist()) for values in later}) == 4
    many = torch.stack([uniforms(0, [f"e{n}" for n in range(500)], 8, k).flatten() for k in range(4)])
    assert float((torch.corrcoef(many) - torch.eye(4)).abs().max()) < 0.06
    assert not torch.equal(normals(0, ["a"]), normals(0, ["a"], 1))


def test_draws_share_one_forward(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = tiny_bert(), []
    plan_calls = model.bert.pooler.register_forward_hook(lambda *_: calls.append(1))
    collect(model, [classification_batch(4)], replace(SAMPLED, statistics=("output_gram",), draws=8))
    plan_calls.remove()
    assert len(calls) == 2, "the plan's look and the batch"


def undecided_t5() -> torch.nn.Module:
    """All tokens about as likely, so that now and then a longer answer is drawn."""
    model = tiny_t5()
    model.lm_head.weight.data *= 0.05
    return model


@pytest.mark.parametrize("task", ["classes", "tokens", "choices", "numbers"])
def test_draws_do_not_depend_on_batches(task: str) -> None:
    model, make_batch = {
        "classes": (tiny_bert, classification_batch),
        "tokens": (tiny_gpt2, language_batch),
        "choices": (undecided_t5, lambda count, first=0: seq2seq_batch(count, first, choices=3)),
        "numbers": (tiny_regressor, regression_batch),
    }[task]
    model = model()
    settings = replace(SAMPLED, draws=3)
    whole = collect(model, [make_batch(5)], settings)[1]
    parts = collect(model, [make_batch(2), make_batch(3, 2)], settings)[1]
    assert largest_difference(parts, whole) < 1e-5
    assert parts.tokens == pytest.approx(whole.tokens)
    single = collect(model, [make_batch(5)], SAMPLED)[1]
    same = [name for name in single.tokens if task != "choices" or "encoder" in name]  # choices differ in length
    assert [single.tokens[name] for name in same] == pytest.approx([whole.tokens[name] for name in same]), (
        "a token counts once, however often its label is drawn"
    )
    key = next(key for key in reversed(whole.tensors) if key.startswith("output_gram"))
    assert task == "choices" or relative_error(single.tensors[key], whole.tensors[key]) > 1e-2


def test_choices_are_drawn_anew() -> None:
    batch = seq2seq_batch(20, choices=3)
    runs = list(passes(undecided_t5().eval(), batch, replace(SAMPLED, draws=4)))
    assert len(runs) == 4
    assert len({tuple(run.batch.labels.flatten().tolist()) for run in runs}) > 1
    assert all(torch.equal(run.weights, torch.full((20,), 0.25).to(run.weights)) for run in runs)
