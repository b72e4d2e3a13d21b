"""Linear combination: Σ w_i θ_i, with weights of any sign, or the same divided by Σ w_i.

Model soups (arXiv 2203.05482) are its case of equal, normalised weights; negation and analogy (arXiv 2212.04089, of
adapters arXiv 2306.14870) are cases with negative ones.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mats.errors import RequestError
from mats.methods.elementwise import SinglePass, is_mergeable, numbered, working_dtype
from mats.methods.settings import AllowedWeights, ElementwiseSettings, vanishes

if TYPE_CHECKING:
    from torch import Tensor


class LinearSettings(ElementwiseSettings):
    """Sum of the models times their weights, which may be negative or 0; divided by the sum of the weights if asked."""

    needs_base: ClassVar[bool] = False
    allowed_weights: ClassVar[AllowedWeights] = "any"
    method: Literal["linear"] = "linear"
    normalize: bool = Field(
        default=False, description="Divide by the sum of the weights, which then must not be 0; default false."
    )

    def models_read(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[int, ...]:
        """Those whose weight is not 0; the first of all, for its shapes, where every weight is 0."""
        return tuple(index for index in range(len(model_names)) if model_weights[index]) or (0,)

    def build_for(self, model_names: Sequence[str], model_weights: Sequence[float]) -> LinearMerge:
        """The combination of the models that `models_read` lists."""
        return self.build([model_weights[index] for index in self.models_read(model_names, model_weights)])

    def build(self, model_weights: Sequence[float]) -> LinearMerge:
        """The combination of models with these weights."""
        return LinearMerge(model_weights, normalize=self.normalize)


class LinearMerge(SinglePass):
    """Σ c_i θ_i, one model at a time.

    Attributes:
        coefficients: c_i, one per model: w_i, or w_i / Σ w_i.

    Raises:
        RequestError: the weights are to be normalised and sum to 0.
    """

    def __init__(self, model_weights: Sequence[float], *, normalize: bool) -> None:
        total = sum(model_weights)
        if normalize and vanishes(model_weights):
            raise RequestError(
                f"linear: normalize: the models' weights {list(model_weights)} sum to {total:g}; another sum, or "
                "normalize: false, would be right"
            )
        self.coefficients = tuple(weight / total if normalize else weight for weight in model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`; without a base, what is not floating point is taken from the first model."""
        if base is not None and not is_mergeable(base.dtype):
            return base
        shape = None if base is None else base.shape
        merged: Tensor | None = None
        for index, tensor in numbered(name, shape, models, len(self.coefficients)):
            if not is_mergeable(tensor.dtype):
                return tensor
            merged = add_multiple(merged, tensor, self.coefficients[index])
            del tensor
        assert merged is not None  # `numbered` has checked the number of models
        return merged


def add_multiple(total: Tensor | None, tensor: Tensor, factor: float) -> Tensor:
    """`total` + factor · tensor in fp32 (fp64 where either is); both tensors may be overwritten.

    A factor that is not the same number in fp32 (1/3) is rounded there: 6e-8 of the term.
    """
    import torch

    if total is None:
        return tensor.to(working_dtype(tensor.dtype)).mul_(factor)
    return total.to(torch.promote_types(total.dtype, tensor.dtype)).add_(tensor, alpha=factor)
