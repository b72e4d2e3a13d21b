"""`scaling: balanced`: all models' curvatures get the same trace, and nothing else changes."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from engine_families import Family, make_family, write_raw
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch import Tensor

from mats.engine import MergeRequest, merge
from mats.engine.balance import Balance, balance_of, balanced
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.plan import Group, make_plan, store_indexes
from mats.engine.streaming import ElementwisePool
from mats.methods import AverageSettings, BaseSettings, FisherSettings, MatsSettings, RegMeanSettings, SolverChoice
from mats.methods.quadratic import QuadraticSettings
from mats.progress import Silent

pytestmark = pytest.mark.usefixtures("light_report")
CPU = torch.device("cpu")
EXACT = SolverChoice(name="pcg", tolerance=1e-9, max_iterations=500, precision="float64")


def settings(scaling: str = "balanced", **changes: object) -> MatsSettings:
    return MatsSettings(**{"init": BaseSettings(), "solver": EXACT, "scaling": scaling, **changes})


def request_of(family: Family, output: Path, method: object, **changes: object) -> MergeRequest:
    return MergeRequest(family.inputs(**changes), method, output, base=str(family.base), device="cpu")  # type: ignore[arg-type]


def steeper(root: Path, family: Family, model: int, factor: float) -> Family:
    """The family with one model's loss `factor` times as steep: its output Grams and Fisher sums multiplied."""
    raw = copy.deepcopy(family.raw[model])
    for key in raw.sums.tensors:
        if not key.startswith("input_gram/"):
            raw.sums.tensors[key] *= factor
    vectors = [key.removeprefix("diagonal/") for key in raw.sums.tensors if key.startswith("diagonal/")]
    write_raw(root / "steeper", raw, family.models[model], vectors)
    stores = list(family.stores)
    stores[model] = root / "steeper"
    return replace(family, stores=stores)


def weighted_traces(loader: GroupLoader, groups: tuple[Group, ...], rules: set[str]) -> Tensor:
    """Σ λ_i tr C_i [m] of the systems under `rules`, from the quadratics that are solved."""
    total = torch.zeros(len(loader.weights), dtype=torch.float64)
    for group in groups:
        if group.systems[0].rule in rules:
            quadratic = loader.quadratic(group, torch.float64)
            numbers = group.systems[0].shape[0] * group.systems[0].shape[1]
            weights = torch.tensor(quadratic.weights, dtype=torch.float64)
            total += weights * quadratic.mean_diagonals().sum(dim=1) * numbers
    return total


@pytest.mark.parametrize("kind", ["bert", "t5", "gpt2", "vit"])
@pytest.mark.parametrize("method", [MatsSettings, FisherSettings, RegMeanSettings])
def test_every_model_has_the_same_trace(tmp_path: Path, kind: str, method: type[QuadraticSettings]) -> None:
    """Told by the quadratics that are solved, on which `mats.engine.balance` does not look."""
    family = steeper(tmp_path, make_family(tmp_path, kind, examples=[5, 11, 30], rank=[40, 90, 35]), 1, 4.0)
    with MergeInputs(request_of(family, tmp_path / "out", method(scaling="balanced"))) as inputs:
        plan = make_plan(inputs)
        stores = store_indexes(inputs)
        pool = ElementwisePool(inputs, plan, Silent())
        balance = balance_of(stores, plan.groups)
        for what, rules in (("loss", {"kfac", "block", "diagonal"}), ("input_gram", {"input_gram"})):
            if what not in balance.factors:
                continue
            even = weighted_traces(
                GroupLoader(inputs, stores, pool.for_start, torch.device("cpu"), balance), plan.groups, rules
            )
            plain = weighted_traces(
                GroupLoader(inputs, stores, pool.for_start, torch.device("cpu")), plan.groups, rules
            )
            np.testing.assert_allclose(even, np.full(3, float(plain.mean())), rtol=1e-6)
            assert float(plain.max() / plain.min()) > 1.01  # control: they are not alike by themselves
        assert balance.factors


def test_it_is_the_merge_of_these_model_weights(bert: Family, tmp_path: Path) -> None:
    """Started from the base, which heeds no weights, λ_i b_i by hand give the same numbers; λ_i do not."""
    result = merge(request_of(bert, tmp_path / "balanced", settings()))
    factors = result.report["balance"]["loss"]
    by_hand = tuple(factors[f"task{index}"] for index in range(len(bert.models)))
    expected = merge(request_of(bert, tmp_path / "by_hand", settings("examples"), weights=by_hand))
    plain = merge(request_of(bert, tmp_path / "plain", settings("examples")))
    found, same, other = (load_file(each.path / "model.safetensors") for each in (result, expected, plain))
    assert found.keys() == same.keys()
    for name in found:
        np.testing.assert_allclose(found[name], same[name], rtol=1e-6, atol=1e-7)
    name = "bert.encoder.layer.0.output.dense.weight"
    assert not torch.allclose(found[name], other[name], atol=1e-4)
    assert any(note.startswith("curvature balanced (loss), factors: task0 ") for note in result.report["notes"])
    assert "balance" not in plain.report


