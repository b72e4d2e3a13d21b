"""Per-example gradients of single uses and of several, against autograd one example at a time."""

from __future__ import annotations

import pytest
import torch
from curvature_oracle import relative_error
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from mats.curvature import per_example
from mats.curvature.per_example import LookupUse, OuterUse, ParameterSum, Use, VectorUse, summed_gradients

VOCABULARY, SIZE = 5, 3


def tied_example(
    weight: Tensor, ids: Tensor, deltas: Tensor, hidden: Tensor, late: Tensor, padding: int | None
) -> Tensor:
    """⟨δ, embedding(ids)⟩ + ⟨late, hidden Wᵀ⟩: its gradient is what both uses of W add up to."""
    looked_up = nn.functional.embedding(ids, weight, padding_idx=padding)
    return (looked_up * deltas).sum() + (hidden @ weight.T * late).sum()


def tied_uses(seed: int, examples: int, rows: int, padding: int | None) -> tuple[list[Use], Tensor]:
    """The two uses of a tied embedding and head, and each example's gradient by autograd."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.zeros(VOCABULARY, SIZE, dtype=torch.float64, requires_grad=True)
    ids = torch.randint(0, VOCABULARY, (examples, rows), generator=generator)
    deltas = torch.randn(examples, rows, SIZE, generator=generator, dtype=torch.float64)
    hidden = torch.randn(examples, rows, SIZE, generator=generator, dtype=torch.float64)
    late = torch.randn(examples, rows, VOCABULARY, generator=generator, dtype=torch.float64)
    truth = [
        torch.autograd.grad(tied_example(weight, ids[n], deltas[n], hidden[n], late[n], padding), weight)[0]
        for n in range(examples)
    ]
    lookup = LookupUse(ids, deltas, weight.shape, padding)
    return [lookup, OuterUse(hidden, late, "out_in", weight.shape)], torch.stack(truth)


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 2**31), st.integers(1, 5), st.integers(1, 6), st.sampled_from([None, 0, 3]))
def test_tied_uses_add_before_squaring(seed: int, examples: int, rows: int, padding: int | None) -> None:
    uses, truth = tied_uses(seed, examples, rows, padding)
    assert torch.allclose(summed_gradients(uses, 0, examples), truth)
    total = ParameterSum(truth[0].shape, torch.float64, torch.device("cpu"), frozenset({"diagonal", "block"}))
    total.add(uses, examples)
    assert total.diagonal is not None
    assert total.block is not None
    assert torch.allclose(total.diagonal, truth.square().sum(0))
    assert torch.allclose(total.block, truth.flatten(1).T @ truth.flatten(1))
    coefficients = torch.linspace(-1, 2, examples, dtype=torch.float64)
    combined = sum(use.total(coefficients) for use in uses)
    assert torch.allclose(combined, torch.tensordot(coefficients, truth, dims=1))


def test_squaring_tied_uses_apart_differs() -> None:
    uses, truth = tied_uses(0, 4, 5, None)
    apart = torch.zeros_like(truth[0])
    for use in uses:
        use.add_squares_(apart, 4)
    assert relative_error(apart, truth.square().sum(0)) > 0.05


@pytest.mark.parametrize("rows", [1, 4])
@pytest.mark.parametrize("kind", ["outer", "lookup", "vector"])
def test_squares_of_single_uses(kind: str, rows: int, device: str) -> None:
    if kind == "outer":
        shape = torch.Size((2, 3))
        use: Use = OuterUse(torch.randn(6, rows, 2).to(device), torch.randn(6, rows, 3).to(device), "in_out", shape)
    elif kind == "lookup":
        shape = torch.Size((VOCABULARY, 3))
        use = LookupUse(
            torch.randint(0, VOCABULARY, (6, rows)).to(device), torch.randn(6, rows, 3).to(device), shape, 1
        )
    else:
        shape = torch.Size((3, 1))
        use = VectorUse(torch.randn(6, rows, 3).to(device), shape)
    squares = torch.zeros(shape, device=device)
    use.add_squares_(squares, 6)
    expected = use.gradients(0, 6).square().sum(0)
    assert expected.shape == shape
    assert torch.allclose(squares, expected, atol=1e-5)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    uses, truth = tied_uses(1, 5, 4, None)
    for budget in (1, 2 * truth[0].numel() * 8, 10**9):
        monkeypatch.setattr(per_example, "_CHUNK_BYTES", {"cpu": budget, "cuda": budget})
        squares = torch.zeros_like(truth[0])
        per_example.add_squares_(squares, uses, 5)
        assert torch.allclose(squares, truth.square().sum(0))
