"""The machine in words, its large-GEMM rate, and clocks for the wall and for the processor."""

from __future__ import annotations

import os
import platform
import resource
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch


@dataclass
class Clock:
    """Seconds of a `with` block.

    Attributes:
        seconds: on the wall.
        processor_seconds: of all threads together; a busy machine does not inflate them, threads that wait do.
    """

    seconds: float = 0.0
    processor_seconds: float = 0.0

    def __enter__(self) -> Clock:
        self._begin = time.perf_counter(), time.process_time()
        return self

    def __exit__(self, *_: object) -> None:
        self.seconds = time.perf_counter() - self._begin[0]
        self.processor_seconds = time.process_time() - self._begin[1]

    @property
    def times(self) -> dict[str, float]:
        """Both, for a record."""
        return {"seconds": self.seconds, "processor_seconds": self.processor_seconds}


def timed(run: Callable[[], Any], repeats: int = 3) -> dict[str, float]:
    """Median times of `run`, after one call that does not count."""
    run()
    clocks = []
    for _ in range(repeats):
        with Clock() as clock:
            run()
        clocks.append(clock)
    return {name: statistics.median(getattr(clock, name) for clock in clocks) for name in clocks[0].times}


def gemm_rates(size: int = 2048) -> dict[str, float]:
    """Floating-point operations per second of one large float32 product [size, size]², torch's and NumPy's.

    `torch` is by the wall, `torch_processor` by processor time: the share of the peak that a solve reaches is measured
    by the same clock as the peak.
    """
    X, Y = torch.randn(2, size, size)
    arrays = X.numpy(), Y.numpy()
    own, theirs = timed(lambda: X @ Y, 5), timed(lambda: np.matmul(*arrays), 5)
    work = 2.0 * size**3
    return {
        "torch": work / own["seconds"],
        "torch_processor": work / own["processor_seconds"],
        "numpy": work / theirs["seconds"],
        "numpy_processor": work / theirs["processor_seconds"],
    }


def resident_peak() -> int:
    """Most bytes of memory that this process has held, since `forget_peak` where the system can forget."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> int:
    """Let `resident_peak` start again from what is held now (on Linux), and return that."""
    clear = Path("/proc/self/clear_refs")
    if clear.exists():
        clear.write_text("5", encoding="ascii")
    return resident_peak()


def environment() -> dict[str, Any]:
    """Where the numbers come from."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
    }


def words(machine: dict[str, Any]) -> str:
    """The machine in a line."""
    return (
        f"{machine['processor']}, {machine['threads']} threads on {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"torch {machine['torch']}, SciPy {machine['scipy']}; load before the run {machine['load_before']}"
    )


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
