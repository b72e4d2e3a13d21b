"""NuSLERP: spherical interpolation by the weights of two models, of the models or of what they changed.

With t = w_2 / (w_1 + w_2) (`mats.methods.spherical` for slerp):

    slerp(θ_1, θ_2; t)    or, with `task_vectors`,    θ0 + slerp(θ_1 − θ0, θ_2 − θ0; t)

of whole tensors, or of each row or column by itself. The name is mergekit's.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.errors import RequestError
from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings, vanishes

if TYPE_CHECKING:
    from torch import Tensor

PARALLEL = 1.0 - 1e-12  # |cos φ| up to which the angle is known well enough in float64
AXES = {"tensor": None, "row": -1, "column": 0}
"""`along` → the axis along which a vector lies; a tensor of one axis is one vector in any case."""


class NuslerpSettings(ElementwiseSettings):
    """Interpolation of two models by their weights along the arc; whole tensors, rows or columns."""

    needs_base: ClassVar[bool] = False
    allowed_weights: ClassVar[AllowedWeights] = "any"
    models_taken: ClassVar[tuple[int, int | None]] = (2, 2)
    method: Literal["nuslerp"] = "nuslerp"
    along: Literal["tensor", "row", "column"] = Field(
        default="tensor", description="What has an angle: the whole tensor, each row, or each column; default tensor."
    )
    task_vectors: bool = Field(
        default=False, description="Interpolate what the models changed against the base; default false."
    )

    def reads_base(self, model_names: Sequence[str]) -> bool:  # noqa: ARG002
        """Task vectors are differences from a base."""
        return self.task_vectors

    def build(self, model_weights: Sequence[float]) -> NuslerpMerge:
        """The interpolation of two models of these weights.

        Raises:
            RequestError: weights that sum to 0.
        """
        if vanishes(model_weights):
            raise RequestError(f"nuslerp: the weights {list(model_weights)} sum to 0; another sum would be right")
        return NuslerpMerge(model_weights[1] / sum(model_weights), self.along, task_vectors=self.task_vectors)


class NuslerpMerge(SinglePass):
    """One interpolation, both models' tensor in memory."""

    def __init__(self, t: float, along: str, *, task_vectors: bool) -> None:
        self.t, self.along, self.task_vectors = t, along, task_vectors

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`; what is not floating point is taken from the base, else the first model."""
        import torch

        from mats.methods.spherical import interpolate_

        if self.task_vectors:
            base = require_base("nuslerp", name, base)
            if not is_mergeable(base.dtype):
                return base
        (_, first), (_, second) = numbered(name, None if base is None else base.shape, models, 2)
        if not is_mergeable(first.dtype):
            return first
        dtype = working_dtype(torch.promote_types(first.dtype, second.dtype))
        dim = AXES[self.along] if first.dim() > 1 else None
        first, second = first.to(dtype, copy=True), second.to(dtype, copy=True)
        if not self.task_vectors or base is None:
            return interpolate_(first, second, self.t, dim=dim, parallel=PARALLEL)
        base = base.to(dtype)
        return interpolate_(first.sub_(base), second.sub_(base), self.t, dim=dim, parallel=PARALLEL).add_(base)
