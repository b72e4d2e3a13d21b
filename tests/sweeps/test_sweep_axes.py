"""Axes become points: every way to write one, and what cannot be one."""

from __future__ import annotations

import itertools
import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RecipeError
from mats.sweeps.axis import Setting, plain_values
from mats.sweeps.expansion import expand_axes
from mats.sweeps.model_sets import model_settings

NAMES = ["a", "b", "c", "d"]
finite = st.floats(-1e6, 1e6, allow_nan=False)


def expand(axes: dict[str, Any], *zipped: list[str]) -> list[Setting]:
    return expand_axes(axes, zipped, NAMES, "file")


def rows(axes: dict[str, Any], *zipped: list[str]) -> list[dict[str, Any]]:
    return [dict(setting.overrides) for setting in expand(axes, *zipped)]


@pytest.mark.parametrize(
    ("written", "values"),
    [
        ([1, "x", None, [2]], [1, "x", None, [2]]),
        ({"range": [0, 1, 3]}, [0, 0.5, 1]),
        ({"range": [0.1, 1.0, 10]}, [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0]),
        ({"range": [10, 30, 3]}, [10, 20, 30]),
        ({"range": [5, 5, 1]}, [5]),
        ({"log_range": [0.001, 1, 4]}, [0.001, 0.01, 0.1, 1.0]),
        ({"log_range": [10, 1000, 4], "whole": True}, [10, 46, 215, 1000]),
        ({"range": [1, 2, 5], "whole": True}, [1, 2]),
    ],
)
def test_values_of_an_axis(written: Any, values: list[Any]) -> None:
    found = plain_values("key", written, "here")
    assert found == values
    assert [type(value) for value in found] == [type(value) for value in values]


@given(finite, finite, st.integers(1, 40))
def test_a_range_is_linspace(start: float, stop: float, count: int) -> None:
    found = plain_values("key", {"range": [start, stop, count]}, "here")
    expected = np.linspace(start, stop, count)
    scale = max(abs(start), abs(stop), 1e-300)
    assert all(min(abs(np.array(found) - value)) <= 1e-10 * scale for value in expected)
    assert len(found) <= count


@given(st.floats(1e-9, 1e9), st.floats(1e-9, 1e9), st.integers(1, 40))
def test_a_log_range_is_geomspace(start: float, stop: float, count: int) -> None:
    found = plain_values("key", {"log_range": [start, stop, count]}, "here")
    for value in np.geomspace(start, stop, count):
        assert min(abs(math.log(entry / value)) for entry in found) < 1e-9


@given(st.floats(0.1, 10), st.floats(0.1, 10), st.integers(1, 30), st.integers(0, 99))
@pytest.mark.parametrize("kind", ["uniform", "log_uniform"])
def test_draws_stay_inside_and_repeat_by_seed(kind: str, low: float, high: float, samples: int, seed: int) -> None:
    written = {kind: [low, high], "samples": samples, "seed": seed}
    found = plain_values("key", written, "here")
    assert found == plain_values("key", written, "here")
    assert len(found) == samples
    least, most = min(low, high), max(low, high)
    assert all(least * (1 - 1e-11) <= value <= most * (1 + 1e-11) for value in found)


def test_axes_of_one_seed_are_drawn_apart() -> None:
    written = {"uniform": [0, 1], "samples": 5, "seed": 3}
    assert plain_values("one", written, "here") != plain_values("two", written, "here")
    assert plain_values("one", written, "here") != plain_values("one", {**written, "seed": 4}, "here")


@given(st.lists(st.integers(), min_size=1, max_size=6, unique=True), st.integers(1, 20), st.integers(0, 9))
def test_choices_are_drawn_in_rounds(values: list[int], samples: int, seed: int) -> None:
    found = plain_values("key", {"choice": values, "samples": samples, "seed": seed}, "here")
    counts = [found.count(value) for value in values]
    assert sum(counts) == samples
    assert max(counts) - min(counts) <= 1


