"""Model Stock (arXiv 2403.19522): between the base and the models' mean, as far as the models agree in direction.

With τ_i = θ_i − θ0 of N models and c the mean cosine of the pairs of τ (section 3.2, equations 3 and 4):

    t = N c / (1 + (N − 1) c)        θ0 + t · Σ_i τ_i / N

The cosines are those of whole tensors, or of each row. Their sum needs no pairs: with u_i = τ_i / ‖τ_i‖,
Σ_{i ≠ j} u_i · u_j = ‖Σ_i u_i‖² − N, so models are seen one at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor


class ModelStockSettings(ElementwiseSettings):
    """The models' mean, pulled to the base the more the models disagree; every model counts the same."""

    allowed_weights: ClassVar[AllowedWeights] = "one"
    models_taken: ClassVar[tuple[int, int | None]] = (2, None)  # a single one has no angle to another
    method: Literal["model_stock"] = "model_stock"
    filter_wise: bool = Field(
        default=False, description="Angles of each row of a tensor instead of the whole tensor; default false."
    )

    def build(self, model_weights: Sequence[float]) -> ModelStockMerge:
        """The merge of so many models."""
        return ModelStockMerge(len(model_weights), by_row=self.filter_wise)


class ModelStockMerge(SinglePass):
    """θ0 + t · mean τ, one model at a time."""

    def __init__(self, count: int, *, by_row: bool) -> None:
        self.count, self.by_row = count, by_row

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        import torch

        base = require_base("model_stock", name, base)
        if not is_mergeable(base.dtype):
            return base
        shape, dtype = base.shape, working_dtype(base.dtype)
        rows = shape[0] if self.by_row and len(shape) > 1 else 1
        base = base.to(dtype).reshape(rows, -1)
        change, units = torch.zeros_like(base), torch.zeros_like(base)
        directions = torch.zeros(rows, 1, dtype=torch.float64, device=base.device)
        for _, tensor in numbered(name, shape, models, self.count):
            task_vector = torch.sub(tensor.to(dtype).reshape(rows, -1), base)
            length = torch.linalg.vector_norm(task_vector, dim=1, keepdim=True, dtype=torch.float64)
            moved = length > 0
            directions += moved
            change += task_vector
            units += task_vector.mul_(torch.where(moved, 1.0 / length, 0.0).to(dtype))
            del tensor
        together = units.square().sum(dim=1, keepdim=True, dtype=torch.float64)
        share = interpolation_ratio((together - directions) / (self.count * (self.count - 1)), self.count)
        return change.mul_((share / self.count).to(dtype)).add_(base).reshape(shape)


def interpolation_ratio(cosine: Tensor, count: int) -> Tensor:
    """t = N c / (1 + (N − 1) c); 0 (the base) where the directions of all models cancel and nothing is left to follow.

    Args:
        cosine: c, any shape, float64.
        count: N.
    """
    import torch

    below = 1.0 + (count - 1) * cosine
    return torch.where(below > 1e-12, count * cosine / below.clamp_min(1e-12), torch.zeros_like(cosine))
