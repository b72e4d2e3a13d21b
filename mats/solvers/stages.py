"""In which arithmetic a system is iterated, one stage after the other, until its true residual is small enough.

A stage repeats cycles, each from the true residual, while they pay. A system that a stage leaves unsolved goes on to
the next: narrow products, then float32, then float64. Where nothing holds the solution (μ = 0, no damping), coordinates
in which a factor's eigenvalue is below the cutoff stay at the start. What rounding has left there of a zero is as
often negative as positive; moving along it took real layers 100 to 10 000 times as far as their models lie apart, and
mostly ended at a negative curvature. Only if the tolerance cannot be reached without them do later stages move there
too, and then in small steps.
"""

from __future__ import annotations

from typing import NamedTuple

from mats.solvers.precision import BFLOAT16, FLOAT32, FLOAT64, TF32, WIDENED, Arithmetic
from mats.solvers.settings import SolverSettings
from mats.solvers.system import Hidden

NARROW_CYCLES = 30  # most refinements with narrow products
NARROW_GAIN = 4.0  # a system whose residual does not fall this much in a narrow cycle goes on in float32
GAIN = 2.0  # likewise in wider ones
FLOAT32_CUTOFF = 1e-6  # eigenvalues below this share of the largest drown in the rounding of float32 products


class Stage(NamedTuple):
    """One arithmetic, and how long it is stayed with.

    Attributes:
        arithmetic: of its cycles.
        cycles: most of them.
        gain: a system stays while a cycle divides its residual by this.
        hidden: what the preconditioner does in coordinates below the cutoff.
        cutoff: of the preconditioner, relative.
    """

    arithmetic: Arithmetic
    cycles: int
    gain: float
    hidden: Hidden
    cutoff: float


def plan_stages(settings: SolverSettings, cutoff: float, *, plain: bool, hidden: bool) -> list[Stage]:
    """The stages of one solve.

    Args:
        settings: precision, tolerance and refinements.
        cutoff: eigenvalues below this share of the largest count as zero.
        plain: no preconditioner.
        hidden: there are coordinates below the cutoff, and no damping in them.
    """
    wide = FLOAT64 if settings.precision == "float64" else FLOAT32
    narrow = {"tf32_refined": TF32, "bfloat16_refined": BFLOAT16}.get(settings.precision)
    if plain and settings.anchor == settings.damping == 0:
        narrow = None  # what keeps plain CG at the start where no model sees is its products' exactness alone
    first: Hidden = "spared" if hidden else "floored"
    then: Hidden = "cautious" if hidden else "floored"
    stages = [] if narrow is None else [Stage(narrow, NARROW_CYCLES, NARROW_GAIN, first, max(cutoff, FLOAT32_CUTOFF))]
    refinable = settings.refinements > 0 and settings.tolerance > 0
    each = 1 + settings.refinements
    sure = max(cutoff, FLOAT32_CUTOFF) if wide is FLOAT32 else cutoff
    stages.append(Stage(wide, each, GAIN, first, sure))
    if refinable and hidden:
        stages.append(Stage(wide, each, GAIN, then, sure))
    if refinable and wide is FLOAT32:
        stages.append(Stage(WIDENED, each, GAIN, then, cutoff))
    return stages
