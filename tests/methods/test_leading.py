"""Leading singular triplets by block iteration, against the full SVD."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mats.methods import leading
from mats.methods.leading import leading_triplets
from mats.methods.low_rank import Metric, truncated


def matrix_of(values: Tensor, rows: int = 90, columns: int = 120) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    left = torch.linalg.qr(torch.randn(rows, len(values), generator=generator, dtype=torch.float64)).Q
    right = torch.linalg.qr(torch.randn(columns, len(values), generator=generator, dtype=torch.float64)).Q
    return left * values @ right.T


@pytest.fixture
def iterating(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leading, "SMALL", 8)
    monkeypatch.setattr(leading, "OVERSAMPLING", 4)


SPECTRA = {
    "steep": torch.logspace(0, -6, 90, dtype=torch.float64),
    "slow": torch.linspace(1, 0.1, 90, dtype=torch.float64),
    "step": torch.cat([torch.full((8,), 3.0), torch.full((82,), 0.5)]).double(),
}


@pytest.mark.usefixtures("iterating")
@pytest.mark.parametrize("spectrum", ["steep", "slow", "step"])
@pytest.mark.parametrize("wide", [False, True])
def test_block_iteration_finds_what_the_svd_finds(spectrum: str, wide: bool) -> None:
    values = SPECTRA[spectrum]
    matrix = matrix_of(values) if wide else matrix_of(values).T.contiguous()
    left, found, right, rest = leading_triplets(matrix, 8)
    assert found.shape == (8,)
    torch.testing.assert_close(found, values[:8], rtol=1e-5, atol=0)
    best = float(values[8:].square().sum())
    assert rest == pytest.approx(best, rel=1e-6)
    assert float((matrix - left * found @ right.T).square().sum()) == pytest.approx(best, rel=1e-6)


@pytest.mark.usefixtures("iterating")
def test_truncation_of_a_large_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same answer by iteration as by SVD, in either metric, and none lost where the rank is enough."""
    matrix = matrix_of(SPECTRA["steep"])
    rows = torch.randn(200, 90, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    metric = Metric(rows.T @ rows, None)
    iterated = [truncated(matrix, 6), truncated(matrix, 6, metric)]
    exhausted = truncated(matrix_of(torch.ones(5, dtype=torch.float64)), 6, metric)
    monkeypatch.setattr(leading, "SMALL", 500)
    for found, expected in zip(iterated, [truncated(matrix, 6), truncated(matrix, 6, metric)], strict=True):
        assert found.error == pytest.approx(expected.error, rel=1e-6)
        torch.testing.assert_close(found.update.dense(), expected.update.dense(), rtol=1e-4, atol=1e-6)
    assert exhausted.error < 1e-7
    torch.testing.assert_close(exhausted.update.dense(), matrix_of(torch.ones(5, dtype=torch.float64)))


@pytest.mark.usefixtures("iterating")
def test_same_bytes_every_time() -> None:
    matrix = matrix_of(SPECTRA["slow"])
    first = leading_triplets(matrix, 8)
    torch.randn(3)  # the global generator has no say
    assert all(torch.equal(a, b) for a, b in zip(first[:3], leading_triplets(matrix, 8)[:3], strict=True))
