"""Weighted average: Σ w_i θ_i / Σ w_i (model soups, arXiv 2203.05482), the minimiser of Σ w_i ‖θ − θ_i‖²."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from mats.errors import RequestError
from mats.methods.elementwise import SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import ElementwiseSettings, vanishes

if TYPE_CHECKING:
    from torch import Tensor


class AverageSettings(ElementwiseSettings):
    """Average of the models, by their weights (default 1 each), which are divided by their sum."""

    needs_base: ClassVar[bool] = False
    method: Literal["average"] = "average"

    @property
    def runs_anywhere(self) -> bool:
        """Sums run on any device."""
        return True

    def build(self, model_weights: Sequence[float]) -> AverageMerge:
        """The average of models with these weights."""
        return AverageMerge(model_weights)


class AverageMerge(SinglePass):
    """Σ w_i θ_i / Σ w_i, one model at a time."""

    def __init__(self, model_weights: Sequence[float]) -> None:
        total = sum(model_weights)
        if vanishes(model_weights):
            raise RequestError(
                f"average: the models' weights {list(model_weights)} sum to {total:g}; they must not sum to 0"
            )
        self.shares = tuple(weight / total for weight in model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`; without a base, what is not floating point is taken from the first model."""
        if base is not None and not is_mergeable(base.dtype):
            return base
        shape = None if base is None else base.shape
        merged: Tensor | None = None
        for index, tensor in numbered(name, shape, models, len(self.shares)):
            if not is_mergeable(tensor.dtype):
                return tensor
            if merged is None:
                # Not in place: the tensor may be a file mapped copy-on-write, whose every page would be copied first.
                own = tensor.to(working_dtype(tensor.dtype))
                merged = own.mul(self.shares[index]) if own is tensor else own.mul_(self.shares[index])
                del own
            else:
                merged.add_(tensor, alpha=self.shares[index])
            del tensor
        assert merged is not None  # `numbered` has checked the number of models
        return merged
