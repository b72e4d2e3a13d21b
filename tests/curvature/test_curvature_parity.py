"""All statistics against autograd on single unpadded examples, for every model family."""

from __future__ import annotations

import pytest
from curvature_comparison import errors
from curvature_models import FAMILIES
from curvature_oracle import oracle, relative_error, written_out_loss

from mats.curvature import CollectionSettings, collect
from mats.curvature.settings import STATISTICS

# float64 throughout; T5 and Llama compute the variance of their norms in float32, identically here and in the oracle.
TOLERANCE = 1e-6
EXAMPLES = 9

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_equal_autograd(family: str, device: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    truth = oracle(model, [(1.0, make_batch(1, n)) for n in range(EXAMPLES)])
    plan, sums = collect(model.to(device), [make_batch(7), make_batch(EXAMPLES - 7, 7)], EVERYTHING)
    found = errors(plan, sums, truth)
    assert set(found) == set(STATISTICS)
    assert max(found.values()) < TOLERANCE, found
    assert sums.example_ids == [f"example-{n}" for n in range(EXAMPLES)]


@pytest.mark.parametrize("family", ["bert", "t5_tied", "gpt2", "vit"])
def test_every_parameter_is_covered(family: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    plan, sums = collect(model, [make_batch(3)], EVERYTHING)
    assert plan.uncovered == {}
    assert set(plan.parameters) == {name for name, _ in model.named_parameters()}
    assert {key.partition("/")[2] for key in sums.tensors if key.startswith("diagonal/")} == set(plan.parameters)


def test_summed_loss_weighs_long_targets_more() -> None:
    make_model, make_batch = FAMILIES["t5"]
    model = make_model()
    settings = CollectionSettings(statistics=("diagonal",), accumulate_dtype="float64", loss="sum")
    _, sums = collect(model, [make_batch(5)], settings)
    examples = [(1.0, make_batch(1, n)) for n in range(5)]
    summed = oracle(model, examples, lambda batch, logits: iter([(1.0, written_out_loss(batch, logits, "sum"))]))
    mean = oracle(model, examples)
    key = "encoder.block.0.layer.0.SelfAttention.q.weight"
    assert relative_error(sums.tensors[f"diagonal/{key}"], summed.diagonal[key]) < TOLERANCE
    assert relative_error(sums.tensors[f"diagonal/{key}"], mean.diagonal[key]) > 0.5


@pytest.mark.parametrize("family", ["t5", "gpt2", "vit"])
def test_fourth_moments_equal_direct_sums(family: str) -> None:
    make_model, make_batch = FAMILIES[family]
    model = make_model()
    truth = oracle(model, [(1.0, make_batch(1, n)) for n in range(5)])
    settings = CollectionSettings(accumulate_dtype="float64", homogeneous=False)
    plan, sums = collect(model, [make_batch(5)], settings)
    for layer in plan.layers:
        if layer.kind == "embedding":
            continue  # summed over the layers of one weight: see the tokens compared in test_statistics_equal_autograd
        key = (layer.weight, layer.kind)
        assert sums.fourth_moments[f"site:{layer.site}"] == pytest.approx(truth.input_fourth[key], rel=1e-6)
        assert sums.fourth_moments[f"layer:{layer.name}"] == pytest.approx(truth.output_fourth[key], rel=1e-6)
