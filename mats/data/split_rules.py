"""How a split is cut out of another: the rules under `splits` of a dataset file, and their work on rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Protocol, TypeVar

import numpy as np
from pydantic import Field, model_validator

from mats.data.strict import Strict
from mats.data.templates import find_value
from mats.errors import DataError

CUTS = ("first", "last", "without_first", "without_last")
Share = Annotated[float, Field(gt=0, lt=1)]
Count = Annotated[int, Field(ge=1, strict=True)] | Share


class HasValues(Protocol):
    """A row, as far as rules look at it."""

    @property
    def values(self) -> Mapping[str, Any]: ...  # noqa: D102 - said above
    @property
    def where(self) -> str: ...  # noqa: D102 - said above


RowType = TypeVar("RowType", bound=HasValues)


class RowFilter(Strict):
    """Which rows stay: those whose `column` is above, below or equal to a value."""

    column: str = Field(min_length=1, description="Column, or field inside one.")
    above: float | None = Field(default=None, description="Keep values above this.")
    below: float | None = Field(default=None, description="Keep values below this.")
    equals: int | str | None = Field(default=None, description="Keep this value alone.")

    @model_validator(mode="after")
    def _one_test(self) -> RowFilter:
        if (self.above, self.below, self.equals) == (None, None, None):
            raise ValueError("names no test; above, below or equals would be right")
        return self

    def keeps(self, row: HasValues) -> bool:
        """Whether `row` stays.

        Raises:
            DataError: the value is no number, where one is compared.
        """
        value = find_value(row.values, self.column)
        if self.equals is not None and value != self.equals:
            return False
        try:
            return (self.above is None or float(value) > self.above) and (
                self.below is None or float(value) < self.below
            )
        except (TypeError, ValueError):
            raise DataError(f"{row.where}: column '{self.column}' holds {value!r}; a number would be right") from None


class LabelSkew(Strict):
    """One of two halves of a task with unlike labels (PEM composition, distribution generalisation).

    Part 0 takes the first `fraction` of the rows with `label`, then enough of the other rows, in order, to reach half
    of all; part 1 is the rest. Both are shuffled and cut to `size`.
    """

    label: int | str = Field(description="Value of the label column that part 0 is rich in.")
    fraction: float = Field(default=0.8, gt=0, le=1, description="Share of the rows of that label that part 0 takes.")
    part: Literal[0, 1] = Field(description="Which of the two halves.")
    seed: int = Field(default=0, ge=0, lt=2**32, description="Of the shuffle after the split.")
    size: int | None = Field(default=None, ge=1, description="Rows kept of the half. Default: all.")


class SplitRule(Strict):
    """A split cut out of one of the source's: filtered (`where`), shuffled, then skewed or cut."""

    of: str = Field(min_length=1, description="The split of the source that is cut.")
    where: RowFilter | None = Field(default=None, description="Keep only these rows.")
    shuffle: int | None = Field(
        default=None, ge=0, lt=2**32, description="Seed of a shuffle before the cut. Default: file order."
    )
    first: Count | None = Field(default=None, description="Its first so many rows; below 1: that share of them.")
    last: Count | None = Field(default=None, description="Its last so many rows, or that share.")
    without_first: Count | None = Field(default=None, description="All but its first so many rows, or that share.")
    without_last: Count | None = Field(default=None, description="All but its last so many rows, or that share.")
    skew: LabelSkew | None = Field(default=None, description="One of two halves with unlike labels.")

    @model_validator(mode="after")
    def _one_cut(self) -> SplitRule:
        given = [name for name in (*CUTS, "skew") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; at most one cut would be right")
        return self


def apply_rule(rows: Sequence[RowType], rule: SplitRule, label_column: str, where: str) -> list[RowType]:
    """The rows of a split, in their order.

    Args:
        rows: All rows of the source's split `rule.of`.
        rule: What to do with them.
        label_column: The column that `skew` looks at.
        where: Dataset and split, to begin a message with.

    Raises:
        DataError: there are fewer rows than a cut takes, or none of the label that a skew names.
        MissingFieldError: a row lacks the column that a filter or skew looks at.
    """
    kept = list(rows) if rule.where is None else [row for row in rows if rule.where.keeps(row)]
    if rule.shuffle is not None:
        kept = shuffled(kept, rule.shuffle)
    if rule.skew is not None:
        return _skewed(kept, rule.skew, label_column, where)
    return _cut(kept, rule, where)


def shuffled(rows: Sequence[RowType], seed: int) -> list[RowType]:
    """The rows in the order of NumPy's legacy generator, whose stream is frozen for all versions."""
    return [rows[index] for index in np.random.RandomState(seed).permutation(len(rows))]


def _cut(rows: list[RowType], rule: SplitRule, where: str) -> list[RowType]:
    wanted = next((getattr(rule, name) for name in CUTS if getattr(rule, name) is not None), None)
    if wanted is None:
        return rows
    count = int(wanted * len(rows)) if isinstance(wanted, float) else wanted
    if count > len(rows):
        raise DataError(f"{where} is cut {count} rows from '{rule.of}', which has {len(rows)}")
    if rule.first is not None:
        return rows[:count]
    if rule.last is not None:
        return rows[len(rows) - count :]
    if rule.without_first is not None:
        return rows[count:]
    return rows[: len(rows) - count]


def _skewed(rows: list[RowType], skew: LabelSkew, label_column: str, where: str) -> list[RowType]:
    own = [index for index, row in enumerate(rows) if str(find_value(row.values, label_column)) == str(skew.label)]
    if not own:
        raise DataError(f"{where}: no row has {skew.label!r} in column '{label_column}'; a label of the data would do")
    taken = set(own[: int(skew.fraction * len(own))])
    others = [index for index in range(len(rows)) if index not in set(own)]
    taken |= set(others[: max(0, len(rows) // 2 - len(taken))])
    half = [row for index, row in enumerate(rows) if (index in taken) == (skew.part == 0)]
    return shuffled(half, skew.seed)[: skew.size]
