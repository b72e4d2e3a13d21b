"""Sums and truncations of low-rank updates, against dense fp64 products, brute force and hand-worked values."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from mats.errors import ShapeMismatch
from mats.methods import low_rank
from mats.methods.low_rank import LowRank, Metric, exact_sum, reduced, truncated

OUT, IN = 9, 7


def draw(seed: int, rank: int = 3, scaling: float = 1.0, shape: tuple[int, int] = (OUT, IN)) -> LowRank:
    generator = torch.Generator().manual_seed(seed)
    A = torch.randn(rank, shape[1], generator=generator)
    return LowRank(A, torch.randn(shape[0], rank, generator=generator), scaling)


def gram(seed: int, size: int, rank: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(rank, size, generator=generator, dtype=torch.float64) * torch.logspace(0, 2, size).double()
    return rows.T @ rows


def in_metric(difference: Tensor, G: Tensor | None, H: Tensor | None) -> float:
    """‖G^{1/2} D H^{1/2}‖_F = √ tr(Dᵀ G D H), without any root."""
    G = torch.eye(OUT).double() if G is None else G
    H = torch.eye(IN).double() if H is None else H
    return math.sqrt(max(float(torch.trace(difference.T @ G @ difference @ H)), 0.0))


def test_r02_no_cross_terms() -> None:
    """R02: the sum is Σ w_i s_i B_i A_i whatever the ranks, scalings and signs; √-weights on both factors are not."""
    updates = [draw(0, 2, 0.5), draw(1, 3, 2.0), draw(2, 4, 1 / math.sqrt(4))]
    weights = [0.7, -1.3, 2.0]
    expected = sum(w * u.scaling * (u.B.double() @ u.A.double()) for w, u in zip(weights, updates, strict=True))
    found = exact_sum(updates, weights, (OUT, IN))
    assert found.rank == 9
    torch.testing.assert_close(found.dense(), expected, rtol=1e-6, atol=1e-6)
    same = [draw(seed, 3) for seed in range(3)]
    roots = [math.sqrt(weight) for weight in (0.7, 1.3, 2.0)]
    B = sum(root * each.B.double() for root, each in zip(roots, same, strict=True))
    A = sum(root * each.A.double() for root, each in zip(roots, same, strict=True))
    crossed = B @ A
    exact = exact_sum(same, [0.7, 1.3, 2.0], (OUT, IN)).dense()
    assert (crossed - exact).norm() / exact.norm() > 0.3


def test_r04_negative_weights() -> None:
    """R04: w = −1 subtracts ΔW, and twice gives it back to the bit."""
    update = draw(3, 4, 1.7)
    negated = exact_sum([update], [-1.0], (OUT, IN))
    torch.testing.assert_close(negated.dense(), -update.dense(), rtol=0, atol=0)
    twice = exact_sum([negated], [-1.0], (OUT, IN))
    assert twice.scaling == update.scaling
    assert torch.equal(twice.A, update.A)
    assert torch.equal(twice.B, update.B)
    nothing = reduced(exact_sum([update, negated], [1.0, 1.0], (OUT, IN)))
    assert nothing.rank == 1
    assert low_rank.norm(nothing) < 1e-6 * low_rank.norm(update)


def test_r05_weights_on_both_factors() -> None:
    """R05: weights [1, 0, 0] give the first adapter unchanged, to the bit, also where the others have other ranks."""
    first = draw(0, 3, 0.37)
    found = exact_sum([first, draw(1, 5), draw(2, 1)], [1.0, 0.0, 0.0], (OUT, IN))
    assert torch.equal(found.A, first.A)
    assert torch.equal(found.B, first.B)
    assert found.scaling == first.scaling


def test_r03_scale_once() -> None:
    """R03: with scaling 4 a truncation to the full rank gives 4 B A, not 16 B A."""
    update = draw(5, 2, 4.0)
    found = truncated(update, 2)
    assert found.update.scaling == 1.0
    torch.testing.assert_close(found.update.dense(), 4 * (update.B.double() @ update.A.double()))
    assert found.error == 0.0


@settings(max_examples=30, deadline=None)
@given(
    seeds=st.lists(st.integers(0, 1000), min_size=1, max_size=4),
    rank=st.integers(1, 8),
    weight=st.floats(-3, 3).filter(lambda value: abs(value) > 1e-3),
)
def test_truncation_is_that_of_the_dense_svd(seeds: list[int], rank: int, weight: float) -> None:
    updates = [draw(seed, 1 + seed % 4, 0.5 + seed % 3) for seed in seeds]
    total = exact_sum(updates, [weight] * len(updates), (OUT, IN))
    left, values, right = np.linalg.svd(total.dense().numpy(), full_matrices=False)
    best = left[:, :rank] * values[:rank] @ right[:rank]
    for given_as in (total, total.dense()):
        found = truncated(given_as, rank)
        assert found.update.rank <= rank
        np.testing.assert_allclose(found.update.dense().numpy(), best, atol=1e-5 * values[0])
        lost = math.sqrt((values[rank:] ** 2).sum() / (values**2).sum())
        assert found.error == pytest.approx(lost, abs=1e-6)


def test_rank_is_that_of_the_sum_of_shared_factors() -> None:
    """Adapters of one A: the concatenation has 6 ranks, the sum 3; nothing is lost by saying so."""
    first, second = draw(0, 3), draw(1, 3)
    shared = LowRank(first.A, second.B, 0.5)
    total = exact_sum([first, shared], [1.0, -2.0], (OUT, IN))
    small = reduced(total)
    assert (total.rank, small.rank) == (6, 3)
    torch.testing.assert_close(small.dense(), total.dense(), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("ranks", [(20, 20), (4, 20), (20, 3), (4, 3)])
@pytest.mark.parametrize("dense", [False, True])
def test_truncation_in_the_metric_of_curvature(ranks: tuple[int, int], dense: bool) -> None:
    """No other matrix of that rank is nearer in the metric; the plain truncation is clearly farther."""
    G, H = gram(1, OUT, ranks[0]), gram(2, IN, ranks[1])
    update = exact_sum([draw(3, 3), draw(4, 3)], [1.0, -0.7], (OUT, IN))
    target = update.dense()
    found = truncated(target if dense else update, 2, Metric(G, H))
    cost = in_metric(target - found.update.dense(), G, H)
    expected = brute_force(target, G, H, 2)
    assert cost == pytest.approx(expected, rel=1e-5, abs=1e-6 * in_metric(target, G, H))
    assert found.metric_error == pytest.approx(cost / in_metric(target, G, H), abs=1e-6)
    plain = truncated(update, 2)
    assert in_metric(target - plain.update.dense(), G, H) > 1.2 * cost
    assert float((target - found.update.dense()).norm()) / float(target.norm()) == pytest.approx(found.error)
    assert found.error > plain.error


def brute_force(target: Tensor, G: Tensor, H: Tensor, rank: int) -> float:
    """The least cost by alternating least squares from many starts, with dense Kronecker systems in fp64."""
    best = math.inf
    for seed in range(6):
        A = torch.randn(rank, IN, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        for _ in range(150):
            B = torch.linalg.lstsq(A @ H @ A.T, A @ H @ target.T, driver="gelsd").solution.T
            A = torch.linalg.lstsq(B.T @ G @ B, B.T @ G @ target, driver="gelsd").solution
        best = min(best, in_metric(target - B @ A, G, H))
    return best


def test_one_sided_and_diagonal_metrics() -> None:
    """A missing side is the identity; a diagonal is the matrix with that diagonal."""
    update = exact_sum([draw(3, 3), draw(4, 3)], [1.0, 1.0], (OUT, IN))
    counts = torch.tensor([5.0, 0.0, 1.0, 2.0, 9.0, 0.0, 3.0])
    by_vector = truncated(update, 2, Metric(None, counts)).update.dense()
    by_matrix = truncated(update, 2, Metric(torch.eye(OUT), torch.diag(counts))).update.dense()
    torch.testing.assert_close(by_vector, by_matrix)
    assert by_vector[:, 1].abs().max() == 0  # a token never seen costs nothing, and gets nothing
    swapped = truncated(update, 2, Metric(torch.eye(OUT), torch.diag(counts.flip(0)))).update.dense()
    assert (by_vector - swapped).norm() > 0.1


def test_damping_keeps_what_the_metric_does_not_see() -> None:
    """Between the metric alone and the plain truncation."""
    update = exact_sum([draw(3, 3), draw(4, 3)], [1.0, 1.0], (OUT, IN))
    G, H = gram(1, OUT, 3), gram(2, IN, 3)
    errors = [truncated(update, 4, Metric(G, H, damping)).error for damping in (0.0, 0.1, 1e6)]
    assert errors[0] > errors[1] > errors[2]
    assert errors[2] == pytest.approx(truncated(update, 4).error, rel=1e-3)


def test_what_needs_no_truncation_is_untouched_by_the_metric() -> None:
    """R01: an adapter of rank 3 asked for at rank 3 comes back whole, however little the metric sees of it."""
    update = draw(3, 3, 0.25)
    found = truncated(update, 3, Metric(gram(1, OUT, 1), gram(2, IN, 1)))
    torch.testing.assert_close(found.update.dense(), update.dense())
    assert (found.error, found.metric_error) == (0.0, 0.0)


def test_nothing_is_nothing() -> None:
    empty = exact_sum([draw(0)], [0.0], (OUT, IN))
    found = truncated(empty, 3, Metric(gram(1, OUT, 9), None))
    assert low_rank.norm(found.update) == 0
    assert found.error == 0
    assert low_rank.relative_difference(draw(0), empty) is None
    assert low_rank.cosine(draw(0), empty) is None


def test_norms_and_products_of_factors() -> None:
    first, second = draw(0, 3, -0.5), draw(1, 4, 2.0)
    assert low_rank.norm(first) == pytest.approx(float(first.dense().norm()))
    assert low_rank.inner(first, second) == pytest.approx(float((first.dense() * second.dense()).sum()))
    assert low_rank.cosine(first, first.times(-3)) == pytest.approx(-1)
    assert low_rank.relative_difference(first.times(1 + 1e-9), first) == pytest.approx(1e-9, rel=1e-4)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ShapeMismatch, match=r"A \[2, 7\] and B \[9, 3\]"):
        LowRank(torch.zeros(2, 7), torch.zeros(9, 3))
    with pytest.raises(ShapeMismatch, match=r"shape \[9, 7\], expected \[9, 8\]"):
        exact_sum([draw(0)], [1.0], (9, 8))
