"""`preset: published`: the settings of `mats.methods.published`, under whatever the recipe says itself."""

from __future__ import annotations

import pytest

from mats.errors import RecipeError
from mats.methods.published import PUBLISHED, published_settings
from mats.recipes import recipe_from


def merged_by(merge: dict[str, object], **rest: object) -> object:
    return recipe_from({"base": "b", "models": ["a", "c"], "merge": merge, **rest}).merge.settings


@pytest.mark.parametrize("method", ["average", "task_arithmetic", "ties", "fisher", "regmean", "mats"])
def test_a_preset_is_the_published_settings(method: str) -> None:
    assert merged_by({"method": method, "preset": "published"}) == published_settings(method)


def test_the_other_presets() -> None:
    assert merged_by({"method": "regmean", "preset": "published_cg"}) == published_settings("regmean_cg")
    assert merged_by({"method": "fisher", "preset": "published_cg"}) == published_settings("fisher_cg")
    for method in ("mats", "task_arithmetic", "ties", "average"):
        assert merged_by({"method": method, "preset": "published_ia3"}) == PUBLISHED["ia3"][method]


def test_the_recipe_wins_key_by_key() -> None:
    settings = merged_by(
        {"method": "mats", "preset": "published", "solver": {"max_iterations": 30}, "off_diagonal": 0.9}
    )
    expected = published_settings("mats").model_dump()
    expected["solver"]["max_iterations"] = 30
    expected["off_diagonal"] = 0.9
    assert settings.model_dump() == expected
    other_start = merged_by({"method": "mats", "preset": "published", "init": {"method": "average"}})
    assert other_start.init.name == "average"


def test_a_preset_differs_from_the_defaults() -> None:
    assert merged_by({"method": "mats", "preset": "published"}) != merged_by({"method": "mats"})


def test_curvature_is_as_published_too_unless_the_recipe_says_otherwise() -> None:
    data = {"models": ["a"], "merge": {"preset": "published"}}
    assert recipe_from(data).curvature.homogeneous is False
    assert recipe_from({**data, "curvature": {"homogeneous": True, "examples": 5}}).curvature.homogeneous is True
    assert recipe_from({"models": ["a"]}).curvature.homogeneous is True


def test_resolving_twice_changes_nothing() -> None:
    once = recipe_from({"base": "b", "models": ["a"], "merge": {"preset": "published", "anchor": 0.5}})
    assert recipe_from(once.as_written()) == once


@pytest.mark.parametrize(
    ("merge", "message"),
    [
        ({"preset": "publishd"}, "did you mean 'published'"),
        (
            {"method": "mats", "preset": "published_cg"},
            r"nothing was published for method 'mats' \(only fisher, regmean\)",
        ),
        ({"method": "regmean", "preset": "published_ia3"}, "nothing was published for method 'regmean'"),
        ({"method": "tise", "preset": "published"}, "did you mean 'ties'"),
        ({"method": "mats", "preset": "published", "anchr": 1}, "unknown key 'anchr'; did you mean 'anchor'"),
    ],
)
def test_faults(merge: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merged_by(merge)
