"""The constants of a DEM file: values that span a grid, and draws that are made anew at each of its points."""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Annotated, Literal, Union

from pydantic import Field, model_validator

from mats.errors import RequestError
from mats.methods.settings import vanishes
from mats.recipes.sections import Section

DIGITS = 12  # significant digits of computed values: 0.3, not 0.30000000000000004
TRIALS = 1000  # sets of draws before values are taken to sum to 0 always
Values = Annotated[tuple[float, ...], Field(min_length=1)]


class FixedConstant(Section):
    """Given values."""

    constant_type: Literal["fixed"]
    operand_id: str = Field(min_length=1)
    values: Values

    @property
    def names(self) -> tuple[str, ...]:
        """What the formula calls it."""
        return (self.operand_id,)

    def axis(self, seed: int) -> tuple[float, ...]:  # noqa: ARG002
        """The values, each once."""
        return tuple(dict.fromkeys(self.values))


class RangeConstant(Section):
    """`n_values` points from `min_value` to `max_value`, both included."""

    constant_type: Literal["range"]
    operand_id: str = Field(min_length=1)
    min_value: float
    max_value: float
    n_values: int = Field(ge=1)

    @property
    def names(self) -> tuple[str, ...]:
        """What the formula calls it."""
        return (self.operand_id,)

    def axis(self, seed: int) -> tuple[float, ...]:  # noqa: ARG002
        """The points, each once."""
        steps = max(1, self.n_values - 1)
        points = [self.min_value + (self.max_value - self.min_value) * place / steps for place in range(self.n_values)]
        return tuple(dict.fromkeys(_tidy(point) for point in points))


class SampledConstant(Section):
    """Draws from `values`, or uniform ones between two ends: `n_values` for the grid, or with 0 one at each point."""

    constant_type: Literal["sampled"]
    operand_id: str = Field(min_length=1)
    values: Values | None = None
    min_value: float | None = None
    max_value: float | None = None
    n_values: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _one_source(self) -> SampledConstant:
        """Values, or two ends; and enough values to draw from."""
        ends = (self.min_value, self.max_value)
        if self.values is None and None in ends:
            raise ValueError("values, or min_value and max_value, would be right")
        if self.values is not None and ends != (None, None):
            raise ValueError("values, or min_value and max_value, but not both would be right")
        if self.values is not None and self.n_values > len(self.values):
            raise ValueError(
                f"n_values: {self.n_values} of {len(self.values)} values without replacement; at most "
                f"{len(self.values)} would be right"
            )
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the formula calls it."""
        return (self.operand_id,)

    def axis(self, seed: int) -> tuple[float, ...] | None:
        """The draws that span the grid; None where each point draws its own."""
        if self.n_values == 0:
            return None
        source = _source(seed, self.operand_id)
        if self.values is not None:
            return tuple(dict.fromkeys(source.sample(self.values, self.n_values)))
        return tuple(dict.fromkeys(self._between(source) for _ in range(self.n_values)))

    def draw(self, source: random.Random) -> dict[str, float]:
        """One draw."""
        return {self.operand_id: source.choice(self.values) if self.values is not None else self._between(source)}

    def _between(self, source: random.Random) -> float:
        assert self.min_value is not None  # `_one_source` has checked
        assert self.max_value is not None
        return _tidy(source.uniform(self.min_value, self.max_value))


class NormalisedConstants(Section):
    """`n_values` draws with replacement from `values`, divided by their sum: `<id>1` … `<id>n`, anew at each point."""

    constant_type: Literal["norm_sample"]
    operand_id: str = Field(min_length=1)
    values: Values
    n_values: int = Field(ge=1)

    @model_validator(mode="after")
    def _some_sum(self) -> NormalisedConstants:
        """A sum of 0 cannot be divided by."""
        if not any(self.values):
            raise ValueError(f"values {list(self.values)}: one that is not 0 would be right")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """What the formula calls them."""
        return tuple(f"{self.operand_id}{number + 1}" for number in range(self.n_values))

    def axis(self, seed: int) -> None:
        """None: each point draws its own."""

    def draw(self, source: random.Random) -> dict[str, float]:
        """One set of draws; one that sums to 0 is drawn again.

        Raises:
            RequestError: no set sums to anything else.
        """
        shares = drawn_shares(source, self.values, self.n_values)
        if shares is None:
            raise RequestError(f"constant {self.operand_id}: {self.n_values} of {list(self.values)} always sum to 0")
        return dict(zip(self.names, shares, strict=True))


Constant = Annotated[
    Union[FixedConstant, RangeConstant, SampledConstant, NormalisedConstants],  # noqa: UP007
    Field(discriminator="constant_type"),
]


def combinations(constants: Sequence[Constant], seed: int) -> list[dict[str, float]]:
    """The values of all constants at every point of the grid, the first constant the slowest; at least one point.

    Args:
        constants: of one run.
        seed: of everything drawn; each constant has a stream of its own, each point draws the next of it.
    """
    axes = {constant: constant.axis(seed) for constant in constants}
    spanning = [axis for axis in axes.values() if axis is not None]
    sources = {constant: _source(seed, f"{constant.operand_id} by point") for constant in constants}
    points = []
    for values in itertools.product(*spanning):
        rest, point = iter(values), {}
        for constant, axis in axes.items():
            if axis is None:
                assert isinstance(constant, (SampledConstant, NormalisedConstants))
                point.update(constant.draw(sources[constant]))
            else:
                point[constant.operand_id] = next(rest)
        points.append(point)
    return points


def drawn_shares(source: random.Random, values: Sequence[float], count: int) -> tuple[float, ...] | None:
    """`count` draws with replacement from `values`, divided by their sum; None where it is always 0.

    Draws that sum to 0 are made again.
    """
    for _ in range(TRIALS):
        drawn = source.choices(values, k=count)
        if not vanishes(drawn):
            total = sum(drawn)
            return tuple(value / total for value in drawn)
    return None


def folder_name(constants: Mapping[str, float]) -> str:
    """`w1_0.5_w2_1`: every value with all its digits, so that points that differ have folders that differ.

    Raises:
        RequestError: a name that is none for a folder.
    """
    for name in constants:
        if "/" in name or "\x00" in name:
            raise RequestError(f"constant {name!r}: names a folder, and holds a character that no folder may")
    return "_".join(f"{name}_{_shown(value)}" for name, value in constants.items())


def _shown(value: float) -> str:
    text = repr(float(value))
    return text.removesuffix(".0")


def _tidy(value: float) -> float:
    return float(f"{value:.{DIGITS}g}")


def _source(seed: int, name: str) -> random.Random:
    return random.Random(f"{seed}:{name}")
