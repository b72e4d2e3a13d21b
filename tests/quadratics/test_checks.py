"""Problems that make no sense are refused with the index and the number."""

from __future__ import annotations

import pytest
import torch

from mats.errors import NonFiniteStatistic, RequestError, ShapeMismatch
from mats.quadratics import DiagonalQuadratic, IdentityQuadratic, KroneckerQuadratic, SumQuadratic


def eye_factors() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.eye(3).expand(2, 1, 3, 3).clone(), torch.eye(4).expand(2, 1, 4, 4).clone()


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1.0, -0.5], r"model weight 1 is -0\.5; weights must be finite and at least 0"),
        ([float("nan"), 1.0], r"model weight 0 is nan"),
        ([float("inf"), 1.0], r"model weight 0 is inf"),
        ([], r"none given"),
    ],
)
def test_weights(weights: list[float], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        IdentityQuadratic(weights, (1, 2, 2))
    if weights:
        with pytest.raises(RequestError, match=message):
            KroneckerQuadratic(*eye_factors(), weights)


@pytest.mark.parametrize(
    ("left", "right", "message"),
    [
        ((2, 1, 3, 4), (2, 1, 4, 4), r"left factors: shape \(2, 1, 3, 4\); expected \(2, 1, 3, 3\) or \(2, 1, 3\)"),
        ((2, 1, 3, 3), (3, 1, 4, 4), r"left factors: shape \(2, 1, 3, 3\); expected \(3, 1, 3, 3\)"),
        ((2, 2, 3, 3), (2, 1, 4, 4), r"right factors: shape \(2, 1, 4, 4\); expected \(2, 2, 4, 4\)"),
    ],
)
def test_factor_shapes(left: tuple[int, ...], right: tuple[int, ...], message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        KroneckerQuadratic(torch.zeros(left), torch.zeros(right))


def test_an_absent_factor_needs_a_shape() -> None:
    with pytest.raises(RequestError, match=r"one factor is absent, so shape="):
        KroneckerQuadratic(None, torch.zeros(2, 1, 4, 4))
    with pytest.raises(RequestError, match=r"neither factor given"):
        KroneckerQuadratic(None, None, shape=(1, 2, 2))


def test_mixed_dtypes() -> None:
    left, right = eye_factors()
    with pytest.raises(RequestError, match=r"left factors is torch\.float64, right factors torch\.float32; cast both"):
        KroneckerQuadratic(left.double(), right)
    with pytest.raises(RequestError, match=r"dtype torch\.int64; expected a floating one"):
        KroneckerQuadratic(None, right.long(), shape=(1, 3, 4))


def test_mixed_devices() -> None:
    left, right = eye_factors()
    with pytest.raises(RequestError, match=r"left factors is on meta, right factors on cpu; move both to one device"):
        KroneckerQuadratic(left.to("meta"), right)


def test_asymmetric_gram() -> None:
    left, right = eye_factors()
    right[1, 0, 2, 0] = 0.25
    message = r"right factor of model 1, system 0: entry \(\d, \d\) is (0|0\.25), its mirror image (0|0\.25)"
    with pytest.raises(RequestError, match=message):
        KroneckerQuadratic(left, right).check_values()


@pytest.mark.parametrize("scale", [1e-12, 1.0, 1e12])
def test_symmetry_is_judged_relatively(scale: float) -> None:
    left, right = eye_factors()
    right[0, 0, 1, 2] = 1e-6
    KroneckerQuadratic(left, right * scale).check_values()
    right[0, 0, 1, 2] = 1e-2
    with pytest.raises(RequestError, match="a Gram matrix is symmetric"):
        KroneckerQuadratic(left, right * scale).check_values()


def test_negative_diagonals() -> None:
    left, right = eye_factors()
    left[0, 0, 1, 1] = -0.5
    with pytest.raises(RequestError, match=r"left factor of model 0, system 0: diagonal entry \(1,\) is -0\.5"):
        KroneckerQuadratic(left, right).check_values()
    fisher = torch.ones(2, 1, 2, 2)
    fisher[1, 0, 1, 0] = -2.0
    with pytest.raises(RequestError, match=r"diagonal of model 1, system 0: diagonal entry \(2,\) is -2"):
        DiagonalQuadratic(fisher).check_values()


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_statistics(bad: float) -> None:
    left, right = eye_factors()
    right[1, 0, 3, 2] = bad
    with pytest.raises(NonFiniteStatistic, match=r"right factor of model 1, system 0: entry \(3, 2\) is -?(nan|inf)"):
        KroneckerQuadratic(left, right).check_values()
    fisher = torch.ones(1, 2, 2, 2)
    fisher[0, 1, 0, 1] = bad
    with pytest.raises(NonFiniteStatistic, match=r"diagonal of model 0, system 1: entry \(1,\) is"):
        SumQuadratic([DiagonalQuadratic(fisher)]).check_values()


def test_large_finite_numbers_are_finite() -> None:
    DiagonalQuadratic(torch.full((1, 1, 8, 8), 3e38)).check_values()
    DiagonalQuadratic(torch.full((1, 1, 8, 8), 1e308, dtype=torch.float64)).check_values()


def test_terms_must_agree() -> None:
    one = IdentityQuadratic([1.0, 1.0], (1, 2, 2))
    with pytest.raises(RequestError, match="no terms"):
        SumQuadratic([])
    with pytest.raises(ShapeMismatch, match=r"term 1 has 2 models of shape \(1, 2, 3\), term 0 2 of \(1, 2, 2\)"):
        SumQuadratic([one, IdentityQuadratic([1.0, 1.0], (1, 2, 3))])
    with pytest.raises(RequestError, match=r"term 1 has model weights \(1\.0, 2\.0\)"):
        SumQuadratic([one, IdentityQuadratic([1.0, 2.0], (1, 2, 2))])


def test_targets_must_fit() -> None:
    one = IdentityQuadratic([1.0, 1.0], (1, 2, 2))
    start = torch.zeros(1, 2, 2)
    with pytest.raises(ShapeMismatch, match=r"1 targets for 2 models"):
        one.rhs([start], start)
    with pytest.raises(ShapeMismatch, match=r"target 1 has shape \(1, 2, 3\); expected \(1, 2, 2\)"):
        one.losses([start, torch.zeros(1, 2, 3)], start)
