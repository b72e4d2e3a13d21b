"""Spherical interpolation between two models, tensor by tensor; see `mats.methods.spherical` for the formula."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.errors import RequestError
from mats.methods.elementwise import SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class SlerpSettings(ElementwiseSettings):
    """From the first of two models (t = 0) to the second (t = 1) along the arc, each tensor as one vector."""

    needs_base: ClassVar[bool] = False
    allowed_weights: ClassVar[AllowedWeights] = "any"
    method: Literal["slerp"] = "slerp"
    t: float = Field(default=0.5, description="Place on the arc: 0 is the first model, 1 the second; default 0.5.")

    def models_fault(self, model_names: Sequence[str]) -> str | None:
        """Anything but two."""
        given = len(model_names)
        return f"method slerp: {given} models given; two would be right" if given != 2 else None

    def build(self, model_weights: Sequence[float]) -> SlerpMerge:
        """The interpolation; weights do not count.

        Raises:
            RequestError: other than two models.
        """
        if len(model_weights) != 2:
            raise RequestError(f"slerp: {len(model_weights)} models given; two would be right")
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
