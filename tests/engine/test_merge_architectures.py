"""Every architecture tried, end to end: two models, their metadata, a merge, and back into transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from family_stores import write_measured_store
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.architectures.families import FAMILIES, Family, enlivened
from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings
from mats.data.batch import Batch
from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import MatsSettings, RegMeanSettings
from mats.store import Manifest, open_store

QUICK = ("GPT-2", "Mixtral", "ResNet")
PARAMETERS = [
    pytest.param(family, id=family.name, marks=() if family.name in QUICK else pytest.mark.slow) for family in FAMILIES
]


def in_float32(batch: Batch) -> Batch:
    inputs = {name: t.float() if t.is_floating_point() else t for name, t in batch.inputs.items()}
    return Batch(inputs, batch.example_ids, batch.task, batch.input_mask, batch.target_mask, batch.labels)


def saved(family: Family, folder: Path, *, seed: int) -> nn.Module:
    """A specialist, as transformers saves and loads it."""
    model = enlivened(family.build(torch.float32), seed=seed, size=0.05)
    model.save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


def measured(model: nn.Module, family: Family, folder: Path, store: Path) -> Manifest:
    """A store of all statistics of the checkpoint in `folder`."""
    settings = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal"))
    return write_measured_store(model, in_float32(family.batch(6)), settings, folder, store)


def specialists(family: Family, folder: Path) -> tuple[ModelInput, ...]:
    """Two models with their stores."""
    inputs = []
    for number in (1, 2):
        place, store = folder / f"model{number}", folder / f"store{number}"
        measured(saved(family, place, seed=number), family, place, store)
        inputs.append(ModelInput(f"model{number}", str(place), metadata=str(store)))
    return tuple(inputs)


def merged(family: Family, folder: Path) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    """The merge's report, the model that transformers loads from it, and what it says about loading."""
    inputs = specialists(family, folder)
    method = MatsSettings(init={"method": "average"}, fallback=("kfac", "input_gram", "diagonal", "init"))
    report = merge(MergeRequest(models=inputs, method=method, output=folder / "merged")).report
    loaded, info = type(family.build()).from_pretrained(folder / "merged", output_loading_info=True)
    return report, loaded.eval(), info


@pytest.mark.usefixtures("light_report")
@pytest.mark.parametrize("family", PARAMETERS)
def test_a_merge_of_each_architecture_loads_and_runs(family: Family, tmp_path: Path) -> None:
    report, model, info = merged(family, tmp_path)
    assert not info["missing_keys"]
    assert not info["unexpected_keys"]
    assert not info["mismatched_keys"]
    logits = model(**in_float32(family.batch(2)).inputs).logits
    assert bool(torch.isfinite(logits).all())
    assert not [layer["name"] for layer in report["layers"] if not layer.get("converged", True)]
    rules = {layer.get("rule") for layer in report["layers"]}
    assert "kfac" in rules


def exact_expert(root: Path, layer: str, weight: str, bias: str, number: int) -> tuple[Tensor, Tensor]:
    """The input-Gram merge of one expert from the stores' sums, in float64: (Σ A_i + μ I) X = Σ A_i X_i + μ X_0."""
    grams, targets = [], []
    for model in (1, 2):
        store = open_store(root / f"store{model}")
        site = next(record.site for record in store.manifest.layers if record.name == layer)
        grams.append(store.sum(f"input_gram/{site}").double() / store.examples)
        with open_checkpoint(root / f"model{model}") as checkpoint:
            body, last = checkpoint.read(weight)[number].double(), checkpoint.read(bias)[number].double()
        targets.append(torch.cat([body, last[None]]))  # [in + 1, out]
    anchor = 0.1 * sum(gram.diagonal().mean() for gram in grams)
    identity, start = torch.eye(len(grams[0]), dtype=torch.float64), (targets[0] + targets[1]) / 2
    right = grams[0] @ targets[0] + grams[1] @ targets[1] + anchor * start
    solved = torch.linalg.solve(grams[0] + grams[1] + anchor * identity, right)
    return solved[:-1], solved[-1]


@pytest.mark.usefixtures("light_report")
@pytest.mark.parametrize("budget", [None, 70_000])
def test_fused_experts_are_solved_one_by_one_and_written_as_one_tensor(budget: int | None, tmp_path: Path) -> None:
    family = next(family for family in FAMILIES if family.name == "gpt-oss")
    inputs = specialists(family, tmp_path)
    method = RegMeanSettings(init={"method": "average"}, anchor=0.1)
    output = tmp_path / "merged"
    report = merge(MergeRequest(models=inputs, method=method, output=output, memory_budget=budget)).report
    path = "model.layers.1.mlp.experts"
    entries = {entry["name"]: entry for entry in report["layers"]}
    with open_checkpoint(output) as merged_, open_checkpoint(tmp_path / "model1") as first:
        assert {name: info.shape for name, info in merged_.tensors.items()} == {
            name: info.shape for name, info in first.tensors.items()
        }
        for leaf in ("gate_up_proj", "down_proj"):
            weight, bias = merged_.read(f"{path}.{leaf}"), merged_.read(f"{path}.{leaf}_bias")
            for number in range(3):
                layer = f"{path}.{number}.{leaf}"
                exact = exact_expert(tmp_path, layer, f"{path}.{leaf}", f"{path}.{leaf}_bias", number)
                torch.testing.assert_close(weight[number].double(), exact[0], rtol=1e-3, atol=1e-5)
                torch.testing.assert_close(bias[number].double(), exact[1], rtol=1e-3, atol=1e-5)
                assert entries[f"{path}.{leaf}[{number}]"]["rule"] == "input_gram"
            other = exact_expert(tmp_path, f"{path}.0.{leaf}", f"{path}.{leaf}", f"{path}.{leaf}_bias", 1)
            assert not torch.allclose(weight[1].double(), other[0], atol=1e-4)  # the wrong expert's Gram would differ
