"""Negative controls: each wrong way of measuring is built on purpose and must differ from the right one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from curvature_comparison import errors
from curvature_models import classification_batch, language_batch, seq2seq_batch, tiny_bert, tiny_gpt2, tiny_t5
from curvature_oracle import oracle, relative_error
from torch import Tensor

from mats.curvature import CollectionSettings, Collector, collect, plan_collection
from mats.curvature.gram import GramSum, Selection
from mats.curvature.per_example import OuterUse, ParameterSum
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch
from mats.errors import ShapeMismatch

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")
MARGIN = 1e-2


def square_batch() -> Batch:
    """Encoder and decoder sides of equal padded length but different real lengths."""
    batch = seq2seq_batch(6)
    width = batch.inputs["input_ids"].shape[1]
    missing = width - batch.labels.shape[1]
    pad = torch.nn.functional.pad
    inputs = dict(batch.inputs, decoder_input_ids=pad(batch.inputs["decoder_input_ids"], (0, missing)))
    return replace(
        batch,
        inputs=inputs,
        labels=pad(batch.labels, (0, missing), value=-100),
        target_mask=pad(batch.target_mask, (0, missing)),
    )


def test_a_mask_that_counts_padding_is_seen() -> None:
    model = tiny_bert()
    batch = classification_batch(6)
    _, right = collect(model, [batch], EVERYTHING)
    _, wrong = collect(model, [replace(batch, input_mask=torch.ones_like(batch.input_mask))], EVERYTHING)
    key = "input_gram/bert.encoder.layer.0.attention.self.query"
    assert relative_error(wrong.tensors[key], right.tensors[key]) > MARGIN


def test_cross_attention_with_the_decoders_mask_is_seen() -> None:
    model = tiny_t5()
    batch = square_batch()
    plan = plan_collection(model, batch, EVERYTHING)
    cross = "decoder.block.0.layer.1.EncDecAttention.k"
    assert plan.sides[cross] == ("input",)
    truth = oracle(model, [(1.0, seq2seq_batch(1, n)) for n in range(6)])
    for sides, fits in ((plan.sides, True), ({**plan.sides, cross: ("target",)}, False)):
        with Collector(model, replace(plan, sides=sides)) as collector:
            collector.add(batch)
            gram = collector.sums().tensors[f"input_gram/{cross}"]
        error = relative_error(gram, truth.inputs[f"{cross}.weight", "linear"])
        assert error < 1e-6 if fits else error > MARGIN


def test_cross_attention_with_the_decoders_mask_is_an_error_when_lengths_differ() -> None:
    model = tiny_t5()
    batch = seq2seq_batch(6)
    plan = plan_collection(model, batch, EVERYTHING)
    cross = "decoder.block.0.layer.1.EncDecAttention.k"
    with Collector(model, replace(plan, sides={**plan.sides, cross: ("target",)})) as collector:
        message = rf"site {cross}: mask has 5 tokens, activations 8; .*target mask.*may need the input mask"
        with pytest.raises(ShapeMismatch, match=message):
            collector.add(batch)


def test_a_mask_of_the_wrong_length_is_an_error_not_a_silent_skip() -> None:
    batch = seq2seq_batch(6)
    with pytest.raises(ShapeMismatch, match=r"site encoder.* mask has 6 tokens, activations 8"):
        collect(tiny_t5(), [replace(batch, input_mask=batch.input_mask[:, :6])], EVERYTHING)


def test_unshifted_language_labels_are_seen() -> None:
    model = tiny_gpt2()
    batch = language_batch(5)
    truth = oracle(model, [(1.0, language_batch(1, n)) for n in range(5)])
    plan, right = collect(model, [batch], EVERYTHING)
    assert max(errors(plan, right, truth).values()) < 1e-6
    late = torch.nn.functional.pad(batch.labels[:, :-1], (1, 0), value=-100)
    plan, wrong = collect(model, [replace(batch, labels=late)], EVERYTHING)
    found = errors(plan, wrong, truth)
    assert found["diagonal"] > MARGIN
    assert found["output_gram"] > MARGIN
    assert found["input_gram"] < 1e-6, "inputs do not depend on labels"


def test_squaring_the_batch_gradient_is_another_quantity() -> None:
    model = tiny_bert()
    batch = classification_batch(8)
    _, sums = collect(model, [batch], EVERYTHING)
    model.eval()
    loss = torch.nn.functional.cross_entropy(model(**batch.inputs).logits, batch.labels, reduction="sum")
    for name in (
        "bert.encoder.layer.0.output.dense.weight",
        "bert.pooler.dense.bias",
        "bert.embeddings.LayerNorm.weight",
    ):
        (gradient,) = torch.autograd.grad(loss, [model.get_parameter(name)], retain_graph=True)
        assert relative_error(gradient**2, sums.tensors[f"diagonal/{name}"]) > 0.2


def test_a_dropped_token_and_a_doubled_call_are_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each breaks one thing inside the collector; the comparison with autograd must notice it in every statistic."""
    model = tiny_bert()
    batch = classification_batch(6)
    truth = oracle(model, [(1.0, classification_batch(1, n)) for n in range(6)])
    plan, right = collect(model, [batch], EVERYTHING)  # a plan made with broken parts would go around them
    assert max(errors(plan, right, truth).values()) < 1e-6
    for owner, name, broken in (
        (Selection, "index", property(lambda self: self.mask.flatten().nonzero()[:-1, 0])),
        (GramSum, "add", _twice(GramSum.add)),
        (ParameterSum, "add", _twice(ParameterSum.add)),
        (OuterUse, "__init__", _without_first_token(OuterUse.__init__)),
    ):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, broken)
            with Collector(model, plan) as collector:
                collector.add(batch)
                sums = collector.sums()
        found = errors(plan, sums, truth)
        changed = {statistic for statistic, error in found.items() if error > MARGIN}
        grams, per_example = {"input_gram", "output_gram"}, {"diagonal"}
        assert changed >= (grams if owner in (Selection, GramSum) else per_example), (owner, name, found)


def _twice(function: Callable[..., Any]) -> Callable[..., Any]:
    """Calls `function` twice."""

    def doubled(*args: Any, **options: Any) -> Any:
        function(*args, **options)
        return function(*args, **options)

    return doubled


def _without_first_token(function: Callable[..., None]) -> Callable[..., None]:
    """Makes uses of a weight whose examples each lost their first row."""

    def shortened(self: OuterUse, inputs: Tensor, deltas: Tensor, *rest: Any) -> None:
        deltas = deltas.clone()
        deltas[:, 0] = 0
        function(self, inputs, deltas, *rest)

    return shortened


def test_dropout_is_off_and_would_show() -> None:
    model = tiny_t5()
    model.train()
    batch = seq2seq_batch(4)
    _, first = collect(model, [batch], EVERYTHING)
    _, again = collect(model, [batch], EVERYTHING)
    assert all(torch.equal(first.tensors[key], tensor) for key, tensor in again.tensors.items())
    assert all(module.training for module in model.modules())
