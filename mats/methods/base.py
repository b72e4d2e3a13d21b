"""The base model itself: a start point for the quadratic methods, and a rule that keeps parameters as they were."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from mats.methods.elementwise import SinglePass, is_mergeable, require_base, working_dtype
from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class BaseSettings(ElementwiseSettings):
    """The base model's weights, unchanged: as `init`, the anchor is the base; as a rule, parameters are kept."""

    method: Literal["base"] = "base"

    def models_read(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[int, ...]:  # noqa: ARG002
        """None."""
        return ()

    def build(self, model_weights: Sequence[float]) -> BaseMerge:  # noqa: ARG002
        """The base, whatever the weights."""
        return BaseMerge()


class BaseMerge(SinglePass):
    """θ0; no model is read."""

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:  # noqa: ARG002
        """See `ElementwiseMerge.merge`."""
        base = require_base("base", name, base)
        return base.to(working_dtype(base.dtype)) if is_mergeable(base.dtype) else base
