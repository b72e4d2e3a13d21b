"""All faults of a recipe at once: where, which key, what was received, what would be right."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import get_args

import pytest

from mats.errors import RecipeError
from mats.methods import StartSettings, method_names
from mats.recipes import Recipe, load_recipe, recipe_from

BAD = """\
bas: x
weight: 3
models:
  - {name: paws, path: a, weight: none}
  - {nam: q, pth: b}
merge:
  method: mats
  anchr: 0.1
  init: {method: task-arithmetic, scale: 0.3}
  solver: {name: pgc, tolerance: abc}
  shrinkage: foo
  rules:
    - {parameters: 'x*', method: dare-ties}
    - {parameters: 'y*'}
memory_budget: 8XB
curvature: {statistics: [inputgram], examples: 0}
dtype: bf16
device: gpu
"""

STARTS = [start.model_fields["method"].default for start in get_args(get_args(StartSettings)[0])]
EXPECTED = """\
1: unknown key 'bas'; did you mean 'base'?; received "x"
2: unknown key 'weight' here; it belongs to models.<name>.weight; received 3
4: models.paws.weight: received "none"; a number would be right
5: models.1.name: missing; it is required (is 'nam' meant for it?)
5: models.1.path: missing; it is required (is 'pth' meant for it?)
5: models.1: unknown key 'nam'; did you mean 'name'?; received "q"
5: models.1: unknown key 'pth'; did you mean 'path'?; received "b"
8: merge: unknown key 'anchr'; did you mean 'anchor'?; received 0.1
9: merge.init.method: received 'task-arithmetic'; one of STARTS would be right; did you mean 'task_arithmetic'?
10: merge.solver.name: received "pgc"; 'auto', 'pcg', 'cg' or 'direct' would be right; did you mean 'pcg'?
10: merge.solver.tolerance: received "abc"; a number would be right
11: merge.shrinkage: received "foo"; a number or 'ledoit_wolf' or 'oas' would be right
13: merge.rules.0.method: received 'dare-ties'; one of METHODS would be right; did you mean 'ties'?
14: merge.rules.1.method: missing; one of METHODS would be right
15: memory_budget: received "8XB"; give a number of bytes, or a number with a unit such as 8GB or 500MiB
16: curvature.statistics.0: received "inputgram"; 'input_gram', 'output_gram', 'diagonal' or 'block' would be right; \
did you mean 'input_gram'?
16: curvature.examples: received 0; a number of at least 1 would be right
17: dtype: received "bf16"; 'float32', 'float16', 'bfloat16' or 'float64' would be right; did you mean 'bfloat16'?
18: device: received "gpu"; one of auto, cpu, cuda, cuda:N, mps, xpu would be right
""".replace("METHODS", ", ".join(method_names())).replace("STARTS", ", ".join(STARTS))


def test_every_fault_of_a_bad_recipe_is_told_in_order(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(BAD)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.faults == tuple(f"{path}:{line}" for line in EXPECTED.splitlines())
    assert caught.value.exit_status == 2
    assert pickle.loads(pickle.dumps(caught.value)).faults == caught.value.faults


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "models: missing; it is required"),
        ({"models": []}, "a list of at least 1 would be right"),
        ({"models": None}, "models: received null; a list would be right"),
        ({"models": ["a", "x/a"]}, "models: .*the name 'a' is given twice; names must differ"),
        ({"models": [3]}, "models.0: received 3; a mapping of keys to values would be right"),
        ({"models": ["a"], "merge": 3}, "merge: received 3"),
        ({"models": ["a"], "merge": {"rules": {}}}, "merge.rules: received {}; a list would be right"),
        ({"models": ["a"], "merge": {"method": 3}}, "merge.method: received '3'"),
        ({"models": ["a"], "merge": {"anchor": ".inf"}}, "merge.anchor"),
        ({"models": ["a"], "seed": True}, None),
        ({"models": ["a"], "curvature": {"homogeneous": "maybe"}}, "true or false would be right"),
    ],
)
def test_single_faults(data: dict[str, object], message: str | None) -> None:
    if message is None:
        recipe_from(data)
        return
    with pytest.raises(RecipeError, match=message):
        recipe_from(data)


def test_a_recipe_is_frozen_and_reads_back_what_it_writes() -> None:
    recipe = recipe_from(
        {"models": ["x/a"], "merge": {"method": "ties", "rules": [{"parameters": "*", "method": "base"}]}}
    )
    written = recipe.as_written()
    assert list(written)[:2] == ["base", "models"]
    assert next(iter(written["merge"])) == "method"
    assert Recipe.model_validate(written) == recipe
    assert recipe_from(written) == recipe
    with pytest.raises(ValueError, match="frozen"):
        recipe.seed = 3  # type: ignore[misc]


WEIGHTS = """\
models:
  - {name: paws, path: a, weight: 0}
  - {name: qasc, path: b, weight: -1}
merge: METHOD
"""


@pytest.mark.parametrize(
    ("method", "faults"),
    [
        ("linear", ()),
        ("{method: linear, normalize: true}", ()),
        ("average", ("2: models.paws.weight: received 0; a number other than 0 would be right; leave the model out",)),
        ("task_arithmetic", ("2: models.paws.weight: received 0; a number other than 0 would be right",)),
        ("{method: linear, rules: [{parameters: '*bias', method: average}]}", ("2: models.paws.weight: received 0;",)),
        (
            "mats",
            (
                "2: models.paws.weight: received 0; a number in (0, ∞) would be right where a quadratic is minimised",
                "3: models.qasc.weight: received -1; a number in (0, ∞) would be right where a quadratic is minimised",
            ),
        ),
    ],
)
def test_weights_are_those_that_the_method_takes(tmp_path: Path, method: str, faults: tuple[str, ...]) -> None:
    path = tmp_path / "weights.yaml"
    path.write_text(WEIGHTS.replace("METHOD", method))
    if not faults:
        assert [model.weight for model in load_recipe(path).models] == [0, -1]
        return
    with pytest.raises(RecipeError, match="weight") as caught:
        load_recipe(path)
    assert len(caught.value.faults) == len(faults)
    for told, expected in zip(caught.value.faults, faults, strict=True):
        assert told.startswith(f"{path}:{expected}"), told
