"""Stores of models built by transformers, measured on one batch in memory."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from mats.checkpoints import open_checkpoint, parameter_names
from mats.curvature import CollectionSettings, collect
from mats.data.batch import Batch
from mats.store import DataIdentity, Manifest, ModelIdentity, write_store


def write_measured_store(
    model: nn.Module, batch: Batch, settings: CollectionSettings, folder: Path, store: Path
) -> Manifest:
    """Measure `model`, which is what the checkpoint in `folder` holds, and write the store."""
    with open_checkpoint(folder) as checkpoint:
        plan, sums = collect(model, [batch], settings, parameter_names(model, checkpoint))
        manifest = Manifest(
            model=ModelIdentity(folder.name, str(folder), None, checkpoint.fingerprint()),
            data=DataIdentity("random", "validation", None),
            estimator={"labels": "empirical", "loss": "mean", "homogeneous": settings.homogeneous},
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
