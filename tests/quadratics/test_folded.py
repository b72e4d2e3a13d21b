"""The operator that iterations apply: rotated, damped, divided by its scale, padded — and still the same operator."""

from __future__ import annotations

import pytest
import torch

from mats.quadratics import DampedQuadratic, KroneckerQuadratic
from mats.quadratics.folded import can_fold, fold, pad_last, padded

WEIGHTS = (1.0, 0.25, 2.0)


def kfac(rows: int, columns: int, *, diagonal: bool = False) -> KroneckerQuadratic:
    """Three models on two systems."""
    left, right = (torch.randn(3, 2, 2 * size, size, dtype=torch.float64) for size in (rows, columns))
    A = right.square().mean(dim=2) if diagonal else right.mT @ right
    return KroneckerQuadratic(left.mT @ left, A, WEIGHTS)


def basis(size: int) -> torch.Tensor:
    """[2, n, padded n] orthonormal columns, then zeros."""
    return pad_last(torch.linalg.qr(torch.randn(2, size, size, dtype=torch.float64))[0])


@pytest.mark.parametrize(("rows", "columns"), [(5, 7), (8, 65), (67, 6)])
@pytest.mark.parametrize("sides", ["both", "left", "right", "none"])
@pytest.mark.parametrize("diagonal", [False, True])
def test_the_same_operator_in_other_coordinates(rows: int, columns: int, sides: str, diagonal: bool) -> None:
    source = kfac(rows, columns, diagonal=diagonal)
    damped = DampedQuadratic(source, 0.2)
    scale = damped.mean_diagonal()
    U = basis(rows) if sides in ("both", "left") else None
    V = basis(columns) if sides in ("both", "right") and not diagonal else None
    folded = fold(source, U, V, scale, 0.2)
    Y = torch.zeros(2, padded(rows), padded(columns), dtype=torch.float64)
    Y[:, :rows, :columns] = torch.randn(2, rows, columns, dtype=torch.float64)
    X = Y[:, :rows, :columns]
    X = X if U is None else U[:, :, :rows] @ X
    X = X if V is None else X @ V[:, :, :columns].mT
    expected = damped.apply(X) / scale[:, None, None]
    expected = expected if U is None else U[:, :, :rows].mT @ expected
    expected = expected if V is None else expected @ V[:, :, :columns]
    found = folded.apply(Y)
    torch.testing.assert_close(found[:, :rows, :columns], expected, rtol=1e-9, atol=1e-9)
    assert not bool(found[:, rows:].any())
    assert not bool(found[:, :, columns:].any())
    undamped = fold(source, U, V, scale).apply(Y)[:, :rows, :columns]
    assert not torch.allclose(undamped, expected, rtol=1e-2)  # the control: damping is in it


def test_source_is_left_as_it_was() -> None:
    source = kfac(5, 7)
    X = torch.randn(2, 5, 7, dtype=torch.float64)
    before = source.apply(X)
    fold(source, None, None, source.mean_diagonal(), 3.0)
    assert torch.equal(source.apply(X), before)


@pytest.mark.parametrize(("left", "right"), [(1e-30, 1e-30), (1e-30, 1e15), (1e18, 1e18)])
def test_scales_whose_product_is_no_float32(left: float, right: float) -> None:
    source = kfac(5, 7)
    assert source.left is not None
    assert source.right is not None
    plain = fold(source, None, None, source.mean_diagonal())
    narrow = KroneckerQuadratic((source.left * left).float(), (source.right * right).float(), WEIGHTS)
    folded = fold(narrow, None, None, source.mean_diagonal() * left * right)
    X = torch.randn(2, 5, 7)
    torch.testing.assert_close(folded.apply(X), plain.apply(X.double()).float(), rtol=1e-4, atol=1e-5)


def test_what_can_be_folded() -> None:
    assert can_fold(kfac(4, 5))
    assert can_fold(kfac(4, 5, diagonal=True))
    grams = torch.eye(4).repeat(2, 1, 1, 1)
    assert not can_fold(KroneckerQuadratic(None, grams, shape=(1, 3, 4)))
    assert not can_fold(KroneckerQuadratic(torch.ones(2, 1, 3), torch.ones(2, 1, 4)))
