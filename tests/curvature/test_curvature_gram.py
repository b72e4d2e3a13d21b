"""Sums of outer products against NumPy in float64."""

from __future__ import annotations

import pytest
import torch
from curvature_oracle import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.curvature import gram
from mats.curvature.gram import CountSum, GramSum, Rows, add_outer_products_


def dense(
    rows: torch.Tensor, mask: torch.Tensor | None, weights: torch.Tensor | None, homogeneous: bool
) -> torch.Tensor:
    """The same sum, one outer product at a time."""
    size = rows.shape[-1] + homogeneous
    total = torch.zeros(size, size, dtype=torch.float64)
    for n in range(rows.shape[0]):
        for t in range(rows.shape[1]):
            if mask is None or mask[n, t]:
                x = rows[n, t].double().cpu()
                x = torch.cat([x, torch.ones(1, dtype=torch.float64)]) if homogeneous else x
                total += (1.0 if weights is None else float(weights[n])) * torch.outer(x, x)
    return total


@pytest.mark.parametrize("size", [3, 130])  # below and above where BLAS syrk takes over
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("homogeneous", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", ["no", "selected", "zeroed"])  # zeroed: what GPUs do
@pytest.mark.parametrize("length", [5, 40])  # few rows wait in a buffer
def test_sums_equal_outer_products(
    length: int,
    size: int,
    dtype: torch.dtype,
    homogeneous: bool,
    weighted: bool,
    masked: str,
    device: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gram, "_SELECTING_DEVICES", frozenset({"cpu"}) if masked == "selected" else frozenset())
    rows = torch.randn(4, length, size, dtype=dtype)
    mask = torch.rand(4, length) < 0.6 if masked != "no" else None
    weights = torch.rand(4, dtype=torch.float64) if weighted else None
    total = GramSum(size + homogeneous, homogeneous, dtype)
    expected = torch.zeros(size + homogeneous, size + homogeneous, dtype=torch.float64)
    tokens = fourth = 0.0
    for part in (slice(0, 1), slice(1, 4)):
        piece = [None if x is None else x[part] for x in (rows, mask, weights)]
        scalars = total.add(Rows(*(None if x is None else x.to(device) for x in piece)), scaled=False)
        tokens, fourth = tokens + float(scalars[0]), fourth + float(scalars[1])
        expected += dense(*piece, homogeneous)
    error = relative_error(total.dense().double(), expected)
    assert error < (1e-6 if dtype == torch.float32 else 1e-14)
    assert torch.equal(total.dense(), total.dense().T)
    counted = torch.ones(4, length) if mask is None else mask.double()
    per_example = torch.ones(4, dtype=torch.float64) if weights is None else weights
    assert tokens == pytest.approx(float((counted * per_example[:, None]).sum()))
    norms = rows.double().square().sum(-1) + homogeneous
    assert fourth == pytest.approx(float((counted * per_example[:, None] * norms**2).sum()), rel=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.integers(1, 90), min_size=1, max_size=14), st.sampled_from([3, 70, 130]), st.booleans())
def test_rows_that_wait_are_summed_in_the_end(counts: list[int], size: int, homogeneous: bool) -> None:
    generator = torch.Generator().manual_seed(sum(counts))
    total, again = (GramSum(size + homogeneous, homogeneous, torch.float64) for _ in range(2))
    expected = torch.zeros(size + homogeneous, size + homogeneous, dtype=torch.float64)
    for count in counts:
        rows = torch.randn(1, count, size, generator=generator, dtype=torch.float64)
        kept = rows.clone()
        total.add(Rows(rows, None, None), scaled=False)
        rows.zero_()  # what waits is a copy
        expected += dense(kept, None, None, homogeneous)
    saved, waiting = total.dense(with_waiting=False).clone(), total.waiting
    assert waiting is None or len(waiting) <= 256
    again.start_from(saved, torch.device("cpu"), None if waiting is None else waiting.clone())
    assert torch.equal(again.dense(), total.dense()), "a checkpoint between batches changes no bit"
    assert total.waiting is None
    assert relative_error(total.dense(), expected) < 1e-13


