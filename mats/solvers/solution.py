"""What a solve hands back: values, and a certificate for each system."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from torch import Tensor


class StopReason(str, Enum):
    """Why a system was left as it is; `sentence` says it in words."""

    CONVERGED = "converged"
    CLOSED_FORM = "closed_form"
    NOTHING_TO_DO = "nothing_to_do"
    ITERATION_LIMIT = "iteration_limit"
    STAGNATED = "stagnated"
    NO_CURVATURE = "no_curvature"

    @property
    def sentence(self) -> str:
        """The reason as a sentence."""
        return _SENTENCES[self]

    @property
    def solved(self) -> bool:
        """Whether the system reached its tolerance (or has an exact solution)."""
        return self in (StopReason.CONVERGED, StopReason.CLOSED_FORM, StopReason.NOTHING_TO_DO)


_SENTENCES = {
    StopReason.CONVERGED: "The true relative residual is within the tolerance.",
    StopReason.CLOSED_FORM: "The system was solved in closed form, without iterating.",
    StopReason.NOTHING_TO_DO: "No model pulls away from the start: the start is the solution.",
    StopReason.ITERATION_LIMIT: "The iterations ran out before the tolerance was reached; the last iterate is kept.",
    StopReason.STAGNATED: "The residual stopped falling above the tolerance: this precision yields no more.",
    StopReason.NO_CURVATURE: "The search direction showed no positive curvature; the best iterate before it is kept.",
}


class BoundKind(str, Enum):
    """What the bounds of a certificate rest on; `sentence` says it in words."""

    PROVEN = "proven"
    RETAINED = "retained"
    ESTIMATED = "estimated"
    NONE = "none"

    @property
    def sentence(self) -> str:
        """The kind as a sentence."""
        return _BOUNDS[self]


_BOUNDS = {
    BoundKind.PROVEN: "Anchor, damping or curvature keep every eigenvalue above a known value: the bounds are proven.",
    BoundKind.RETAINED: "The system is singular; the bounds hold on the eigenvalues that were kept, and there alone.",
    BoundKind.ESTIMATED: "The system may be singular; the bound rests on the smallest Ritz value, an estimate.",
    BoundKind.NONE: "No lower bound of the eigenvalues is known, and so none of the error.",
}


@dataclass(frozen=True)
class Certificate:
    """What is known about the solution of one system; plain Python numbers.

    With H = Σ λ C + D + μI (D the factored damping), b the right-hand side, Δ* the solution, r = b − HΔ, and the energy
    E(Δ) = ½⟨Δ, HΔ⟩ − ⟨b, Δ⟩, which is what the merge minimises, up to a constant.

    Attributes:
        iterations: conjugate-gradient iterations, over all refinements and all values of μ tried; 0 for closed forms.
        relative_residual: ‖r‖ ÷ ‖reference‖, recomputed in float64 from the solution, no recurrence.
        stop_reason: why it was left.
        tolerance: the relative residual that was asked for.
        anchor: the μ that was used, in the unit of C.
        radius_active: the radius, not the anchor setting, decided μ.
        loss_before: ½ ⟨x0 − W_i, C_i (x0 − W_i)⟩ for each model (without λ_i).
        loss_after: the same at the solution.
        movement: ‖Δ‖ ÷ max_i ‖W_i − x0‖; 0 where nothing could move.
        null_share: share of ‖Δ‖² in the null space of Σ λ C, up to the cutoff, where nothing pulls (no anchor, no
            damping) and both sides have at most 256 entries or `measure_null_share` is set. Else the part of it along
            joint eigenvectors u_j v_kᵀ of the summed factors; the null space may hold more. None: not measured.
        bound: what the three bounds below rest on. They are about Δ in float64, before it is rounded to the output's
            dtype, and take the statistics to be positive semi-definite.
        eigenvalue_bound: ν: no eigenvalue of H (for `retained`: that was kept) is smaller; unit of C; 0: unknown.
        error_bound: ‖Δ − Δ*‖ is at most this; None: unknown.
        energy_decrease: E(0) − E(Δ) = ½⟨Δ, b + r⟩: what the solve gained over the start.
        energy_gap_bound: E(Δ) − E(Δ*) is at most this (for `estimated`: about this); None: unknown.
        pull_share: ⟨Δ, (D + μI)Δ⟩ ÷ ⟨Δ, HΔ⟩: how much of what holds the solution where it is comes from damping and
            anchor (1) and how much from the models' data (0).
    """

    iterations: int
    relative_residual: float
    stop_reason: StopReason
    tolerance: float
    anchor: float
    radius_active: bool
    loss_before: tuple[float, ...]
    loss_after: tuple[float, ...]
    movement: float
    null_share: float | None
    bound: BoundKind
    eigenvalue_bound: float
    error_bound: float | None
    energy_decrease: float
    energy_gap_bound: float | None
    pull_share: float

    @property
    def remaining_share(self) -> float | None:
        """At most this share of the energy that can be gained over the start is still to be gained; None: unknown."""
        if self.energy_gap_bound is None:
            return None
        whole = max(self.energy_decrease, 0.0) + self.energy_gap_bound
        return self.energy_gap_bound / whole if whole > 0 else 0.0

    def as_entry(self, models: Sequence[str]) -> dict[str, Any]:
        """The certificate as a report tells it: plain JSON, losses by model name.

        Args:
            models: names, one for each of the losses.
        """
        return {
            "iterations": self.iterations,
            "relative_residual": self.relative_residual,
            "tolerance": self.tolerance,
            "converged": self.stop_reason.solved,
            "stop_reason": self.stop_reason.value,
            "anchor": self.anchor,
            "movement": self.movement,
            "null_share": self.null_share,
            "pull_share": self.pull_share,
            "bound": self.bound.value,
            "eigenvalue_bound": self.eigenvalue_bound,
            "error_bound": self.error_bound,
            "energy_decrease": self.energy_decrease,
            "energy_gap_bound": self.energy_gap_bound,
            "remaining_share": self.remaining_share,
            "loss_before": dict(zip(models, self.loss_before, strict=True)),
            "loss_after": dict(zip(models, self.loss_after, strict=True)),
        }


@dataclass(frozen=True)
class Solution:
    """The merged weights of every system, and their certificates.

    Attributes:
        value: x0 + Δ, in the shape of one target; float32, or float64 if the targets or the precision are.
        snapshots: the iterate after each chosen iteration (a system that stopped before has its final value there).
        certificates: one per system.
        snapshot_certificates: the same for each snapshot; a system cut off there has run out of iterations.
        histories: for each system the recurrence's relative residual after every iteration, where it was asked for.
    """

    value: Tensor
    snapshots: dict[int, Tensor]
    certificates: tuple[Certificate, ...]
    snapshot_certificates: dict[int, tuple[Certificate, ...]] = field(default_factory=dict)
    histories: tuple[tuple[float, ...], ...] = ()

    @property
    def solved(self) -> bool:
        """Whether every system reached its tolerance."""
        return all(certificate.stop_reason.solved for certificate in self.certificates)
