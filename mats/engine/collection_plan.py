"""What step one would do, in numbers and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from mats.curvature import CollectionPlan
from mats.engine.collection_memory import MemoryPlan


@dataclass(frozen=True)
class SavePlan:
    """What `save_metadata` would do.

    Attributes:
        folder: Where the store goes.
        state: `complete` (nothing to do), `resume` (partial sums are there) or `new`.
        examples: Number of examples.
        batches: Forward passes per pass over the data.
        collection: Sites, layers, parameters, bytes and passes; None where nothing is to be done.
        memory: What it takes; None where nothing is to be done.
        uncovered: Name in the checkpoint to the reason why nothing is measured for it.
        position: Where on the line from the base (0) to the model (1) it is measured.
        unmoved: Parameters measured at the model's own weights all the same, for want of their like in the base.
    """

    folder: Path
    state: str
    examples: int
    batches: int
    collection: CollectionPlan | None
    memory: MemoryPlan | None = None
    uncovered: Mapping[str, str] = field(default_factory=dict)
    position: float = 1.0
    unmoved: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """The plan in words, a line each."""
        if self.collection is None:
            return [f"{self.folder}: complete, measured on these weights and examples; nothing to do"]
        plan = self.collection
        lines = [
            f"{self.folder}: {self.examples} examples in {self.batches} batches, "
            f"{len(plan.layers)} layers at {len(plan.sites)} sites, {len(plan.parameters)} vector parameters",
            f"sums take {plan.bytes:,} bytes; passes over the data: {len(plan.partitions)}",
        ]
        lines += self.memory.lines() if self.memory is not None else []
        if self.position != 1:
            lines.append(f"measured at {self.position:g} of the way from the base to the model")
            reason = "the base has none of this name and shape"
            stayed = _by_reason(dict.fromkeys(self.unmoved, reason))
            lines += [f"kept at the model's own weights: {names}: {reason}" for _, names in stayed]
        lines += [f"left out: {names}: {reason}" for reason, names in _by_reason(plan.notes)]
        return lines + [f"not measured: {names}: {reason}" for reason, names in _by_reason(self.uncovered)]


def _by_reason(reasons: Mapping[str, str], shown: int = 3) -> list[tuple[str, str]]:
    """(reason, names) with at most `shown` names spelled out; the manifest lists all."""
    grouped: dict[str, list[str]] = {}
    for name, reason in reasons.items():
        grouped.setdefault(reason, []).append(name)
    more = {reason: f" and {len(names) - shown} more" for reason, names in grouped.items() if len(names) > shown}
    return [(reason, ", ".join(names[:shown]) + more.get(reason, "")) for reason, names in grouped.items()]
