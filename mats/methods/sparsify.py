"""Sparsification, a stage before any merge: what a model changed is thinned out, and what stays is scaled up.

With δ = θ − θ0 (or δ = θ itself, `of: weights`), a mask m of zeros and ones per entry and a factor s,

    θ̃ = θ0 + s · m · δ

`random` with s = 1 / (1 − drop) is DARE (arXiv 2311.03099); with another s > 1, DAREx (arXiv 2410.09344); `della` is
MAGPRUNE of DELLA-Merging (arXiv 2406.11617); `breadcrumbs` are Model Breadcrumbs (arXiv 2312.06795). All work on one
tensor at a time.
"""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

Strategy = Literal["random", "magnitude", "della", "breadcrumbs"]
Rescale = Union[Literal["inverse", "none", "norm"], float]  # noqa: UP007 (pydantic reads it at run time)
UNBIASED: tuple[Strategy, ...] = ("random", "della")
"""Strategies under which every entry can be kept, so that 1 / (1 − drop) keeps the expectation; their default."""


class SparsifySettings(BaseModel):
    """Which entries of a model's change are dropped, and what the others are multiplied by."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    strategy: Strategy = Field(
        default="random",
        description="Which entries are dropped: random (each by the toss of a coin: DARE), magnitude (the smallest of "
        "each tensor), della (by a coin that favours the larger entries of a row), breadcrumbs (the smallest and the "
        "very largest of each tensor).",
    )
    drop: float = Field(ge=0, le=1, description="Share that is dropped, in [0, 1]; or give density, which is 1 − drop.")
    of: Literal["delta", "weights"] = Field(
        default="delta",
        description="What is thinned out: delta, the change against the base; weights, the model itself (a control).",
    )
    rescale: Rescale = Field(
        default="inverse",
        description="Factor of what is kept: inverse (1 / (1 − drop); della: of each entry's own chance), none, a "
        "number (DAREx), or norm (so that each tensor's sum of magnitudes stays). Default: inverse for random and "
        "della, none for the others.",
    )
    epsilon: float | None = Field(
        default=None,
        gt=0,
        lt=1,
        description="Of della alone: chances run from density − epsilon to density + epsilon; default 0.15 or, nearer "
        "the ends, what fits.",
    )
    gamma: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Of breadcrumbs alone: share of the largest that is dropped; default 0.01.",
    )

    seed: int | None = Field(default=None, ge=0, description="Of random and della: seed of the masks; null: `seed`.")

    @model_validator(mode="before")
    @classmethod
    def _complete(cls, value: Any) -> Any:
        """`density` becomes `drop`, and the factor the strategy's own."""
        if not isinstance(value, dict):
            return value
        value = dict(value)
        if "density" in value:
            if "drop" in value:
                raise ValueError("drop and density are both given; one of them would be right")
            density = value.pop("density")
            if isinstance(density, bool) or not isinstance(density, (int, float)) or not 0 <= density <= 1:
                raise ValueError(f"density: received {density!r}; a number in [0, 1] would be right")
            value["drop"] = _complement(density)
        if value.get("rescale") is None:
            value["rescale"] = "inverse" if value.get("strategy", "random") in UNBIASED else "none"
        return value

    @model_validator(mode="after")
    def _fits(self) -> SparsifySettings:
        """Settings of one strategy are refused under another, and a factor must be one."""
        for key, strategy in (("epsilon", "della"), ("gamma", "breadcrumbs")):
            if getattr(self, key) is not None and self.strategy != strategy:
                raise ValueError(f"{key} belongs to strategy {strategy}, not to {self.strategy}; leave it out")
        if isinstance(self.rescale, float) and not self.rescale > 0:
            raise ValueError(f"rescale: received {self.rescale:g}; a number above 0 would be right")
        if self.epsilon is not None and not self.epsilon <= min(self.drop, self.density) + 1e-12:
            raise ValueError(
                f"epsilon: {self.epsilon:g} with density {self.density:g} gives chances outside [0, 1]; at most "
                f"{min(self.drop, self.density):g} would be right"
            )
        return self

    @property
    def density(self) -> float:
        """Share that is kept."""
        return _complement(self.drop)

    @property
    def half_width(self) -> float:
        """`epsilon`, or its default."""
        return min(0.15, self.drop, self.density) if self.epsilon is None else self.epsilon

    @property
    def outliers(self) -> float:
        """`gamma`, or its default."""
        return 0.01 if self.gamma is None else self.gamma

    @property
    def changes_nothing(self) -> bool:
        """Whether every entry is kept as it is."""
        return self.drop == 0 and not isinstance(self.rescale, float)

    @property
    def factor(self) -> float:
        """What a kept entry is multiplied by, where that is one number (`norm` and della's `inverse` know theirs)."""
        if self.rescale == "inverse" and self.drop < 1:
            return 1.0 / self.density
        return self.rescale if isinstance(self.rescale, float) else 1.0

    @property
    def told(self) -> str:
        """In words: `random drops 0.9 of delta (rescale inverse, seed 0)`."""
        own = {"della": f", epsilon {self.half_width:g}", "breadcrumbs": f", gamma {self.outliers:g}"}
        seed = f", seed {self.seed or 0}" if self.strategy in UNBIASED else ""
        rescale = f"{self.rescale:g}" if isinstance(self.rescale, float) else self.rescale
        return f"{self.strategy} drops {self.drop:g} of {self.of} (rescale {rescale}{own.get(self.strategy, '')}{seed})"

    @property
    def by_place(self) -> bool:
        """Whether an entry's fate depends on its place alone, so that any piece of a tensor can be made by itself."""
        return self.strategy == "random" and self.rescale != "norm"


def share_of(share: float, count: int) -> int:
    """⌊share · count⌋, with the share read as the decimal number that was written (0.7 is seven tenths)."""
    return math.floor(Fraction(repr(share)) * count)


def _complement(share: float) -> float:
    """1 − share, exact for a decimal number."""
    return float(1 - Fraction(repr(share)))
