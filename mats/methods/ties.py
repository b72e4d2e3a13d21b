"""TIES-Merging (arXiv 2306.01708): trim small changes, elect a sign per entry, average what agrees with it.

With τ_i = θ_i − θ0 over all d entries of model i:

    trim     keep the entries with |τ_i| at least its k-th smallest magnitude, k = d − int(d · density); 0 elsewhere
    elect    γ = sign Σ_i w_i τ_i                        (by mass, over the trimmed values)
    merge    θ0 + scale · Σ_{i: sign τ_i = γ} w_i τ_i / Σ_{i: sign τ_i = γ} |w_i|

as in the authors' code, whose weights w_i are all 1. The trim is global: one threshold per model over everything this
method is responsible for. Each tensor that is stored counts once; the authors count a tied embedding twice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from mats.methods.ties_merge import TiesMerge


class TiesSettings(ElementwiseSettings):
    """TIES-Merging as published; the defaults are the authors' recipe for when there is no validation data."""

    method: Literal["ties"] = "ties"
    density: float = Field(
        default=0.2, gt=0, le=1, description="Share of each model's task vector that is kept, in (0, 1]; default 0.2."
    )
    scale: float = Field(default=1.0, description="Factor of the merged task vector; any real number, default 1.0.")
    zero_votes: Literal["majority", "zero", "positive"] = Field(
        default="majority",
        description=(
            "Sign where kept changes cancel exactly: the whole model's majority sign (as the authors' code does), "
            "no change at all (as their formula says), or positive; default majority."
        ),
    )
    trim_scope: Literal["global", "tensor"] = Field(
        default="global",
        description="One threshold over the whole model (as published) or one for each tensor; default global.",
    )

    def build(self, model_weights: Sequence[float]) -> TiesMerge:
        """TIES on models with these weights."""
        from mats.methods.ties_merge import TiesMerge  # brings torch, which reading a recipe does without

        return TiesMerge(
            model_weights,
            density=self.density,
            scale=self.scale,
            zero_votes=self.zero_votes,
            trim_scope=self.trim_scope,
        )
