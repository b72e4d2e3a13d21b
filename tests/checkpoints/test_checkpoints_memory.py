"""Memory follows what is held, never what was read or written before."""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from mats.checkpoints import CheckpointWriter, TensorInfo, open_checkpoint

COUNT, ROWS = 40, 1 << 18  # tensors of 1 MiB in fp32: 40 MiB in all
LIMIT = 12 << 20


def resident() -> int:
    """Bytes of this process in memory, pages of mapped files included."""
    fields = Path("/proc/self/statm").read_text().split()
    return int(fields[1]) * 4096


def growth(step: Callable[[int], None]) -> int:
    """The largest growth of resident memory over COUNT steps, after a first one has warmed up."""
    step(0)
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)  # what earlier tests left free in the heap would hide what is kept now
    start = resident()
    largest = 0
    for i in range(COUNT):
        step(i)
        largest = max(largest, resident() - start)
    return largest


@pytest.fixture(scope="module", params=["safetensors", "bin"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    content = {f"w{i}": torch.randn(ROWS) for i in range(COUNT)}
    if request.param == "safetensors":
        save_file(content, folder / "model.safetensors")
    else:
        torch.save(content, folder / "pytorch_model.bin")
    return folder


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_reading_keeps_nothing_of_what_was_dropped(folder: Path, dtype: torch.dtype) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert growth(lambda i: checkpoint.read(f"w{i}", dtype=dtype).sum()) < LIMIT
        kept = []
        assert growth(lambda i: kept.append(checkpoint.read(f"w{i}", dtype=dtype))) > 2 * LIMIT  # holding is seen


def test_fingerprints_and_ties_keep_nothing(folder: Path) -> None:
    with open_checkpoint(folder) as checkpoint:
        assert growth(lambda i: checkpoint.digest(f"w{i}")) < LIMIT
        start = resident()
        assert checkpoint.tied == ()
        checkpoint.fingerprint()
        assert resident() - start < LIMIT


def test_writing_keeps_nothing(tmp_path: Path) -> None:
    tensors = [TensorInfo(f"w{i}", torch.float32, (ROWS,)) for i in range(COUNT)]
    values = torch.randn(ROWS)
    with CheckpointWriter(tmp_path / "out", tensors, identity="x") as writer:
        writer.write("w0", values)
        assert growth(lambda i: writer.rewrite("w0", values) if i == 0 else writer.write(f"w{i}", values)) < LIMIT
        start = resident()
        writer.publish()
        assert resident() - start < LIMIT
