"""TIES-Merging (arXiv 2306.01708): trim small changes, elect a sign per entry, average what agrees with it.

With τ_i = θ_i − θ0 over all d entries of model i:

    trim     keep the entries with |τ_i| at least its k-th smallest magnitude, k = d − int(d · density); 0 elsewhere
    elect    γ = sign Σ_i w_i τ_i                        (by mass, over the trimmed values)
    merge    θ0 + scale · Σ_{i: sign τ_i = γ} w_i τ_i / Σ_{i: sign τ_i = γ} |w_i|

as in the authors' code, whose weights w_i are all 1. The trim is global: one threshold per model over everything this
method is responsible for. Each tensor that is stored counts once; the authors count a tied embedding twice.

Every other step of the authors' code has its word here: trims in `ties_trim`, elections and aggregates in
`ties_election`; `mats merge --from-ties` reads the authors' own strings of them. Departures: a misspelt word is an
error; a share of the norm keeps no entry beyond those it needs; `disjoint_max` without election is the entry of
largest magnitude, where the authors' code fails.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal, Union

from pydantic import Field, model_validator

from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from mats.methods.ties_merge import TiesMerge

_USED_BY: dict[str, tuple[str, tuple[str, ...]]] = {
    "density": ("trim", ("top_k",)),
    "deviations": ("trim", ("std",)),
    "norm_share": ("trim", ("norm_fraction",)),
    "kept_count": ("trim", ("top_k", "norm_fraction")),
    "oracle": ("elect", ("oracle",)),
    "zero_votes": ("elect", ("mass", "norm_fraction", "norm_mass", "oracle")),
}
"""Key → the key that decides whether it is used, and under which of its words."""


class TiesSettings(ElementwiseSettings):
    """TIES-Merging as published; the defaults are the authors' recipe for when there is no validation data."""

    method: Literal["ties"] = "ties"
    trim: Literal["top_k", "std", "norm_fraction", "none"] = Field(
        default="top_k",
        description=(
            "Which changes of a model count: the largest (a share `density` of all), those `deviations` standard "
            "deviations from the mean, the largest that make up `norm_share` of the squared norm, or all."
        ),
    )
    density: float = Field(
        default=0.2, gt=0, le=1, description="Share of each model's task vector that is kept, in (0, 1]; default 0.2."
    )
    deviations: float = Field(
        default=1.0, ge=0, description="With trim std: the distance from the mean, in standard deviations; default 1."
    )
    norm_share: float = Field(
        default=0.5, gt=0, le=1, description="With trim norm_fraction: the share of Σ τ² that is kept; default 0.5."
    )
    kept_count: Literal["published", "exact"] = Field(
        default="published",
        description=(
            "How many a trim keeps: published (⌊density · n⌋ + 1 entries, and all that tie with the smallest of them) "
            "or exact (⌊density · n⌋, ties by tensor name, then by position); default published."
        ),
    )
    trim_scope: Literal["global", "tensor"] = Field(
        default="global",
        description="One threshold over the whole model (as published) or one for each tensor; default global.",
    )
    elect: Literal["mass", "norm_fraction", "norm_mass", "oracle", "none"] = Field(
        default="mass",
        description=(
            "Who decides an entry's sign: the sum of the changes (mass), the change that is the largest share of its "
            "model's squared norm, the sum of those shares, a multitask model (`oracle`), or nobody; default mass."
        ),
    )
    oracle: Union[str, None] = Field(  # noqa: UP007 (pydantic reads it at run time)
        default=None,
        min_length=1,
        description="With elect oracle: the model whose changes against the base have the right signs; folder or id.",
    )
    zero_votes: Literal["majority", "zero", "positive"] = Field(
        default="majority",
        description=(
            "Sign where kept changes cancel exactly: the whole model's majority sign (as the authors' code does), "
            "no change at all (as their formula says), or positive; default majority."
        ),
    )
    aggregate: Literal["disjoint_mean", "disjoint_sum", "disjoint_max", "mean", "sum", "median", "magnitude"] = Field(
        default="disjoint_mean",
        description=(
            "What becomes of an entry's changes: mean, sum or largest of those with the elected sign (disjoint), or "
            "mean, sum, median or the one of largest magnitude of all, given the elected sign; default disjoint_mean."
        ),
    )
    scale: float = Field(default=1.0, description="Factor of the merged task vector; any real number, default 1.0.")

    @model_validator(mode="after")
    def _every_key_counts(self) -> TiesSettings:
        """What the chosen words leave unused must not be set, and what they need must be."""
        for key, (decider, words) in _USED_BY.items():
            default = type(self).model_fields[key].default
            if getattr(self, key) != default and getattr(self, decider) not in words:
                raise ValueError(
                    f"{key}: {getattr(self, key)!r} has no effect with {decider}: {getattr(self, decider)}; leave it "
                    f"out, or {decider}: {' or '.join(words)} would be right"
                )
        if self.elect == "oracle" and self.oracle is None:
            raise ValueError("elect: oracle needs a model to ask; oracle: PATH of a multitask model would be right")
        return self

    @property
    def runs_anywhere(self) -> bool:
        """The published votes under thresholds of whole models, which are found on the CPU."""
        published = (self.trim, self.trim_scope, self.elect, self.aggregate)
        return published == ("top_k", "global", "mass", "disjoint_mean")

    @property
    def extra_checkpoints(self) -> tuple[str, ...]:
        """The multitask model, where one elects."""
        return () if self.oracle is None else (self.oracle,)

    @property
    def copies_per_model(self) -> int:
        """A median cannot be taken of one model at a time."""
        return 1 if self.aggregate == "median" else 0

    def copies_held(self, name: str, shape: Sequence[int]) -> int:  # noqa: ARG002
        """The common election's four sums, or the float64 votes and sums of the others, beside the tensors read."""
        return 5 if (self.elect, self.aggregate) == ("mass", "disjoint_mean") else 11

    def build(self, model_weights: Sequence[float]) -> TiesMerge:
        """TIES on models with these weights."""
        from mats.methods.ties_merge import TiesChoices, TiesMerge  # brings torch, which reading a recipe does without
        from mats.methods.ties_trim import TrimRule

        amounts = {"top_k": self.density, "std": self.deviations, "norm_fraction": self.norm_share, "none": 1.0}
        return TiesMerge(
            model_weights,
            TiesChoices(
                trim=TrimRule(self.trim, amounts[self.trim], exact=self.kept_count == "exact"),
                scope=self.trim_scope,
                elect=self.elect,
                aggregate=self.aggregate,
                zero_votes=self.zero_votes,
                scale=self.scale,
                oracle=self.oracle,
            ),
        )
