from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from mats.data import DatasetSpec, SplitRule
from mats.data.rows import Row, read_rows
from mats.data.split_rules import apply_rule, shuffled
from mats.errors import DataError, RequestError

SpecFor = Callable[..., DatasetSpec]


def rows(labels: list[Any], **columns: Any) -> list[Row]:
    return [Row({"n": n, "label": label, **columns}, f"row {n}") for n, label in enumerate(labels)]


def numbers(found: list[Row]) -> list[int]:
    return [row.values["n"] for row in found]


def cut(found: list[Row], **rule: Any) -> list[int]:
    return numbers(apply_rule(found, SplitRule(of="train", **rule), "label", "dataset toy: split 'cut'"))


def test_shuffle_is_numpys_frozen_permutation() -> None:
    """The permutation that scripts of the time drew with numpy's global seed."""
    expected = np.random.RandomState(42).permutation(50).tolist()
    assert cut(rows([0] * 50), shuffle=42) == expected
    assert cut(rows([0] * 50), shuffle=42, first=32) == expected[:32]
    assert cut(rows([0] * 50), shuffle=42, without_first=32) == expected[32:]
    assert cut(rows([0] * 50), shuffle=43) != expected


@settings(deadline=None)
@given(
    st.integers(2, 60),
    st.one_of(st.integers(1, 60), st.floats(0.01, 0.99)),
    st.sampled_from([("first", "without_first"), ("without_last", "last")]),
    st.one_of(st.none(), st.integers(0, 2**32 - 1)),
)
def test_complementary_cuts_share_all_rows(count: int, amount: float, names: tuple[str, str], seed: int | None) -> None:
    if isinstance(amount, int) and amount > count:
        amount = count
    found = rows([0] * count)
    parts = [cut(found, shuffle=seed, **{name: amount}) for name in names]
    assert sorted(parts[0] + parts[1]) == list(range(count))
    assert len(parts[names.index("first") if "first" in names else 1]) == (
        int(amount * count) if isinstance(amount, float) else amount
    )


def test_tenth_of_train_as_dare_takes_it() -> None:
    """GLUE in DARE: a permutation of train with seed 0, nine tenths to train on."""
    order = np.random.RandomState(0).permutation(105).tolist()
    assert cut(rows([0] * 105), shuffle=0, first=0.9) == order[:94]
    assert cut(rows([0] * 105), shuffle=0, without_first=0.9) == order[94:]


@pytest.mark.parametrize(
    ("rule", "kept"),
    [
        ({"where": {"column": "label", "above": 0.8}}, [1, 3]),
        ({"where": {"column": "label", "below": 0.8}}, [0]),
        ({"where": {"column": "label", "above": 0.1, "below": 0.9}}, [2]),
        ({"where": {"column": "label", "equals": 1}}, [3]),
        ({"where": {"column": "label", "above": 0.8}, "last": 1}, [3]),
    ],
)
def test_filters(rule: dict[str, Any], kept: list[int]) -> None:
    assert cut(rows([0.1, 0.9, 0.8, 1]), **rule) == kept


def test_filter_on_texts() -> None:
    assert cut(rows(["no", "yes", "no"]), where={"column": "label", "equals": "no"}) == [0, 2]
    with pytest.raises(DataError, match="row 0: column 'label' holds 'no'; a number"):
        cut(rows(["no"]), where={"column": "label", "above": 0.5})


def halves(labels: list[Any], **changes: Any) -> list[list[int]]:
    skew = {"label": 0, "fraction": 0.8, "seed": 3, **changes}
    return [cut(rows(labels), skew={**skew, "part": part}) for part in (0, 1)]


def test_skewed_halves_by_hand() -> None:
    """Label 0 at rows 0 2 4 6 8: the first four of them, then the first others up to half of ten."""
    first, second = halves([0, 1, 0, 1, 0, 2, 0, 1, 0, 1])
    assert sorted(first) == [0, 1, 2, 4, 6]
    assert sorted(second) == [3, 5, 7, 8, 9]
    assert first == numbers(shuffled([Row({"n": n}, "") for n in [0, 1, 2, 4, 6]], 3))
    assert halves([0, 1, 0, 1, 0, 2, 0, 1, 0, 1], size=2) == [first[:2], second[:2]]


@settings(deadline=None)
@given(st.lists(st.integers(0, 2), min_size=4, max_size=80).filter(lambda labels: 0 in labels))
def test_skewed_halves_share_all_rows(labels: list[int]) -> None:
    first, second = halves(labels)
    assert sorted(first + second) == list(range(len(labels)))
    zeros = int(0.8 * labels.count(0))
    assert len(first) == max(zeros, min(len(labels) // 2, zeros + len(labels) - labels.count(0)))
    assert Counter(labels[n] for n in first)[0] == zeros


def test_skew_of_an_unknown_label() -> None:
    with pytest.raises(DataError, match="no row has 7 in column 'label'"):
        halves([0, 1], label=7)


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        ({"first": 2, "skew": {"label": 0, "part": 0}}, "first and skew are given"),
        ({"first": 0}, "greater than"),
        ({"first": 1.5}, "first"),
        ({"where": {"column": "x"}}, "names no test"),
        ({"skew": {"label": 0, "part": 2}}, "0 or 1"),
        ({"shuffle": -1}, "greater than"),
    ],
)
def test_rules_that_make_no_sense(rule: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        SplitRule(of="train", **rule)


def test_faults_name_dataset_and_split(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "test.jsonl").write_text(json.dumps({"text": "a", "label": 0}) + "\n")
    rules = {"a": {"of": "test", "first": 2}, "b": {"of": "test", "where": {"column": "x", "above": 1}}}
    rules["c"] = {"of": "test", "where": {"column": "label", "above": 1}}
    spec = spec_for(tmp_path, splits=rules)
    with pytest.raises(DataError, match="dataset toy: split 'a' is cut 2 rows from 'test', which has 1"):
        read_rows(spec, "a")
    with pytest.raises(DataError, match="dataset toy: split 'b': field 'x' is missing"):
        read_rows(spec, "b")
    with pytest.raises(DataError, match="split 'c' has no rows"):
        read_rows(spec, "c")


def test_slices(tmp_path: Path, spec_for: SpecFor) -> None:
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"n": n}) + "\n" for n in range(6)))
    spec = spec_for(tmp_path, splits={"back": {"of": "test", "without_first": 2}})
    assert numbers(read_rows(spec, "test", start=4)) == [4, 5]
    assert numbers(read_rows(spec, "test", start=1, limit=2)) == [1, 2]
    assert numbers(read_rows(spec, "back", start=1, limit=2)) == [3, 4]
    with pytest.raises(RequestError, match="has 6 rows; start 6 is beyond them"):
        read_rows(spec, "test", start=6)
    with pytest.raises(RequestError, match="start -1"):
        read_rows(spec, "test", start=-1)
    with pytest.raises(RequestError, match="limit 0"):
        read_rows(spec, "test", limit=0)
