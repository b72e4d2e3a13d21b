"""DEM's JSON: comments, models, constants and folders; what its own program got wrong is right here or refused."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RecipeError, RequestError
from mats.recipes import recipe_from
from mats.recipes.dem import DemMerge, read_dem, without_comments
from mats.recipes.dem_constants import folder_name

MODELS = [{"path": "x/a", "operand_id": "a", "weight": 5}, {"path": "x/base", "operand_id": "c"}]


def constant(name: str, kind: str, **options: Any) -> dict[str, Any]:
    return {"operand_id": name, "constant_type": kind, **options}


def merges(tmp_path: Path, *runs: dict[str, Any], seed: int = 42, as_list: bool = False) -> list[DemMerge]:
    path = tmp_path / "dem.json"
    content = [{"models": MODELS, **run} for run in runs]
    path.write_text(json.dumps(content if len(runs) > 1 or as_list else content[0]))
    return read_dem(path, seed)


def values(found: list[DemMerge]) -> list[dict[str, float]]:
    return [merge.data["merge"]["constants"] for merge in found]


def test_the_published_example_with_its_comments(tmp_path: Path) -> None:
    path = tmp_path / "dem.json"
    path.write_text(
        """{  # the README's comments made the published program fail
          "formula": "-a + 2/3*(b - c) /2 - c", // weights: 1, 5, 1
          "combination_id": "mix",
          "models": [{"path": "hub#1//b", "operand_id": "b", "weight": 5},
                     {"path": "a\\\\\\"#", "operand_id": "a"}, {"path": "c", "operand_id": "c", "weight": 1.0}]
        }"""
    )
    (merge,) = read_dem(path)
    recipe = recipe_from(merge.data)
    assert merge.folder == ""
    assert [(model.name, model.path, model.weight) for model in recipe.models] == [
        ("a", 'a\\"#', 1.0),  # the leftmost of the formula, whose configuration the result has, comes first
        ("b", "hub#1//b", 5.0),
        ("c", "c", 1.0),
    ]
    note = recipe.merge.settings.notes(["a", "b", "c"], [1.0, 5.0, 1.0])[0]
    assert note.endswith("= -a + 5/3*b - 4/3*c")
    assert recipe.missing == "error"


@given(st.text(st.sampled_from('ab"\\#/ \n'), max_size=30))
def test_comments_go_and_places_stay(inside: str) -> None:
    text = f'{{"k": {json.dumps(inside)}}}'
    commented = text.replace("{", "{ // one \" ' #\n", 1) + " # two"
    assert json.loads(without_comments(commented)) == {"k": inside}
    assert len(without_comments(commented)) == len(commented)


def test_fixed_and_range_span_a_grid(tmp_path: Path) -> None:
    found = merges(
        tmp_path,
        {
            "formula": "c + w1*(a - c)*w2",
            "constants": [
                constant("w1", "range", min_value=0, max_value=1, n_values=3),
                constant("w2", "fixed", values=[0.5, 1]),
            ],
        },
    )
    assert values(found) == [{"w1": w1, "w2": w2} for w1 in (0, 0.5, 1) for w2 in (0.5, 1)]
    assert [merge.folder for merge in found][:3] == ["w1_0_w2_0.5", "w1_0_w2_1", "w1_0.5_w2_0.5"]


def test_folders_of_close_values_differ(tmp_path: Path) -> None:
    """Three digits after the point put 0.1001 and 0.1004 into one folder."""
    found = merges(
        tmp_path,
        {"formula": "w*a", "constants": [constant("w", "fixed", values=[0.1001, 0.1004, 1e-9, 2e-9, 0.1001])]},
    )
    assert [merge.folder for merge in found] == ["w_0.1001", "w_0.1004", "w_1e-09", "w_2e-09"]


@given(st.floats(allow_nan=False, allow_infinity=False), st.floats(allow_nan=False, allow_infinity=False))
def test_folder_names_tell_all_numbers_apart(first: float, second: float) -> None:
    assert (folder_name({"w": first}) == folder_name({"w": second})) == (repr(first) == repr(second))


def test_sampled_constants(tmp_path: Path) -> None:
    grid = constant("u", "sampled", min_value=0, max_value=1, n_values=3)
    chosen = constant("v", "sampled", values=[1, 2, 3, 4], n_values=4)
    fresh = constant("z", "sampled", values=[1.0], n_values=0)  # a draw of exactly 1 ended the published iterator
    run = {"formula": "u*v*z*a + c", "constants": [grid, chosen, fresh]}
    drawn = values(merges(tmp_path, run))
    assert len(drawn) == 12
    assert len({point["u"] for point in drawn}) == 3
    assert sorted({point["v"] for point in drawn}) == [1, 2, 3, 4]  # without replacement
    assert {point["z"] for point in drawn} == {1.0}
    assert drawn == values(merges(tmp_path, run))
    assert drawn != values(merges(tmp_path, run, seed=7))


def test_fresh_draws_differ_from_point_to_point(tmp_path: Path) -> None:
    fresh = constant("z", "sampled", min_value=0, max_value=1)
    run = {"formula": "w*z*a + c", "constants": [constant("w", "fixed", values=[1, 2, 3]), fresh]}
    drawn = values(merges(tmp_path, run))
    assert len({point["z"] for point in drawn}) == 3
    assert len(merges(tmp_path, {"formula": "z*a + c", "constants": [fresh]})) == 1


def test_normalised_samples_sum_to_one(tmp_path: Path) -> None:
    shares = constant("w", "norm_sample", values=[0, 1, 3], n_values=2)  # 0, 0 is drawn again, not divided by
    axis = constant("s", "fixed", values=list(range(1, 40)))
    drawn = values(merges(tmp_path, {"formula": "s*(w1*a + w2*c)", "constants": [shares, axis]}))
    assert all(math.isclose(point["w1"] + point["w2"], 1) for point in drawn)
    assert {round(point["w1"], 6) for point in drawn} == {0, 0.25, 0.5, 0.75, 1}
    with pytest.raises(RecipeError, match=r"constants.0.norm_sample: values \[0.0\]: one that is not 0 would be right"):
        merges(tmp_path, {"formula": "w1*a", "constants": [constant("w", "norm_sample", values=[0], n_values=1)]})


def test_several_runs_have_folders_of_their_own(tmp_path: Path) -> None:
    axis = constant("w", "fixed", values=[1, 2])
    found = merges(
        tmp_path,
        {"formula": "w*a", "combination_id": "one", "constants": [axis]},
        {"formula": "a - c", "combination_id": "two"},
    )
    assert [merge.folder for merge in found] == ["one/w_1", "one/w_2", "two"]
    alone = merges(tmp_path, {"formula": "w*a", "constants": [axis], "combination_id": "mix"}, as_list=True)
    assert [merge.folder for merge in alone] == ["mix/w_1", "mix/w_2"]
    with pytest.raises(RecipeError, match="combination_id 'x' is given 2 times"):
        merges(tmp_path, {"formula": "a", "combination_id": "x"}, {"formula": "c", "combination_id": "x"})


@pytest.mark.parametrize(("word", "ours"), [("no", "error"), ("zeros", "zeros"), ("ones", "ones"), ("copy", "copy")])
def test_missing_weights(tmp_path: Path, word: str, ours: str) -> None:
    (merge,) = merges(tmp_path, {"formula": "a - c", "missing_weights_init": word})
    assert recipe_from(merge.data).missing == ours


@pytest.mark.parametrize(
    ("run", "message"),
    [
        ({"formula": "a*c"}, "formula:2: a model × a model"),
        ({"formula": "2/a"}, "formula:2: a number ÷ a model"),
        ({"formula": "a", "constants": [constant("w", "fixed", values=[1])]}, "constant w: not in the formula"),
        (
            {"formula": "w*a", "constants": [constant("w", "range", min_value=0, max_value=1)]},
            "n_values: Field required",
        ),
        (
            {"formula": "w*a", "constants": [constant("w", "sampled")]},
            "values, or min_value and max_value, would be right",
        ),
        ({"formula": "w*a", "constants": [constant("w", "sampled", values=[1], n_values=2)]}, "2 of 1 values without"),
        ({"formula": "w*a", "constants": [constant("w", "uniform")]}, "'fixed', 'range', 'sampled', 'norm_sample'"),
        ({"formula": "a*a2", "constants": [constant("a", "fixed", values=[1])]}, "operand_id 'a' is given 2 times"),
        ({"formula": "a", "combination_id": "../up"}, "the name of a folder below the output"),
        ({"formula": "a", "combination": "x"}, r"combination: Extra inputs are not permitted \(received 'x'\)"),
        ({}, "formula: Field required"),
    ],
)
def test_refused(tmp_path: Path, run: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merges(tmp_path, run)


def test_names_that_are_no_models_are_refused_before_anything_is_read(tmp_path: Path) -> None:
    """They hung the published program."""
    (merge,) = merges(tmp_path, {"formula": "a - d"})
    with pytest.raises(
        RecipeError, match=r"merge.formula: received \"a - d\"; formula:5: 'd' is neither a model \(a, c"
    ):
        recipe_from(merge.data)


def test_files_that_are_no_json(tmp_path: Path) -> None:
    path = tmp_path / "dem.json"
    path.write_text('{"formula": "a",\n # one\n "models" []}')
    with pytest.raises(RecipeError, match=r"dem.json:3:11: Expecting ':' delimiter; JSON, with comments"):
        read_dem(path)
    path.write_text("[]")
    with pytest.raises(RecipeError, match=r"received \[\]; a run, or a list of runs"):
        read_dem(path)
    path.write_text("[" * 100_000)
    with pytest.raises(RecipeError, match="JSON, with comments"):
        read_dem(path)
    with pytest.raises(RequestError, match=r"nowhere\.json: cannot be read: No such file"):
        read_dem(tmp_path / "nowhere.json")
