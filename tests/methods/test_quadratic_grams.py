"""Sums become curvatures: divisors, floors, off-diagonal scale and shrinkage against formulas written out."""

from __future__ import annotations

import pytest
import torch

from mats.methods import FisherSettings, MatsSettings
from mats.methods.grams import GramSums, block_matrix, fisher_diagonal, kronecker_factors, leading_block

INPUTS = torch.randn(50, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
GRADIENTS = torch.randn(50, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
EXAMPLES = 7


def gram(rows: torch.Tensor) -> GramSums:
    return GramSums(rows.T @ rows, len(rows), float(rows.square().sum(1).square().sum()))


def curvature(**settings: object) -> torch.Tensor:
    right, left = kronecker_factors(gram(INPUTS), gram(GRADIENTS), EXAMPLES, MatsSettings(**settings))
    return torch.kron(left, right)


def test_scalings() -> None:
    A, G = INPUTS.T @ INPUTS, GRADIENTS.T @ GRADIENTS
    torch.testing.assert_close(curvature(scaling="examples"), torch.kron(G, A) / (EXAMPLES * 50))
    torch.testing.assert_close(curvature(scaling="tokens"), torch.kron(G, A) / (50 * 50))
    unit = curvature(scaling="unit")
    assert float(unit.diagonal().mean()) == pytest.approx(1.0)
    torch.testing.assert_close(unit / unit[0, 0], torch.kron(G, A) / torch.kron(G, A)[0, 0])


def test_input_gram_alone() -> None:
    A = INPUTS.T @ INPUTS
    alone = {
        s: kronecker_factors(gram(INPUTS), None, EXAMPLES, MatsSettings(scaling=s)) for s in ("examples", "tokens")
    }
    torch.testing.assert_close(alone["examples"][0], A / EXAMPLES)
    torch.testing.assert_close(alone["tokens"][0], A / 50)
    assert alone["examples"][1] is None


def test_off_diagonal_and_shrinkage_keep_the_trace() -> None:
    plain, scaled = curvature(), curvature(off_diagonal=0.3)
    torch.testing.assert_close(scaled.diagonal(), plain.diagonal())
    right, _ = kronecker_factors(gram(INPUTS), None, EXAMPLES, MatsSettings(off_diagonal=0.0, scaling="tokens"))
    torch.testing.assert_close(right, torch.diag(INPUTS.square().mean(0)))
    for rule in (0.4, "ledoit_wolf", "oas"):
        shrunk = curvature(shrinkage=rule)
        assert float(shrunk.trace()) == pytest.approx(float(plain.trace()))
        assert torch.linalg.cond(shrunk) < torch.linalg.cond(plain)


def test_leading_block_drops_the_homogeneous_one_from_the_fourth_moment() -> None:
    with_one = torch.cat([INPUTS, torch.ones(50, 1, dtype=torch.float64)], dim=1)
    block = leading_block(gram(with_one), 4)
    torch.testing.assert_close(block.total, INPUTS.T @ INPUTS)
    assert block.fourth_moment == pytest.approx(gram(INPUTS).fourth_moment)
    assert leading_block(gram(INPUTS), 4).total.shape == (4, 4)


def test_counts_are_diagonal_and_are_left_alone() -> None:
    counts = GramSums(torch.tensor([3.0, 0.0, 1.0]), 4.0)
    right, _ = kronecker_factors(counts, None, 2, MatsSettings(shrinkage=0.5, off_diagonal=0.0))
    torch.testing.assert_close(right, torch.tensor([1.5, 0.0, 0.5]))


def test_a_layer_that_no_token_passed_has_no_curvature() -> None:
    nothing = GramSums(torch.zeros(4, 4), 0.0, 0.0)
    right, left = kronecker_factors(nothing, gram(GRADIENTS), EXAMPLES, MatsSettings())
    assert not right.any()
    assert left is not None
    assert not left.any()


def test_blocks_and_diagonals_are_means_over_examples() -> None:
    total = GRADIENTS.T @ GRADIENTS
    torch.testing.assert_close(block_matrix(total, 50, MatsSettings()), total / 50)
    half = block_matrix(total, 50, MatsSettings(off_diagonal=0.5))
    torch.testing.assert_close(half, total / 100 + torch.diag(total.diagonal()) / 100)
    sums = torch.tensor([[0.0, 1e-7], [5.0, 10.0]])
    torch.testing.assert_close(fisher_diagonal(sums, 5, FisherSettings()), sums / 5)
    floored = fisher_diagonal(sums, 5, FisherSettings(floor=1e-8))
    torch.testing.assert_close(floored, torch.tensor([[1e-8, 2e-8], [1.0, 2.0]]))
    assert float(fisher_diagonal(sums, 5, FisherSettings(scaling="unit")).mean()) == pytest.approx(1.0)
