"""How much of everything: the benchmark, and a tiny one that goes the same way in two minutes."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prompted import TASKS, PromptedTask
from rows import Row
from small_t5 import Shape
from tasks import Sizes


@dataclass(frozen=True)
class Extent:
    """Sizes of a study.

    Attributes:
        tasks: with the rows and epochs of their own models.
        shape: of the model.
        base_epochs: passes of the base over the rows of all tasks.
        sizes: examples of each task that metadata, choices of scales, and scores take.
        rows: the merges of the table.
    """

    tasks: tuple[PromptedTask, ...]
    shape: Shape
    base_epochs: int
    sizes: Sizes
    rows: tuple[Row, ...]


ROWS = (
    Row("base", ("merge.method=base",)),
    Row("average", ("merge.method=average",)),
    Row("task arithmetic", ("merge.method=task_arithmetic",), ("merge.scale", (0.2, 0.3, 0.4, 0.5))),
    Row("TIES", ("merge.method=ties",), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    Row("TSV-M", ("merge.method=tsv_m",), ("merge.scale", (0.7, 1.0, 1.3, 1.6))),
    # RegMean was published with statistics at each model's own weights.
    Row("RegMean", ("merge.method=regmean", "curvature.position=1"), needs="metadata"),
    Row("mats", ("merge.method=mats",), needs="metadata"),
)
"""Everything merged; nothing is set of `mats`."""

FULL = Extent(
    tasks=TASKS,
    shape=Shape(pieces=4000, width=192, inner=512, layers=4, heads=6),
    base_epochs=6,
    sizes=Sizes(metadata=300, tuning=200, test=400),
    rows=ROWS,
)
TINY = Extent(
    tasks=tuple(replace(task, epochs=1, train=32, shared=32) for task in TASKS),
    shape=Shape(pieces=600, width=32, inner=48, layers=2, heads=2),
    base_epochs=1,
    sizes=Sizes(metadata=16, tuning=16, test=16),
    rows=tuple(replace(row, choice=row.choice and (row.choice[0], row.choice[1][:2])) for row in ROWS),
)
