"""Updates kept as two factors, ΔW = s · B A: sums of them, their norms, and the best ones of a smaller rank.

Nothing here forms an [out, in] matrix from factors: sums concatenate ranks, everything else goes through QR of the
factors and an SVD of size r × r, in fp64.

    Σ_i κ_i s_i B_i A_i = [κ_1 s_1 B_1, κ_2 s_2 B_2, …] · [A_1; A_2; …]        for coefficients κ_i of any sign

The best rank-r approximation is that of Eckart and Young (1936), in the Frobenius norm or, given curvature, in
‖G^{1/2} (ΔW − B A) H^{1/2}‖_F for an output Gram G and an input Gram H (called A elsewhere; here A is a factor).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.errors import ShapeMismatch
from mats.methods.leading import leading_triplets

ZERO = 8 * torch.finfo(torch.float64).eps  # times the size: what lies below this share of the largest is zero


@dataclass(frozen=True)
class LowRank:
    """ΔW = scaling · B A.

    Attributes:
        A: [r, in].
        B: [out, r].
        scaling: α / r, or α / √r; of any sign.
    """

    A: Tensor
    B: Tensor
    scaling: float = 1.0

    def __post_init__(self) -> None:
        """Check that the factors fit each other.

        Raises:
            ShapeMismatch: not two matrices, or of different ranks.
        """
        if self.A.dim() != 2 or self.B.dim() != 2 or self.A.shape[0] != self.B.shape[1]:
            raise ShapeMismatch(
                f"low-rank update: A {list(self.A.shape)} and B {list(self.B.shape)}; [r, in] and [out, r] fit"
            )

    @property
    def rank(self) -> int:
        """r, as stored."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in)."""
        return self.B.shape[0], self.A.shape[1]

    def times(self, factor: float) -> LowRank:
        """factor · ΔW, the factors as they are."""
        return LowRank(self.A, self.B, self.scaling * factor)

    def folded(self) -> LowRank:
        """The same update with scaling 1: B takes it, in fp64, to be rounded once when it is written."""
        return self if self.scaling == 1.0 else LowRank(self.A, self.B.double() * self.scaling)

    def dense(self) -> Tensor:
        """ΔW itself, [out, in] fp64: for checks and for callers that have that much memory."""
        return self.scaling * (self.B.double() @ self.A.double())


def exact_sum(updates: Sequence[LowRank], coefficients: Sequence[float], shape: tuple[int, int]) -> LowRank:
    """Σ κ_i ΔW_i with the ranks of all that take part, one after another.

    A single update keeps its factors to the bit and its coefficient goes into the scaling; where none is left, the
    result is zero, of rank 1.

    Args:
        updates: of one shape.
        coefficients: κ_i, any real numbers; an update with 0 takes no part.
        shape: (out, in), for a sum of nothing.

    Raises:
        ShapeMismatch: an update has another shape.
    """
    for update in updates:
        if update.shape != shape:
            raise ShapeMismatch(f"low-rank sum: an update has shape {list(update.shape)}, expected {list(shape)}")
    used = [update.times(factor) for update, factor in zip(updates, coefficients, strict=True) if factor != 0]
    if not used:
        return LowRank(torch.zeros(1, shape[1]), torch.zeros(shape[0], 1))
    if len(used) == 1:
        return used[0]
    folded = [update.folded() for update in used]
    return LowRank(torch.cat([each.A for each in folded]), torch.cat([each.B for each in folded], dim=1))


def norm(update: LowRank) -> float:
    """‖ΔW‖_F = ‖R_B R_Aᵀ‖_F with the triangles of QR: small differences of large updates keep their digits."""
    return abs(update.scaling) * float((_triangle(update.B) @ _triangle(update.A.mT).mT).norm())


