"""Conjugate gradients to a *true* residual: iterative refinement around the batched iteration.

The iteration solves for a correction in float32 (or narrower); its recurrence may claim a convergence that rounding has
prevented. So the residual is recomputed in float64, and systems that are not there yet start again from it, in wider
arithmetic where this one yields no more (`mats.solvers.stages`).

On a CPU the systems are taken in pieces small enough that their factors stay in the cache from one iteration to the
next; on a device all at once. Systems know nothing of each other, so this changes the time alone. Padding systems of
unlike shapes into one batch cannot win there: a product of two such matrices fills the machine by itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.solvers.basis import JointBasis, negligible
from mats.solvers.conjugate import CONVERGED, OUT_OF_ITERATIONS, STAGNATED, Iterates, Limits, conjugate_gradients
from mats.solvers.coordinates import Coordinates, make_coordinates
from mats.solvers.outcome import Outcome, join_outcomes
from mats.solvers.precision import Arithmetic, float32_products
from mats.solvers.problem import Problem, norms
from mats.solvers.settings import SolverSettings
from mats.solvers.stages import FLOAT32_CUTOFF, Stage, plan_stages
from mats.solvers.system import make_preconditioner, make_system

SLACK = 1.01  # a true residual this close above the tolerance counts as reached: the recurrence stopped exactly there
PIECE_ELEMENTS = 2 << 20  # numbers in the factors of a piece of systems on a CPU: 8 MiB in float32


@dataclass(frozen=True)
class IterativeSolver:
    """Solves a problem at a given shift ν by refined conjugate gradients, piece by piece.

    Attributes:
        problem: the systems.
        settings: as asked for.
        basis: the joint eigenbasis in the dtype of the iterates (preconditioned), or None (plain).
        cutoff: relative floor of the preconditioner.
        keep: hold on to the rotated factors, for further solves at other shifts.
    """

    problem: Problem
    settings: SolverSettings
    basis: JointBasis | None
    cutoff: float
    keep: bool = False
    _kept: dict[int, PieceSolver] = field(default_factory=dict, init=False, repr=False)

    def solve(self, shift: Tensor, start: Tensor | None = None) -> Outcome:
        """Δ at ν = shift [L], beginning at `start` [L, out, in] (None: at 0)."""
        size = piece_size(self.problem.quadratic)
        if size >= self.problem.systems:
            return self._piece(0, None).solve(shift, start)
        outcomes = []
        for first in range(0, self.problem.systems, size):
            part = slice(first, first + size)
            outcomes.append(self._piece(first, part).solve(shift[part], None if start is None else start[part]))
        return join_outcomes(outcomes)

    def _piece(self, first: int, part: slice | None) -> PieceSolver:
        """The solver of some of the systems (None: of all)."""
        if first in self._kept:
            return self._kept[first]
        problem, basis = self.problem, self.basis
        if part is not None:
            problem, basis = problem.select(part), None if basis is None else basis.select(part)
        made = PieceSolver(problem, self.settings, basis, self.cutoff)
        if self.keep:
            self._kept[first] = made
        return made


def piece_size(quadratic: Quadratic) -> int:
    """How many systems are iterated together."""
    systems, rows, columns = quadratic.shape
    if quadratic.device.type != "cpu":
        return systems
    factors = quadratic.models * sum(
        size * size
        for size, side in zip((rows, columns), (quadratic.sides.left, quadratic.sides.right), strict=True)
        if side == "dense"
    )
    return max(1, PIECE_ELEMENTS // max(factors + rows * columns, 1))


@dataclass(frozen=True)
class PieceSolver:
    """Solves systems that are iterated together, in coordinates made at the first iteration and kept.

    Attributes:
        problem: the systems.
        settings: as asked for.
        basis: the joint eigenbasis in the dtype of the iterates (preconditioned), or None (plain).
        cutoff: relative floor of the preconditioner.
    """

    problem: Problem
    settings: SolverSettings
    basis: JointBasis | None
    cutoff: float
    _made: dict[tuple[torch.dtype, bool], Coordinates] = field(default_factory=dict, init=False, repr=False)
    _cast: dict[torch.dtype, Quadratic] = field(default_factory=dict, init=False, repr=False)

    def solve(self, shift: Tensor, start: Tensor | None = None) -> Outcome:
        """Δ at ν = shift [L], beginning at `start` [L, out, in] (None: at 0)."""
        outcome = self._unmoved(shift, start)
        index = torch.arange(self.problem.systems, device=shift.device)
        first = True
        for stage in self._stages(shift):
            left = []
            for _ in range(stage.cycles):
                iterates = self._iterate(outcome, index, stage, with_snapshots=first)
                index, stuck = self._take(outcome, index, iterates, stage, first=first)
                first = False
                left.append(stuck)
                if len(index) == 0:
                    break
            index = torch.cat([*left, index]).sort().values
            if len(index) == 0:
                break
        return self._with_snapshots(outcome)

    def _stages(self, shift: Tensor) -> list[Stage]:
        """The stages of a solve at ν = shift [L]."""
        basis, hidden = self.basis, False
        if basis is not None and basis.undamped is None and bool((shift == 0).any()):
            narrow = basis.curvature.dtype == torch.float32
            cutoff = max(self.cutoff, FLOAT32_CUTOFF) if narrow else self.cutoff
            unseen = negligible(basis.curvature, cutoff)
            hidden = bool((unseen & (shift == 0)[:, None, None]).any())
        return plan_stages(self.settings, self.cutoff, plain=basis is None, hidden=hidden)

    def _unmoved(self, shift: Tensor, start: Tensor | None) -> Outcome:
        """The outcome before anything is done."""
        problem = self.problem
        zeros = torch.zeros(problem.systems, dtype=torch.int64, device=shift.device)
        if start is None:
            correction, residual, losses = torch.zeros_like(problem.rhs), problem.rhs, problem.losses.clone()
        else:
            correction = start.clone()
            residual, losses = problem.residual(correction, shift)
        inactive = torch.zeros_like(zeros, dtype=torch.bool)
        outcome = Outcome(correction, shift.clone(), zeros, zeros.clone(), norms(residual), losses, inactive)
        outcome.residual = residual.clone()
        return outcome

    def _iterate(self, outcome: Outcome, index: Tensor, stage: Stage, *, with_snapshots: bool) -> Iterates:
        """Conjugate gradients for the residual equation of some systems, scaled to a right-hand side of norm 1."""
        settings, problem, arithmetic = self.settings, self.problem, stage.arithmetic
        assert outcome.residual is not None
        residual = outcome.residual[index]
        coordinates = self._coordinates(arithmetic)
        quadratic = self._in_dtype(coordinates, arithmetic)
        if len(index) < problem.systems:
            quadratic, coordinates = quadratic.select(index), coordinates.select(index)
        own_scale = None if coordinates.scaled else problem.scale[index]
        shift = outcome.shift[index]
        system = make_system(quadratic, own_scale, shift, arithmetic.state, arithmetic.products)
        inner = coordinates.inner
        preconditioner = None
        if inner is not None:
            preconditioner = make_preconditioner(inner, shift, stage.cutoff, stage.hidden)
        norm = norms(residual)
        norm = torch.where(norm > 0, norm, 1.0)
        tolerance = settings.tolerance * problem.reference_norm[index] / norm
        if settings.tolerance > 0:
            tolerance = tolerance.clamp(min=arithmetic.floor)
        limits = Limits(
            tolerance,
            settings.max_iterations - outcome.iterations[index],
            settings.check_every,
            settings.snapshots if with_snapshots else (),
        )
        b = coordinates.enter((residual / norm[:, None, None]).to(arithmetic.state))
        with float32_products(tensor_float=arithmetic.tensor_float):
            iterates = conjugate_gradients(system, b, preconditioner, limits)
        scale = problem.scale[index]
        unit = torch.where(scale > 0, norm / scale, 0.0)[:, None, None]

        def outside(X: Tensor) -> Tensor:
            return coordinates.leave(X).to(torch.float64) * unit

        snapshots = {iteration: outside(X) for iteration, X in iterates.snapshots.items()}
        return replace(iterates, X=outside(iterates.X), snapshots=snapshots)

    def _coordinates(self, arithmetic: Arithmetic) -> Coordinates:
        """The coordinates for an arithmetic's iterates, made once; wide ones do without copies of the factors."""
        key = arithmetic.state, arithmetic.widened
        if key not in self._made:
            quadratic, basis = self.problem.quadratic, self.basis
            if arithmetic.widened:
                basis = None if basis is None else basis.to(arithmetic.state)
                self._made[key] = Coordinates(quadratic, False, None, basis, quadratic.shape[1:])
            else:
                self._made[key] = make_coordinates(
                    quadratic, self.problem.scale, basis, arithmetic.state, self.settings.max_iterations
                )
        return self._made[key]

    def _in_dtype(self, coordinates: Coordinates, arithmetic: Arithmetic) -> Quadratic:
        """The quadratic in the dtype of the products; the last one is kept, so that refinement casts it once."""
        if arithmetic.widened:
            return coordinates.quadratic
        if arithmetic.products not in self._cast:
            self._cast.clear()
            self._cast[arithmetic.products] = coordinates.quadratic.to(dtype=arithmetic.products)
        return self._cast[arithmetic.products]

    def _take(
        self, outcome: Outcome, index: Tensor, iterates: Iterates, stage: Stage, *, first: bool
    ) -> tuple[Tensor, Tensor]:
        """Add what an iteration found to the outcome.

        A later cycle that made the residual worse is undone. The first is not: there the residual may well rise, while
        the quadratic falls with every iteration.

        Returns:
            The systems that stay in this stage, and those that it leaves to the next.
        """
        settings = self.settings
        problem = self.problem if len(index) == self.problem.systems else self.problem.select(index)
        correction = outcome.correction[index]
        if first:
            outcome.snapshots = {key: correction + X for key, X in iterates.snapshots.items()}
        before, limit = outcome.residual_norm[index], SLACK * settings.tolerance * problem.reference_norm
        residual, losses = problem.residual(correction + iterates.X, outcome.shift[index])
        after = norms(residual)
        accepted = (after < before) | first
        norm = torch.where(accepted, after, before)
        reached = norm <= limit
        claimed = (iterates.state == CONVERGED) | (iterates.state == STAGNATED)
        iterations = outcome.iterations[index] + iterates.iterations
        part = outcome.select(index)
        assert part.residual is not None
        outcome.put(
            index,
            replace(
                part,
                correction=torch.where(accepted[:, None, None], correction + iterates.X, correction),
                iterations=iterations,
                state=torch.where(claimed, STAGNATED, iterates.state).masked_fill(reached, CONVERGED),
                residual_norm=norm,
                losses=torch.where(accepted, losses, part.losses),
                residual=torch.where(accepted[:, None, None], residual, part.residual),
            ),
        )
        if first:
            outcome.smallest_ritz = iterates.trace.smallest_ritz()
        if settings.history:
            outcome.history = iterates.trace.extended(outcome.history, index, before / problem.reference_norm)
        unsolved = ~reached & (iterations < settings.max_iterations)
        stays = norm * stage.gain < before
        return index[unsolved & stays], index[unsolved & ~stays]

    def _with_snapshots(self, outcome: Outcome) -> Outcome:
        """A system that stopped before a snapshot was taken has its final value there."""
        for iteration in self.settings.snapshots:
            kept = outcome.snapshots.get(iteration, outcome.correction)
            reached = (outcome.iterations >= iteration)[:, None, None]
            outcome.snapshots[iteration] = torch.where(reached, kept, outcome.correction)
        return outcome


def snapshot_outcome(problem: Problem, outcome: Outcome, iteration: int, tolerance: float) -> Outcome:
    """The outcome of the run that stops after `iteration`, from the longer run that kept a snapshot there."""
    correction = outcome.snapshots[iteration]
    residual, losses = problem.residual(correction, outcome.shift)
    norm = norms(residual)
    cut_off = outcome.iterations > iteration
    state = torch.where(cut_off, OUT_OF_ITERATIONS, outcome.state)
    state = state.masked_fill(cut_off & (norm <= SLACK * tolerance * problem.reference_norm), CONVERGED)
    return replace(
        outcome,
        correction=correction,
        iterations=outcome.iterations.clamp(max=iteration),
        state=state,
        residual_norm=norm,
        losses=losses,
        snapshots={},
        residual=residual,
        history=None if outcome.history is None else outcome.history[:, :iteration],
    )
