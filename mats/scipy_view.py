"""A quadratic as SciPy sees it: a `LinearOperator` on flattened weights, for SciPy's solvers and for cross-checks."""

from __future__ import annotations

import numpy as np
import torch
from scipy.sparse.linalg import LinearOperator
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics import Quadratic


def linear_operator(quadratic: Quadratic, *, system: int = 0, shift: float = 0.0) -> LinearOperator:
    """Σ λ C + shift · I of one system, as a symmetric operator on vectors of out · in numbers (row-major).

    Args:
        quadratic: any; products are made in its own dtype and on its device.
        system: which of its L systems.
        shift: μ, in the unit of C.

    Returns:
        An operator of shape (out · in, out · in); float64 if the quadratic is, else float32.

    Raises:
        RequestError: there is no such system.

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
    one = quadratic.select(slice(system, system + 1))
    dtype = torch.float64 if quadratic.dtype == torch.float64 else torch.float32

    def product(vector: np.ndarray) -> np.ndarray:
        X = torch.as_tensor(np.ascontiguousarray(vector)).to(device=one.device, dtype=dtype).reshape(1, rows, columns)
        return _flat(one.apply(X).add_(X, alpha=shift))

    size = rows * columns
    kind = np.float64 if dtype == torch.float64 else np.float32
    return LinearOperator((size, size), matvec=product, rmatvec=product, dtype=kind)


def _flat(X: Tensor) -> np.ndarray:
    """A vector in host memory."""
    flat: np.ndarray = X.flatten().cpu().numpy()
    return flat