def inner(left: LowRank, right: LowRank) -> float:
    """⟨ΔW_1, ΔW_2⟩ = s_1 s_2 tr((B_1ᵀ B_2)(A_2 A_1ᵀ))."""
    outputs = left.B.double().mT @ right.B.double()
    inputs = left.A.double() @ right.A.double().mT
    return left.scaling * right.scaling * float((outputs * inputs).sum())


def relative_difference(update: LowRank, exact: LowRank) -> float | None:
    """‖ΔW − exact‖ / ‖exact‖; None where the exact update is zero."""
    size = norm(exact)
    if size == 0:
        return None
    return norm(exact_sum([update, exact], [1.0, -1.0], exact.shape)) / size


def cosine(update: LowRank, exact: LowRank) -> float | None:
    """⟨ΔW, exact⟩ / (‖ΔW‖ ‖exact‖); None where either is zero."""
    sizes = norm(update) * norm(exact)
    return inner(update, exact) / sizes if sizes > 0 else None


@dataclass(frozen=True)
class Metric:
    """What a truncation error is measured in; None on a side: the identity there.

    Attributes:
        output: G, [out, out] or a diagonal [out]; symmetric, positive semi-definite.
        input: H, [in, in] or a diagonal [in]; likewise.
        damping: each side gets this times its mean diagonal added, ≥ 0. With 0, directions that a Gram does not see
            (its null space) cost nothing, and the result has nothing there.
    """

    output: Tensor | None = None
    input: Tensor | None = None
    damping: float = 0.0

    def to(self, device: torch.device) -> Metric:
        """Elsewhere."""
        output, given = (None if gram is None else gram.to(device) for gram in (self.output, self.input))
        return Metric(output, given, self.damping)


@dataclass(frozen=True)
class Truncation:
    """An update of smaller rank, and what that lost.

    Attributes:
        update: of at most the rank asked for, scaling 1, singular values shared evenly between the factors, fp64.
        error: ‖ΔW − B A‖_F / ‖ΔW‖_F; 0 for ΔW = 0.
        metric_error: the same in the metric of curvature; None where none was given, or it saw nothing of ΔW.
    """

    update: LowRank
    error: float
    metric_error: float | None = None


def reduced(update: LowRank) -> LowRank:
    """The same ΔW with as many ranks as it has in fp64; no fewer than 1."""
    parts = _svd(update)
    return _balanced(parts, parts.needed)


def truncated(update: LowRank | Tensor, rank: int, metric: Metric | None = None) -> Truncation:
    """The best approximation of rank at most `rank`.

    With a metric: R_Gᵀ ΔW R_H is truncated, where G = R_G R_Gᵀ and H = R_H R_Hᵀ, and taken back by the pseudo-inverses
    of the roots. Where ΔW has no more than `rank` ranks it is returned as it is, for nothing need be given up.

    Args:
        update: factors, or a dense ΔW [out, in].
        rank: ≥ 1.
        metric: None: the Frobenius norm.
    """
    parts = _svd(update, rank)
    total = parts.total
    if metric is None or parts.needed <= rank:
        lost = parts.beyond(rank)
        result = _balanced(parts, min(rank, parts.needed))
        return Truncation(result, (lost / total) ** 0.5 if total > 0 else 0.0, None if metric is None else 0.0)
    output, given = _Root(metric.output, metric.damping), _Root(metric.input, metric.damping)
    whitened = _svd(_both_sides(update, output, given), rank)
    kept = min(rank, whitened.needed)
    left, values, right = whitened.left[:, :kept], whitened.values[:kept], whitened.right[:, :kept]
    result = _balanced(_Spectrum(output.back(left), values, given.back(right), kept), kept)
    seen = whitened.total
    metric_error = (whitened.beyond(kept) / seen) ** 0.5 if seen > 0 else None
    return Truncation(result, _distance(update, result) / total**0.5, metric_error)


