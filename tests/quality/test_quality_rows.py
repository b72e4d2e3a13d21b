"""Rows and variants: what each is, what is measured for it, and where its answers are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml
from rows import FISHER_CURVATURE, MATS, OWN_WEIGHTS, QUICK_ROWS, ROWS, Row, measurements
from variants import DIGITS_VARIANTS, VARIANTS

from mats.recipes import load_recipe
from mats.recipes.requests import reads_metadata

BY_NAME = {row.name: row for row in ROWS}
ALL = [*(candidate for row in ROWS for candidate in row.candidates()), *VARIANTS]


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.yaml"
    models = [{"name": name, "path": name, "data": f"{name}.yaml"} for name in ("one", "two")]
    path.write_text(yaml.safe_dump({"base": "base", "models": models, "heads": {"from": "own"}}))
    return path


@pytest.mark.parametrize("row", [*ALL, *DIGITS_VARIANTS], ids=lambda row: row.file_name)
def test_every_row_is_a_recipe_and_needs_what_it_says(row: Row, recipe: Path) -> None:
    reads = reads_metadata(load_recipe(recipe, list(row.overrides)))
    assert reads == (row.needs != "nothing" or row.proxy is not None)


def test_answers_of_different_rows_lie_in_different_files() -> None:
    names = [row.file_name for row in ALL]
    assert len(set(names)) == len(names)


def test_answers_of_the_rows_that_there_always_were_keep_their_names() -> None:
    assert [BY_NAME[name].file_name for name in ("diagonal Fisher", "RegMean", "mats", "average")] == [
        "method-fisher", "method-regmean", "method-mats", "method-average",
    ]  # fmt: skip
    assert BY_NAME["mats, metadata measured again"].file_name == "method-mats-refreshed"
    assert [each.file_name for each in BY_NAME["TIES"].candidates()][:2] == [
        "method-ties_scale-0.7", "method-ties_scale-1",
    ]  # fmt: skip


def test_published_methods_read_statistics_of_the_models_own_weights() -> None:
    own = {row.name for row in ROWS if OWN_WEIGHTS in row.overrides}
    assert own == {"diagonal Fisher", "RegMean", "mats, curvature at the models' own weights"}
    assert BY_NAME["task arithmetic, scales from metadata"].curvature == MATS.curvature == ()


def test_every_way_of_measuring_is_named_once() -> None:
    assert measurements(ROWS) == [(), FISHER_CURVATURE, (OWN_WEIGHTS,)]
    assert measurements(row for row in ROWS if row.needs == "nothing") == []  # proxies among them
    assert len(measurements(VARIANTS)) == 6  # four positions, sampled labels, fewer examples
    assert len(measurements(DIGITS_VARIANTS)) == 4


def test_variants_change_one_thing_at_a_time_and_one_is_the_default(recipe: Path) -> None:
    default = load_recipe(recipe, list(MATS.overrides))
    same = []
    for variant in VARIANTS:
        found = load_recipe(recipe, list(variant.overrides))
        position = found.curvature.model_copy(update={"position": default.curvature.position})
        if found.merge == default.merge and position == default.curvature:
            same.append(variant.name)
    assert same == [
        f"position {position}, damping 0.1, from tsv_m, balanced" for position in ("0.3", "0.5", "0.7", "1")
    ]
    assert len({variant.name for variant in VARIANTS}) == 11
    assert len({variant.name for variant in DIGITS_VARIANTS}) == 10


def test_a_quick_look_has_few_settings_and_every_kind_of_metadata() -> None:
    assert all(len(row.candidates()) <= 2 for row in QUICK_ROWS)
    assert {(row.refresh, row.proxy) for row in QUICK_ROWS} == {(0, None)}
    assert set(measurements(QUICK_ROWS)) == set(measurements(ROWS))
    assert MATS in QUICK_ROWS
