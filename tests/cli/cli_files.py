"""How a command ended, and small checkpoints of random numbers."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import save_file

Tensors = dict[str, torch.Tensor]


class Ended(NamedTuple):
    """How a command ended."""

    status: int
    out: str
    err: str

    @property
    def value(self) -> Any:
        """Its JSON output."""
        return json.loads(self.out)


def processor_seconds(*arguments: str, folder: Path | None = None, repeats: int = 3) -> float:
    """Processor time of the program, the least of some runs: what it costs whatever else the machine is doing."""
    costs = []
    for _ in range(repeats):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "mats.cli", *arguments], capture_output=True, cwd=folder, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        costs.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    return min(costs)


def write_checkpoint(folder: Path, tensors: Tensors) -> Path:
    """A checkpoint folder with one safetensors file and a config."""
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"architectures": ["Nothing"], "model_type": "nothing"}))
    return folder


def random_tensors(seed: int, rows: int = 6) -> Tensors:
    """A weight, a bias and a norm."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "layer.weight": torch.randn(rows, 4, generator=generator),
        "layer.bias": torch.randn(rows, generator=generator),
        "norm.weight": torch.randn(4, generator=generator),
    }