@dataclass(frozen=True)
class _Spectrum:
    """Singular triplets: left [out, k], falling values [k], right [in, k], fp64.

    `needed` are the values above rounding, at least 1; `rest` is Σ σ² of those that were not computed.
    """

    left: Tensor
    values: Tensor
    right: Tensor
    needed: int
    rest: float = 0.0

    @property
    def total(self) -> float:
        return float(self.values.square().sum()) + self.rest

    def beyond(self, rank: int) -> float:
        """Σ σ² of all but the first `rank`."""
        return float(self.values[rank:].square().sum()) + self.rest


class _Root:
    """R with M = R Rᵀ for a Gram M (None: the identity), from its eigenvalues above zero, and R's pseudo-inverse."""

    def __init__(self, gram: Tensor | None, damping: float) -> None:
        self._vectors: Tensor | None = None
        self._roots: Tensor | None = None
        if gram is None:
            return
        gram = gram.double()
        values, vectors = (gram, None) if gram.dim() == 1 else torch.linalg.eigh((gram + gram.mT) / 2)
        values = values.clamp(min=0) + damping * values.clamp(min=0).mean()
        kept = values > ZERO * values.numel() * values.max()
        if vectors is None:
            self._roots = torch.where(kept, values, 0.0).sqrt()
        else:
            self._vectors, self._roots = vectors[:, kept], values[kept].sqrt()

    def forth(self, X: Tensor) -> Tensor:
        """Rᵀ X."""
        if self._roots is None:
            return X
        if self._vectors is not None:
            X = self._vectors.mT @ X
        return X * self._roots[:, None]

    def back(self, X: Tensor) -> Tensor:
        """(Rᵀ)⁺ X."""
        if self._roots is None:
            return X
        X = X * torch.where(self._roots > 0, 1 / self._roots, 0.0)[:, None]
        return X if self._vectors is None else self._vectors @ X


def _both_sides(update: LowRank | Tensor, output: _Root, given: _Root) -> LowRank | Tensor:
    """R_Gᵀ ΔW R_H."""
    if isinstance(update, LowRank):
        return LowRank(given.forth(update.A.double().mT).mT, output.forth(update.B.double()), update.scaling)
    return given.forth(output.forth(update.double()).mT).mT


def _svd(update: LowRank | Tensor, rank: int | None = None) -> _Spectrum:
    """The singular triplets of an update; of a large dense one, the first `rank`.

    How many count: those that are more than rounding of the factors, which may be far larger than what is left of them
    (an update and its negative cancel).
    """
    if isinstance(update, LowRank):
        (Q_B, R_B), (Q_A, R_A) = torch.linalg.qr(update.B.double()), torch.linalg.qr(update.A.double().mT)
        left, values, right = torch.linalg.svd(update.scaling * (R_B @ R_A.mT), full_matrices=False)
        size = abs(update.scaling) * float(update.A.double().norm() * update.B.double().norm())
        return _Spectrum(Q_B @ left, values, Q_A @ right.mT, _count(values, size))
    left, values, right, rest = leading_triplets(update.double(), rank or min(update.shape))
    needed = _count(values, float(values[0]))
    total = float(values.square().sum()) + rest
    return _Spectrum(
        left, values, right, needed if rest <= ZERO * min(update.shape) * total else min(update.shape), rest
    )


def _count(values: Tensor, size: float) -> int:
    return max(1, int((values > ZERO * values.numel() * size).sum()))


def _balanced(parts: _Spectrum, rank: int) -> LowRank:
    roots = parts.values[:rank].sqrt()
    return LowRank((parts.right[:, :rank] * roots).mT.contiguous(), parts.left[:, :rank] * roots)


def _distance(update: LowRank | Tensor, other: LowRank) -> float:
    if isinstance(update, LowRank):
        return norm(exact_sum([update, other], [1.0, -1.0], other.shape))
    return float((update.double() - other.dense()).norm())


def _triangle(matrix: Tensor) -> Tensor:
    return torch.linalg.qr(matrix.double(), mode="r").R
