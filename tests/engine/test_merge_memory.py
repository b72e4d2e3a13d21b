"""A merge holds one group of layers at a time: its peak grows neither with layers nor, elementwise, with models."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass
class Peak:
    rise: int
    planned: int


def peaks(root: Path, method: str, size: int, *cases: tuple[int, int]) -> list[Peak]:
    script = Path(__file__).with_name("peak_of_merge.py")
    listed = [f"{layers},{models}" for layers, models in cases]
    # A fixed threshold gives freed blocks back at once: what is measured is what is held, without the heap's holes.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "131072"}
    arguments = [sys.executable, str(script), str(root), method, str(size), *listed]
    finished = subprocess.run(arguments, capture_output=True, text=True, timeout=900, check=False, env=environment)
    assert finished.returncode == 0, finished.stderr[-2000:]
    return [Peak(*map(int, line.split())) for line in finished.stdout.splitlines()]


def compare(root: Path, method: str, few: tuple[int, int], many: tuple[int, int], size: int) -> None:
    """The rise with `many` (layers, models) is that with `few`, and below the plan's estimate.

    A merge that held on to anything of each layer would rise by a layer or more for each; half of that is noise, of
    the allocator and of other processes.
    """
    layer = 4 * size * size
    small, large = peaks(root, method, size, few, many)
    assert large.rise - small.rise < 0.5 * layer * (many[0] - few[0]), (small, large)
    assert large.rise < large.planned + 2 * layer, large
    statistics = 2 if method == "mats" else 0
    assert large.rise < 0.6 * layer * many[0] * (many[1] * (1 + statistics) + 1)  # of all inputs


def test_elementwise_peak_grows_with_neither_layers_nor_models(tmp_path: Path) -> None:
    compare(tmp_path, "average", few=(4, 2), many=(16, 6), size=1024)


def test_quadratic_peak_does_not_grow_with_layers(tmp_path: Path) -> None:
    compare(tmp_path, "mats", few=(3, 2), many=(16, 2), size=512)


@pytest.mark.slow
def test_elementwise_peak_on_two_gigabytes(tmp_path: Path) -> None:
    compare(tmp_path, "average", few=(8, 2), many=(40, 6), size=1600)


@pytest.mark.slow
def test_quadratic_peak_on_two_gigabytes(tmp_path: Path) -> None:
    compare(tmp_path, "mats", few=(4, 3), many=(90, 3), size=1280)


def test_r19_memory_budget(tmp_path: Path) -> None:
    """Two models and their base, 480 MB on disk, merge within the plan beyond what imports take (vocabularies apart).

    How many tensors wait to be merged or written depends on what else the machine does; the plan counts the most.
    """
    (peak,) = peaks(tmp_path, "average", 2048, (10, 2))
    assert peak.rise < peak.planned < 160_000_000
