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
SHORTEST_STEP, LONGEST_STEP = 2.3, 4.6  # downward, in ln ν: factors 10 and 100
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
    floor = shift.clamp(min=SMALLEST_SHIFT)
    low, high = floor, torch.where(longest > 0, problem.unit / longest, 1.0).maximum(floor)
    low_excess, high_excess = (torch.full_like(low, float("nan")) for _ in range(2))
    trial = floor.clamp(min=FIRST_SHIFT).minimum(high)
    done, found = (torch.zeros_like(low, dtype=torch.bool) for _ in range(2))
    outcome = best = solve(trial, None)
    spent = outcome.iterations.clone()
    for _ in range(MOST_TRIALS):
        excess = (norms(outcome.correction) / torch.where(longest > 0, longest, 1.0)).log()
        inside = excess <= 0
        _keep(best, outcome, inside & ~done)
        found |= inside
        done |= inside & ((excess > -LENGTH_TOLERANCE) | (trial <= floor))
        low, low_excess = torch.where(inside, low, trial), torch.where(inside, low_excess, excess)
        high, high_excess = torch.where(inside, trial, high), torch.where(inside, excess, high_excess)
        done |= found & (high < low * (1 + LENGTH_TOLERANCE)) & (low > floor)
        if bool(done.all()):
            break
        trial = torch.where(done, trial, _next(low, low_excess, high, high_excess, floor))
        outcome = solve(trial, outcome.correction)
        spent += torch.where(done, 0, outcome.iterations)
    if not bool(found.all()):
        _keep(best, solve(high, outcome.correction), ~found)
    best.iterations = spent
    best.radius_active = best.shift > floor
    return best


def _keep(best: Outcome, outcome: Outcome, where: Tensor) -> None:
    """Take over the marked systems of another outcome."""
    index = where.nonzero().flatten()
    best.put(index, outcome.select(index))


def _next(low: Tensor, low_excess: Tensor, high: Tensor, high_excess: Tensor, floor: Tensor) -> Tensor:
    """Where to look next: by interpolation where both ends are measured, else a step beyond the one that is.

    Excess is ln(‖Δ‖ ÷ radius): above 0 at `low`, at most 0 at `high`, NaN where an end was never tried.
    """
    x, y = low.log(), high.log()
    share = low_excess / (low_excess - high_excess)
    between = x + (y - x) * share.clamp(0.05, 0.95)
    # ‖Δ‖ grows like ν^(−1/2) or more slowly as ν falls, so twice the excess is rather a short step.
    downward = (y + (2 * high_excess).clamp(min=-LONGEST_STEP, max=-SHORTEST_STEP)).maximum(x)
    upward = (x + (2 * low_excess).clamp(min=0.05)).minimum(y)
    middle = torch.where(high_excess.isnan(), upward, torch.where(low_excess.isnan(), downward, between))
    # Close to the floor there is nothing left to gain between the two: try the floor itself.
    return torch.where((middle <= floor.log() + 0.7) & low_excess.isnan(), floor, middle.exp())
