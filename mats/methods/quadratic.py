"""Settings shared by the methods that minimise a sum of quadratics: what C_i is, where the solve starts.

    L(W) = Σ_i λ_i ½⟨W − W_i, C_i (W − W_i)⟩ + ½⟨W − x0, (D + μI)(W − x0)⟩

with μ = anchor · Σ_i λ_i · mean diagonal of C_i and D the factored damping (`mats.quadratics.damped`).

A method differs from its siblings in which curvature it prefers (`fallback`) and in its defaults, not in its code.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal, Union

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mats.methods.settings import AllowedWeights, MethodSettingsBase
from mats.methods.start import StartSettings

Curvature = Literal["kfac", "input_gram", "block", "diagonal", "identity", "init"]
"""What C_i can be for one parameter: G_i ⊗ A_i, I ⊗ A_i, a dense block, a diagonal, the identity, or nothing (x0)."""

STATISTICS_OF: dict[str, tuple[str, ...]] = {
    "kfac": ("input_gram", "output_gram"),
    "input_gram": ("input_gram",),
    "block": ("block",),
    "diagonal": ("diagonal",),
    "identity": (),
    "init": (),
}
"""The statistics of the store that each curvature reads."""

LOSS_RULES: tuple[Curvature, ...] = ("kfac", "block", "diagonal")
"""Curvatures whose quadratic is a loss, in nats; an input Gram measures output error, in other units."""

DAMPING = (
    "Factored damping, ≥ 0: every A_i and G_i gets this times its mean diagonal added, as a pull toward the start "
    "(Martens and Grosse 2015, 6.3); curvature of one factor is anchored by it"
)

Scaling = Literal["examples", "tokens", "unit", "balanced"]  # as in mats.quadratics.scaling, without loading torch
SCALING = (
    "examples: C_i is a mean over examples (K-FAC: A·G ÷ (N·T)); tokens: A and G each ÷ their own tokens, as "
    "published; unit: as examples, then mean diagonal 1; balanced: as examples, then all models' to the same trace, "
    "summed over all that is solved"
)

Share = Annotated[float, Field(ge=0, le=1)]
Strength = Literal["anchor", "damping"]
LayerKind = Literal["linear", "conv1d", "conv2d", "temporal_conv", "embedding"]


class SolverChoice(BaseModel):
    """How systems of kfac and input_gram (and, by `cg`, all others) are solved; see `mats.solvers.SolverSettings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Literal["auto", "pcg", "cg", "direct"] = Field(
        default="auto",
        description="auto: closed form if there is one, else pcg; pcg: preconditioned; cg: as published; default auto.",
    )
    tolerance: float = Field(
        default=1e-4, ge=0, lt=1, description="Relative residual to reach, in [0, 1); default 1e-4."
    )
    max_iterations: int = Field(default=300, ge=1, description="Iterations at most, ≥ 1; default 300.")
    precision: Literal["float32", "float64", "tf32_refined", "bfloat16_refined"] = Field(
        default="float32",
        description="Number format of the iteration; closed forms and residuals are float64 always; default float32.",
    )
    reference: Literal["correction", "weights"] = Field(
        default="correction",
        description="What residuals are relative to: the correction's right-hand side, or, as published, the weights'.",
    )
    snapshots: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        default=(),
        description=(
            "Iterations after which the iterate is written too, as a checkpoint in `output`/snapshots/iteration: "
            "one run for several iteration counts; needs cg or pcg; default none."
        ),
    )

    @model_validator(mode="after")
    def _snapshots_follow_one_iteration(self) -> SolverChoice:
        """What has no iterations, or restarts them, has no iterates to keep."""
        if not self.snapshots:
            return self
        if self.name not in ("cg", "pcg"):
            raise ValueError(f"snapshots: solver {self.name} need not iterate; name: cg or pcg would be right")
        if self.precision.endswith("_refined"):
            raise ValueError(f"snapshots: precision {self.precision} restarts the iteration; float32 would be right")
        if sorted(set(self.snapshots)) != list(self.snapshots) or self.snapshots[-1] > self.max_iterations:
            raise ValueError(
                f"snapshots: {list(self.snapshots)} must rise, and end within max_iterations ({self.max_iterations})"
            )
        return self


class QuadraticSettings(MethodSettingsBase):
    """Base of the settings of fisher, regmean and mats; see each for its defaults."""

    needs_base: ClassVar[bool] = False  # the start may need one; the engine asks it
    allowed_weights: ClassVar[AllowedWeights] = "positive"

    init: StartSettings = Field(description="The start x0: what directions without curvature keep.")
    outside: Union[StartSettings, None] = Field(  # noqa: UP007 (pydantic reads it at run time)
        default=None, description="How parameters without curvature are merged; default: as init."
    )
    fallback: tuple[Curvature, ...] = Field(
        description="Curvatures in order of preference; each parameter takes the first that all models' metadata allow."
    )
    solver: SolverChoice = Field(default=SolverChoice(), description="How the systems are solved.")
    anchor: float = Field(
        default=0.1, ge=0, description="μ ÷ Σ_i λ_i mean diagonal of C_i: the pull toward the start, ≥ 0; default 0.1."
    )
    damping: float = Field(
        default=0.0,
        ge=0,
        description=f"{DAMPING}; default 0.",
    )
    cross_validate: Union[Strength, None] = Field(  # noqa: UP007
        default=None,
        description=(
            "Choose this strength by the predicted loss, half of each model's examples against the other (their "
            "metadata from curvature.fold=[0,2] and [1,2]); its own value then has no say; default none."
        ),
    )
    radius: Union[float, None] = Field(  # noqa: UP007
        default=None,
        gt=0,
        description="Longest move from the start, in distances of the farthest model, > 0; default: no bound.",
    )
    scaling: Scaling = Field(default="examples", description=f"{SCALING}; default examples.")
    shrinkage: Union[Share, Literal["ledoit_wolf", "oas"], None] = Field(  # noqa: UP007
        default=None,
        description="Pull of A and G toward scaled identity: a share in [0, 1], ledoit_wolf or oas; default none.",
    )
    off_diagonal: float = Field(
        default=1.0,
        ge=0,
        le=1,
        description="Factor of the off-diagonal entries of A, G and blocks, in [0, 1]; default 1.",
    )
    floor: float = Field(
        default=0.0,
        ge=0,
        description="Smallest diagonal Fisher entry, absolute, ≥ 0; default 0 (the anchor does this, relatively).",
    )
    fold_bias: bool = Field(
        default=True,
        description="Solve a bias with its weight where the metadata hold the homogeneous coordinate; default true.",
    )
    layer_kinds: tuple[LayerKind, ...] = Field(
        default=("linear", "conv1d", "conv2d", "temporal_conv", "embedding"),
        description="Layers whose Grams are used; default all kinds.",
    )

    @model_validator(mode="after")
    def _snapshots_at_one_anchor(self) -> QuadraticSettings:
        """A radius is met by solving at several anchors: there is no one iteration to follow."""
        if self.solver.snapshots and self.radius is not None:
            raise ValueError("solver.snapshots follow one iteration, a radius takes several; leave one of them out")
        return self

    @property
    def reads_metadata(self) -> bool:
        """For its curvatures, or for what parameters without curvature start from."""
        of_their_own = any(STATISTICS_OF[rule] for rule in self.fallback)
        return of_their_own or self.init.reads_metadata or self.outside_settings.reads_metadata

    def models_fault(self, model_names: Sequence[str]) -> str | None:
        """What is wrong with these models in the starts."""
        return self.init.models_fault(model_names) or self.outside_settings.models_fault(model_names)

    def notes(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[str, ...]:
        """What there is to say about the starts."""
        starts = dict.fromkeys((self.init, self.outside_settings))
        return tuple(note for start in starts for note in start.notes(model_names, model_weights))

    @property
    def outside_settings(self) -> StartSettings:
        """How parameters without curvature are merged."""
        return self.init if self.outside is None else self.outside
