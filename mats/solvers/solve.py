"""From a quadratic, its targets and a start to a solution with certificates: choose, solve, certify."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.errors import NonFiniteWeights, RequestError, ShapeMismatch
from mats.quadratics import DampedQuadratic, KroneckerQuadratic, PerModelQuadratic, Quadratic
from mats.quadratics.checks import check_finite, check_targets
from mats.solvers.basis import CUTOFFS, JointBasis, joint_basis
from mats.solvers.certify import certify, histories_of
from mats.solvers.closed_form import dense_basis, solve_in_basis
from mats.solvers.columns import solve_columns
from mats.solvers.iterative import IterativeSolver, snapshot_outcome
from mats.solvers.null_space import null_share, worth_measuring
from mats.solvers.outcome import Outcome
from mats.solvers.pair import is_pair, solve_pair
from mats.solvers.problem import Problem, make_problem
from mats.solvers.radius import solve_within_radius
from mats.solvers.reduction import reduced
from mats.solvers.settings import SolverSettings
from mats.solvers.solution import Certificate, Solution

AUTO_DENSE_LIMIT = 256  # unknowns up to which `auto` forms the matrix rather than iterate


def solve_quadratic(
    quadratic: Quadratic,
    targets: Sequence[Tensor] | Tensor,
    start: Tensor,
    settings: SolverSettings | None = None,
) -> Solution:
    """Minimise Σ_i λ_i ½ ⟨X − W_i, C_i (X − W_i)⟩ + ½ μ ‖X − x0‖² for L systems of one shape.

    Args:
        quadratic: the curvatures C_i and the weights λ_i.
        targets: W_i, m tensors [L, out, in] of any floating dtype (or one [m, L, out, in]); not modified.
        start: x0 [L, out, in].
        settings: how to solve; None: the defaults.

    Returns:
        The values [L, out, in] and one certificate per system. A system that was not solved is data, not an error.

    Raises:
        ShapeMismatch: targets or start do not have the systems' shape.
        NonFiniteWeights, NonFiniteStatistic: NaN or infinity among the inputs, with the place.
        RequestError: impossible curvatures, or no closed form where `direct` was asked for.
    """
    settings = settings or SolverSettings()
    check_inputs(quadratic, targets, start, settings)
    problem, anchor = damped_problem(quadratic, list(targets), start, settings)
    check_finite("right-hand side Σ λ C (W − x0), in float64", problem.rhs)
    cutoff = CUTOFFS.get(quadratic.dtype, 1e-6) if settings.cutoff is None else settings.cutoff
    shift = torch.full_like(problem.scale, anchor)
    outcome, basis = solve_problem(problem, settings, shift, cutoff)
    return certified_solution(problem, quadratic.models, outcome, basis, settings, cutoff)


def damped_problem(
    quadratic: Quadratic, targets: list[Tensor], start: Tensor, settings: SolverSettings
) -> tuple[Problem, float]:
    """The problem with its damping built in, and the anchor. Damping is one more model, whose target is the start."""
    if settings.damping == 0:
        return make_problem(quadratic, targets, start, settings.reference), settings.anchor
    damped = factored_damping(quadratic, settings.damping)
    if damped is not None:
        return make_problem(damped, [*targets, start], start, settings.reference), settings.anchor
    return make_problem(quadratic, targets, start, settings.reference), settings.anchor + settings.damping


def factored_damping(quadratic: Quadratic, strength: float) -> DampedQuadratic | None:
    """Factored damping, where both factors are there."""
    if isinstance(quadratic, PerModelQuadratic):
        return quadratic.damped(strength)
    if isinstance(quadratic, KroneckerQuadratic) and quadratic.left is not None and quadratic.right is not None:
        return DampedQuadratic(quadratic, strength)
    return None


def check_inputs(
    quadratic: Quadratic, targets: Sequence[Tensor] | Tensor, start: Tensor, settings: SolverSettings
) -> None:
    """Shapes always; numbers where the settings say so."""
    check_targets(targets, quadratic.models, quadratic.shape)
    if tuple(start.shape) != quadratic.shape:
        raise ShapeMismatch(f"start has shape {tuple(start.shape)}; expected {quadratic.shape} (L, out, in)")
    if settings.validate:
        for model in range(quadratic.models):  # before the start, which is often made of them
            check_finite(f"target {model}", targets[model], error=NonFiniteWeights)
        check_finite("start", start, error=NonFiniteWeights)
        quadratic.check_values()


@dataclass
class Memory:
    """What one solve leaves for the next one of the same systems, with another anchor.

    Attributes:
        basis: the joint eigenbasis.
        solver: the iterative solver, with the factors it has rotated.
        correction: the last Δ.
        keep: there will be a next one: hold on to the rotated factors.
    """

    basis: JointBasis | None = None
    solver: IterativeSolver | None = None
    correction: Tensor | None = None
    keep: bool = False


def solve_problem(
    problem: Problem, settings: SolverSettings, shift: Tensor, cutoff: float, memory: Memory | None = None
) -> tuple[Outcome, JointBasis | None]:
    """The outcome, and the joint eigenbasis if one was needed; what is worth it goes into the memory, where given."""
    if settings.name in ("direct", "auto") and not settings.snapshots:
        solved = _closed_form(problem, settings, shift, cutoff)
        if solved is not None:
            return solved
        if settings.name == "direct":
            raise RequestError(
                f"solver direct has no closed form for {problem.quadratic.models} models of shape "
                f"{problem.quadratic.shape[1:]} with anchor {settings.anchor}, radius {settings.radius}; use pcg"
            )
    memory = memory or Memory()
    if memory.solver is None:
        if settings.name != "cg":
            state = torch.float64 if settings.precision == "float64" else torch.float32
            memory.basis = joint_basis(problem.quadratic, problem.scale).to(state)
        keep = memory.keep or settings.radius is not None
        memory.solver = IterativeSolver(problem, settings, memory.basis, cutoff, keep)
    if settings.radius is None:
        return memory.solver.solve(shift, memory.correction), memory.basis
    return solve_within_radius(problem, memory.solver.solve, shift, settings.radius), memory.basis


def _closed_form(
    problem: Problem, settings: SolverSettings, shift: Tensor, cutoff: float
) -> tuple[Outcome, JointBasis | None] | None:
    """The closed form of this problem, if it has one."""
    quadratic = problem.quadratic
    unknowns = quadratic.shape[1] * quadratic.shape[2]
    operator = reduced(quadratic)
    if operator.sides.exact:
        basis = joint_basis(operator, problem.scale)
        # A basis of fewer models would serve certificates, whose bounds are about all of them, badly.
        known = basis if operator is quadratic else None
        return solve_in_basis(problem, basis, shift, settings.radius, cutoff), known
    if settings.radius is None and not bool((shift > 0).any()):
        pair = _damped_pair(operator) if isinstance(operator, DampedQuadratic) else operator
        if is_pair(pair):
            return solve_pair(problem, pair, cutoff), None
    if settings.radius is None and (by_columns := solve_columns(problem, shift)) is not None:
        return by_columns, None
    limit = settings.dense_limit if settings.name == "direct" else min(AUTO_DENSE_LIMIT, settings.dense_limit)
    if unknowns <= limit:
        basis = dense_basis(quadratic, problem.scale)
        return solve_in_basis(problem, basis, shift, settings.radius, cutoff), None
    return None


def certified_solution(
    problem: Problem,
    models: int,
    outcome: Outcome,
    basis: JointBasis | None,
    settings: SolverSettings,
    cutoff: float,
) -> Solution:
    """Values in the callers' precision, and certificates (of the `models`, not of the damping)."""
    if basis is None and settings.measure_null_share:
        basis = joint_basis(problem.quadratic, problem.scale)

    def certified(reached: Outcome) -> tuple[Certificate, ...]:
        share = None
        if isinstance(problem.quadratic, KroneckerQuadratic) and worth_measuring(problem.quadratic, basis, settings):
            share = null_share(problem.quadratic, reached, cutoff)
        return certify(problem, models, reached, basis, cutoff, settings.tolerance, share)

    wide = settings.precision == "float64" or any(target.dtype == torch.float64 for target in problem.targets[:models])
    dtype = torch.float64 if wide else torch.float32
    value = (problem.start + outcome.correction).to(dtype)
    at = {key: snapshot_outcome(problem, outcome, key, settings.tolerance) for key in sorted(outcome.snapshots)}
    return Solution(
        value,
        {key: (problem.start + reached.correction).to(dtype) for key, reached in at.items()},
        certified(outcome),
        {key: certified(reached) for key, reached in at.items()},
        histories_of(outcome) if settings.history else (),
    )


def _damped_pair(operator: DampedQuadratic) -> KroneckerQuadratic | None:
    """Two models with their damping in their factors; None for other numbers of models, which are not copied."""
    return operator.as_kronecker() if is_pair(operator.undamped) else None
