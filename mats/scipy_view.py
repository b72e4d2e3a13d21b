"""A quadratic as SciPy sees it: a `LinearOperator` on flattened weights, for SciPy's solvers and for cross-checks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from mats.errors import RequestError
from mats.merge_problem import MergeProblem
from mats.quadratics import Quadratic
from mats.quadratics.checks import check_targets
from mats.solvers.solve import factored_damping


def linear_operator(
    quadratic: Quadratic, *, system: int = 0, shift: float = 0.0, anchor: float = 0.0, damping: float = 0.0
) -> LinearOperator:
    """Σ λ C + D + μI of one system, as a symmetric operator on vectors of out · in numbers (row-major).

    Args:
        quadratic: any; products are made in its own dtype and on its device.
        system: which of its L systems.
        shift: added to the diagonal, in the unit of C.
        anchor: μ as `mats.solve` states it: relative to Σ λ · mean diagonal of C, factored damping included.
        damping: s as `mats.solve` states it: factored where both factors of K-FAC are there, else an anchor.

    Returns:
        An operator of shape (out · in, out · in) with `matvec`, `rmatvec` (the same: it is symmetric) and `matmat`;
        float64 if the quadratic is, else float32.

    Raises:
        RequestError: there is no such system, or a strength is negative.

    Example:
        >>> import numpy as np, torch
        >>> from mats.quadratics import KroneckerQuadratic
        >>> from mats.scipy_view import linear_operator
        >>> operator = linear_operator(KroneckerQuadratic(2 * torch.eye(2)[None, None], torch.eye(3)[None, None]))
        >>> (operator @ np.ones(6)).tolist()
        [2.0, 2.0, 2.0, 2.0, 2.0, 2.0]
    """
    systems, rows, columns = quadratic.shape
    if not 0 <= system < systems:
        raise RequestError(f"system {system} of a quadratic of {systems}; expected 0 to {systems - 1}")
    for name, value in (("anchor", anchor), ("damping", damping)):
        if not value >= 0:
            raise RequestError(f"{name} is {value}; expected a number at least 0")
    one = quadratic.select(slice(system, system + 1))
    damped = factored_damping(one, damping) if damping else None
    if damped is None:
        anchor += damping
    else:
        one = damped
    mu = shift + anchor * float(one.mean_diagonal()[0])
    dtype = torch.float64 if quadratic.dtype == torch.float64 else torch.float32
    size = rows * columns

    def product(vector: NDArray[Any]) -> NDArray[Any]:
        X = torch.as_tensor(np.ascontiguousarray(vector)).to(device=one.device, dtype=dtype).reshape(1, rows, columns)
        return _flat(one.apply(X).add_(X, alpha=mu))

    def products(matrix: NDArray[Any]) -> NDArray[Any]:
        return np.stack([product(column) for column in np.asarray(matrix).T], axis=1)

    kind = np.float64 if dtype == torch.float64 else np.float32
    return LinearOperator((size, size), matvec=product, rmatvec=product, matmat=products, rmatmat=products, dtype=kind)


def right_hand_side(
    quadratic: Quadratic, targets: Sequence[Tensor] | Tensor, start: Tensor, *, system: int = 0
) -> NDArray[Any]:
    """b = Σ λ C (W − x0) of one system, flattened (row-major) in float64.

    Args:
        quadratic: Σ λ C.
        targets: W_i, m tensors [L, out, in].
        start: x0 [L, out, in].
        system: which of the L systems.

    Raises:
        RequestError, ShapeMismatch: there is no such system, or shapes do not fit.
    """
    systems = quadratic.shape[0]
    if not 0 <= system < systems:
        raise RequestError(f"system {system} of a quadratic of {systems}; expected 0 to {systems - 1}")
    check_targets(targets, quadratic.models, quadratic.shape)
    chosen = slice(system, system + 1)
    origin = start[chosen].to(device=quadratic.device, dtype=torch.float64)
    return _flat(quadratic.select(chosen).rhs([target[chosen] for target in targets], origin))


@dataclass(frozen=True)
class ScipySystem:
    """One system A Δ = b of a problem, and how a flat Δ becomes merged weights again.

    Attributes:
        operator: A = Σ λ C + D + μI.
        rhs: b, float64.
        start: x0 [out, in].
    """

    operator: LinearOperator
    rhs: NDArray[Any]
    start: Tensor

    def value(self, correction: NDArray[Any]) -> Tensor:
        """x0 + Δ [out, in] float64."""
        delta = torch.as_tensor(np.asarray(correction, dtype=np.float64)).reshape(self.start.shape)
        return self.start.to(device="cpu", dtype=torch.float64) + delta


def scipy_system(problem: MergeProblem, name: str) -> ScipySystem:
    """One system of a problem for SciPy, with the anchor and the damping that `mats.solve` would use.

    Args:
        problem: of tensors or of stores.
        name: of the system.

    Raises:
        RequestError: no system of that name.
    """
    for group in problem.groups:
        if name in group.names:
            at = group.names.index(name)
            pulls = {"anchor": group.settings.anchor, "damping": group.settings.damping}
            operator = linear_operator(group.quadratic, system=at, **pulls)
            rhs = right_hand_side(group.quadratic, group.targets, group.start, system=at)
            return ScipySystem(operator, rhs, group.start[at])
    raise RequestError(f"system {name!r}: the problem has {', '.join(problem.names[:5])}; expected one of its names")


def _flat(X: Tensor) -> NDArray[Any]:
    """A vector in host memory."""
    flat: NDArray[Any] = X.flatten().cpu().numpy()
    return flat
