"""The published folder: loads with from_pretrained, gives the in-memory merge's logits, and explains itself."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml
from engine_families import Family, make_model

from mats.checkpoints import load_model, open_checkpoint
from mats.engine import MergeRequest, merge
from mats.methods import AverageSettings, MatsSettings, RegMeanSettings, TaskArithmeticSettings


def logits(family: str, model: torch.nn.Module) -> torch.Tensor:
    ids = torch.arange(10).reshape(2, 5) + 3
    with torch.no_grad():
        if family == "vit":
            return model(pixel_values=torch.linspace(-1, 1, 128).reshape(2, 1, 8, 8)).logits
        if family == "t5":
            return model(input_ids=ids, decoder_input_ids=ids[:, :3]).logits
        return model(input_ids=ids).logits


@pytest.mark.parametrize("family", ["bert", "t5", "gpt2", "vit"])
@pytest.mark.usefixtures("light_report")
def test_from_pretrained_gives_the_logits_of_the_merge_in_memory(
    family: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Family = request.getfixturevalue(family)
    task = {"vit": "image_classification", "t5": "text_to_text", "gpt2": "language_modeling"}.get(
        family, "text_classification"
    )
    result = merge(
        MergeRequest(
            base=str(source.base), models=source.inputs(), method=RegMeanSettings(), output=tmp_path / "o", device="cpu"
        )
    )
    in_memory = make_model(family, 0)
    with open_checkpoint(result.path) as checkpoint:
        state = {name: checkpoint.read(name) for name in checkpoint.tensors}
    missing, unexpected = in_memory.load_state_dict(state, strict=False)
    assert not unexpected
    assert all("embed_tokens" in name or name == "lm_head.weight" for name in missing)  # tied
    loaded = load_model(result.path, task)
    torch.testing.assert_close(logits(family, loaded), logits(family, in_memory), rtol=1e-5, atol=1e-5)
    other = load_model(source.base, task)
    assert not torch.allclose(logits(family, other), logits(family, loaded), atol=1e-3)


def test_everything_is_beside_the_weights(bert: Family, tmp_path: Path) -> None:
    request = MergeRequest(
        base=str(bert.base), models=bert.inputs(), method=MatsSettings(), output=tmp_path / "out", device="cpu"
    )
    result = merge(request)
    names = {path.name for path in result.path.iterdir()}
    assert {
        "config.json",
        "model.safetensors",
        "recipe.yaml",
        "report.json",
        "report.html",
        "README.md",
        "run.json",
    } <= names
    assert not list(tmp_path.glob(".*"))
    report = json.loads((result.path / "report.json").read_text())
    assert report["parameters"]["total"] == sum(p.numel() for p in make_model("bert", 0).parameters())
    solved = [layer for layer in report["layers"] if layer["rule"] == "kfac"]
    assert len(solved) == 3 + 2 * 6 + 2  # embeddings; q, k, v, o, up, down; pooler, head
    for layer in solved:
        assert set(layer["loss_before"]) == {"task0", "task1", "task2"}
        assert sum(layer["loss_after"].values()) < sum(layer["loss_before"].values())
        assert layer["relative_residual"] <= 1e-4
    assert report["models"][1]["examples"] == 5
    assert "seconds" not in report
    assert json.loads((result.path / "run.json").read_text())["seconds"] > 0
    recipe = yaml.safe_load((result.path / "recipe.yaml").read_text())
    assert recipe["merge"]["damping"] == 0.1


@pytest.mark.usefixtures("light_report")
def test_output_dtype_and_its_rounding_loss(bert: Family, tmp_path: Path) -> None:
    settings = TaskArithmeticSettings(scale=0.3)
    request = MergeRequest(
        base=str(bert.base),
        models=bert.inputs(metadata=False),
        method=settings,
        output=tmp_path / "o",
        dtype="bfloat16",
    )
    result = merge(request)
    name = "bert.pooler.dense.weight"
    exact = bert.base_state[name] + 0.3 * sum(state[name] - bert.base_state[name] for state in bert.states)
    lost = (exact.bfloat16().double() - exact.double()).norm() / (exact - bert.base_state[name]).double().norm()
    with open_checkpoint(result.path) as merged:
        assert merged.tensors[name].dtype == torch.bfloat16
        torch.testing.assert_close(merged.read(name).float(), exact, rtol=1e-2, atol=1e-3)
    layer = next(layer for layer in result.report["layers"] if layer["name"] == name)
    assert layer["rounding_loss"] == pytest.approx(float(lost), rel=1e-3)
    full = merge(MergeRequest(models=bert.inputs(metadata=False), method=AverageSettings(), output=tmp_path / "full"))
    assert all(layer["rounding_loss"] == 0.0 for layer in full.report["layers"])
