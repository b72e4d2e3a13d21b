"""One value of each entry from all models' values of it: their mean, sum, median, or the one of largest magnitude.

On the weights themselves, not on task vectors: what the published code of TIES-Merging (arXiv 2306.01708) calls
`basic_mean`, `basic_sum`, `basic_median` and `basic_magnitude`. Of two middles the median takes the lower; of equal
magnitudes the first model's value counts. With weights w_i the mean is Σ w_i θ_i / Σ w_i and the sum Σ w_i θ_i; a
median or a largest of weighted values would mean nothing, so those take equal weights alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.errors import RequestError
from mats.methods.elementwise import CHUNK, SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import ElementwiseSettings, vanishes

if TYPE_CHECKING:
    from torch import Tensor


class PointwiseSettings(ElementwiseSettings):
    """Mean, sum, median or largest of the models' own values, entry by entry, with no base and no task vectors."""

    needs_base: ClassVar[bool] = False
    method: Literal["pointwise"] = "pointwise"
    aggregate: Literal["mean", "sum", "median", "magnitude"] = Field(
        default="median",
        description="Which value an entry takes: mean, sum, median or largest magnitude; default median.",
    )

    @property
    def copies_per_model(self) -> int:
        """A median cannot be taken of one model at a time."""
        return 1 if self.aggregate == "median" else 0

    def build(self, model_weights: Sequence[float]) -> PointwiseMerge:
        """The merge of models with these weights.

        Raises:
            RequestError: weights that differ, or sum to 0, where that has no meaning.
        """
        return PointwiseMerge(self.aggregate, model_weights)


class PointwiseMerge(SinglePass):
    """One model at a time, but for the median."""

    def __init__(self, aggregate: str, model_weights: Sequence[float]) -> None:
        if aggregate in ("median", "magnitude") and len(set(model_weights)) > 1:
            raise RequestError(
                f"pointwise: aggregate {aggregate} with the models' weights {list(model_weights)}; equal weights would "
                "be right"
            )
        if aggregate == "mean" and vanishes(model_weights):
            raise RequestError(f"pointwise: the models' weights {list(model_weights)} sum to 0; another sum is needed")
        self.aggregate = aggregate
        divisor = sum(model_weights) if aggregate == "mean" else 1.0
        self.factors = tuple(weight / divisor for weight in model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`; without a base, what is not floating point is taken from the first model."""
        if base is not None and not is_mergeable(base.dtype):
            return base
        shape = None if base is None else base.shape
        held: list[Tensor] = []
        for index, tensor in numbered(name, shape, models, len(self.factors)):
            if not is_mergeable(tensor.dtype):
                return tensor
            value = tensor.to(working_dtype(tensor.dtype))
            del tensor
            held = [*held, value] if self.aggregate == "median" else [self._with(held, value, index)]
        return _median_(held) if self.aggregate == "median" else held[0]

    def _with(self, held: Sequence[Tensor], value: Tensor, index: int) -> Tensor:
        """What is known after one more model."""
        import torch

        if self.aggregate == "magnitude":
            return torch.where(value.abs() > held[0].abs(), value, held[0]) if held else value
        value = value.mul_(self.factors[index])
        return value if not held else value.add_(held[0])


def _median_(values: Sequence[Tensor]) -> Tensor:
    """The lower median, entry by entry, in the place of the first."""
    import torch

    flat = [value.reshape(-1) for value in values]
    for start in range(0, flat[0].numel(), CHUNK):
        piece = slice(start, start + CHUNK)
        flat[0][piece] = torch.stack([value[piece] for value in flat]).median(dim=0).values
    return flat[0].reshape(values[0].shape)
