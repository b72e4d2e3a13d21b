"""Conjugate gradients to a *true* residual: iterative refinement around the batched iteration.

The iteration solves for a correction in float32 (or narrower); its recurrence may claim a convergence that rounding has
prevented. So the residual is recomputed in float64, and systems that are not there yet start again from it.

On a CPU the systems are taken in pieces small enough that their factors stay in the cache from one iteration to the
next; on a device all at once. Systems know nothing of each other, so this changes the time alone. Padding systems of
unlike shapes into one batch cannot win there: a product of two such matrices fills the machine by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.solvers.basis import JointBasis
from mats.solvers.conjugate import CONVERGED, OUT_OF_ITERATIONS, STAGNATED, Iterates, Limits, conjugate_gradients
from mats.solvers.coordinates import Coordinates, make_coordinates
from mats.solvers.outcome import Outcome, join_outcomes
from mats.solvers.precision import BFLOAT16, FLOAT32, FLOAT64, TF32, Arithmetic, float32_products
from mats.solvers.problem import Problem, norms
from mats.solvers.settings import SolverSettings
from mats.solvers.system import make_preconditioner, make_system

SLACK = 1.01  # a true residual this close above the tolerance counts as reached: the recurrence stopped exactly there
NARROW_CYCLES = 30  # most refinements with narrow products
NARROW_GAIN = 4.0  # once no system's residual falls this much in a narrow cycle, float32 takes over
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
    _made: dict[torch.dtype, Coordinates] = field(default_factory=dict, init=False, repr=False)
    _cast: dict[torch.dtype, Quadratic] = field(default_factory=dict, init=False, repr=False)

    def solve(self, shift: Tensor, start: Tensor | None = None) -> Outcome:
        """Δ at ν = shift [L], beginning at `start` [L, out, in] (None: at 0)."""
        outcome, residual = self._unmoved(shift, start)
        index = torch.arange(self.problem.systems, device=shift.device)
        for cycle, arithmetic in enumerate(self._cycles(outcome)):
            iterates = self._iterate(outcome, index, residual, arithmetic, with_snapshots=cycle == 0)
            index, residual = self._take(outcome, index, residual, iterates, arithmetic, first=cycle == 0)
            if len(index) == 0:
                break
        return self._with_snapshots(outcome)

    def _unmoved(self, shift: Tensor, start: Tensor | None) -> tuple[Outcome, Tensor]:
        """The outcome before anything is done, and the residual there."""
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
        return outcome, residual

    def _cycles(self, outcome: Outcome) -> Iterator[Arithmetic]:
        """The arithmetic of each cycle in turn: narrow while that pays, then wide."""
        narrow = {"tf32_refined": TF32, "bfloat16_refined": BFLOAT16}.get(self.settings.precision)
        if self.basis is None and self.settings.anchor == self.settings.damping == 0:
            narrow = None  # what keeps plain CG at the start where no model sees is its products' exactness alone
        for _ in range(0 if narrow is None else NARROW_CYCLES):
            assert narrow is not None
            before = outcome.residual_norm.clone()
            yield narrow
            if not bool((outcome.residual_norm * NARROW_GAIN < before).any()):
                break
        for _ in range(1 + self.settings.refinements):
            yield FLOAT64 if self.settings.precision == "float64" else FLOAT32

    def _iterate(
        self, outcome: Outcome, index: Tensor, residual: Tensor, arithmetic: Arithmetic, *, with_snapshots: bool
    ) -> Iterates:
        """Conjugate gradients for the residual equation of some systems, scaled to a right-hand side of norm 1."""
        settings, problem = self.settings, self.problem
        coordinates = self._coordinates(arithmetic.state)
        quadratic = self._in_dtype(coordinates, arithmetic.products)
        if len(index) < problem.systems:
            quadratic, coordinates = quadratic.select(index), coordinates.select(index)
        own_scale = None if coordinates.scaled else problem.scale[index]
        system = make_system(quadratic, own_scale, outcome.shift[index], arithmetic.state)
        inner = coordinates.inner
        preconditioner = None if inner is None else make_preconditioner(inner, outcome.shift[index], self.cutoff)
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

    def _coordinates(self, dtype: torch.dtype) -> Coordinates:
        """The coordinates for iterates of a dtype, made once."""
        if dtype not in self._made:
            self._made[dtype] = make_coordinates(
                self.problem.quadratic, self.problem.scale, self.basis, dtype, self.settings.max_iterations
            )
        return self._made[dtype]

    def _in_dtype(self, coordinates: Coordinates, dtype: torch.dtype) -> Quadratic:
        """The quadratic in the dtype of the products; the last one is kept, so that refinement casts it once."""
        if dtype not in self._cast:
            self._cast.clear()
            self._cast[dtype] = coordinates.quadratic.to(dtype=dtype)
        return self._cast[dtype]

    def _take(
        self,
        outcome: Outcome,
        index: Tensor,
        residual: Tensor,
        iterates: Iterates,
        arithmetic: Arithmetic,
        *,
        first: bool,
    ) -> tuple[Tensor, Tensor]:
        """Add what an iteration found to the outcome; returns the systems that must go on, and their residuals.

        A later cycle that made the residual worse is undone. The first is not: there the residual may well rise, while
        the quadratic falls with every iteration.
        """
        settings = self.settings
        problem = self.problem if len(index) == self.problem.systems else self.problem.select(index)
        correction = outcome.correction[index]
        if first:
            outcome.snapshots = {key: correction + X for key, X in iterates.snapshots.items()}
        before = norms(residual)
        new_residual, losses = problem.residual(correction + iterates.X, outcome.shift[index])
        after = norms(new_residual)
        accepted = torch.ones_like(after, dtype=torch.bool) if first else after < before
        norm = torch.where(accepted, after, before)
        reached = norm <= SLACK * settings.tolerance * problem.reference_norm
        claimed = (iterates.state == CONVERGED) | (iterates.state == STAGNATED)
        state = torch.where(claimed, STAGNATED, iterates.state).masked_fill(reached, CONVERGED)
        iterations = outcome.iterations[index] + iterates.iterations
        chosen = accepted[:, None, None]
        part = replace(
            outcome,
            correction=torch.where(chosen, correction + iterates.X, correction),
            shift=outcome.shift[index],
            iterations=iterations,
            state=state,
            residual_norm=norm,
            losses=torch.where(accepted, losses, outcome.losses[:, index]),
            radius_active=outcome.radius_active[index],
            residual=torch.where(chosen, new_residual, residual),
            smallest_ritz=None,
            history=None,
        )
        outcome.put(index, part)
        if first:
            outcome.smallest_ritz = iterates.trace.smallest_ritz()
        if settings.history:
            outcome.history = iterates.trace.extended(outcome.history, index, before / problem.reference_norm)
        worth_it = claimed & (norm < 0.5 * before)
        again = ~reached & (iterations < settings.max_iterations) & (worth_it | arithmetic.narrow)
        left = again.nonzero().flatten()
        assert part.residual is not None
        return index[left], part.residual[left]

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
