"""The `adapters` section: what may stand there, and that recipes, checks and the command line reach the engine."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from torch import nn

from mats.checkpoints.lora import open_lora
from mats.errors import RecipeError
from mats.recipes import load_recipe
from mats.recipes.checking import find_problems
from mats.recipes.requests import merge_request


def adapter(folder: Path, seed: int, rank: int = 2) -> Path:
    model = get_peft_model(nn.Sequential(nn.Linear(6, 5)), LoraConfig(r=rank, lora_alpha=3, target_modules=["0"]))
    generator = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(folder)
    return folder


def write(root: Path, **keys: object) -> Path:
    models = {"a": {"path": str(adapter(root / "a", 0))}, "b": {"path": str(adapter(root / "b", 1, 3)), "weight": -0.5}}
    recipe = {"models": models, "merge": {"method": "task_arithmetic", "scale": 1.0}, **keys}
    (root / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return root / "recipe.yaml"


def test_command_line_merges_adapters(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The whole way: recipe → mats check → mats merge → an adapter with its report, whose recipe gives it again."""
    from mats.cli.main import main

    recipe = write(tmp_path, adapters={"combine": "exact"})
    out = tmp_path / "out"
    assert find_problems(load_recipe(recipe, []), out) == []
    assert main(["merge", str(recipe), str(out), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["output"] == str(out)
    assert {"adapter_model.safetensors", "adapter_config.json", "report.json", "report.html", "README.md"} <= {
        file.name for file in out.iterdir()
    }
    with open_lora(tmp_path / "a") as a, open_lora(tmp_path / "b") as b, open_lora(out) as merged:
        expected = a.modules["0"].update() - 0.5 * b.modules["0"].update()
        torch.testing.assert_close(merged.modules["0"].update(), expected, rtol=1e-6, atol=1e-6)
    assert "library_name: peft" in (out / "README.md").read_text()
    assert main(["merge", str(out / "recipe.yaml"), str(tmp_path / "again"), "--json"]) == 0
    assert (tmp_path / "again" / "adapter_model.safetensors").read_bytes() == (
        out / "adapter_model.safetensors"
    ).read_bytes()


def test_overrides_and_the_truncation_in_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from mats.cli.main import main

    recipe = write(tmp_path, adapters={})
    assert main(["merge", str(recipe), str(tmp_path / "out"), "adapters.rank=2", "--json"]) == 0
    capsys.readouterr()
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    (layer,) = report["layers"]
    assert (layer["rule"], layer["rank"]) == ("svd", 2)
    assert 0 < layer["truncation_error"] < 1
    page = (tmp_path / "out" / "report.html").read_text()
    assert "truncation" in page
    assert main(["merge", str(recipe), str(tmp_path / "out2"), "adapters.rank=2", "--dry-run", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)["parameters_by_rule"]) == {"svd"}
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ({"rank": 0}, r"adapters.rank"),
        ({"combine": "svd", "reduce": True}, r"reduce: combine: svd does not take it; combine: exact does"),
        ({"combine": "exact", "rank": 3}, r"rank: combine: exact has ranks of its own; combine: svd takes a rank"),
        ({"negate": "A"}, r"negate: combine: auto does not take it; combine: factorwise does"),
        ({"combine": "peft_linear", "metric": "curvature"}, r"metric: combine: peft_linear loses nothing by a metric"),
        ({"reduce": True, "rank": 3}, r"reduce: a rank makes the best adapter of that rank"),
        ({"metric": "frobenius", "damping": 0.1}, r"damping: metric: frobenius has no Grams to be damped"),
        ({"output": "dense", "rank": 3}, r"output: dense holds every update whole"),
        ({"ranks": 3}, r"adapters: unknown key 'ranks'.*rank"),
        ({"combine": "concat"}, r"adapters.combine"),
    ],
)
def test_faults(tmp_path: Path, section: dict[str, object], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe(write(tmp_path, adapters=section), [])


def test_the_request_has_what_was_written(tmp_path: Path) -> None:
    recipe = write(tmp_path, adapters={"combine": "factorwise", "negate": "B"})
    request = merge_request(load_recipe(recipe, []), tmp_path / "out")
    assert request.adapters is not None
    assert (request.adapters.combine, request.adapters.negate, request.adapters.output) == (
        "factorwise",
        "B",
        "adapter",
    )
    assert merge_request(load_recipe(write(tmp_path), []), tmp_path / "out").adapters is None
