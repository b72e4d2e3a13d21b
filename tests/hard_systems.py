"""Systems that break naive solvers, with a dense float64 judge: for the tests, and for `benchmarks/solver hard`.

Every case is a batch of two systems of 6 × 7 in float32 statistics, as stores hold them; the judge widens the very same
numbers to float64 and forms the Kronecker matrix.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from oracles import Matrix, kronecker
from torch import Tensor

from mats.quadratics import KroneckerQuadratic
from mats.solvers import Certificate, SolverSettings, solve_quadratic

MODELS, SYSTEMS, OUT, IN = 3, 2, 6, 7
NULL = 1e-6  # eigenvalues below this share of the largest are the rounding of float32 statistics


@dataclass(frozen=True)
class HardCase:
    """What is solved.

    Attributes:
        left: G [m, L, out, out] or [m, L, out], float32.
        right: A [m, L, in, in] or [m, L, in].
        weights: λ.
        targets: W_i [m, L, out, in], float64 so that values come back in it.
        start: x0 [L, out, in].
    """

    left: Tensor
    right: Tensor
    weights: tuple[float, ...]
    targets: Tensor
    start: Tensor

    @property
    def quadratic(self) -> KroneckerQuadratic:
        """Of the product."""
        return KroneckerQuadratic(self.left, self.right, self.weights)


@dataclass(frozen=True)
class Strength:
    """A setting of anchor and damping, by name; `free` is μ = 0."""

    anchor: float
    damping: float


STRENGTHS = {"free": Strength(0.0, 0.0), "anchor 0.1": Strength(0.1, 0.0), "damping 0.1": Strength(0.0, 0.1)}


@dataclass(frozen=True)
class Judged:
    """An answer, and what the dense judge says of it, per system.

    Attributes:
        value: x0 + Δ.
        certificates: the product's own.
        residuals: ‖b − M Δ‖ ÷ ‖b‖ (0 for b = 0), M the dense float64 matrix.
        distances: ‖Δ − Δ*‖ ÷ ‖Δ*‖, with Δ* the shortest exact solution; None where float64 cannot say (see `resolved`).
        bounds: what the residual allows the distance to be: ‖b − M Δ‖ ÷ (smallest kept eigenvalue · ‖Δ*‖).
        hidden: share of ‖Δ‖² in directions that no model sees, the null space of Σ λ G ⊗ A.
        certainly_hidden: the part of it outside range(Σ G) ⊗ range(Σ A).
    """

    value: Tensor
    certificates: tuple[Certificate, ...]
    residuals: list[float]
    distances: list[float | None]
    bounds: list[float]
    hidden: list[float]
    certainly_hidden: list[float]


def hard_settings(strength: Strength, solver: str, precision: str, tolerance: float) -> SolverSettings:
    """What a case is solved with: one solver and precision at one strength, with iterations to spare."""
    return SolverSettings(
        name=solver,  # type: ignore[arg-type]
        precision=precision,  # type: ignore[arg-type]
        anchor=strength.anchor,
        damping=strength.damping,
        tolerance=tolerance,
        max_iterations=1000,
    )


def solve_hard(case: HardCase, strength: Strength, settings: SolverSettings) -> Judged:
    """Solve a case by the product, and judge the answer densely."""
    solution = solve_quadratic(case.quadratic, case.targets, case.start, settings)
    verdicts = [
        _judge(case, strength, system, (solution.value[system] - case.start[system]).numpy())
        for system in range(SYSTEMS)
    ]
    columns = [list(column) for column in zip(*verdicts, strict=True)]
    return Judged(solution.value, solution.certificates, *columns)


def _judge(
    case: HardCase, strength: Strength, system: int, delta: Matrix
) -> tuple[float, float | None, float, float, float]:
    """Residual, distance, bound, hidden and certainly hidden share of one system."""
    undamped, matrix = dense_matrices(case, strength, system)
    b = np.zeros(OUT * IN)
    for curvature, target in zip(undamped, case.targets[:, system].numpy(), strict=True):
        b += curvature @ (target - case.start[system].numpy()).ravel()
    norm, size = float(np.linalg.norm(b)), float(np.linalg.norm(delta))
    missing = float(np.linalg.norm(b - matrix @ delta.ravel()))
    hidden, certainly = _hidden_shares(case, undamped, system, delta) if size > 0 else (0.0, 0.0)
    if norm == 0:
        return missing, size, 0.0, hidden, certainly
    values, vectors = np.linalg.eigh(matrix / np.trace(matrix))
    kept = values > NULL * values[-1]
    coordinates = vectors[:, kept].T @ (b / np.trace(matrix))
    exact = vectors[:, kept] @ (coordinates / values[kept])
    resolved = not bool(np.any((values > 0.1 * NULL * values[-1]) & (values < 100 * NULL * values[-1])))  # a clear gap
    distance = float(np.linalg.norm(delta.ravel() - exact) / np.linalg.norm(exact)) if resolved else None
    bound = missing / np.trace(matrix) / (values[kept][0] * float(np.linalg.norm(exact)))
    return missing / norm, distance, bound, hidden, certainly


def dense_matrices(case: HardCase, strength: Strength, system: int) -> tuple[list[Matrix], Matrix]:
    """λ G ⊗ A of every model, and the damped and anchored sum of the left-hand side, float64."""
    undamped, total = [], np.zeros((OUT * IN,) * 2)
    for weight, left, right in zip(case.weights, case.left[:, system], case.right[:, system], strict=True):
        G, A = (_full(factor) for factor in (left, right))
        undamped.append(weight * kronecker(G, A))
        damped = [X + strength.damping * np.trace(X) / len(X) * np.eye(len(X)) for X in (G, A)]
        total += weight * kronecker(*damped)
    mean = sum(float(np.trace(C)) for C in undamped) / (OUT * IN)
    return undamped, total + strength.anchor * mean * np.eye(OUT * IN)


def _hidden_shares(case: HardCase, undamped: list[Matrix], system: int, delta: Matrix) -> tuple[float, float]:
    """Share of ‖Δ‖² in the null space of Σ λ C, and outside the ranges of the summed factors."""
    total = float(np.sum(delta**2))
    seen = _range(_sum_of_units(undamped)) @ delta.ravel()
    left, right = (
        _range(_sum_of_units([_full(factor) for factor in stack[:, system]])) for stack in (case.left, case.right)
    )
    inside = left.reshape(len(left), OUT) @ delta @ right.reshape(len(right), IN).T
    return 1 - float(np.sum(seen**2)) / total, 1 - float(np.sum(inside**2)) / total


def _sum_of_units(matrices: list[Matrix]) -> Matrix:
    """Σ X ÷ tr X: the range of the sum, whatever the scales."""
    return sum((X / np.trace(X) for X in matrices if np.trace(X) > 0), np.zeros_like(matrices[0]))


def _range(matrix: Matrix) -> Matrix:
    """An orthonormal basis of a range, in rows; float32 statistics leave 1e-7 of rounding elsewhere."""
    values, vectors = np.linalg.eigh(matrix)
    return vectors[:, values > NULL * max(values[-1], 1e-300)].T


def _full(factor: Tensor) -> Matrix:
    entry = factor.double().numpy()
    return entry if entry.ndim == 2 else np.diag(entry)


def _grams(random: np.random.Generator, size: int, rows: int) -> Tensor:
    data = random.standard_normal((MODELS, SYSTEMS, rows, size))
    return torch.from_numpy(np.swapaxes(data, 2, 3) @ data / rows).float()


def _weights(random: np.random.Generator) -> tuple[Tensor, Tensor]:
    """Targets, and a start that is none of them nor their mean; task vectors a tenth of the weights."""
    start = torch.from_numpy(random.standard_normal((SYSTEMS, OUT, IN)))
    return start + 0.1 * torch.from_numpy(random.standard_normal((MODELS, SYSTEMS, OUT, IN))), start


def _case(rows: int = 40, weights: tuple[float, ...] = (1.0,) * MODELS, seed: int = 0) -> HardCase:
    random = np.random.default_rng(seed)
    left, right = _grams(random, OUT, rows), _grams(random, IN, rows)
    return HardCase(left, right, weights, *_weights(random))


def _scaled(models: tuple[float, ...] = (1.0,) * MODELS, systems: tuple[float, ...] = (1.0,) * SYSTEMS) -> HardCase:
    """Curvatures times a number for each model and each system; half of it (in logarithms) to either factor."""
    case = _case()
    roots = torch.tensor([[(a * b) ** 0.5 for b in systems] for a in models], dtype=torch.float32)[:, :, None, None]
    return HardCase(case.left * roots, case.right * roots, case.weights, case.targets, case.start)


def _zeroed(models: list[int]) -> HardCase:
    case = _case()
    case.left[models] = 0.0
    return case


def _duplicated() -> HardCase:
    case = _case(rows=4)
    for stack in (case.left, case.right, case.targets):
        stack[1] = stack[0]
    return case


def _opposite() -> HardCase:
    """Two models with one curvature and task vectors that cancel but for a millionth; the third saw nothing."""
    case = _case()
    task = case.targets[0] - case.start
    case.targets[1] = case.start - task * (1 - 1e-6)
    case.left[1], case.right[1] = case.left[0], case.right[0]
    case.left[2] = 0.0
    return case


def _decaying() -> HardCase:
    """Eigenvalues over nine orders of magnitude on either side, nearly shared bases: as real layers have them."""
    random = np.random.default_rng(3)
    stacks = []
    for size in (OUT, IN):
        basis = np.linalg.qr(random.standard_normal((size, size)))[0]
        entries = np.empty((MODELS, SYSTEMS, size, size))
        for place in np.ndindex(MODELS, SYSTEMS):
            turned = np.linalg.qr(basis + 0.05 * random.standard_normal((size, size)))[0]
            values = np.logspace(0, -9, size) * np.exp(random.standard_normal(size))
            entries[place] = (turned * values) @ turned.T
        stacks.append(torch.from_numpy(entries).float())
    return HardCase(stacks[0], stacks[1], (1.0,) * MODELS, *_weights(random))


def _diagonal() -> HardCase:
    """Both factors diagonal, with zeros."""
    random = np.random.default_rng(4)
    left, right = (torch.from_numpy(random.random((MODELS, SYSTEMS, size))).float() for size in (OUT, IN))
    left[:, :, 0], right[0, :, :3] = 0.0, 0.0
    return HardCase(left, right, (1.0,) * MODELS, *_weights(random))


def _embedding() -> HardCase:
    """Token counts on the right: columns that nobody saw, that one model saw, that all saw very unlike often."""
    case = _case(rows=4)
    counts = torch.tensor(
        [[0.0, 1.0, 0.0, 3.0, 2000.0, 1.0, 7.0], [0.0, 0.0, 5.0, 3.0, 1.0, 0.0, 9.0], [0.0] * 6 + [4.0]]
    )
    return HardCase(case.left, (counts / 100)[:, None].repeat(1, SYSTEMS, 1), case.weights, case.targets, case.start)


HARD_CASES: dict[str, Callable[[], HardCase]] = {
    "well behaved": _case,
    "rank-deficient": lambda: _case(rows=2),
    "one token": lambda: _case(rows=1),
    "no model saw anything": lambda: _zeroed([0, 1, 2]),
    "two models saw nothing": lambda: _zeroed([0, 2]),
    "all at 1e-12": lambda: _scaled(systems=(1e-12, 1e-12)),
    "all at 1e12": lambda: _scaled(systems=(1e12, 1e12)),
    "layers of a batch at 1e-12 and 1e12": lambda: _scaled(systems=(1e-12, 1e12)),
    "models at 1e-12, 1 and 1e12": lambda: _scaled(models=(1e-12, 1.0, 1e12)),
    "duplicated models": _duplicated,
    "nearly opposite models": _opposite,
    "weights 0, 1e-3 and 1e3": lambda: _case(weights=(0.0, 1e-3, 1e3)),
    "eigenvalues over nine orders": _decaying,
    "all diagonal": _diagonal,
    "embedding with unseen tokens": _embedding,
}
