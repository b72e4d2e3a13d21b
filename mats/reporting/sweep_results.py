"""The results of a sweep as plain data: what its table, plots and page are made from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mats.reporting.report import Report

PointState = Literal["done", "failed", "missing"]


@dataclass(frozen=True)
class DatasetScore:
    """One point on one dataset of one split.

    Attributes:
        metric: the dataset's main metric.
        value: its value, a fraction.
        metrics: every metric's value, the main one included.
        interval: 95 % interval of the main metric; None where there is none.
        relative: value ÷ that of the dataset's own model; None where that is not known.
        examples: how many were scored.
    """

    metric: str
    value: float
    metrics: Mapping[str, float]
    interval: tuple[float, float] | None = None
    relative: float | None = None
    examples: int | None = None


@dataclass(frozen=True)
class SplitScores:
    """One point on one split: per dataset, and the means over them."""

    datasets: Mapping[str, DatasetScore]
    mean: float | None = None
    mean_relative: float | None = None

    def mean_of(self, metric: str) -> float | None:
        """The mean that selection goes by: `mean` or `mean_relative`."""
        return self.mean if metric == "mean" else self.mean_relative


@dataclass(frozen=True)
class PointResult:
    """What came of one point.

    Attributes:
        number: its place in the sweep, from 1.
        name: digest, or folder, by which it is found.
        columns: axis → value; an axis that the point does not have is absent.
        state: done, failed (then `error` says why), or missing.
        scores: split → scores.
        seconds: of the merge.
        made_by: the point whose merge that was, by name, where one solve made several points.
        peak_memory_bytes: of the merge, in its process; None where that is not known.
        report: the merge's report.json.
        recipe: as resolved.
    """

    number: int
    name: str
    columns: Mapping[str, Any]
    state: PointState = "done"
    error: str | None = None
    scores: Mapping[str, SplitScores] = field(default_factory=dict)
    seconds: float | None = None
    made_by: str | None = None
    peak_memory_bytes: int | None = None
    report: Report | None = None
    recipe: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class SweepResults:
    """All points, and which of them were chosen how.

    Attributes:
        title: heading of the page.
        axes: columns that tell points apart, in order.
        points: in order.
        split: split that plots show, and by which points were selected.
        metric: `mean_relative` or `mean`: what plots show.
        report_split: split of the reported scores; None where there is none.
        selected: numbers of the points chosen by `split`; empty where nothing was chosen.
        notes: what a reader must know, a sentence each.
    """

    title: str
    axes: tuple[str, ...]
    points: tuple[PointResult, ...]
    split: str
    metric: str = "mean_relative"
    report_split: str | None = None
    selected: tuple[int, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def done(self) -> tuple[PointResult, ...]:
        """The points that have results."""
        return tuple(point for point in self.points if point.state == "done")

    @property
    def chosen(self) -> tuple[PointResult, ...]:
        """The selected points."""
        return tuple(point for point in self.points if point.number in self.selected)

    def score(self, point: PointResult, split: str | None = None) -> float | None:
        """The mean by which points are compared, on `split` (default: the one of selection)."""
        scores = point.scores.get(split or self.split)
        return None if scores is None else scores.mean_of(self.metric)

    def splits(self) -> tuple[str, ...]:
        """Every split that some point was scored on, the one of selection first."""
        found = dict.fromkeys(split for point in self.points for split in point.scores)
        return tuple(sorted(found, key=lambda split: (split != self.split, split)))
