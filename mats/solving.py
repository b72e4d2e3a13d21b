"""`mats.solve`: solve a merge as linear systems, without writing any checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from typing_extensions import Unpack

from mats.errors import RequestError
from mats.merge_problem import MergeProblem
from mats.solve_result import SolveResult, gathered
from mats.solvers import SolverSettings, solve_quadratic
from mats.solvers.settings import Precision, SolverName
from mats.tensor_problem import Curvatures, RowMoments, Stack

__all__ = ["RowMoments", "solve"]


def solve(
    problem: MergeProblem | Stack,
    *,
    method: SolverName | None = None,
    tol: float | None = None,
    damping: float | None = None,
    anchor: float | None = None,
    radius: float | None = None,
    max_iterations: int | None = None,
    snapshots: Sequence[int] | None = None,
    history: bool | None = None,
    precision: Precision | None = None,
    settings: SolverSettings | None = None,
    solver: SolverName | None = None,
    tolerance: float | None = None,
    **tensors: Unpack[Curvatures],
) -> SolveResult:
    """Merge m weights W_i by their curvatures C_i: for every system the minimiser of

        Σ_i λ_i ½ ⟨X − W_i, C_i (X − W_i)⟩ + ½ ⟨X − x0, (D + μI)(X − x0)⟩,   μ = anchor · Σ_i λ_i · mean diagonal of C_i

    with D the factored damping, of strength `damping`.

    What is None keeps the problem's own value: for plain tensors the one told below, for stores that of the recipe.

    Args:
        problem: made by `MergeProblem.from_tensors` or `from_stores`; or the targets W_i, with the arguments of
            `from_tensors` beside them (`input_grams=…`).
        method: `pcg` preconditioned conjugate gradients (default), `cg` plain ones (as published), `direct` a closed
            form (an error if there is none), `auto` a closed form where there is one.
        tol: relative residual to reach, 1e-4.
        damping: strength of the pull toward the start in the metric of the factors, 0.1: every G_i and A_i gets so many
            times its mean diagonal added (`mats.quadratics.damped`); curvature of one factor is anchored by it instead.
        anchor: strength of the pull toward the start that is the same in every direction, relative to the mean
            curvature; 0.
        radius: longest move ‖X − x0‖, in units of the farthest model's distance from the start; no bound.
        max_iterations: at most, 300.
        snapshots: iterations after which the iterate is returned too; none.
        history: keep the relative residual after every iteration; false.
        precision: of the iteration, float32; right-hand side and residual are float64 always.
        settings: everything about the solver at once, instead of the arguments from `method` to `precision`.
        solver: another name of `method`.
        tolerance: another name of `tol`.
        tensors: see `MergeProblem.from_tensors`.

    Returns:
        The merged weights, and a certificate per system: why it stopped, iterations, true relative residual, how far it
        can be from the exact solution, each model's quadratic before and after, how far the weights moved.

    Raises:
        ShapeMismatch: shapes that do not fit together, with the index.
        NonFiniteWeights, NonFiniteStatistic: NaN or infinity, with the place.
        RequestError: a setting out of range, or a curvature that cannot be one.

    Example:
        >>> import torch
        >>> from mats.solving import solve
        >>> _ = torch.manual_seed(0)
        >>> seen = torch.tensor([1.0, 1.0, 0.0, 0.0])
        >>> inputs = [torch.randn(50, 4) * seen, torch.randn(50, 4) * (1 - seen)]
        >>> weights = [torch.ones(3, 4), -torch.ones(3, 4)]
        >>> grams = [rows.T @ rows / len(rows) for rows in inputs]
        >>> result = solve(weights, input_grams=grams, damping=1e-6)
        >>> result.value[0].round(decimals=3).tolist()  # each model rules where its own inputs lie
        [1.0, 1.0, -1.0, -1.0]
        >>> result.reasons[0].sentence
        'The true relative residual is within the tolerance.'
    """
    if not isinstance(problem, MergeProblem):
        problem = MergeProblem.from_tensors(problem, **tensors)
    elif given := sorted(key for key, value in tensors.items() if value is not None):
        raise RequestError(f"solve: {given[0]} is part of the problem already; give it to MergeProblem.from_tensors")
    changes: dict[str, Any] = {
        "name": _one("method", method, "solver", solver),
        "tolerance": _one("tol", tol, "tolerance", tolerance),
        "damping": damping,
        "anchor": anchor,
        "radius": radius,
        "max_iterations": max_iterations,
        "snapshots": None if snapshots is None else tuple(snapshots),
        "history": history,
        "precision": precision,
    }
    changes = {key: value for key, value in changes.items() if value is not None}
    if settings is not None and changes:
        raise RequestError(f"solve: settings say everything about the solver; {next(iter(changes))} is given beside it")
    solutions = []
    for group in problem.groups:
        chosen = settings or replace(group.settings, **changes)
        solutions.append(solve_quadratic(group.quadratic, group.targets, group.start, chosen))
    return gathered(problem, solutions)


def _one(name: str, value: Any, other_name: str, other: Any) -> Any:
    """An argument that has two names."""
    if value is not None and other is not None:
        raise RequestError(f"solve: {name} and {other_name} are one argument; {value!r} and {other!r} are given")
    return value if other is None else other
