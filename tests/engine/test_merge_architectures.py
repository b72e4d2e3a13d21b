"""Every architecture tried, end to end: two models, their metadata, a merge, and back into transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.architectures.families import FAMILIES, Family, enlivened
from mats.checkpoints import open_checkpoint, parameter_names
from mats.curvature import CollectionSettings, collect
from mats.data.batch import Batch
from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import MatsSettings
from mats.store import DataIdentity, Manifest, ModelIdentity, write_store

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
    batch = in_float32(family.batch(6))
    settings = CollectionSettings(statistics=("input_gram", "output_gram", "diagonal"))
    with open_checkpoint(folder) as checkpoint:
        plan, sums = collect(model, [batch], settings, parameter_names(model, checkpoint))
        manifest = Manifest(
            model=ModelIdentity(folder.name, str(folder), None, checkpoint.fingerprint()),
            data=DataIdentity("random", "validation", None),
            estimator={"labels": "empirical", "loss": "mean", "homogeneous": True},
            examples=batch.size,
            example_ids=tuple(sorted(batch.example_ids)),
            sites=plan.sites,
            layers=plan.layers,
            parameters=plan.parameters,
            uncovered=dict(plan.uncovered),
            tokens=sums.tokens,
            fourth_moments=sums.fourth_moments,
        )
    write_store(store, manifest, sums, {})
    return manifest


def merged(family: Family, folder: Path) -> tuple[dict[str, Any], nn.Module, dict[str, Any]]:
    """The merge's report, the model that transformers loads from it, and what it says about loading."""
    inputs = []
    for number in (1, 2):
        place, store = folder / f"model{number}", folder / f"store{number}"
        measured(saved(family, place, seed=number), family, place, store)
        inputs.append(ModelInput(f"model{number}", str(place), metadata=str(store)))
    method = MatsSettings(init={"method": "average"}, fallback=("kfac", "input_gram", "diagonal", "init"))
    report = merge(MergeRequest(models=tuple(inputs), method=method, output=folder / "merged")).report
    loaded, info = type(family.build()).from_pretrained(folder / "merged", output_loading_info=True)
    return report, loaded.eval(), info


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
