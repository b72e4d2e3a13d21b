"""Exact selection from a stream: against a full sort, whatever the values are."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from mats.methods import magnitude
from mats.methods.magnitude import BracketSelection, EnergySelection, RadixSelection, kept_rank, select

values = arrays(
    np.float32,
    st.integers(1, 200),
    elements=st.one_of(
        st.floats(0, 3.0, width=32), st.sampled_from([0.0, 0.5, 0.5000000596046448, 1e-45, 1e-38, 3e38]).map(np.float32)
    ),
)


@settings(max_examples=200, deadline=None)
@given(values, st.data())
def test_radix_selection_equals_a_sort(array, data):
    rank = data.draw(st.integers(1, array.size))
    selection = RadixSelection()
    pieces = torch.from_numpy(array).split(7)
    for piece in pieces:
        selection.add(piece)
    selection.next_pass(rank)
    for piece in reversed(pieces):
        selection.add(piece)
    ordered = np.sort(array)
    value, place, equal = selection.result()
    assert value == ordered[rank - 1]
    assert equal == np.count_nonzero(array == value)
    assert place == rank - np.count_nonzero(array < value)


@settings(max_examples=200, deadline=None)
@given(values, st.data())
def test_bracket_selection_is_exact_or_says_that_it_does_not_know(array, data):
    rank = data.draw(st.integers(1, array.size))
    lower, upper = sorted(float(data.draw(st.sampled_from(list(array)))) for _ in range(2))
    selection = BracketSelection(lower, upper)
    for piece in torch.from_numpy(array).split(7):
        selection.add(piece)
    exact = float(np.sort(array)[rank - 1])
    found = selection.result(rank)
    if not lower <= exact <= upper:
        assert found is None
    else:
        assert found == (exact, rank - np.count_nonzero(array < exact), np.count_nonzero(array == exact))


@pytest.mark.parametrize("density", [0.001, 0.2, 0.5, 0.99])
def test_a_fair_sample_brackets_the_threshold_narrowly(density):
    whole = torch.randn(400_000).abs()
    selection = BracketSelection.from_sample(whole[::10], density)
    selection.add(whole)
    rank = kept_rank(whole.numel(), density)
    found = selection.result(rank)
    assert found is not None
    assert found.value == float(whole.kthvalue(rank).values)
    assert ((whole > selection.lower) & (whole < selection.upper)).float().mean() < 0.07


def test_a_bracket_never_keeps_more_than_its_bound(monkeypatch):
    monkeypatch.setattr(magnitude, "LARGEST", 100)
    selection = BracketSelection(0.0, 1.0)
    for _ in range(5):
        selection.add(torch.rand(50))
    assert selection.result(125) is None
    assert sum(piece.size for piece in selection._inside) == 0


def test_many_equal_values_are_counted_and_not_kept():
    whole = torch.tensor([0.0, 0.25, 0.5]).repeat(10_000)
    selection = BracketSelection.from_sample(whole[::2], 0.2)
    selection.add(whole)
    assert selection.result(kept_rank(whole.numel(), 0.2)) == (0.5, 4000, 10_000)
    assert sum(piece.size for piece in selection._inside) == 0


def test_rank_is_the_published_one():
    assert kept_rank(1000, 0.2) == 800  # keeps 201 entries: those from the 800th smallest on
    assert kept_rank(7, 0.2) == 6
    assert kept_rank(7, 1.0) == 0


@settings(max_examples=200, deadline=None)
@given(values, st.floats(0.01, 0.999))
def test_energy_selection_equals_a_sort(array, share):
    selection = EnergySelection(share)
    pieces = torch.from_numpy(array).split(7)
    for piece in pieces:
        selection.add(piece)
    selection.next_pass()
    for piece in pieces:
        selection.add(piece)
    value, place, equal = selection.result()
    squares = np.sort(array.astype(np.float64))[::-1] ** 2
    kept = np.count_nonzero(array > value) + equal - place + 1
    assert equal == np.count_nonzero(array == np.float32(value))
    rounding = 1e-12 * squares.sum()
    assert squares[:kept].sum() >= share * squares.sum() - rounding
    if squares.sum() > 0:
        assert squares[: kept - 1].sum() < share * squares.sum() + rounding  # one fewer would not do


def test_select_agrees_with_the_radix_selection() -> None:
    values = torch.randn(5000, generator=torch.Generator().manual_seed(0)).abs()
    values[::7] = values[3]  # many that are equal
    for rank in (1, 2, 900, 2500, 5000):
        radix = RadixSelection()
        radix.add(values)
        radix.next_pass(rank)
        radix.add(values)
        assert select(values, rank) == radix.result()
