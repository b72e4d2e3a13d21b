"""Those who solve: the published way, SciPy on our operator, ours, and dense factorisations where they fit."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from batch import Batch
from machine import Clock, forget_peak, resident_peak
from scipy.linalg import cho_factor, cho_solve
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mats.scipy_view import linear_operator
from mats.solvers import SolverSettings, solve_quadratic

SLACK = 1.01  # a residual this close above the tolerance counts as reached, for everybody
PUBLISHED_LIMIT = 1000  # iterations after which the published way counts as not finished
DENSE_LIMIT = 6_000  # unknowns whose matrix, 0.3 GB in float64, is still formed and factored


def published_product(batch: Batch, system: int) -> LinearOperator:
    """Σ λ (G + s ḡ I) X (A + s ā I) with NumPy in float32, model by model."""
    pairs = [(G.numpy(), A.numpy()) for G, A in batch.factors(system, torch.float32)]
    _, rows, columns = batch.quadratic.shape

    def product(vector: np.ndarray) -> np.ndarray:
        X = vector.reshape(rows, columns)
        total = np.zeros_like(X)
        for G, A in pairs:
            part = G @ X if G.ndim == 2 else G[:, None] * X
            total += part @ A if A.ndim == 2 else part * A
        return total.ravel()

    return LinearOperator((rows * columns,) * 2, matvec=product, dtype=np.float32)


def published(batch: Batch, system: int, tolerance: float, most: int = PUBLISHED_LIMIT) -> dict[str, Any]:
    """SciPy's cg, no preconditioner, the product made model by model."""
    return scipy_cg(batch, system, lambda: published_product(batch, system), tolerance, most)


def scipy_on_our_operator(batch: Batch, system: int, tolerance: float, most: int = PUBLISHED_LIMIT) -> dict[str, Any]:
    """SciPy's cg, no preconditioner, on the product's operator."""
    return scipy_cg(batch, system, lambda: linear_operator(batch.operator, system=system), tolerance, most)


def scipy_cg(
    batch: Batch, system: int, operator: Callable[[], LinearOperator], tolerance: float, most: int
) -> dict[str, Any]:
    """SciPy's cg for the correction, float32, to a *true* residual.

    Where its recurrence claims a convergence that is not there it starts again from the true residual, as ours does;
    only its iterations and its operator are timed: right-hand side and residuals are given to it for nothing.
    """
    b = batch.rhs(system)
    norm = float(b.norm())
    correction, residual = torch.zeros_like(b), b.clone()
    iterations, seconds, processor = 0, 0.0, 0.0
    with Clock() as building:
        made = operator()
    reached = norm == 0
    while not reached and iterations < most:
        size = float(residual.norm())
        begun = iterations

        def step(_: np.ndarray) -> None:
            nonlocal iterations
            iterations += 1

        with Clock() as clock:
            unit = (residual / size).float().numpy().ravel()
            rtol = tolerance * norm / size
            delta, _ = cg(made, unit, rtol=rtol, atol=0.0, maxiter=most - iterations, callback=step)
        seconds, processor = seconds + clock.seconds, processor + clock.processor_seconds
        found = correction + size * torch.from_numpy(delta).double().reshape(b.shape)
        new = batch.residual(system, found)
        if float(new.norm()) >= size and begun:
            break  # a restart that gains nothing: float32 yields no more
        correction, residual = found, new
        reached = float(residual.norm()) <= SLACK * tolerance * norm
    return {
        "seconds": seconds + building.seconds,
        "processor_seconds": processor + building.processor_seconds,
        "iterations": [iterations],
        "residuals": [float(residual.norm()) / norm if norm > 0 else 0.0],
        "finished": [bool(reached)],
    }


def ours(batch: Batch, solver: str, tolerance: float, most: int, precision: str = "float32") -> dict[str, Any]:
    """One of our solvers on the whole batch; everything counts: right-hand side, eigenbases, float64 certificates."""
    settings = SolverSettings(
        name=solver,  # type: ignore[arg-type]
        anchor=0.0,
        damping=batch.damping,
        tolerance=tolerance,
        max_iterations=most,
        precision=precision,  # type: ignore[arg-type]
        validate=False,
    )
    # One float64 target makes the value float64: the judge is to see Δ, not the rounding of x0 + Δ to float32.
    targets = [batch.targets[0].double(), *batch.targets[1:]]
    before = forget_peak()
    with Clock() as clock:
        solution = solve_quadratic(batch.quadratic, targets, batch.start, settings)
    corrections = solution.value - batch.start.double()
    residuals = [batch.true_residual(system, correction) for system, correction in enumerate(corrections)]
    return {
        **clock.times,
        "iterations": [certificate.iterations for certificate in solution.certificates],
        "certified": [certificate.relative_residual for certificate in solution.certificates],
        "residuals": residuals,
        "finished": [certificate.stop_reason.solved for certificate in solution.certificates],
        "reasons": [certificate.stop_reason.value for certificate in solution.certificates],
        "peak_growth_bytes": resident_peak() - before,
    }


def dense(batch: Batch, system: int, tolerance: float) -> dict[str, Any] | None:
    """Cholesky of the Kronecker matrix itself, float64 (a least-squares solve where it is singular).

    None: the matrix does not fit.
    """
    _, rows, columns = batch.quadratic.shape
    if rows * columns > DENSE_LIMIT:
        return None
    b = batch.rhs(system).numpy().ravel()
    with Clock() as clock:
        matrix = np.zeros((rows * columns,) * 2)
        for G, A in batch.factors(system, torch.float64):
            matrix += np.kron(_full(G), _full(A).T)
        try:
            solved = cho_solve(cho_factor(matrix), b)
        except np.linalg.LinAlgError:
            solved = np.linalg.lstsq(matrix, b, rcond=1e-12)[0]
    residual = batch.true_residual(system, torch.from_numpy(solved).reshape(rows, columns))
    return {**clock.times, "iterations": [0], "residuals": [residual], "finished": [residual <= SLACK * tolerance]}


def _full(factor: Tensor) -> np.ndarray:
    return (factor if factor.dim() == 2 else torch.diag(factor)).numpy()
