"""Every architecture of docs/architectures.md: what its hooks see is autograd's gradient, and nothing goes unnamed."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from tried_architectures import BY_NAME, FAMILIES, Family, enlivened

from benchmarks.architectures.__main__ import PAGE, RESULTS, lines
from benchmarks.architectures.measuring import Row, measure
from mats.curvature import CollectionSettings, collect
from mats.curvature.rules import LinearRule

# Norms are computed in float32 by many models, whatever their dtype.
ROUNDING = 1e-6
UNUSED = {"CLIP vision": "post_layernorm"}  # not read by the classifier


def stored_rows() -> dict[str, dict[str, object]]:
    return {row["family"]: row for row in json.loads(RESULTS.read_text(encoding="utf-8"))["rows"]}


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_hooks_see_autograd_s_gradient_and_the_table_says_what_is_covered(family: Family) -> None:
    row = measure(family)
    assert row.worst_error < ROUNDING
    assert (row.shares["none"] > 0) == (family.name in UNUSED)
    assert row.shares["diagonal"] + row.shares["none"] == pytest.approx(1)
    assert row.shares["output_gram"] == row.shares["input_gram"] > 0.5
    stored = stored_rows()[family.name]
    assert {key: pytest.approx(value) for key, value in row.shares.items()} == stored["shares"]
    assert set(row.without_grams) == set(stored["without_grams"])  # type: ignore[call-overload]


def test_the_page_shows_the_stored_table() -> None:
    rows = [Row(**row) for row in stored_rows().values()]  # type: ignore[arg-type]
    page = PAGE.read_text(encoding="utf-8")
    assert "\n".join(lines(rows)) in page
    assert [row.family for row in rows] == list(BY_NAME)


def test_a_lost_factor_shows_in_the_check(monkeypatch: pytest.MonkeyPatch) -> None:
    right = LinearRule.gradient_rows
    monkeypatch.setattr(LinearRule, "gradient_rows", lambda self, delta, examples: 1.1 * right(self, delta, examples))
    row = measure(BY_NAME["Llama"])
    assert row.worst_error == pytest.approx(0.1)
    assert row.shares["input_gram"] < 0.2  # what does not fit the gradient is not measured by hooks


@pytest.mark.parametrize("name", ["BERT", "T5", "Llama", "ViT"])
def test_gradient_checkpointing_changes_nothing(name: str) -> None:
    model, batch = BY_NAME[name].build(), BY_NAME[name].batch(4)
    settings = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal"), accumulate_dtype="float64")
    _, plain = collect(model, [batch], settings)
    # Collection runs in eval mode, where transformers recomputes nothing: no layer is seen twice.
    model.gradient_checkpointing_enable()
    plan, recomputed = collect(model.train(), [batch], settings)
    assert model.training
    assert plan.layers
    assert plain.tokens == recomputed.tokens  # nothing was counted twice
    assert all(torch.equal(value, recomputed.tensors[key]) for key, value in plain.tensors.items())


def parametrised(change: Callable[[nn.Module], object]) -> tuple[nn.Module, list[str]]:
    model = BY_NAME["BERT"].build()
    layer = model.bert.encoder.layer[0].intermediate.dense
    change(layer)
    own = [name for name, _ in model.named_parameters() if ".0.intermediate.dense.p" in name or "weight_" in name]
    return enlivened(model, seed=3).double().eval(), own


class Halved(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return 0.5 * x


PARAMETRISATIONS: dict[str, Callable[[nn.Module], object]] = {
    "weight_norm": nn.utils.parametrizations.weight_norm,
    "spectral_norm": nn.utils.parametrizations.spectral_norm,
    "older weight_norm": nn.utils.weight_norm,
    "one of its own": lambda layer: nn.utils.parametrize.register_parametrization(layer, "weight", Halved()),
}


@pytest.mark.parametrize("form", PARAMETRISATIONS)
def test_what_a_parametrisation_makes_a_weight_of_is_measured_example_by_example(form: str) -> None:
    model, own = parametrised(PARAMETRISATIONS[form])
    batch = BY_NAME["BERT"].batch(3)
    assert own
    grams = collect(model, [batch], CollectionSettings())[0]
    assert not {layer.weight for layer in grams.layers} & set(own)
    assert all("no Gram rule" in grams.uncovered[name] for name in own)
    plan, sums = collect(model, [batch], CollectionSettings(statistics=("diagonal",), accumulate_dtype="float64"))
    assert set(own) <= set(plan.parameters) - plan.tapped
    parameters = dict(model.named_parameters())
    wanted = [parameters[name].requires_grad_(True) for name in own]
    squares = [torch.zeros_like(parameter) for parameter in wanted]
    for number in range(batch.size):
        single = batch.select([number])
        loss = nn.functional.cross_entropy(model(**single.inputs).logits, single.labels)
        for total, gradient in zip(squares, torch.autograd.grad(loss, wanted), strict=True):
            total += gradient.detach() ** 2
    for name, expected in zip(own, squares, strict=True):
        torch.testing.assert_close(sums.tensors[f"diagonal/{name}"], expected.detach())


def test_calls_on_what_all_examples_share_are_left_out_and_named() -> None:
    family = BY_NAME["DeBERTa-v2"]
    model, batch = family.build(), family.batch(4)
    plan, sums = collect(model, [batch], CollectionSettings(accumulate_dtype="float64"))
    name = "deberta.encoder.layer.0.attention.self.query_proj"
    assert plan.notes[name] == "Grams of 1 calls of 2: the others read what all examples share"
    assert sums.tokens[f"layer:{name}"] == int(batch.input_mask.sum())
    alone = [collect(model, [batch.select([n])], CollectionSettings(accumulate_dtype="float64"))[1] for n in range(4)]
    for key, value in sums.tensors.items():
        torch.testing.assert_close(sum(part.tensors[key] for part in alone), value)