@given(st.lists(st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True), min_size=1, max_size=4))
def test_crossed_axes_are_the_product(values: list[list[int]]) -> None:
    axes = {f"key{index}": entries for index, entries in enumerate(values)}
    assert [tuple(row.values()) for row in rows(axes)] == list(itertools.product(*values))


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 3))
def test_zipped_axes_advance_together(length: int, groups: int, other: int) -> None:
    axes = {f"z{index}": [10 * index + place for place in range(length)] for index in range(groups)}
    crossed = {"other": list(range(other))}
    found = rows({**axes, **crossed}, list(axes))
    assert len(found) == length * other
    assert all(len({row[f"z{index}"] - 10 * index for index in range(groups)}) == 1 for row in found)
    assert len(rows({**axes, **crossed})) == length**groups * other


def test_variants_set_several_keys_and_bring_axes_of_their_own() -> None:
    axes = {
        "method": [
            {"name": "ta", "set": {"merge.method": "task_arithmetic"}, "axes": {"merge.scale": [0.1, 0.2]}},
            {"name": "plain", "set": {"merge.method": "average", "seed": 3}},
        ],
        "dtype": ["float32"],
    }
    found = expand(axes)
    assert [dict(setting.overrides) for setting in found] == [
        {"merge.method": "task_arithmetic", "merge.scale": 0.1, "dtype": "float32"},
        {"merge.method": "task_arithmetic", "merge.scale": 0.2, "dtype": "float32"},
        {"merge.method": "average", "seed": 3, "dtype": "float32"},
    ]
    assert [dict(setting.columns) for setting in found] == [
        {"method": "ta", "merge.scale": 0.1, "dtype": "float32"},
        {"method": "ta", "merge.scale": 0.2, "dtype": "float32"},
        {"method": "plain", "dtype": "float32"},
    ]


def test_a_value_with_a_name_is_a_value() -> None:
    assert rows({"merge.solver": [{"name": "cg"}, {"name": "pcg"}]}) == [
        {"merge.solver": {"name": "cg"}},
        {"merge.solver": {"name": "pcg"}},
    ]


def test_a_combination_that_comes_twice_is_one_point() -> None:
    assert rows({"key": {"choice": [1, 2], "samples": 4}}) in ([{"key": 1}, {"key": 2}], [{"key": 2}, {"key": 1}])


