"""What a solve hands back: values, and a certificate for each system."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum

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


@dataclass(frozen=True)
class Certificate:
    """What is known about the solution of one system; plain Python numbers.

    Attributes:
        iterations: conjugate-gradient iterations, over all refinements and all values of μ tried; 0 for closed forms.
        relative_residual: ‖b − (Σ λ C + μI) Δ‖ ÷ ‖reference‖, recomputed in float64 from the solution, no recurrence.
        stop_reason: why it was left.
        anchor: the μ that was used, in the unit of C.
        radius_active: the radius, not the anchor setting, decided μ.
        loss_before: ½ ⟨x0 − W_i, C_i (x0 − W_i)⟩ for each model (without λ_i).
        loss_after: the same at the solution.
        movement: ‖Δ‖ ÷ max_i ‖W_i − x0‖; 0 where nothing could move.
        null_share: share of ‖Δ‖² along joint eigenvectors u_j v_kᵀ of the summed factors on which every C_i vanishes up
            to the cutoff. These directions certainly lie in the null space; it may hold more. None: not measured.
    """

    iterations: int
    relative_residual: float
    stop_reason: StopReason
    anchor: float
    radius_active: bool
    loss_before: tuple[float, ...]
    loss_after: tuple[float, ...]
    movement: float
    null_share: float | None


@dataclass(frozen=True)
class Solution:
    """The merged weights of every system, and their certificates.

    Attributes:
        value: x0 + Δ, in the shape of one target; float32, or float64 if the targets or the precision are.
        snapshots: the iterate after each chosen iteration (a system that stopped before has its final value there).
        certificates: one per system.
        snapshot_certificates: the same for each snapshot; a system cut off there has run out of iterations.
    """

    value: Tensor
    snapshots: dict[int, Tensor]
    certificates: tuple[Certificate, ...]
    snapshot_certificates: dict[int, tuple[Certificate, ...]] = field(default_factory=dict)

    @property
    def solved(self) -> bool:
        """Whether every system reached its tolerance."""
        return all(certificate.stop_reason.solved for certificate in self.certificates)
