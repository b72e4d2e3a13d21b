"""Batched (preconditioned) conjugate gradients: one step length per system, no host copy inside an iteration.

Hestenes and Stiefel (1952); Saad, *Iterative Methods for Sparse Linear Systems*, algorithms 6.18 and 9.1. From X = 0:

    Q = (C + ν) P    α = ⟨R, Z⟩ / ⟨P, Q⟩    X += α P    R −= α Q    Z = M⁻¹ R    P = Z + ⟨R, Z⟩ / ⟨R, Z⟩_before · P

Each system stops by itself: a mask on the device freezes it at that very iteration. The host reads the masks every so
often, and then drops what has stopped from the batch; the results do not depend on when it looks.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from mats.solvers.problem import norms
from mats.solvers.system import Preconditioner, System
from mats.solvers.trace import Trace

RUNNING, CONVERGED, STAGNATED, NO_CURVATURE, OUT_OF_ITERATIONS = 0, 1, 2, 3, 4
"""States of a system, as numbers on the device."""

PATIENCE = 100  # iterations without a new lowest residual; plain CG on real layers has had plateaus of 60
IMPROVEMENT = 0.999  # what counts as lower
SEEN_SHARE = 0.1  # of the tolerance: a residual this small in the coordinates that can move is not what keeps it up


@dataclass(frozen=True)
class Limits:
    """When systems stop.

    Attributes:
        tolerance: norm of the recurrence's residual [L], in the unit of b.
        iterations: most iterations of each system [L] int64.
        check_every: iterations between looks of the host.
        snapshots: iterations after which iterates are kept.
    """

    tolerance: Tensor
    iterations: Tensor
    check_every: int = 10
    snapshots: Sequence[int] = ()


@dataclass(frozen=True)
class Iterates:
    """Where the systems were left.

    Attributes:
        X: [L, out, in].
        iterations: [L] int64.
        state: [L] int64, see RUNNING.
        snapshots: X after chosen iterations; valid for systems whose `iterations` reach that far.
        trace: step lengths and residuals of every iteration.
    """

    X: Tensor
    iterations: Tensor
    state: Tensor
    snapshots: dict[int, Tensor]
    trace: Trace


def conjugate_gradients(system: System, b: Tensor, preconditioner: Preconditioner | None, limits: Limits) -> Iterates:
    """Solve (C + νI) X = b for each system from X = 0, until every one has stopped.

    Args:
        system: the operator.
        b: [L, out, in], norms near 1.
        preconditioner: None for plain conjugate gradients.
        limits: when to stop.
    """
    batch = _Batch(system, b, preconditioner, limits)
    zeros = torch.zeros_like(batch.iterations), torch.zeros_like(batch.state)
    final = Iterates(torch.zeros_like(b), *zeros, {}, batch.trace)
    wanted = set(limits.snapshots)
    looks = 1 if b.device.type == "cpu" else limits.check_every
    for iteration in range(1, int(limits.iterations.max()) + 1):
        if (iteration - 1) % looks == 0 and not batch.drop_stopped(final):
            break
        batch.advance()
        if iteration in wanted:
            final.snapshots[iteration] = final.X.index_copy(0, batch.index, batch.X)
    batch.store(final)
    return final


class _Batch:
    """The systems still in the batch, and their recurrences; everything on the device."""

    def __init__(self, system: System, b: Tensor, preconditioner: Preconditioner | None, limits: Limits) -> None:
        self.system, self.preconditioner = system, preconditioner
        self.index = torch.arange(b.shape[0], device=b.device)  # position in the whole batch
        self.tolerance = limits.tolerance.to(b.dtype)
        self.budget = limits.iterations
        self.X = torch.zeros_like(b)
        self.R = b.clone()
        self.P = self._precondition(self.R).clone()
        self.rz = _dot(self.R, self.P)
        self.best = norms(self.R)
        self.waited = torch.zeros_like(self.index)
        self.iterations = torch.zeros_like(self.index)
        self.state = torch.where(self.best <= self.tolerance, CONVERGED, RUNNING)
        self.trace = Trace(b.shape[0], b.device)

    def _precondition(self, R: Tensor) -> Tensor:
        return R if self.preconditioner is None else self.preconditioner.apply(R)

    def advance(self) -> None:
        """One iteration of every running system."""
        Q = self.system.apply(self.P)
        pq = _dot(self.P, Q)
        # Below rounding, sign and size of ⟨P, CP⟩ are noise: a step along P would be a leap into the null space.
        noise = torch.finfo(Q.dtype).eps * (_dot(self.P, self.P) * _dot(Q, Q)).sqrt()
        flat = (self.state == RUNNING) & ~(pq > noise)
        self.state.masked_fill_(flat, NO_CURVATURE)
        running = self.state == RUNNING
        alpha = torch.where(running, self.rz / pq, 0.0)[:, None, None]
        self.X.addcmul_(alpha, self.P)
        self.R.addcmul_(alpha, Q, value=-1)
        self.iterations += running
        residual = self._judge(running)
        Z = self._precondition(self.R)
        rz = _dot(self.R, Z)
        self._judge_seen(running, rz)
        beta = torch.where(self.rz > 0, rz / self.rz, 0.0)[:, None, None]
        # A stopped system keeps P = 0, so that nothing that overflowed in it can come back.
        self.P = torch.addcmul(Z, beta, self.P).masked_fill_((self.state != RUNNING)[:, None, None], 0.0)
        self.trace.add(self.index, running, alpha, beta, residual)
        self.rz = rz

    def _judge(self, running: Tensor) -> Tensor:
        """Stop what has converged, or has waited too long for a lower residual; returns the residuals' norms."""
        residual = norms(self.R)
        lower = residual < IMPROVEMENT * self.best
        self.best = torch.where(lower, residual, self.best)
        self.waited = torch.where(lower, 0, self.waited + 1)
        self.state.masked_fill_(running & (self.iterations >= self.budget), OUT_OF_ITERATIONS)
        self.state.masked_fill_(running & (self.waited >= PATIENCE), STAGNATED)
        self.state.masked_fill_(running & (residual <= self.tolerance), CONVERGED)
        return residual

    def _judge_seen(self, running: Tensor, rz: Tensor) -> None:
        """Stop where all that is left of the residual lies in coordinates that stay at the start."""
        if self.preconditioner is None or self.preconditioner.largest is None:
            return
        seen = rz * self.preconditioner.largest <= (SEEN_SHARE * self.tolerance).square()
        self.state.masked_fill_(running & (self.state == RUNNING) & seen, STAGNATED)

    def store(self, final: Iterates) -> None:
        """Copy the state of these systems to their places in the whole batch."""
        final.X.index_copy_(0, self.index, self.X)
        final.iterations.index_copy_(0, self.index, self.iterations)
        final.state.index_copy_(0, self.index, self.state)

    def drop_stopped(self, final: Iterates) -> bool:
        """Let the host look, and shrink the batch to what still runs. False when nothing does.

        A slice of the factors costs nothing, so stopped systems at either end leave at once. Those in between leave
        once they are half of what remains: only then is it worth a copy of the other half.
        """
        running = [position for position, state in enumerate(self.state.tolist()) if state == RUNNING]
        if not running:
            return False
        span = running[-1] + 1 - running[0]
        kept: Tensor | slice = slice(running[0], running[-1] + 1)
        if 2 * len(running) <= span:
            kept = torch.tensor(running, device=self.index.device)
        elif span == len(self.index):
            return True
        self.store(final)
        self.system = self.system.select(kept)
        self.preconditioner = None if self.preconditioner is None else self.preconditioner.select(kept)
        for name in ("index", "tolerance", "budget", "X", "R", "P", "rz", "best", "waited", "iterations", "state"):
            setattr(self, name, getattr(self, name)[kept].clone())
        return True


def _dot(X: Tensor, Y: Tensor) -> Tensor:
    """⟨X, Y⟩ of each system: [L]."""
    return torch.linalg.vecdot(X.flatten(1), Y.flatten(1))
