"""How many bytes a group of layers takes while it is solved, and how much memory there is."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence

import torch

DEFAULT_BUDGET = 4 << 30  # bytes; enough to batch every layer of a T5-large with eight models
FLOAT = 4  # bytes of the fp32 in which weights and factors are held
DOUBLE = 8  # bytes of the fp64 in which factors are decomposed


def factor_elements(size: int, *, diagonal: bool) -> int:
    """Numbers in one Gram factor: dense [size, size], or its diagonal."""
    return size if diagonal else size * size


def system_bytes(shape: tuple[int, int], models: int, factors: Sequence[int], *, snapshots: int = 0) -> int:
    """Upper estimate of the bytes that one system [out, in] takes, all models together.

    Args:
        shape: canonical (out, in), bias column included.
        models: how many.
        factors: elements of each factor of one model (right, left; for each term of a tied weight).
        snapshots: iterates that are kept.

    Held at once: targets and the products S_i = C_i P of all models; the start, right-hand side, correction and
    residuals in fp64 and the iteration's state in fp32; every model's factors, one being read besides. Then either
    their sums, eigenvectors and the decomposition's workspace in fp64; or, iterating, all factors once more in rotated
    coordinates, with eigenvectors and one model's factors in fp64 where fp32 stalls. (On a CPU systems are rotated a
    few at a time: for groups of many this is more than it takes.)
    """
    matrix = shape[0] * shape[1]
    held = FLOAT * (2 * models + 8) * matrix + DOUBLE * (10 + 2 * snapshots) * matrix
    return held + FLOAT * (models + 2) * sum(factors) + max(DOUBLE * 5, FLOAT * models + DOUBLE * 3) * sum(factors)


def mapped_system_bytes(shape: tuple[int, int], models: int, factors: Sequence[int], *, snapshots: int = 0) -> int:
    """As `system_bytes`, for a system whose factors stay on disk and are read one model at a time."""
    matrix = shape[0] * shape[1]
    held = FLOAT * (models + 10) * matrix + DOUBLE * (10 + 2 * snapshots) * matrix
    return held + FLOAT * 3 * sum(factors) + DOUBLE * 5 * sum(factors)


def loaded_bytes(shape: tuple[int, int], models: int, factors: Sequence[int]) -> int:
    """Bytes of one system that is read and waits to be solved: its targets, its start and what that is made of, its
    factors, and the one that is being read."""
    return FLOAT * (2 * models + 2) * shape[0] * shape[1] + FLOAT * (models + 2) * sum(factors)


def physical_memory() -> int:
    """Bytes of memory in this machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def device_memory(device: torch.device) -> int:
    """Bytes of memory where the solving happens: the GPU's own, else the machine's."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    return physical_memory()


def restart_peak_memory() -> bool:
    """Let `peak_memory` count from now, for processes that do one job after another; False where the system cannot."""
    try:
        with open("/proc/self/clear_refs", "w") as control:
            control.write("5")  # the kernel's word for "the peak is what is resident now" (proc(5))
    except OSError:
        return False
    return True


def peak_memory() -> int:
    """Most bytes that this process ever held resident, or since `restart_peak_memory`."""
    try:
        with open("/proc/self/status") as status:
            # What getrusage says would begin with the memory of the process that started this one.
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmHWM:"))
    except (OSError, StopIteration):
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
