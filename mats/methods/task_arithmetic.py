"""Task arithmetic: θ0 + scale · Σ w_i (θ_i − θ0) (arXiv 2212.04089)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import Field

from mats.methods.elementwise import SinglePass, differences, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class TaskArithmeticSettings(ElementwiseSettings):
    """The base plus the scaled sum of the task vectors, each times its model's weight; weights are not normalised."""

    method: Literal["task_arithmetic"] = "task_arithmetic"
    scale: float = Field(default=0.3, description="Factor of the summed task vectors; any real number, default 0.3.")

    def build(self, model_weights: Sequence[float]) -> TaskArithmeticMerge:
        """Task arithmetic on models with these weights (a negative weight subtracts a task)."""
        return TaskArithmeticMerge(self.scale, model_weights)


class TaskArithmeticMerge(SinglePass):
    """θ0 + Σ scale · w_i · (θ_i − θ0), one model at a time."""

    def __init__(self, scale: float, model_weights: Sequence[float]) -> None:
        self.factors = tuple(scale * weight for weight in model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`. The small differences are summed first and meet the base once, at the end."""
        import torch

        base = require_base("task_arithmetic", name, base)
        if not is_mergeable(base.dtype):
            return base
        base = base.to(working_dtype(base.dtype)).contiguous()
        flat = base.reshape(-1)
        change = torch.zeros_like(flat)
        for index, tensor in numbered(name, base.shape, models, len(self.factors)):
            change = change.to(torch.promote_types(change.dtype, tensor.dtype))
            # In pieces that stay in cache, and never in the tensor itself: it may be a file mapped copy-on-write.
            for piece, task_vector in differences(tensor.reshape(-1), flat):
                change[piece].add_(task_vector, alpha=self.factors[index])
            del tensor
        return change.add_(flat).reshape(base.shape)
