"""What is worth handing to another thread, and how much memory that may take."""

from __future__ import annotations

from collections.abc import Sequence

SMALLEST_HANDED_OVER = 1 << 20  # bytes; anything smaller is read or written in the time that handing it over takes
MOST_HELD = 2  # tensors read and not yet asked for; likewise, merged and not yet written
DEFAULT_HELD_BYTES = 1 << 28


def held_bytes(memory_budget: int | None) -> int:
    """Bytes of tensors that may wait on either side of the work: an eighth of the budget, at most 256 MiB."""
    return DEFAULT_HELD_BYTES if memory_budget is None else min(DEFAULT_HELD_BYTES, memory_budget // 8)


def most_held(sizes: Sequence[int], limit: int) -> int:
    """The most that tensors of these sizes can take up on one side of the work."""
    fitting = sorted((size for size in sizes if SMALLEST_HANDED_OVER <= size <= limit), reverse=True)
    return min(limit, sum(fitting[:MOST_HELD]))