def test_rows_that_carry_their_weight_are_not_scaled_again() -> None:
    rows = torch.randn(3, 2, 4, dtype=torch.float64)
    weights = torch.tensor([0.5, 0.0, 2.0], dtype=torch.float64)
    carried, scaled = GramSum(4, False, torch.float64), GramSum(4, False, torch.float64)
    first = carried.add(Rows(rows * weights.sqrt()[:, None, None], None, weights), scaled=True)
    second = scaled.add(Rows(rows, None, weights), scaled=False)
    assert relative_error(carried.dense(), scaled.dense()) < 1e-14
    assert torch.allclose(first, second)


@pytest.mark.parametrize("selecting", [frozenset({"cpu"}), frozenset()])
def test_padding_that_is_nan_does_not_enter(
    selecting: frozenset[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gram, "_SELECTING_DEVICES", selecting)
    rows = torch.randn(2, 3, 4, device=device)
    mask = torch.tensor([[True, True, False], [True, False, False]], device=device)
    rows[~mask] = torch.nan
    for homogeneous in (False, True):
        total = GramSum(4 + homogeneous, homogeneous, torch.float32)
        assert torch.isfinite(total.add(Rows(rows, mask, None), scaled=False)).all()
        assert torch.isfinite(total.dense()).all()


def test_bfloat16_rows_are_summed_in_float32(device: str) -> None:
    rows = torch.randn(8, 512, 16, device=device).bfloat16()
    total = GramSum(16, False, torch.float32)
    total.add(Rows(rows, None, None), scaled=False)
    expected = torch.einsum("btx,bty->xy", rows.double(), rows.double()).cpu()
    assert relative_error(total.dense().double(), expected) < 1e-6
    rough = (rows.flatten(0, 1).T @ rows.flatten(0, 1)).double().cpu()
    assert relative_error(rough, expected) > 1e-4, "a bfloat16 result would show"


def test_many_batches_keep_float32_accuracy() -> None:
    total = GramSum(8, False, torch.float32)
    expected = torch.zeros(8, 8, dtype=torch.float64)
    for _ in range(300):
        rows = torch.rand(1, 16, 8)
        total.add(Rows(rows, None, None), scaled=False)
        expected += rows[0].double().T @ rows[0].double()
    assert relative_error(total.dense().double(), expected) < 1e-5


def test_nothing_to_add_adds_nothing() -> None:
    total = GramSum(3, False, torch.float32)
    nothing = torch.zeros(2, 4, dtype=torch.bool)
    assert total.add(Rows(torch.randn(2, 4, 3), nothing, None), scaled=False).tolist() == [0.0, 0.0]
    assert torch.equal(total.dense(), torch.zeros(3, 3))
    assert torch.equal(GramSum(3, False, torch.float32).dense(), torch.zeros(3, 3))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 120), st.integers(0, 2**31))
def test_a_transposed_view_is_summed_like_a_copy(batch: int, rows: int, size: int, seed: int) -> None:
    values = torch.randn(size, batch * rows, generator=torch.Generator().manual_seed(seed)).T
    first, second = torch.zeros(size, size), torch.zeros(size, size)
    add_outer_products_(first, values)
    add_outer_products_(second, values.contiguous())
    assert torch.equal(first, second) or torch.allclose(first.tril(), second.tril(), atol=1e-4)


def test_counts_are_the_diagonal_of_one_hot_grams(device: str) -> None:
    ids = torch.tensor([[1, 1, 4], [0, 4, 2]])
    mask = torch.tensor([[True, True, False], [True, True, True]])
    weights = torch.tensor([0.5, 2.0])
    total = CountSum(5)
    scalars = total.add(ids.to(device), mask.to(device), weights.to(device))
    one_hot = torch.nn.functional.one_hot(ids, 5).double()
    assert torch.equal(total.dense(), dense(one_hot, mask, weights, False).diagonal())
    assert scalars.tolist() == [7.0, 7.0]
    scaled = CountSum(5)
    assert scaled.add(ids, mask, weights, 3.0).tolist() == [7.0, 7.0 * 81]
    assert torch.equal(scaled.dense(), 9 * total.dense())
