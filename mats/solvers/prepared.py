"""The same systems solved again and again, each time with another anchor: what stays the same is made once."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from mats.quadratics import Quadratic
from mats.quadratics.checks import check_finite
from mats.solvers.basis import CUTOFFS
from mats.solvers.problem import Problem
from mats.solvers.settings import SolverSettings
from mats.solvers.solution import Solution
from mats.solvers.solve import Memory, certified_solution, check_inputs, damped_problem, solve_problem


class PreparedSystems:
    """Systems checked and made ready once: right-hand side, joint eigenbasis, factors in its coordinates.

    A further solve with another anchor costs its iterations alone, and these begin at the last solution. Another
    damping changes the operator: basis and factors are then made anew, and the iterations still begin there.
    Between solves the rotated factors stay in memory, as much as the factors themselves in float32.

    Args:
        quadratic: the curvatures C_i and the weights λ_i.
        targets: W_i, m tensors [L, out, in].
        start: x0 [L, out, in].
        settings: how to solve, unless a solve says otherwise; None: the defaults.

    Raises:
        MatsError: as `solve_quadratic`.

    Example:
        >>> import torch
        >>> from mats.quadratics import KroneckerQuadratic
        >>> from mats.solvers import PreparedSystems
        >>> _ = torch.manual_seed(0)
        >>> rows = torch.randn(6, 1, 20, 8)
        >>> grams = rows.mT @ rows
        >>> targets = torch.randn(3, 1, 8, 8)
        >>> prepared = PreparedSystems(KroneckerQuadratic(grams[:3], grams[3:]), targets, targets.mean(dim=0))
        >>> moves = [prepared.solve(anchor=anchor).certificates[0].movement for anchor in (1.0, 0.1, 0.01)]
        >>> moves == sorted(moves)  # the weaker the anchor, the farther
        True
    """

    def __init__(
        self,
        quadratic: Quadratic,
        targets: Sequence[Tensor] | Tensor,
        start: Tensor,
        settings: SolverSettings | None = None,
    ) -> None:
        self.settings = settings or SolverSettings()
        check_inputs(quadratic, targets, start, self.settings)
        self._quadratic, self._targets, self._start = quadratic, list(targets), start
        self._cutoff = CUTOFFS.get(quadratic.dtype, 1e-6) if self.settings.cutoff is None else self.settings.cutoff
        self._problem: tuple[float, Problem, float] | None = None  # damping, problem, anchor that comes with it
        self._memory = Memory(keep=True)

    def solve(self, *, anchor: float | None = None, damping: float | None = None, warm: bool = True) -> Solution:
        """Solve with another anchor or damping; None: as the settings say.

        Args:
            anchor: μ ÷ (Σ_i λ_i mean diagonal of C_i), at least 0.
            damping: s, at least 0.
            warm: begin at the last solution. A first solve, and every one that is not warm, gives the bytes that
                `solve_quadratic` gives. A warm one reaches the same tolerance, in fewer iterations.

        Raises:
            RequestError: a value out of range, or no closed form where `direct` was asked for.
        """
        settings = replace(
            self.settings,
            anchor=self.settings.anchor if anchor is None else anchor,
            damping=self.settings.damping if damping is None else damping,
        )
        problem = self._with_damping(settings)
        if not warm or settings.snapshots:
            self._memory.correction = None
        # Damping of a single factor is an anchor; it is in the shift, not in the problem.
        shift = torch.full_like(problem.scale, self._anchor(settings))
        outcome, basis = solve_problem(problem, settings, shift, self._cutoff, self._memory)
        self._memory.correction = outcome.correction
        return certified_solution(problem, self._quadratic.models, outcome, basis, settings, self._cutoff)

    def _with_damping(self, settings: SolverSettings) -> Problem:
        """The problem for a damping, made anew when that changes."""
        if self._problem is None or self._problem[0] != settings.damping:
            problem, anchor = damped_problem(self._quadratic, self._targets, self._start, settings)
            check_finite("right-hand side Σ λ C (W − x0), in float64", problem.rhs)
            self._problem = settings.damping, problem, anchor - settings.anchor
            self._memory = Memory(correction=self._memory.correction, keep=True)
        return self._problem[1]

    def _anchor(self, settings: SolverSettings) -> float:
        assert self._problem is not None
        return settings.anchor + self._problem[2]
