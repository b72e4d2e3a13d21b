"""How systems are solved: one frozen, checked set of settings."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from mats.errors import RequestError

SolverName = Literal["pcg", "cg", "direct", "auto"]
Precision = Literal["float32", "float64", "tf32_refined", "bfloat16_refined"]
Reference = Literal["correction", "weights"]

SOLVER_NAMES: tuple[SolverName, ...] = ("pcg", "cg", "direct", "auto")
PRECISIONS: tuple[Precision, ...] = ("float32", "float64", "tf32_refined", "bfloat16_refined")
REFERENCES: tuple[Reference, ...] = ("correction", "weights")


@dataclass(frozen=True)
class SolverSettings:
    """How systems are solved.

    Attributes:
        name: `pcg`: conjugate gradients, preconditioned by the Kronecker product of sums; `cg`: plain ones; `direct`: a
            closed form, refused where there is none; `auto`: the closed form where there is one, else `pcg`.
        anchor: μ ÷ (Σ_i λ_i mean diagonal of C_i), at least 0.
        damping: s ≥ 0, factored: on the left-hand side every G_i and A_i gets s times its mean diagonal added, a pull
            toward the start in the metric of the factors (`mats.quadratics.damped`). Curvature of a single factor,
            or of none, is anchored by s instead.
        radius: longest move ‖Δ‖ in units of the farthest model's distance from the start, > 0; μ grows, per system,
            from the anchor's to the smallest value that keeps it. None: no bound.
        tolerance: relative residual at which a system is solved, in [0, 1).
        max_iterations: most iterations of one system, at least 1.
        snapshots: iterations after which the iterate is kept too.
        precision: of the iteration. The right-hand side, the true residual and closed forms are float64 always. The two
            `…_refined` multiply in a narrow format inside iterative refinement, and go on in float32 where that stalls.
        check_every: iterations between two looks of the host at a device; on the CPU it looks at every iteration.
        refinements: restarts from the true residual, in each arithmetic that is tried (`mats.solvers.stages`): float32,
            then float64 where that yields no more. 0: one run of conjugate gradients, whatever it reached.
        reference: what the residual is relative to: ‖Σ λ C (W − x0)‖ (`correction`) or, as in the published code,
            ‖Σ λ C W‖ (`weights`).
        cutoff: eigenvalues below this share of the largest count as zero; None: by the dtype of the statistics.
        dense_limit: most unknowns of a system for which `direct` may form the matrix.
        measure_null_share: compute the certificate's null-space share even where it costs an eigendecomposition; with
            neither anchor nor damping, one of every factor (`mats.solvers.null_space`).
        history: keep the relative residual of every iteration.
        validate: check every number of the statistics and the targets first.

    Raises:
        RequestError: a setting out of range, with the value and the range.
    """

    name: SolverName = "pcg"
    anchor: float = 0.1
    damping: float = 0.0
    radius: float | None = None
    tolerance: float = 1e-4
    max_iterations: int = 300
    snapshots: tuple[int, ...] = ()
    precision: Precision = "float32"
    check_every: int = 10
    refinements: int = 3
    reference: Reference = "correction"
    cutoff: float | None = None
    dense_limit: int = 1024
    measure_null_share: bool = False
    history: bool = False
    validate: bool = True

    def __post_init__(self) -> None:
        for field, allowed in (("name", SOLVER_NAMES), ("precision", PRECISIONS), ("reference", REFERENCES)):
            if getattr(self, field) not in allowed:
                raise RequestError(f"solver {field} {getattr(self, field)!r}; expected one of {', '.join(allowed)}")
        self._check("anchor", self.anchor, self.anchor >= 0, "at least 0")
        self._check("damping", self.damping, self.damping >= 0, "at least 0")
        self._check("tolerance", self.tolerance, 0 <= self.tolerance < 1, "in [0, 1)")
        if self.radius is not None:
            self._check("radius", self.radius, self.radius > 0, "greater than 0")
        if self.cutoff is not None:
            self._check("cutoff", self.cutoff, 0 <= self.cutoff < 1, "in [0, 1)")
        for field in ("max_iterations", "check_every", "dense_limit"):
            self._check(field, getattr(self, field), getattr(self, field) >= 1, "at least 1")
        self._check("refinements", self.refinements, self.refinements >= 0, "at least 0")
        for snapshot in self.snapshots:
            bounds = f"in [1, {self.max_iterations}], the iterations that are made"
            self._check("snapshot", snapshot, 1 <= snapshot <= self.max_iterations, bounds)
        if self.snapshots and (self.name == "direct" or self.radius is not None):
            raise RequestError("snapshots follow one iteration at one anchor: take pcg or cg, and no radius")
        if self.snapshots and self.precision.endswith("_refined"):
            raise RequestError(f"snapshots follow one iteration, and precision {self.precision} restarts it often")

    @staticmethod
    def _check(field: str, value: float, fits: bool, wanted: str) -> None:
        """Refuse a value out of range."""
        if not fits or not math.isfinite(value):
            raise RequestError(f"solver {field} is {value}; expected a number {wanted}")
