"""What becomes of partial work when a merge fails: it is kept for the next run, unless that would fail as well."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from mats.checkpoints import CheckpointWriter
from mats.errors import (
    CheckpointCorrupt,
    InputsMismatch,
    NonFiniteStatistic,
    NonFiniteWeights,
    RequestError,
    StoreCorrupt,
)

HOPELESS = (CheckpointCorrupt, InputsMismatch, NonFiniteStatistic, NonFiniteWeights, RequestError, StoreCorrupt)
"""Errors that the same command meets again: partial work is removed, because its inputs must change first."""


@contextmanager
def discarded_if_hopeless(writer: CheckpointWriter, also: Callable[[], None] | None = None) -> Iterator[None]:
    """Work on `writer`'s output; what is there of it goes when the work meets one of `HOPELESS`, which is raised.

    Args:
        writer: of the output.
        also: removes what lies elsewhere.
    """
    try:
        yield
    except HOPELESS:
        if also is not None:
            also()
        writer.abandon()
        shutil.rmtree(writer.folder.parent, ignore_errors=True)
        raise
