"""The results of a sweep as CSV and Parquet: a row per point × dataset × split × metric, and a row per point."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mats.reporting.sweep_results import PointResult, SweepResults

if TYPE_CHECKING:
    import pandas

SCORE_COLUMNS = (
    "split",
    "dataset",
    "metric",
    "value",
    "interval_low",
    "interval_high",
    "relative",
    "examples",
    "merge_seconds",
    "made_by",
    "peak_memory_bytes",
    "selected",
)
LONGEST_LABEL = 40  # characters of a point's label in plots
Row = dict[str, Any]


def score_rows(results: SweepResults) -> list[Row]:
    """One row per point × split × dataset × metric; points without results have none.

    Columns: `point`, `digest`, one per axis (null where a point does not have it), then `SCORE_COLUMNS`.
    `interval_low`, `interval_high` and `relative` belong to a dataset's main metric and are null for the others.
    """
    rows = []
    for point in results.done:
        head = _head(point, results)
        for split in results.splits():
            scores = point.scores.get(split)
            for dataset, score in (scores.datasets if scores is not None else {}).items():
                for metric, value in score.metrics.items():
                    main = metric == score.metric
                    low, high = score.interval if main and score.interval is not None else (None, None)
                    measured = (split, dataset, metric, value, low, high, score.relative if main else None)
                    cost = (
                        score.examples,
                        point.seconds,
                        point.made_by,
                        point.peak_memory_bytes,
                        point.number in results.selected,
                    )
                    rows.append({**head, **dict(zip(SCORE_COLUMNS, (*measured, *cost), strict=True))})
    return rows


def point_rows(results: SweepResults) -> list[Row]:
    """One row per point: axes, state, means on every split, cost, and the error of a point that failed."""
    rows = []
    for point in results.points:
        row = _head(point, results) | {"state": point.state, "selected": point.number in results.selected}
        for split in results.splits():
            scores = point.scores.get(split)
            row[f"{split}.mean"] = None if scores is None else scores.mean
            row[f"{split}.mean_relative"] = None if scores is None else scores.mean_relative
        cost = {"merge_seconds": point.seconds, "made_by": point.made_by, "peak_memory_bytes": point.peak_memory_bytes}
        rows.append({**row, **cost, "error": point.error})
    return rows


def _head(point: PointResult, results: SweepResults) -> Row:
    return {"point": point.number, "digest": point.name, **{name: point.columns.get(name) for name in results.axes}}


def table_bytes(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> tuple[bytes, bytes]:
    """The rows as CSV and as Parquet.

    A column holds numbers, true/false or words; values of an axis that are of several kinds become words, lists and
    mappings JSON.
    """
    frame = _frame(rows, columns)
    parquet = io.BytesIO()
    frame.to_parquet(parquet, index=False)
    return frame.to_csv(index=False, lineterminator="\n").encode(), parquet.getvalue()


def _frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame({name: _series([row.get(name) for row in rows]) for name in columns}, columns=list(columns))


def _series(values: Sequence[Any]) -> pandas.Series:
    """A column of one kind, with gaps."""
    import pandas

    kinds = {type(value) for value in values if value is not None}
    if kinds == {bool}:
        return pandas.Series(values, dtype="boolean")
    if kinds == {int}:
        return pandas.Series(values, dtype="Int64")
    if kinds and kinds <= {int, float}:
        return pandas.Series(values, dtype="float64")
    return pandas.Series([word(value) for value in values], dtype="string")


def point_label(point: PointResult, results: SweepResults) -> str:
    """A point's number and the values of its axes, short: `12: 0.3 average`."""
    told = [
        word(point.columns.get(axis)) for axis in results.axes if axis != "models.count" or "models" not in results.axes
    ]
    text = f"{point.number}: {' '.join(part for part in told if part is not None)}"
    return text if len(text) <= LONGEST_LABEL else f"{text[: LONGEST_LABEL - 1]}…"


def word(value: Any) -> str | None:
    """A value of an axis as tables and plots show it; None for none."""
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
