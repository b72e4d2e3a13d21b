"""Formulas and DEM files from the command line: what is printed, what is written, what is refused before any work."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from cli_files import Ended, random_tensors
from safetensors.torch import load_file, save_file

Run = Callable[..., Ended]

NAMES = {"path": "one", "operand_id": "a", "weight": 2}, {"path": "base", "operand_id": "c"}


def dem(folder: Path, **run: Any) -> str:
    (folder / "dem.json").write_text("# DEM\n" + json.dumps({"models": NAMES, **run}))
    return "dem.json"


def merged(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_formula_is_printed_and_done(workplace: Path, run_mats: Run) -> None:
    options = ("recipe.yaml", "merge.method=formula", "merge.formula=base + w*(one - base)", "merge.constants.w=0.5")
    told = "formula base + w*(one - base) = 1/2*base + 1/2*one"
    assert told in run_mats("merge", *options, "--dry-run").out
    checked = run_mats("check", *options)
    assert (checked.status, told in checked.out) == (0, True)
    assert run_mats("merge", *options).status == 0
    base, one = random_tensors(0), random_tensors(1)
    for name, tensor in merged(workplace / "out").items():
        torch.testing.assert_close(tensor, (base[name] + one[name]) / 2)
    notes = json.loads((workplace / "out" / "report.json").read_text())["notes"]
    assert notes[:2] == [told, "formula: two: not in the formula, not read"]


def test_what_cancels_is_not_read(workplace: Path, run_mats: Run) -> None:
    """`two` holds NaN, which reading refuses."""
    broken = {name: torch.full_like(tensor, float("nan")) for name, tensor in random_tensors(2).items()}
    save_file(broken, workplace / "two" / "model.safetensors")
    options = ("recipe.yaml", "merge.method=formula", "--json")
    assert run_mats("merge", *options, "merge.formula=one - two", "out1").status == 1
    assert run_mats("merge", *options, "merge.formula=one + two - two", "out2").status == 0
    assert all(torch.equal(merged(workplace / "out2")[name], tensor) for name, tensor in random_tensors(1).items())
    assert run_mats("merge", "recipe.yaml", "merge.method=linear", "models.two.weight=0", "out3").status == 0
    assert all(torch.equal(merged(workplace / "out3")[name], tensor) for name, tensor in random_tensors(1).items())


def test_one_model_minus_itself_is_zero(workplace: Path, run_mats: Run) -> None:
    assert run_mats("merge", "recipe.yaml", "merge.method=formula", "merge.formula=one - one").status == 0
    assert all(not tensor.any() for tensor in merged(workplace / "out").values())


def test_the_order_of_models_and_terms_changes_no_byte(workplace: Path, run_mats: Run) -> None:
    texts = "0.3*one - 1.7*two + base/3", "base/3 - 1.7*two + 0.3*one"
    for text, models, output in zip(texts, ("[one, two]", "[two, one]"), ("first", "second"), strict=True):
        options = (f"models={models}", "merge.method=formula", f"merge.formula={text}")
        assert run_mats("merge", "recipe.yaml", *options, output).status == 0
    first, second = ((workplace / name / "model.safetensors").read_bytes() for name in ("first", "second"))
    assert first == second


def test_integers_stay_as_the_base_has_them(workplace: Path, run_mats: Run) -> None:
    for name, start in (("base", 0), ("one", 5), ("two", 9)):
        tensors = load_file(workplace / name / "model.safetensors")
        save_file({**tensors, "ids": torch.arange(start, start + 3)}, workplace / name / "model.safetensors")
    options = ("merge.method=formula", "merge.formula=0.3*one - 0.3*two + base")
    assert run_mats("merge", "recipe.yaml", *options).status == 0
    assert merged(workplace / "out")["ids"].tolist() == [0, 1, 2]


def test_wrong_formulas_are_refused_with_the_column(workplace: Path, run_mats: Run) -> None:
    before = sorted(workplace.rglob("*"))
    for formula, told in (
        (
            "one - three",
            "merge.formula: received \"one - three\"; formula:7: 'three' is neither a model (one, two, base)",
        ),
        ("one*two", "formula:4: a model × a model (one × two) is no merge"),
        ("2/two", "formula:2: a number ÷ a model (two) is no merge"),
    ):
        ended = run_mats("merge", "recipe.yaml", "merge.method=formula", f"merge.formula={formula}")
        assert ended.status == 2
        assert told in ended.err
    assert sorted(workplace.rglob("*")) == before


def test_a_dem_file_with_one_combination_is_one_merge(workplace: Path, run_mats: Run) -> None:
    path = dem(workplace, formula="1/2*(a - c) + c", combination_id="mix")
    ended = run_mats("merge", "--from-dem", path, "out")
    assert (ended.status, ended.out.splitlines()[-1]) == (0, "out")
    base, one = random_tensors(0), random_tensors(1)
    for name, tensor in merged(workplace / "out").items():
        torch.testing.assert_close(tensor, one[name] + base[name] / 2)  # the weight 2 of a multiplies its 1/2
    assert run_mats("merge", "out/recipe.yaml", "again").status == 0
    again = (workplace / "again" / "model.safetensors").read_bytes()
    assert again == (workplace / "out" / "model.safetensors").read_bytes()


def test_several_combinations_are_several_folders_and_go_on(workplace: Path, run_mats: Run) -> None:
    constants = [{"operand_id": "w", "constant_type": "fixed", "values": [0.1001, 0.1004]}]
    path = dem(workplace, formula="c + w*(a - c)", constants=constants, combination_id="mix")
    assert run_mats("merge", "--from-dem", path, "out").status == 0
    folders = [workplace / "out" / "mix" / f"w_{value}" for value in (0.1001, 0.1004)]
    first, second = ((folder / "model.safetensors").read_bytes() for folder in folders)
    assert first != second
    (folders[1] / "model.safetensors").unlink()
    for file in folders[1].iterdir():
        file.unlink()
    folders[1].rmdir()
    ended = run_mats("merge", "--from-dem", path, "out", "--json")
    assert (ended.status, ended.value["output"]) == (0, "out/mix/w_0.1004")
    assert (folders[1] / "model.safetensors").read_bytes() == second
    assert "has been done already" in run_mats("merge", "--from-dem", path, "out").out


def test_everything_is_checked_before_the_first_merge(workplace: Path, run_mats: Run) -> None:
    constants = [{"operand_id": "w", "constant_type": "range", "min_value": 0, "max_value": 1, "n_values": 3}]
    path = dem(workplace, formula="c + w*(a - c)", constants=constants)
    (workplace / "out" / "w_1").mkdir(parents=True)
    ended = run_mats("merge", "--from-dem", path, "out")
    assert (ended.status, "w_1: exists already, from another merge" in ended.err) == (2, True)
    assert [place.name for place in (workplace / "out").iterdir()] == ["w_1"]
    assert run_mats("merge", "--from-dem", path).status == 2
    assert "w_0.5" in run_mats("merge", "--from-dem", path, "other", "--dry-run").out


def test_seeds_decide_what_is_drawn(workplace: Path, run_mats: Run) -> None:
    constants = [{"operand_id": "w", "constant_type": "sampled", "min_value": 0, "max_value": 1, "n_values": 2}]
    path = dem(workplace, formula="c + w*(a - c)", constants=constants)
    plans = [run_mats("merge", "--from-dem", path, "out", "--dry-run", *seed).out for seed in ((), (), ("--seed", "3"))]
    assert plans[0] == plans[1] != plans[2]
