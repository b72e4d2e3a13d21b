"""Spherical interpolation between two models, tensor by tensor; see `mats.methods.spherical` for the formula."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class SlerpSettings(ElementwiseSettings):
    """From the first of two models (t = 0) to the second (t = 1) along the arc, each tensor as one vector."""

    needs_base: ClassVar[bool] = False
    allowed_weights: ClassVar[AllowedWeights] = "one"
    models_taken: ClassVar[tuple[int, int | None]] = (2, 2)
    method: Literal["slerp"] = "slerp"
    t: float = Field(default=0.5, description="Place on the arc: 0 is the first model, 1 the second; default 0.5.")

    def build(self, model_weights: Sequence[float]) -> SlerpMerge:  # noqa: ARG002 - `t` says where on the arc
        """The interpolation."""
        return SlerpMerge(self.t)


class SlerpMerge(SinglePass):
    """slerp(θ_1, θ_2; t), both models' tensor in memory."""

    def __init__(self, t: float) -> None:
        self.t = t

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:  # noqa: ARG002
        """See `ElementwiseMerge.merge`; what is not floating point is taken from the first model."""
        import torch

        from mats.methods.spherical import interpolate_

        (_, first), (_, second) = numbered(name, None, models, 2)
        if not is_mergeable(first.dtype):
            return first
        dtype = working_dtype(torch.promote_types(first.dtype, second.dtype))
        return interpolate_(first.to(dtype, copy=True), second.to(dtype), self.t)
