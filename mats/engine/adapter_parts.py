"""Of models that are adapters laid onto a base: what any of them changes and the base has, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence

from mats.checkpoints import Checkpoint
from mats.checkpoints.densify import DenseModel
from mats.checkpoints.heads import part_of


def adapted_parts(models: Sequence[Checkpoint], base: Checkpoint) -> tuple[tuple[Checkpoint, ...], Checkpoint]:
    """The changed tensors of all `models`, and the base's own; names stay what they are on either side.

    A tensor that one model leaves alone is in its part too, with the base's values: it counts as unchanged there.
    """
    laid = [model for model in models if isinstance(model, DenseModel)]
    prefix = next((model.prefix for model in laid if model.prefix), "")
    changed = {name.removeprefix(model.prefix) for model in laid for name in model.changed}
    shown = [name for name in base.tensors if name.removeprefix(prefix) in changed]
    bare = {name.removeprefix(prefix) for name in shown}
    parts = [part_of(model, [name for name in model.tensors if name.removeprefix(prefix) in bare]) for model in models]
    return tuple(parts), part_of(base, shown)