@pytest.mark.parametrize(
    ("axes", "zipped", "fault"),
    [
        ({"a": []}, (), r"file: axes.a: received \[\]; a list of at least one value"),
        ({"a": 3}, (), r"axes.a: received 3; a list, or a mapping with one of range"),
        ({"a": {"rnage": [1, 2, 3]}}, (), "a list, or a mapping with one of range, log_range"),
        ({"a": {"range": [1, 2]}}, (), r"axes.a.range: received \[1, 2\]; \[start, stop, how many\] would be right"),
        ({"a": {"range": [1, 2, 0]}}, (), "how many values, a whole number of at least 1"),
        ({"a": {"range": [1, 2, 3], "samples": 2}}, (), "unknown key 'samples'; known: range, whole"),
        ({"a": {"log_range": [0, 1, 3]}}, (), "both ends above 0"),
        ({"a": {"uniform": [0, 1]}}, (), "samples: a whole number of at least 1"),
        ({"a": {"uniform": [0, 1], "samples": 2, "seed": "x"}}, (), "a whole number as seed"),
        ({"a": {"choice": [], "samples": 2}}, (), "a list of at least one value"),
        ({"a": [1, 2], "b": [1]}, (["a", "b"],), "zip: a has 2, b has 1 values; equally many"),
        ({"a": [1]}, (["a", "c"],), "zip: no axis 'c'; one of a would be right"),
        ({"a": [1], "b": [2]}, (["a", "b"], ["a"]), "axis 'a' is named twice"),
        ({"a": [1], "v": [{"name": "x", "set": {"a": 2}}]}, (), "a: set twice; one axis of named variants"),
        ({"m.a": [1], "v": [{"name": "x", "set": {"m": {}}}]}, (), "m.a and m: set twice"),
        ({"v": [{"name": "x", "set": {}}, 3]}, (), "received 3; among named variants"),
    ],
)
def test_faults_of_axes(axes: dict[str, Any], zipped: tuple[list[str], ...], fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        expand(axes, *zipped)


def test_the_faults_of_all_axes_are_told_at_once() -> None:
    with pytest.raises(RecipeError) as caught:
        expand({"a": 3, "b": [], "c": [1]}, ["c", "d"])
    assert len(caught.value.faults) == 3


def models(written: Any) -> list[tuple[str, ...] | None]:
    return [setting.models for setting in model_settings(written, NAMES, "axes.models")]


def test_pairs_and_sets_of_models() -> None:
    assert models({"pairs": "ordered"}) == list(itertools.permutations(NAMES, 2))
    assert models({"pairs": "unordered"}) == list(itertools.combinations(NAMES, 2))
    assert models({"subsets": [1, 4]}) == [("a",), ("b",), ("c",), ("d",), ("a", "b", "c", "d")]
    assert models([["c", "a"]]) == [("c", "a")]
    (setting,) = model_settings([["c", "a"]], NAMES, "axes.models")
    assert setting.columns == {"models": "c+a", "models.count": 2}


@given(st.integers(1, 4), st.integers(1, 10), st.integers(0, 50))
def test_drawn_sets_are_different_and_repeat_by_seed(size: int, samples: int, seed: int) -> None:
    written = {"subsets": [size], "samples": samples, "seed": seed}
    found = models(written)
    assert found == models(written)
    assert len(set(found)) == len(found) == min(samples, math.comb(4, size))
    assert all(chosen == tuple(sorted(chosen)) for chosen in found if chosen)


def test_sets_of_many_models_are_drawn_without_listing_them_all() -> None:
    names = [f"m{index:03d}" for index in range(100)]
    found = model_settings({"subsets": [50], "samples": 3}, names, "axes.models")
    assert len({setting.models for setting in found}) == 3


@pytest.mark.parametrize(
    ("written", "fault"),
    [
        ({"pairs": "all"}, "ordered or unordered would be right"),
        ({"subsets": [5]}, "a list of sizes from 1 to 4"),
        ({"subsets": [2], "samples": 0}, "a whole number of at least 1"),
        ([["a", "x"]], "no model 'x'; one of a, b, c, d would be right"),
        ([["a", "a"]], "each model once"),
        ([[]], "a list of the recipe's models"),
        ({"range": [1, 2, 3]}, "lists of names"),
    ],
)
def test_faults_of_model_sets(written: Any, fault: str) -> None:
    with pytest.raises(RecipeError, match=fault):
        models(written)


def test_normalised_draws_set_several_keys_that_sum_to_one() -> None:
    axis = {"normalized": [0.1, 0.2, 0.5, 1], "keys": ["merge.constants.a", "merge.constants.b"], "samples": 20}
    drawn = rows({"weights": axis, "merge.scale": [1, 2]})
    assert drawn[0].keys() == {"merge.constants.a", "merge.constants.b", "merge.scale"}
    assert all(math.isclose(row["merge.constants.a"] + row["merge.constants.b"], 1) for row in drawn)
    assert len({row["merge.constants.a"] for row in drawn}) > 3
    assert drawn == rows({"weights": axis, "merge.scale": [1, 2]})
    assert drawn != rows({"weights": {**axis, "seed": 1}, "merge.scale": [1, 2]})
    assert drawn != rows({"other": axis, "merge.scale": [1, 2]})  # two axes of one seed are drawn apart


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"normalized": []}, r"axes.w.normalized: received \[\]; a list of at least one number"),
        ({"keys": ["a", "a"]}, r"axes.w.keys: received \['a', 'a'\]; a list of keys"),
        ({"samples": 0}, "axes.w.samples: received 0"),
        ({"seed": "x"}, "axes.w.seed: received 'x'"),
        ({"sample": 3}, "axes.w: unknown key 'sample'; known: keys, normalized, samples, seed"),
        ({"normalized": [0]}, r"received \[0\], of which 2 always sum to 0"),
    ],
)
def test_normalised_draws_that_cannot_be(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        expand({"w": {"normalized": [1, 2], "keys": ["a", "b"], "samples": 2, **changed}})
