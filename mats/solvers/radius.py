"""The smallest anchor that keeps ‖Δ‖ within a radius, for iterative solvers: bracket, interpolate, start warm.

‖Δ(ν)‖ falls as ν grows, and ln ‖Δ‖ is smooth in ln ν; so the crossing is sought in logarithms, between the largest ν
known to be too small and the smallest known to suffice. At ν = ‖b‖ ÷ (scale · radius) the bound holds for certain.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from mats.solvers.outcome import Outcome
from mats.solvers.problem import Problem, norms

SMALLEST_SHIFT = 1e-6  # ν where no anchor is asked for: below it preconditioned iterates wander in the null space
FIRST_SHIFT = 0.1  # where the search begins, if the anchor leaves room
LENGTH_TOLERANCE = 0.01  # the radius is met if ‖Δ‖ lies between 1 − this and 1 of it
MOST_TRIALS = 40

Solve = Callable[[Tensor, Tensor | None], Outcome]


def solve_within_radius(problem: Problem, solve: Solve, shift: Tensor, radius: float) -> Outcome:
    """Solve with the smallest ν ≥ shift for which ‖Δ‖ ≤ radius · max_i ‖W_i − x0‖, per system.

    Args:
        problem: L systems.
        solve: (ν [L], Δ to start from or None) → outcome, for all L systems.
        shift: ν of the anchor setting [L].
        radius: in units of `problem.distance`.
    """
    longest = radius * problem.distance
    low = torch.maximum(shift, torch.full_like(shift, SMALLEST_SHIFT))
    high = torch.where(longest > 0, problem.unit / longest, 1.0).maximum(low)
    trial = torch.maximum(low, torch.full_like(low, FIRST_SHIFT)).minimum(high)
    low_excess, high_excess = (torch.full_like(low, float("nan")) for _ in range(2))
    floor = low.clone()
    best = solve(high, None)
    outcome, done, spent = best, torch.zeros_like(low, dtype=torch.bool), best.iterations.clone()
    for _ in range(MOST_TRIALS):
        outcome = solve(trial, outcome.correction)
        spent += torch.where(done, 0, outcome.iterations)
        excess = (norms(outcome.correction) / torch.where(longest > 0, longest, 1.0)).log()
        inside = excess <= 0
        better = (inside & ~done & (trial <= best.shift)).nonzero().flatten()
        best.put(better, _select(outcome, better))
        done |= inside & ((excess > -LENGTH_TOLERANCE) | (trial <= floor))
        low, low_excess = torch.where(inside, low, trial), torch.where(inside, low_excess, excess)
        high, high_excess = torch.where(inside, trial, high), torch.where(inside, excess, high_excess)
        done |= high / low < 1 + LENGTH_TOLERANCE
        if bool(done.all()):
            break
        trial = torch.where(done, trial, _next(low, low_excess, high, high_excess, floor))
    best.iterations = spent
    best.radius_active = best.shift > torch.maximum(shift, floor) * (1 + 1e-12)
    return best


def _next(low: Tensor, low_excess: Tensor, high: Tensor, high_excess: Tensor, floor: Tensor) -> Tensor:
    """Where to look next: by interpolation where both ends are known, else a step beyond the one that is."""
    x, y = low.log(), high.log()
    share = low_excess / (low_excess - high_excess)  # where the chord crosses a little below zero
    between = x + (y - x) * share.clamp(0.05, 0.95)
    # Only the upper end measured: ‖Δ‖ ~ ν^(−1/2) or flatter, so aim generously, but not past a factor 30.
    downward = (y + 2.0 * high_excess).clamp(min=y - 3.4).maximum(x)
    upward = (x + 2.0 * low_excess).minimum(y)
    middle = torch.where(high_excess.isnan(), upward, torch.where(low_excess.isnan(), downward, between))
    return torch.where(middle <= floor.log() + 1e-3, floor, middle.exp())


def _select(outcome: Outcome, index: Tensor) -> Outcome:
    """The part of an outcome at `index`."""
    return Outcome(
        outcome.correction[index],
        outcome.shift[index],
        outcome.iterations[index],
        outcome.state[index],
        outcome.residual_norm[index],
        outcome.losses[:, index],
        outcome.radius_active[index],
    )
