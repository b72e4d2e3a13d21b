"""`mats merge` and `mats check` on files: what they make, and how they refuse."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from cli_files import Ended, random_tensors, write_checkpoint
from safetensors.torch import load_file

Run = Callable[..., Ended]


def test_merge_writes_what_the_recipe_asks_for(workplace: Path, run_mats: Run) -> None:
    ended = run_mats("merge", "recipe.yaml")
    assert ended.status == 0
    assert ended.out.splitlines()[-1] == "out"
    merged = load_file(workplace / "out" / "model.safetensors")
    one, two = random_tensors(1), random_tensors(2)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, (one[name] + two[name]) / 2)
    assert {"report.json", "recipe.yaml", "run.json", "config.json"} <= {
        path.name for path in (workplace / "out").iterdir()
    }


def test_the_saved_recipe_makes_the_same_merge_again(workplace: Path, run_mats: Run) -> None:
    assert (
        run_mats("merge", "recipe.yaml", "first", "merge.method=task_arithmetic", "models.one.weight=0.5").status == 0
    )
    assert run_mats("merge", "first/recipe.yaml", "second").status == 0
    first, second = (workplace / name / "model.safetensors" for name in ("first", "second"))
    assert first.read_bytes() == second.read_bytes()
    assert run_mats("merge", "recipe.yaml", "third").status == 0
    assert (workplace / "third" / "model.safetensors").read_bytes() != first.read_bytes()


def test_out_and_overrides_may_come_in_any_order(workplace: Path, run_mats: Run) -> None:
    ended = run_mats("merge", "recipe.yaml", "merge.method=ties", "a/b=c", "merge.density=0.5", "--json")
    assert ended.status == 0
    assert ended.value["output"] == "a/b=c"
    assert ended.value["method"] == "ties"
    assert ended.err == ""


def test_dry_run_writes_nothing(workplace: Path, run_mats: Run) -> None:
    before = sorted(workplace.rglob("*"))
    ended = run_mats("merge", "recipe.yaml", "--dry-run")
    assert (ended.status, sorted(workplace.rglob("*"))) == (0, before)
    assert "would write out" in ended.out
    plan = run_mats("merge", "recipe.yaml", "--dry-run", "--json").value
    assert plan["parameters_by_rule"] == {"average": 34}
    assert plan["output_bytes"] == 34 * 4


def test_a_sparsified_merge_is_told_before_and_after(workplace: Path, run_mats: Run) -> None:
    options = ("merge", "recipe.yaml", "sparsify.of=weights", "sparsify.drop=1")
    told = "sparsified before the merge: one, two: random drops 1 of weights (rescale inverse, seed 0)"
    assert told in run_mats(*options, "--dry-run").out
    assert run_mats("check", "recipe.yaml", *options[2:]).status == 0
    ended = run_mats(*options)
    assert (ended.status, told in ended.err) == (0, True)
    assert not any(tensor.any() for tensor in load_file(workplace / "out" / "model.safetensors").values())
    refused = run_mats("check", "recipe.yaml", "sparsify.drop=0.5", "output=other", "base=null")
    assert refused.status == 2
    assert "model one: sparsify.of: delta is the change against a base" in refused.out + refused.err


def test_an_existing_output_is_replaced_only_when_asked(workplace: Path, run_mats: Run) -> None:
    assert run_mats("merge", "recipe.yaml").status == 0
    refused = run_mats("merge", "recipe.yaml", "merge.method=ties")
    assert refused.status == 2
    assert refused.err == "mats: out: exists already; choose another output or pass --overwrite\n"
    before = (workplace / "out" / "model.safetensors").read_bytes()
    assert run_mats("merge", "recipe.yaml", "merge.method=ties", "--overwrite").status == 0
    assert (workplace / "out" / "model.safetensors").read_bytes() != before


def damage_truncated(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])


def damage_nan(folder: Path) -> None:
    tensors = random_tensors(2)
    tensors["layer.bias"][3] = float("nan")
    (folder / "model.safetensors").unlink()
    folder.joinpath("config.json").unlink()
    folder.rmdir()
    write_checkpoint(folder, tensors)


def damage_shape(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    folder.joinpath("config.json").unlink()
    folder.rmdir()
    write_checkpoint(folder, random_tensors(2, rows=7))


def damage_shard(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00002.safetensors")
    names = {name: f"model-0000{1 + (name == 'norm.weight')}-of-00002.safetensors" for name in random_tensors(2)}
    import json

    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))


def damage_gone(folder: Path) -> None:
    folder.rename(folder.with_name("twoo"))


@pytest.mark.parametrize(
    ("damage", "status", "message", "seen_by_check"),
    [
        (damage_truncated, 1, "two/model.safetensors", True),
        (damage_nan, 1, "layer.bias", False),
        (damage_shape, 3, "layer.", True),
        (damage_shard, 1, "model-00002-of-00002.safetensors", True),
        (damage_gone, 2, "two: no such folder", True),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(
    damage: Callable[[Path], None], status: int, message: str, seen_by_check: bool, workplace: Path, run_mats: Run
) -> None:
    damage(workplace / "two")
    ended = run_mats("merge", "recipe.yaml")
    errors = [line for line in ended.err.splitlines() if message in line]
    assert (ended.status, len(errors)) == (status, 1), ended.err
    assert "Traceback" not in ended.err
    assert not (workplace / "out").exists()
    checked = run_mats("check", "recipe.yaml", "--json")
    assert checked.value["ok"] is not seen_by_check
    assert checked.status == (status if seen_by_check else 0)


def test_check_lists_every_problem(workplace: Path, run_mats: Run) -> None:
    (workplace / "out").mkdir()
    (workplace / "bad.yaml").write_text(
        "base: bose\noutput: out\nmodels: {one: {path: one, data: none.yaml}, two: {path: twe}, three: {path: two}}\n"
    )
    ended = run_mats("check", "bad.yaml", "--json")
    problems = ended.value["problems"]
    assert ended.status == 2
    for part in (
        "base: bose",
        "models.one.data: none.yaml: no such file",
        "models.two: twe",
        "models.two: method mats reads metadata",
        "models.three: method mats reads metadata",
        "output out: exists already",
    ):
        assert any(problem.startswith(part) for problem in problems), (part, problems)
    as_text = run_mats("check", "bad.yaml")
    assert as_text.err.splitlines() == [f"mats: {problem}" for problem in problems]
    assert run_mats("check", "recipe.yaml", "elsewhere").status == 0


def test_check_tells_the_faults_of_the_recipe_itself(workplace: Path, run_mats: Run) -> None:
    ended = run_mats("check", "recipe.yaml", "merge.anhcor=1", "--json")
    assert ended.status == ended.value["exit_status"] == 2
    assert ended.value["problems"] == ["command line: merge.anhcor: unknown key 'anhcor'; known: method, preset, rules"]


def test_a_method_without_its_metadata_is_refused_for_every_model(workplace: Path, run_mats: Run) -> None:
    ended = run_mats("merge", "recipe.yaml", "merge.method=regmean")
    assert ended.status == 2
    assert len(ended.err.splitlines()) == 2
    assert "models.one: method regmean reads metadata, and the model names none" in ended.err


def test_a_task_vector_without_a_base_is_refused(workplace: Path, run_mats: Run) -> None:
    (workplace / "baseless.yaml").write_text("models: [one, two]\nmerge: ties\n")
    ended = run_mats("merge", "baseless.yaml", "out")
    assert ended.status == 2
    assert "needs a base model" in ended.err


def test_inspect_tells_what_a_checkpoint_and_a_result_hold(workplace: Path, run_mats: Run) -> None:
    value = run_mats("inspect", "one", "--json").value
    assert (value["kind"], value["parameters"], value["dtypes"]) == ("model", 34, {"float32": 3})
    assert {"name": "layer.bias", "dtype": "float32", "shape": [6]} in value["tensors"]
    assert run_mats("merge", "recipe.yaml").status == 0
    result = run_mats("inspect", "out", "--json").value
    assert result["kind"] == "result (model)"
    assert result["parameters_by_rule"] == {"average": 34}
    assert result["systems_solved"] == 0  # a merge entry by entry
    text = run_mats("inspect", "out", "--tensors").out
    assert "layer.weight" in text
    assert run_mats("inspect", "nothing").status == 2
