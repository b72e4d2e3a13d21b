"""One input of a merge, opened: a checkpoint, or a checkpoint with an adapter laid onto it."""

from __future__ import annotations

from contextlib import ExitStack

from mats.checkpoints import Checkpoint, open_checkpoint
from mats.checkpoints.densify import densify


def open_input(path: str, adapter: str | None, until: ExitStack) -> Checkpoint:
    """The checkpoint at `path`; with `adapter`, the whole model that the two are. `until` closes what was opened.

    Raises:
        MatsError: as opening a checkpoint, or laying an adapter onto one.
    """
    checkpoint = until.enter_context(open_checkpoint(path))
    if adapter is None:
        return checkpoint
    return densify(checkpoint, until.enter_context(open_checkpoint(adapter)))
