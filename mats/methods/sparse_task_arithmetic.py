"""Sums of thinned task vectors, tensor by tensor: the family that merge files of mergekit are written in.

With τ_i = θ_i − θ0 of one tensor, σ_i the sparsification of model i and ρ its rescaling:

    v_i = w_i · ρ(σ_i(τ_i))
    γ = sign Σ_i v_i    (0 counts as +)              A = {i : sign v_i = γ}    with an election, else all i
    θ0 + scale · Σ_{i in A} v_i                      divided, with `normalize`, by Σ_{i in A} w_i

all per entry. Sparsification `none` without election is task arithmetic (arXiv 2212.04089); `magnitude` with one
resembles TIES (arXiv 2306.01708), trimmed per tensor and voted with weights; `random` is DARE (arXiv 2311.03099),
`della` DELLA (arXiv 2406.11617), `breadcrumbs` Model Breadcrumbs (arXiv 2312.06795).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Union

from pydantic import Field, model_validator

from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from mats.methods.sparse_task_arithmetic_merge import SparseTaskArithmeticMerge

Share = Annotated[float, Field(ge=0, le=1)]
Shares = Union[Share, tuple[Share, ...]]  # noqa: UP007 (pydantic reads it at run time)
PER_MODEL = ("density", "epsilon", "gamma")
USED_BY: dict[str, tuple[str, ...]] = {
    "density": ("magnitude", "random", "della", "breadcrumbs"),
    "epsilon": ("della",),
    "gamma": ("breadcrumbs",),
    "rescale": ("magnitude", "random", "della", "breadcrumbs"),
    "seed": ("random", "della"),
}
"""Key → the sparsifications that use it."""


class SparseTaskArithmeticSettings(ElementwiseSettings):
    """Base plus weighted, thinned task vectors, with or without a vote on each entry's sign; tensor by tensor."""

    allowed_weights: ClassVar[AllowedWeights] = "any"
    method: Literal["sparse_task_arithmetic"] = "sparse_task_arithmetic"
    sparsify: Literal["none", "magnitude", "random", "della", "breadcrumbs"] = Field(
        default="none", description="What is dropped of each tensor's change; default none."
    )
    density: Shares = Field(
        default=1.0, description="Share that is kept, in [0, 1]; one number, or one for each model; default 1."
    )
    epsilon: Shares = Field(
        default=0.15, description="Of della: chances run from density − epsilon to density + epsilon; default 0.15."
    )
    gamma: Shares = Field(
        default=0.01, description="Of breadcrumbs: share of the largest changes that is dropped; default 0.01."
    )
    rescale: Literal["none", "norm", "inverse"] = Field(
        default="none",
        description="What is kept is scaled up: none, norm (each tensor's sum of magnitudes stays, as in mergekit), or "
        "inverse (1 / chance of being kept: random and della alone); default none.",
    )
    election: bool = Field(
        default=False, description="Drop what disagrees with the sign of the weighted sum; default false."
    )
    normalize: bool = Field(
        default=False, description="Divide by the sum of the weights that take part in an entry; default false."
    )
    scale: float = Field(default=1.0, description="Factor of the merged change (mergekit's lambda); default 1.")
    seed: int = Field(default=0, ge=0, description="Of random and della; default 0.")

    @model_validator(mode="after")
    def _every_key_counts(self) -> SparseTaskArithmeticSettings:
        """What the sparsification leaves unused must not be set; only where chance decides can one divide by it."""
        for key, used_by in USED_BY.items():
            if getattr(self, key) != type(self).model_fields[key].default and self.sparsify not in used_by:
                raise ValueError(
                    f"{key}: {getattr(self, key)!r} has no effect with sparsify: {self.sparsify}; leave it out, or "
                    f"sparsify: {' or '.join(used_by)} would be right"
                )
        if self.rescale == "inverse" and self.sparsify not in ("random", "della"):
            raise ValueError("rescale: inverse belongs to sparsify: random and della; none or norm would be right")
        return self

    def share(self, key: str, index: int) -> float:
        """`density`, `epsilon` or `gamma` of model `index`."""
        value: float | tuple[float, ...] = getattr(self, key)
        return value[index] if isinstance(value, tuple) else value

    def models_fault(self, model_names: Sequence[str]) -> str | None:
        """A list of shares must have one for each model."""
        if fault := self.count_fault(len(model_names)):
            return fault
        for key in PER_MODEL:
            value = getattr(self, key)
            if isinstance(value, tuple) and len(value) != len(model_names):
                return f"method {self.name}: {key}: {len(value)} numbers for {len(model_names)} models; one for each"
        return None

    def copies_held(self, name: str, shape: Sequence[int]) -> int:  # noqa: ARG002
        """Sums of both signs with their weights, the base, a change, and what choosing its entries takes."""
        return 12 if self.election or self.sparsify != "none" else 5

    def build(self, model_weights: Sequence[float]) -> SparseTaskArithmeticMerge:
        """The merge of models with these weights."""
        from mats.methods.sparse_task_arithmetic_merge import SparseTaskArithmeticMerge  # brings torch

        return SparseTaskArithmeticMerge(self, model_weights)
