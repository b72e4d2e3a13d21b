"""The SciPy view is the same operator, system by system."""

from __future__ import annotations

import doctest

import numpy as np
import pytest
import torch
from quadratic_cases import CASES, SYSTEMS, make_case
from scipy.sparse.linalg import eigsh

import mats.scipy_view
from mats.errors import RequestError
from mats.scipy_view import linear_operator


@pytest.mark.parametrize("name", sorted(CASES))
def test_matrix(name: str, device: str) -> None:
    case = make_case(name)
    for system in range(SYSTEMS):
        operator = linear_operator(case.quadratic.to(device), system=system, shift=0.25)
        size = operator.shape[0]
        dense = case.total(system) + 0.25 * np.eye(size)
        np.testing.assert_allclose(operator @ np.eye(size), dense, rtol=1e-10, atol=1e-10)
        np.testing.assert_allclose(operator.rmatvec(np.arange(size)), dense.T @ np.arange(size), rtol=1e-10, atol=1e-9)


def test_scipy_can_use_it() -> None:
    case = make_case("kfac")
    largest = eigsh(linear_operator(case.quadratic), k=1, return_eigenvectors=False)[0]
    assert largest == pytest.approx(np.linalg.eigvalsh(case.total(0))[-1])


@pytest.mark.parametrize(
    ("dtype", "kind"), [(torch.bfloat16, np.float32), (torch.float32, np.float32), (torch.float64, np.float64)]
)
def test_dtype(dtype: torch.dtype, kind: type) -> None:
    operator = linear_operator(make_case("regmean").quadratic.to(dtype=dtype))
    assert operator.dtype == kind
    assert (operator @ np.ones(operator.shape[0])).dtype == kind


def test_no_such_system() -> None:
    with pytest.raises(RequestError, match=r"system 2 of a quadratic of 2; expected 0 to 1"):
        linear_operator(make_case("kfac").quadratic, system=2)


def test_docstring_runs() -> None:
    assert doctest.testmod(mats.scipy_view).failed == 0
