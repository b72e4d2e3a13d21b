"""Merge strings of the published TIES code as an axis of a sweep."""

from __future__ import annotations

import pytest

from mats.errors import RecipeError
from mats.methods import TiesSettings
from mats.recipes.loading import recipe_from
from mats.sweeps.expansion import expand_axes

RECIPE = {"base": "base", "models": ["one", "two"], "merge": "average", "output": "out"}


def test_every_scale_of_every_string_is_a_point():
    written = ["topk10_mass_dis-mean_mergelist+1,2", "task-vector_linear+0.1+0.31+0.1", "basic_median"]
    points = expand_axes({"from_ties": written}, (), ["one", "two"], "sweep.yaml")
    assert [point.columns for point in points] == [
        {"from_ties": "topk10_mass_dis-mean", "scale": 1.0},
        {"from_ties": "topk10_mass_dis-mean", "scale": 2.0},
        {"from_ties": "task-vector", "scale": 0.1},
        {"from_ties": "task-vector", "scale": 0.2},
        {"from_ties": "task-vector", "scale": 0.3},
        {"from_ties": "basic_median", "scale": None},
    ]
    recipes = [recipe_from(RECIPE, [f"{key}={value}" for key, value in point.overrides.items()]) for point in points]
    assert recipes[1].merge.settings == TiesSettings(density=0.1, scale=2.0)
    assert [recipe.merge.settings.name for recipe in recipes] == ["ties"] * 2 + ["task_arithmetic"] * 3 + ["pointwise"]


def test_strings_are_crossed_with_other_axes():
    axes = {"from_ties": ["topk10_mass_dis-mean_mergelist+1,2"], "merge.zero_votes": ["zero", "positive"]}
    with pytest.raises(RecipeError, match=r"merge.zero_votes: set twice"):
        expand_axes(axes, (), ["one", "two"], "sweep.yaml")
    axes = {"from_ties": ["topk10_mass_dis-mean_mergelist+1,2"], "models": {"pairs": "unordered"}}
    assert len(expand_axes(axes, (), ["one", "two"], "sweep.yaml")) == 2


def test_faults_of_all_strings_are_told_together():
    with pytest.raises(
        RecipeError, match=r"(?s)axes.from_ties: TIES string 'top1_.*trim 'top1'.*axes.from_ties: .*'x'"
    ):
        expand_axes({"from_ties": ["top1_mass_mean_mergelist+1", "x"]}, (), ["one"], "sweep.yaml")
    with pytest.raises(RecipeError, match="a list of merge strings"):
        expand_axes({"from_ties": "basic_mean"}, (), ["one"], "sweep.yaml")
