"""The published MaTS code's merges as settings of ours, so that its numbers can be reproduced. Data, no code of theirs.

What the published code does (arXiv 2312.04339; commit cb52c38 of its repository):

* A and G are each divided by the tokens of their own side (`scaling: tokens`); no task weights, no damping, no T/N.
* The setting λ scales off-diagonal entries: X̃ = λ X + (1 − λ) diag X, on A and G (`off_diagonal`), and on the blocks
  of (IA)³ vectors.
* CG is plain, whole matrix, fp32, relative to the weights' right-hand side at 1e-5, started from task vectors (0.3;
  0.2 for (IA)³): 100 iterations with K-FAC, 20 in the released RegMean merge, 10 for (IA)³.
* Only Linear layers have Grams, without a homogeneous coordinate; every parameter without metadata is a plain average.
* lm_head has A but no G. K-FAC averages it, closed-form RegMean merges it by A, RegMean by CG loses it: the base's is
  used. Here the last is merged by A like the closed form: to lose a parameter is a defect, not a convention.
* Diagonal Fisher: max(F, 1e-8), closed form, no start.

What is not repeated, because it is a defect: two models at λ = 1 give model 1 alone (average) or F_2 counted as 0
(diagonal Fisher); CG on the diagonal Fisher starts at zeros, so unseen rows become zero (here it starts at the
average); older SciPy returns x0 as converged when ‖b − C x0‖ ≤ 1e-5 absolutely.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from types import MappingProxyType
from typing import Literal

from mats.errors import RequestError
from mats.methods.average import AverageSettings
from mats.methods.fisher import FisherSettings
from mats.methods.mats import MatsSettings
from mats.methods.quadratic import SolverChoice
from mats.methods.registry import MethodSettings
from mats.methods.regmean import RegMeanSettings
from mats.methods.task_arithmetic import TaskArithmeticSettings
from mats.methods.ties import TiesSettings

ModelKind = Literal["model", "ia3"]

RELATIVE_TOLERANCE = 1e-5  # SciPy's default, relative to the right-hand side of the weights
_START = TaskArithmeticSettings(scale=0.3)
_START_IA3 = TaskArithmeticSettings(scale=0.2)
_CLOSED_FORM = SolverChoice(name="direct")


def _cg(iterations: int) -> SolverChoice:
    return SolverChoice(name="cg", tolerance=RELATIVE_TOLERANCE, max_iterations=iterations, reference="weights")


_SHARED: dict[str, MethodSettings] = {
    "average": AverageSettings(),
    "ties": TiesSettings(density=0.2, scale=1.0, zero_votes="majority", trim_scope="global"),
    "fisher": FisherSettings(init=AverageSettings(), solver=_CLOSED_FORM, anchor=0.0, floor=1e-8),
    "fisher_cg": FisherSettings(init=AverageSettings(), solver=_cg(100), anchor=0.0),
    "average_cg": MatsSettings(
        init=AverageSettings(), fallback=("identity",), solver=_cg(100), anchor=0.0, damping=0.0
    ),
}

PUBLISHED: Mapping[ModelKind, Mapping[str, MethodSettings]] = MappingProxyType(
    {
        "model": MappingProxyType(
            {
                **_SHARED,
                "task_arithmetic": _START,
                "regmean": RegMeanSettings(
                    init=AverageSettings(),
                    outside=AverageSettings(),
                    solver=_CLOSED_FORM,
                    anchor=0.0,
                    scaling="tokens",
                    off_diagonal=0.8,
                    fold_bias=False,
                    layer_kinds=("linear",),
                ),
                "regmean_cg": RegMeanSettings(
                    init=_START,
                    outside=AverageSettings(),
                    solver=_cg(20),
                    anchor=0.0,
                    scaling="tokens",
                    fold_bias=False,
                    layer_kinds=("linear",),
                ),
                "mats": MatsSettings(
                    init=_START,
                    outside=AverageSettings(),
                    fallback=("kfac", "init"),
                    solver=_cg(100),
                    anchor=0.0,
                    damping=0.0,
                    scaling="tokens",
                    fold_bias=False,
                    layer_kinds=("linear",),
                ),
            }
        ),
        "ia3": MappingProxyType(
            {
                **_SHARED,
                "task_arithmetic": _START_IA3,
                "mats": MatsSettings(
                    init=_START_IA3,
                    outside=AverageSettings(),
                    fallback=("block", "init"),
                    solver=_cg(10),
                    anchor=0.0,
                    damping=0.0,
                    scaling="tokens",
                ),
            }
        ),
    }
)
"""kind of model → method → settings. `regmean_cg`, `fisher_cg` and `average_cg` are that method solved by CG."""


def published_settings(method: str, kind: ModelKind = "model") -> MethodSettings:
    """The settings under which `method` follows the published code.

    Args:
        method: a method's name, or `regmean_cg`, `fisher_cg`, `average_cg`.
        kind: whole models, or (IA)³ adapters.

    Raises:
        RequestError: nothing was published under that name for that kind; the nearest is suggested.
    """
    known = PUBLISHED[kind]
    if method not in known:
        near = difflib.get_close_matches(method, known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RequestError(f"preset published: no method {method!r} for {kind}{hint} (there are: {', '.join(known)})")
    return known[method]
