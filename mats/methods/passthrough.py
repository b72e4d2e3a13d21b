"""One model's tensors as they are, times a number: for models put together from layers of others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class PassthroughSettings(ElementwiseSettings):
    """The one model given, unchanged, or times `scale`."""

    needs_base: ClassVar[bool] = False
    allowed_weights: ClassVar[AllowedWeights] = "one"
    models_taken: ClassVar[tuple[int, int | None]] = (1, 1)
    method: Literal["passthrough"] = "passthrough"
    scale: float = Field(default=1.0, description="Factor of every entry, any real number; default 1.0.")

    def build(self, model_weights: Sequence[float]) -> PassthroughMerge:  # noqa: ARG002 - `scale` is the factor
        """The copy."""
        return PassthroughMerge(self.scale)


class PassthroughMerge(SinglePass):
    """scale · θ_1."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:  # noqa: ARG002
        """See `ElementwiseMerge.merge`; with scale 1 nothing is converted, so the bytes stay."""
        ((_, tensor),) = numbered(name, None, models, 1)
        if self.scale == 1.0 or not is_mergeable(tensor.dtype):
            return tensor
        return tensor.to(working_dtype(tensor.dtype), copy=True).mul_(self.scale)
