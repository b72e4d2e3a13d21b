"""What merges of singular vectors share: which tensors are matrices, and singular components worth believing."""

from __future__ import annotations

import fnmatch
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pydantic import Field

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.settings import ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor

NOT_MATRICES = (
    "*embed*",
    "*shared.weight",
    "*wte.weight",
    "*wpe.weight",
    "*lm_head*",
    "*text_projection*",
    "*relative_attention_bias*",
)
"""Lookup tables and output heads over a vocabulary: their rows are words, and a decomposition would cost minutes."""

ROUNDING = 1e-5
"""Singular values below this share of the largest are rounding of stored weights; their directions are arbitrary."""

DEPENDENT = 1e-8
"""Eigenvalues of XᵀX below this share of the largest are too inexact to take roots of."""


class SpectralSettings(ElementwiseSettings):
    """Base of the settings of methods that merge matrices by singular vectors: tsv_m, iso_c, iso_cts, wudi, knots."""

    scale: float = Field(
        default=1.0, description="Factor of the merged task vector, matrices and all else; default 1.0."
    )
    averaged: tuple[str, ...] = Field(
        default=NOT_MATRICES,
        description=(
            "Patterns of names that are merged as the mean task vector even though they are matrices; default: "
            "embeddings and output heads over a vocabulary."
        ),
    )

    def copies_held(self, name: str, shape: Sequence[int]) -> int:
        """Decompositions work in float64, with a Gram, its eigenvectors and workspace beside the components."""
        return 30 if self.is_matrix(name, shape) else 8

    def is_matrix(self, name: str, shape: Sequence[int]) -> bool:
        """Whether the tensor `name` is merged by its singular vectors: two or more dimensions, none of the patterns."""
        rows, columns = matrix_shape(shape)
        return min(rows, columns) > 1 and not any(fnmatch.fnmatchcase(name, pattern) for pattern in self.averaged)


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """[out, everything else] of a stored tensor: a convolution is unfolded, a vector is one row."""
    numel = 1
    for size in shape:
        numel *= size
    if len(shape) < 2 or shape[0] == 0:
        return 1, numel
    return shape[0], numel // shape[0]


class SpectralMerge(SinglePass):
    """θ0 + scale · τ: matrices by `_merge_matrices`, all else by the mean task vector. Task vectors are w_i (θ_i − θ0).

    Whether a weight lies as [out, in] or transposed on disk makes no difference to singular vectors.
    """

    def __init__(self, settings: SpectralSettings, model_weights: Sequence[float]) -> None:
        self.settings = settings
        self.weights = tuple(model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        base = require_base(self.settings.name, name, base)
        if not is_mergeable(base.dtype):
            return base
        base = base.to(working_dtype(base.dtype))
        task_vectors = self._task_vectors(name, base, models)
        if self.settings.is_matrix(name, base.shape):
            change = self._merge_matrices(task_vectors)
        else:
            change = _mean(task_vectors, len(self.weights))
        return change.to(base.dtype).reshape(base.shape).mul_(self.settings.scale).add_(base)

    def _task_vectors(self, name: str, base: Tensor, models: Iterable[Tensor]) -> Iterable[Tensor]:
        """w_i (θ_i − θ0) as float64 matrices [out, in], one at a time."""
        import torch

        shape = matrix_shape(base.shape)
        for index, tensor in numbered(name, base.shape, models, len(self.weights)):
            change = tensor.to(torch.float64).sub_(base) if tensor.dtype != torch.float64 else tensor - base
            del tensor
            yield change.mul_(self.weights[index]).reshape(shape)
            del change

    @abstractmethod
    def _merge_matrices(self, task_vectors: Iterable[Tensor]) -> Tensor:
        """The merged task vector [out, in] of one weight, without the scale."""


def _mean(task_vectors: Iterable[Tensor], count: int) -> Tensor:
    total: Tensor | None = None
    for change in task_vectors:
        total = change if total is None else total.add_(change)
    assert total is not None  # `numbered` has checked the number of models
    return total.div_(count)


def leading_components(matrix: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """The largest singular values σ [k] of `matrix` with their left [out, k] and right [in, k] vectors, k ≤ `count`.

    By the eigenvectors of the smaller Gram matrix in float64, a fifth of the time of a singular value decomposition;
    squaring costs half the digits, so what lies below `ROUNDING` times the largest is left out.

    Args:
        matrix: [out, in] float64.
        count: most components.
    """
    import torch

    if matrix.shape[0] > matrix.shape[1]:
        right, values, left = leading_components(matrix.mT, count)
        return left, values, right
    eigenvalues, vectors = torch.linalg.eigh(matrix @ matrix.mT)
    values = eigenvalues.flip(0)[:count].clamp_(min=0).sqrt_()
    values = values[values > ROUNDING * values[:1]]
    left = vectors[:, vectors.shape[1] - len(values) :].flip(1)  # a copy: the whole basis is let go
    return left, values, (matrix.mT @ left) / values


def nearest_orthonormal(vectors: Tensor) -> Tensor:
    """The polar factor U Vᵀ of X = U Σ Vᵀ: of all matrices with orthonormal columns the nearest to X (Procrustes).

    As X (XᵀX)^(−1/2), a quarter of the time of a decomposition of X, unless columns all but depend on each other.

    Args:
        vectors: X [n, k] float64; with k > n the rows of the result are orthonormal instead.
    """
    import torch

    if vectors.shape[1] > vectors.shape[0]:
        return nearest_orthonormal(vectors.mT).mT
    eigenvalues, basis = torch.linalg.eigh(vectors.mT @ vectors)
    if eigenvalues[0] > DEPENDENT * eigenvalues[-1]:
        return vectors @ ((basis / eigenvalues.sqrt()) @ basis.mT)
    left, _, right = torch.linalg.svd(vectors, full_matrices=False)
    return left @ right
