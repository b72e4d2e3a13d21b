"""Systems whose columns do not meet: one small matrix for each column, and few of these matrices are different.

Where every right factor is a diagonal (an embedding's token counts) a system falls apart into columns c,

    (Σ_t w_tc G_t + μI) Δ_c = B_c,       w_ic = λ_i a_ic   (damped: λ_i (a_ic + s ā_i), with G_i + s ḡ_i I for G_i)

A column that no model saw has B_c = 0 and stays where it is, exactly. The others share a matrix wherever their counts
agree, and most tokens are seen a few times by one model: in a merge of six MiniLM encoders 7 249 of 30 522 columns were
seen at all, with 1 073 different matrices. One Cholesky factorisation of each, in float64, solves all of its columns.
Where every left factor is a diagonal instead, the same holds of rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from mats.quadratics import DampedQuadratic, KroneckerQuadratic, Quadratic, SumQuadratic
from mats.quadratics.factors import mean_diagonals
from mats.solvers.outcome import Outcome, closed_form_outcome
from mats.solvers.problem import Problem

COMPARABLE_ITERATIONS = 15  # of float32 on all columns; factorise where that costs less
DOUBLE_COST = 2  # of a product in float64 beside float32
CHUNK_ELEMENTS = 4 << 20  # numbers in the matrices that are factorised at once
LEAST_HOLD = 1e-7  # damping squared, or anchor, below which what a Cholesky factor says of unseen rows is rounding


@dataclass
class Columns:
    """Σ_t G_t ⊗ diag(w_t): a quadratic whose columns do not meet.

    Attributes:
        matrices: G_t [L, n, n] in the dtype of the statistics, or None for the identity.
        diagonals: what is added to the diagonal of each G_t, [L] float64.
        weights: w_t [L, k] float64.
        transposed: the columns are the weight's rows.
        hold: how far every column's matrix is from singular, relative to its system's scale, at least.
    """

    transposed: bool
    matrices: list[Tensor | None] = field(default_factory=list)
    diagonals: list[Tensor] = field(default_factory=list)
    weights: list[Tensor] = field(default_factory=list)
    hold: float = 0.0

    def add(self, term: KroneckerQuadratic, strength: float) -> None:
        """The models of one term, with factored damping of a strength."""
        dense, diagonal = (term.right, term.left) if self.transposed else (term.left, term.right)
        length = term.shape[1] if self.transposed else term.shape[2]
        none = torch.zeros(term.shape[0], dtype=torch.float64, device=term.device)
        for model, weight in enumerate(term.weights):
            counts = none[:, None].expand(-1, length) + 1 if diagonal is None else diagonal[model].to(torch.float64)
            matrix = None if dense is None else dense[model]
            added = none
            if strength > 0 and matrix is not None:
                counts = counts + strength * mean_diagonals(counts[None])[0][:, None]
                added = strength * mean_diagonals(matrix[None])[0]
            self.matrices.append(matrix)
            self.diagonals.append(added)
            self.weights.append(weight * counts)
        self.hold += strength**2

    def of(self, system: int) -> Tensor:
        """G_t of one system, [T, n · n] float64."""
        size = next(matrix.shape[-1] for matrix in self.matrices if matrix is not None)
        stack = torch.zeros(len(self.matrices), size, size, dtype=torch.float64, device=self.weights[0].device)
        for place, matrix, added in zip(stack, self.matrices, self.diagonals, strict=True):
            if matrix is None:
                place.diagonal().fill_(1.0)
            elif matrix.dim() == 2:
                place.diagonal().copy_(matrix[system])
            else:
                place.copy_(matrix[system])
            place.diagonal().add_(added[system])
        return (stack + stack.mT).div_(2).flatten(1)


def independent_columns(quadratic: Quadratic) -> Columns | None:
    """The terms of a quadratic whose columns (or rows) do not meet; None for all others."""
    sides = quadratic.sides
    if (sides.left, sides.right) not in (("dense", "standard"), ("standard", "dense")):
        return None
    columns = Columns(transposed=sides.left == "standard")
    for term in quadratic.terms if isinstance(quadratic, SumQuadratic) else (quadratic,):
        strength = term.strength if isinstance(term, DampedQuadratic) else 0.0
        inside = term.undamped if isinstance(term, DampedQuadratic) else term
        if not isinstance(inside, KroneckerQuadratic):
            return None
        columns.add(inside, strength)
    return columns


def solve_columns(problem: Problem, shift: Tensor) -> Outcome | None:
    """Every column by the factorised matrix that it shares with others; None where that cannot be, or costs more.

    Args:
        problem: L systems.
        shift: ν [L] from the anchor.
    """
    columns = independent_columns(problem.quadratic)
    if columns is None or columns.hold + float(shift.amin()) < LEAST_HOLD:
        return None
    groups = [_group(problem, columns, system) for system in range(problem.systems)]
    size = problem.quadratic.shape[2 if columns.transposed else 1]
    factorising = DOUBLE_COST * sum(len(group.weights) for group in groups) * size / 3
    iterating = COMPARABLE_ITERATIONS * 2 * len(columns.matrices) * sum(len(group.seen) for group in groups)
    if factorising > iterating:
        return None
    correction = torch.zeros_like(problem.rhs)
    for system, group in enumerate(groups):
        mu = float(shift[system] * problem.scale[system])
        found = _solve_group(columns.of(system), group, mu)
        if found is None:
            return None
        place = correction[system].mT if columns.transposed else correction[system]
        place[:, group.seen] = found
    residual, losses = problem.residual(correction, shift)
    return closed_form_outcome(correction, shift, residual, losses)


@dataclass(frozen=True)
class _Group:
    """Columns of one system by the matrix that they share.

    Attributes:
        seen: the columns whose right-hand side is not 0, those with one matrix side by side.
        rhs: B of these columns [n, number of them].
        weights: w of each different matrix [number of matrices, T].
        counts: how many columns share each.
    """

    seen: Tensor
    rhs: Tensor
    weights: Tensor
    counts: list[int]


def _group(problem: Problem, columns: Columns, system: int) -> _Group:
    rhs = problem.rhs[system].mT if columns.transposed else problem.rhs[system]
    seen = (rhs != 0).any(dim=0).nonzero().flatten()
    weights = torch.stack([weight[system] for weight in columns.weights], dim=1)[seen]
    if len(seen) == 0:
        return _Group(seen, rhs[:, seen], weights, [])
    different, which, counts = torch.unique(weights, dim=0, return_inverse=True, return_counts=True)
    seen = seen[which.argsort(stable=True)]
    return _Group(seen, rhs[:, seen], different, counts.tolist())


def _solve_group(matrices: Tensor, group: _Group, mu: float) -> Tensor | None:
    """Δ of the columns of a group [n, number of them]; None where a matrix is not positive definite."""
    size = group.rhs.shape[0]
    solution = torch.empty_like(group.rhs)
    chunk = max(1, CHUNK_ELEMENTS // (size * size))
    first = 0
    for start in range(0, len(group.counts), chunk):
        formed = (group.weights[start : start + chunk] @ matrices).view(-1, size, size)
        formed.diagonal(dim1=1, dim2=2).add_(mu)
        factors, failed = torch.linalg.cholesky_ex(formed)
        if bool(failed.any()):
            return None
        for factor, count in zip(factors, group.counts[start : start + chunk], strict=True):
            part = slice(first, first + count)
            solution[:, part] = torch.cholesky_solve(group.rhs[:, part], factor)
            first += count
    return solution
