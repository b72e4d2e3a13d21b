"""What a collection takes of memory, said before its first batch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from mats.curvature import CollectionPlan
from mats.curvature.activations import kept_activation_bytes, model_bytes
from mats.curvature.coverage import examination_batch
from mats.data import Batch
from mats.engine.memory import physical_memory

PLACES = {"device": "beside the layers", "cpu": "in host memory", "disk": "in memory-mapped files"}


@dataclass(frozen=True)
class MemoryPlan:
    """Bytes, and where they are.

    Attributes:
        model: Of weights and buffers, as they are stored: nothing is upcast.
        sums: Of the sums of each pass.
        activations: Estimate of what one batch keeps for its backward pass.
        accumulators: `device`, `cpu` or `disk`: where the sums accumulate.
    """

    model: int
    sums: tuple[int, ...]
    activations: int
    accumulators: str

    def lines(self) -> list[str]:
        """The plan in words."""
        return [
            f"memory: model {self.model:,} bytes, sums {max(self.sums):,} bytes in the largest pass "
            f"({PLACES[self.accumulators]}), activations of a batch about {self.activations:,} bytes"
        ]


def plan_memory(module: nn.Module, plan: CollectionPlan, batch: Batch, accumulators: str) -> MemoryPlan:
    """Measure on a few examples of `batch`, which is on the model's device, and scale to all of them."""
    few = examination_batch(batch)
    kept = kept_activation_bytes(module, few)
    return MemoryPlan(model_bytes(module), plan.partition_bytes, kept * batch.size // few.size, accumulators)


def available_memory() -> int:
    """Bytes of host memory that can be had without swapping; all there is where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        kibibytes = next(line.split()[1] for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return physical_memory()
    return int(kibibytes) * 1024
