"""Divisors against brute force over rows, and controls for each of them lost."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.errors import RequestError
from mats.quadratics.scaling import (
    SCALINGS,
    example_scale,
    gram_scale,
    kronecker_scales,
    mean_diagonal,
    scale_off_diagonal,
)

N, T_A, T_G = 5, 35, 20
COUNTS = {"examples": N, "input_rows": T_A, "output_rows": T_G}


@pytest.fixture
def rows() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    return random.standard_normal((T_A, 4)), random.standard_normal((T_G, 3))


def test_examples_is_the_kfac_block(rows: tuple[np.ndarray, np.ndarray]) -> None:
    """(T/N) E[δδᵀ] ⊗ E[aaᵀ], written out with expectations; the divisors N and T each matter."""
    a, d = rows
    scales = kronecker_scales("examples", **COUNTS)
    ours = np.kron(scales.left * d.T @ d, scales.right * a.T @ a)
    expectation = np.kron(np.mean([np.outer(x, x) for x in d], axis=0), np.mean([np.outer(x, x) for x in a], axis=0))
    np.testing.assert_allclose(ours, T_G / N * expectation)
    for lost in ({"examples": N - 1}, {"examples": T_G}, {"input_rows": T_A - 1}):
        other = kronecker_scales("examples", **{**COUNTS, **lost})
        assert other.left * other.right != pytest.approx(scales.left * scales.right, rel=0.01)


def test_tokens_is_the_published_one(rows: tuple[np.ndarray, np.ndarray]) -> None:
    a, d = rows
    scales = kronecker_scales("tokens", **COUNTS)
    np.testing.assert_allclose(scales.right * a.T @ a, np.mean([np.outer(x, x) for x in a], axis=0))
    np.testing.assert_allclose(scales.left * d.T @ d, np.mean([np.outer(x, x) for x in d], axis=0))
    assert kronecker_scales("examples", **COUNTS).left / scales.left == pytest.approx(T_G / N)


def test_unit_has_mean_diagonal_one(rows: tuple[np.ndarray, np.ndarray]) -> None:
    a, d = (torch.from_numpy(x) for x in rows)
    A, G = a.T @ a, d.T @ d
    means = {"input_mean_diagonal": float(mean_diagonal(A)), "output_mean_diagonal": float(mean_diagonal(G))}
    scales = kronecker_scales("unit", **COUNTS, **means)
    assert float(torch.kron(scales.left * G, scales.right * A).diagonal().mean()) == pytest.approx(1.0)
    assert gram_scale("unit", examples=N, rows=T_A, mean_diagonal=4.0) == 0.25
    assert example_scale("unit", examples=N, mean_diagonal=0.0) == 0.0  # a model that saw nothing stays one


def test_single_statistics() -> None:
    assert gram_scale("examples", examples=N, rows=T_A) == 1 / N
    assert gram_scale("tokens", examples=N, rows=T_A) == 1 / T_A
    assert example_scale("examples", examples=N) == example_scale("tokens", examples=N) == 1 / N


@pytest.mark.parametrize("scaling", SCALINGS)
@pytest.mark.parametrize("count", [0, -1, float("nan"), float("inf")])
def test_counts_must_be_positive(scaling: str, count: float) -> None:
    with pytest.raises(RequestError, match=r"input rows is .*; expected a positive number"):
        kronecker_scales(scaling, examples=N, input_rows=count, output_rows=T_G)  # type: ignore[arg-type]


def test_unknown_scaling_and_missing_mean() -> None:
    with pytest.raises(RequestError, match=r"scaling 'token'; expected one of examples, tokens, unit"):
        gram_scale("token", examples=1, rows=1)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"scaling unit: the mean diagonal is nan"):
        gram_scale("unit", examples=1, rows=1)


@settings(max_examples=30, deadline=None)
@given(factor=st.floats(0, 1), seed=st.integers(0, 1000))
def test_off_diagonal_scale(factor: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    rows = random.standard_normal((2, 6, 4))
    X = np.einsum("bti,btj->bij", rows, rows)
    ours = scale_off_diagonal(torch.from_numpy(X.copy()), factor).numpy()
    for matrix, scaled in zip(X, ours, strict=True):
        np.testing.assert_allclose(scaled, factor * matrix + (1 - factor) * np.diag(np.diag(matrix)))
        assert np.linalg.eigvalsh(scaled)[0] >= -1e-12 * np.trace(scaled)


def test_off_diagonal_scale_is_pure_and_bounded() -> None:
    X = torch.ones(3, 3)
    assert scale_off_diagonal(X, 1.0) is X
    scale_off_diagonal(X, 0.5)
    assert torch.equal(X, torch.ones(3, 3))
    with pytest.raises(RequestError, match=r"off-diagonal scale is 1\.5; expected a number in \[0, 1\]"):
        scale_off_diagonal(X, 1.5)