@pytest.mark.parametrize("factor", [1e-3, 100.0])
def test_a_steeper_loss_has_no_more_say(bert: Family, tmp_path: Path, factor: float) -> None:
    other = steeper(tmp_path, bert, 1, factor)
    merged = {
        (scaling, which): load_file(
            merge(request_of(family, tmp_path / f"{scaling}-{which}", settings(scaling))).path / "model.safetensors"
        )
        for scaling in ("balanced", "examples")
        for which, family in (("as drawn", bert), ("steeper", other))
    }
    name = "bert.encoder.layer.1.intermediate.dense.weight"
    for key, tensor in merged["balanced", "as drawn"].items():
        np.testing.assert_allclose(tensor, merged["balanced", "steeper"][key], rtol=1e-4, atol=1e-6)
    assert not torch.allclose(merged["examples", "as drawn"][name], merged["examples", "steeper"][name], atol=1e-3)


def test_the_order_of_the_models_does_not_matter(bert: Family, tmp_path: Path) -> None:
    plain = request_of(bert, tmp_path / "plain", settings())
    turned = replace(plain, models=plain.models[::-1], output=tmp_path / "turned")
    first, second = merge(plain), merge(turned)
    assert first.report["balance"]["loss"] == second.report["balance"]["loss"]


def test_kinds_of_curvature_are_balanced_apart(tmp_path: Path) -> None:
    """Where one store lacks output Grams of wide layers, those have output errors, which are no losses."""
    family = make_family(tmp_path, "bert", output_gram_limit=[1000, 20, 1000])
    with MergeInputs(request_of(family, tmp_path / "out", settings())) as inputs:
        plan = make_plan(inputs)
        balance = balance_of(store_indexes(inputs), plan.groups)
        assert set(balance.factors) == {"loss", "input_gram"}
        assert balance.factors["loss"] != balance.factors["input_gram"]
        by_rule = {group.systems[0].rule: group.systems[0] for group in plan.groups}
        ones = [1.0, 1.0, 1.0]
        assert balance.weights(by_rule["input_gram"], ones) == list(balance.factors["input_gram"])
        assert balance.weights(by_rule["kfac"], ones) == list(balance.factors["loss"])
        assert Balance().weights(by_rule["kfac"], [2.0, 1.0, 3.0]) == [2.0, 1.0, 3.0]


def test_a_model_without_any_curvature_stops_nothing(bert: Family, tmp_path: Path) -> None:
    none = steeper(tmp_path, bert, 2, 0.0)
    merged = merge(request_of(none, tmp_path / "out", settings()))
    assert merged.report["balance"]["loss"]["task2"] == 1.0
    assert all(bool(torch.isfinite(tensor).all()) for tensor in load_file(merged.path / "model.safetensors").values())


def test_an_average_start_keeps_the_models_own_weights(bert: Family, tmp_path: Path) -> None:
    """The factors belong to the curvature; what has none is merged by λ_i."""
    chosen = settings(init=AverageSettings(), fallback=("kfac", "init"))
    merged = merge(request_of(bert, tmp_path / "out", chosen, weights=(1.0, 2.0, 5.0)))
    found = load_file(merged.path / "model.safetensors")["bert.embeddings.LayerNorm.weight"]
    states = [state["bert.embeddings.LayerNorm.weight"] for state in bert.states]
    np.testing.assert_allclose(found, (states[0] + 2 * states[1] + 5 * states[2]) / 8, rtol=1e-6)


@given(st.lists(st.floats(1e-14, 1e14), min_size=1, max_size=8))
def test_factors_even_out_any_traces(traces: list[float]) -> None:
    evened = [trace * factor for trace, factor in zip(traces, balanced(traces), strict=True)]
    np.testing.assert_allclose(evened, np.full(len(traces), np.mean(traces)), rtol=1e-12)


def test_traces_that_are_zero_or_not_numbers_keep_their_weight() -> None:
    assert balanced([2.0, 0.0, 6.0, float("nan")]) == (2.0, 1.0, 4.0 / 6.0, 1.0)
    assert balanced([0.0, 0.0]) == (1.0, 1.0)
    assert balanced([1e-310, 3.0, 1.0]) == (1.0, 2.0 / 3.0, 2.0)
