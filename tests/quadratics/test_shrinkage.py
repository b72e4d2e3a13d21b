"""Shrinkage intensities against brute force over rows, against scikit-learn, and for what they are meant to do."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mats.errors import RequestError
from mats.quadratics.shrinkage import ledoit_wolf_intensity, oas_intensity, shrink, shrinkage_intensity


def sums(rows: np.ndarray) -> tuple[Tensor, float, float]:
    """What a store holds of rows [T, n]."""
    return torch.from_numpy(rows.T @ rows), float(len(rows)), float(np.sum(np.sum(rows**2, axis=1) ** 2))


def brute_force_ledoit_wolf(rows: np.ndarray) -> float:
    """From the rows themselves, with every outer product written out."""
    S = rows.T @ rows / len(rows)
    distance = np.linalg.norm(S - np.trace(S) / len(S) * np.eye(len(S))) ** 2
    noise = sum(np.linalg.norm(np.outer(x, x) - S) ** 2 for x in rows) / len(rows) ** 2
    return min(noise, distance) / distance


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 40), size=st.integers(2, 9), seed=st.integers(0, 1000), scale=st.sampled_from([1e-6, 1, 1e6])
)
def test_ledoit_wolf_from_sums_is_that_from_rows(rows: int, size: int, seed: int, scale: float) -> None:
    data = np.random.default_rng(seed).standard_normal((rows, size)) * np.linspace(1, 3, size) * scale
    assert ledoit_wolf_intensity(*sums(data)) == pytest.approx(brute_force_ledoit_wolf(data), rel=1e-8, abs=1e-12)


def test_as_scikit_learn() -> None:
    covariance = pytest.importorskip("sklearn.covariance")
    data = np.random.default_rng(0).standard_normal((60, 200)) * np.linspace(0.2, 3, 200)
    gram, rows, fourth = sums(data)
    shrunk, theirs = covariance.ledoit_wolf(data, assume_centered=True)
    ours = ledoit_wolf_intensity(gram, rows, fourth)
    assert ours == pytest.approx(theirs, rel=1e-10)
    np.testing.assert_allclose(shrink(gram / rows, ours).numpy(), shrunk, rtol=1e-9, atol=1e-12)
    _, approximate = covariance.oas(data, assume_centered=True)  # it leaves out the 2/n of the paper
    assert oas_intensity(gram, rows) == pytest.approx(approximate, rel=0.02)


def test_oas_is_equation_23() -> None:
    data = np.random.default_rng(1).standard_normal((12, 5)) * np.array([1, 2, 3, 4, 5])
    S, p, n = data.T @ data / 12, 5, 12
    square, trace = np.trace(S @ S), np.trace(S)
    expected = ((1 - 2 / p) * square + trace**2) / ((n + 1 - 2 / p) * (square - trace**2 / p))
    assert 0 < expected < 1
    assert oas_intensity(*sums(data)[:2]) == pytest.approx(expected)


@pytest.mark.parametrize("rule", ["ledoit_wolf", "oas"])
def test_shrinking_brings_few_rows_nearer_to_the_truth(rule: str) -> None:
    """What it is for, and a control: with many rows it lets the data be."""
    random = np.random.default_rng(2)
    truth = np.diag(np.linspace(0.5, 2, 40))
    few, many = (random.standard_normal((rows, 40)) @ np.sqrt(truth) for rows in (30, 100_000))
    gram, rows, fourth = sums(few)
    sample = gram / rows
    intensity = shrinkage_intensity(rule, gram, rows, fourth)  # type: ignore[arg-type]
    improved = shrink(sample, intensity)
    assert np.linalg.norm(improved - truth) < 0.5 * np.linalg.norm(sample - truth)
    assert shrinkage_intensity(rule, *sums(many)) < 0.01  # type: ignore[arg-type]


def test_shrink_by_hand() -> None:
    X = torch.tensor([[4.0, 2.0], [2.0, 0.0]])
    assert shrink(X, 0.5).tolist() == [[3.0, 1.0], [1.0, 1.0]]
    assert shrink(X, 1.0).tolist() == [[2.0, 0.0], [0.0, 2.0]]
    assert torch.equal(shrink(X, 0.0), X)
    assert X.tolist() == [[4.0, 2.0], [2.0, 0.0]]
    both = shrink(torch.stack([X, X]), torch.tensor([0.5, 1.0]))
    assert torch.equal(both, torch.stack([shrink(X, 0.5), shrink(X, 1.0)]))


@settings(max_examples=20, deadline=None)
@given(intensity=st.floats(0, 1), seed=st.integers(0, 1000))
def test_shrinking_keeps_the_trace_and_commutes_with_scale(intensity: float, seed: int) -> None:
    rows = torch.from_numpy(np.random.default_rng(seed).standard_normal((3, 6)))
    X = rows.T @ rows
    assert float(shrink(X, intensity).trace()) == pytest.approx(float(X.trace()))
    torch.testing.assert_close(shrink(7 * X, intensity), 7 * shrink(X, intensity))


@pytest.mark.parametrize("gram", [torch.eye(3), torch.zeros(3, 3)])
def test_multiples_of_the_identity_need_none(gram: Tensor) -> None:
    assert oas_intensity(gram, 5) == ledoit_wolf_intensity(gram, 5, 1.0) == 0.0


def test_one_row_shrinks_all_the_way_at_most() -> None:
    gram, rows, fourth = sums(np.array([[1.0, 2.0, 3.0]]))
    assert ledoit_wolf_intensity(gram, rows, fourth) == 0.0  # a single row shows no spread around itself
    assert oas_intensity(gram, rows) == 1.0


def test_what_a_rule_needs() -> None:
    gram = torch.eye(2)
    assert shrinkage_intensity(0.25, gram) == 0.25
    with pytest.raises(RequestError, match=r"shrinkage ledoit_wolf needs the number of rows and Σ‖x‖⁴"):
        shrinkage_intensity("ledoit_wolf", gram, 5)
    with pytest.raises(RequestError, match=r"shrinkage oas needs the number of rows of every"):
        shrinkage_intensity("oas", gram)
    with pytest.raises(RequestError, match=r"shrinkage 'lw'; expected a number in \[0, 1\], ledoit_wolf or oas"):
        shrinkage_intensity("lw", gram)  # type: ignore[arg-type]
    with pytest.raises(RequestError, match=r"shrinkage intensity is 1\.5"):
        shrink(gram, 1.5)
    with pytest.raises(RequestError, match=r"number of rows is 0"):
        oas_intensity(gram, 0)
