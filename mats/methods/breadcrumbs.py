"""Model Breadcrumbs (Davari & Belilovsky, ECCV 2024, arXiv 2312.06795): task arithmetic without outliers and crumbs.

    θ0 + scale · Σ_i w_i · m_i τ_i

In each tensor the mask m_i drops the ⌊gamma · n⌋ largest of the n changes by magnitude, and as many of the smallest
that a share `density` is left. With the paper's percentiles β (below: dropped) and γ (above: dropped), gamma = 1 − γ
and density = γ − β; the defaults are β 85 % and γ 99.3 %. Nothing is rescaled.

With another rescaling, a density for each model, or an election of signs: `sparse_task_arithmetic`, in which merge
files of mergekit are written. Before any other method: `sparsify: {strategy: breadcrumbs, …}`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import ElementwiseSettings
from mats.methods.sparsify import SparsifySettings

if TYPE_CHECKING:
    from torch import Tensor


class BreadcrumbsSettings(ElementwiseSettings):
    """Task arithmetic with the largest and the smallest changes of every tensor left out (arXiv 2312.06795)."""

    method: Literal["breadcrumbs"] = "breadcrumbs"
    density: float = Field(
        default=0.143, gt=0, le=1, description="Share of each tensor's changes that is kept, in (0, 1]; default 0.143."
    )
    gamma: float = Field(
        default=0.007,
        ge=0,
        lt=1,
        description="Share of each tensor's changes dropped as outliers, the largest; in [0, 1), default 0.007.",
    )
    scale: float = Field(default=0.3, description="Factor of the summed task vectors; any real number, default 0.3.")

    @model_validator(mode="after")
    def _shares_fit(self) -> BreadcrumbsSettings:
        """What is kept and what is dropped at the top are parts of one whole."""
        if self.density + self.gamma > 1 + 1e-9:
            raise ValueError(
                f"density {self.density:g} and gamma {self.gamma:g} sum to more than 1; at most {1 - self.gamma:g} "
                "would be right as density"
            )
        return self

    def copies_held(self, name: str, shape: Sequence[int]) -> int:  # noqa: ARG002
        """The sum, the base, a change, and what choosing its entries takes."""
        return 11

    def build(self, model_weights: Sequence[float]) -> BreadcrumbsMerge:
        """Breadcrumbs of models with these weights, which multiply the task vectors."""
        return BreadcrumbsMerge(self, model_weights)


class BreadcrumbsMerge(SinglePass):
    """θ0 + scale · Σ w_i m_i τ_i, one model at a time."""

    def __init__(self, settings: BreadcrumbsSettings, model_weights: Sequence[float]) -> None:
        self.factors = tuple(settings.scale * weight for weight in model_weights)
        self.thinning = SparsifySettings.model_validate(
            {"strategy": "breadcrumbs", "density": settings.density, "gamma": settings.gamma, "rescale": "none"}
        )

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        import torch

        from mats.methods.sparsify_kernels import sparsified

        base = require_base("breadcrumbs", name, base)
        if not is_mergeable(base.dtype):
            return base
        base = base.to(working_dtype(base.dtype))
        change = torch.zeros_like(base)
        for index, tensor in numbered(name, base.shape, models, len(self.factors)):
            change = change.to(torch.promote_types(change.dtype, tensor.dtype))
            change.add_(sparsified(tensor.to(change.dtype) - base, self.thinning, 0), alpha=self.factors[index])
            del tensor
        return change.add_(base)
