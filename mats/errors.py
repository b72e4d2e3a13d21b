"""Every error that `mats` raises on purpose, by what the user must do about it.

The command line turns each into one line and the exit status of its class (docs/commands.md). All are picklable and
carry the finished one-line message: what, where, the value received, and what would be right.
"""

from __future__ import annotations

from collections.abc import Sequence


class MatsError(Exception):
    """Root of all errors raised by `mats`; `exit_status` is what the command line returns for it."""

    exit_status = 1


class WorkFailed(MatsError, RuntimeError):
    """The request was right, the work failed: I/O, memory, space, numbers (exit status 1)."""

    exit_status = 1


class CheckpointCorrupt(WorkFailed):
    """A checkpoint file is missing, truncated or not what its header says."""


class StoreCorrupt(WorkFailed):
    """A metadata store is incomplete, truncated, or a checksum does not match."""


class NonFiniteWeights(WorkFailed):
    """A weight read from a checkpoint, or computed, is NaN or infinite."""


class NonFiniteStatistic(WorkFailed):
    """An activation, a gradient or a stored sum is NaN or infinite."""


class OutOfSpace(WorkFailed):
    """The disk is full, or the memory budget cannot hold a single layer."""


class RequestError(MatsError, ValueError):
    """The request is wrong: a flag, a recipe, a path that is not there (exit status 2)."""

    exit_status = 2


class RecipeError(RequestError):
    """A recipe or dataset file has faults; all of them are told at once, one per line."""

    def __init__(self, faults: Sequence[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))

    def __reduce__(self) -> tuple[type[RecipeError], tuple[tuple[str, ...]]]:
        return type(self), (self.faults,)


class OutputExists(RequestError):
    """The output path exists already and `--overwrite` was not given, or another run holds it."""


class DataError(RequestError):
    """A dataset is empty, lacks a column, or holds a label out of range."""


class InputsMismatch(MatsError, ValueError):
    """The inputs do not fit together: architecture, shapes, vocabulary, weights (exit status 3)."""

    exit_status = 3


class ShapeMismatch(InputsMismatch):
    """Tensors of one name, or of one problem, differ in shape."""


class FingerprintMismatch(InputsMismatch):
    """A metadata store was measured on other weights than those being merged."""


class NotConverged(MatsError, RuntimeError):
    """The merge is done, but a solve missed its tolerance and `--strict` was given (exit status 4)."""

    exit_status = 4


def is_out_of_memory(error: BaseException) -> bool:
    """Python's MemoryError, or what torch raises on any device (told by name, so that torch need not be imported)."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    return isinstance(error, RuntimeError) and any(
        part in str(error) for part in ("can't allocate memory", "out of memory", "CUBLAS_STATUS_ALLOC_FAILED")
    )
