"""`key.path=value`: found and typed by the schema."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RecipeError
from mats.recipes import recipe_from
from mats.recipes.requests import reads_metadata

DATA: dict[str, Any] = {
    "base": "b",
    "models": [{"name": "paws", "path": "p"}, {"name": "t5-v1.1", "path": "q"}],
    "merge": {"method": "mats", "anchor": 0.5, "init": {"method": "ties", "density": 0.4}},
}


@pytest.mark.parametrize(
    ("override", "read", "value"),
    [
        ("models.paws.weight=0.5", lambda r: r.models[0].weight, 0.5),
        ("models.1.weight=0.25", lambda r: r.models[1].weight, 0.25),
        ("models.t5-v1.1.weight=3", lambda r: r.models[1].weight, 3.0),
        ("merge.solver.tolerance=1e-6", lambda r: r.merge.settings.solver.tolerance, 1e-6),
        ("merge.radius=null", lambda r: r.merge.settings.radius, None),
        ("merge.shrinkage=oas", lambda r: r.merge.settings.shrinkage, "oas"),
        ("merge.shrinkage=0.5", lambda r: r.merge.settings.shrinkage, 0.5),
        ("merge.init=average", lambda r: r.merge.settings.init.name, "average"),
        ("merge.init.method=task_arithmetic", lambda r: r.merge.settings.init.scale, 0.3),
        ("merge.fallback=[input_gram, init]", lambda r: r.merge.settings.fallback, ("input_gram", "init")),
        ("merge.method=ties", lambda r: r.merge.settings.density, 0.2),
        ("curvature.statistics=diagonal", lambda r: r.curvature.statistics, ("diagonal",)),
        ("memory_budget=2GiB", lambda r: r.memory_budget, 2**31),
        ("base=1e3", lambda r: r.base, "1e3"),
        ("base=true", lambda r: r.base, "true"),
        ("base=", lambda r: r.base, None),
        ("base='quoted'", lambda r: r.base, "quoted"),
        ("output=a=b #c", lambda r: r.output, "a=b #c"),
        ("output=a: b", lambda r: r.output, "a: b"),
    ],
)
def test_values_are_typed_by_the_schema(override: str, read: Any, value: object) -> None:
    got = read(recipe_from(DATA, [override]))
    assert got == value
    assert type(got) is type(value)


def test_a_method_is_named_before_its_settings_whatever_the_order() -> None:
    for order in (["merge.density=0.7", "merge.method=ties"], ["merge.method=ties", "merge.density=0.7"]):
        assert recipe_from(DATA, order).merge.settings.density == 0.7


def test_an_override_below_a_bare_word_keeps_the_word() -> None:
    data = {"base": "b", "models": ["x/paws"], "merge": "ties"}
    assert recipe_from(data, ["merge.density=0.6"]).merge.settings.name == "ties"
    assert recipe_from(data, ["models.paws.weight=2"]).models[0].path == "x/paws"
    start = {"models": ["a"], "merge": {"init": "ties"}}
    assert recipe_from(start, ["merge.init.density=0.6"]).merge.settings.init.density == 0.6
    with pytest.raises(RecipeError, match=r"unknown key 'anhcor'; known: method, preset, rules, .*density"):
        recipe_from(data, ["merge.anhcor=1"])


def test_naming_the_same_method_keeps_the_settings() -> None:
    assert recipe_from(DATA, ["merge.method=mats"]).merge.settings.anchor == 0.5


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("merge.anhcor=1", "unknown key 'anhcor'; did you mean 'anchor'"),
        ("anchor=1", "unknown key 'anchor' here; it belongs to merge.anchor"),
        ("models.pwas.weight=1", "nothing called 'pwas' in models .*did you mean 'paws'"),
        ("models.7.weight=1", "indices 0 to 1"),
        ("merge.rules.0.method=ties", "no list is written there yet"),
        ("seed.deeper=1", "stands below a value that has no keys"),
        ("merge.outside.scale=1", "whose method is not named yet"),
        ("novalue", "key.path=value would be right"),
        ("=3", "key.path=value would be right"),
        ("seed=x", 'seed: received "x"; a whole number would be right'),
        ("merge.fallback=[a", "not YAML"),
        ("merge.method=dare-ties", "did you mean 'ties'"),
        ("models.paws.path=", "a text that is not empty would be right"),
    ],
)
def test_faults_are_told(override: str, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        recipe_from(DATA, [override])


def test_all_overrides_are_judged_together_with_the_file() -> None:
    with pytest.raises(RecipeError) as caught:
        recipe_from({**DATA, "seed": -1}, ["nope=1", "dtype=bf16", "merge.anhcor=1"])
    assert len(caught.value.faults) == 4


def test_the_data_given_are_not_changed() -> None:
    recipe_from(DATA, ["models.paws.weight=9", "merge.method=ties"])
    assert DATA["models"][0] == {"name": "paws", "path": "p"}
    assert DATA["merge"]["method"] == "mats"


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_text_survives_where_a_text_is_wanted(text: str) -> None:
    quoted = text.lstrip()[:1] in ("'", '"', "[", "{")
    if not quoted and text not in ("~", "null", "Null", "NULL"):
        assert recipe_from(DATA, [f"models.paws.path={text}"]).models[0].path == text


@given(st.floats(min_value=1e-300, max_value=1e300))
def test_any_number_survives(number: float) -> None:
    for signed in (number, -number):
        overrides = ["merge.method=linear", f"models.paws.weight={signed!r}"]
        assert recipe_from(DATA, overrides).models[0].weight == signed


@given(st.text(min_size=1))
def test_any_argument_gives_a_recipe_or_a_fault(argument: str) -> None:
    with suppress(RecipeError):
        assert recipe_from(DATA, [argument]).models


def test_a_scale_is_a_number_or_automatic() -> None:
    data = {**DATA, "merge": {"method": "task_arithmetic"}}
    for text, value in (("auto", "auto"), ("0.4", 0.4)):
        recipe = recipe_from(data, [f"merge.scale={text}"])
        assert recipe.merge.settings.scale == value
        assert reads_metadata(recipe) == (text == "auto")
    with pytest.raises(RecipeError, match="scale"):
        recipe_from(data, ["merge.scale=automatic"])
