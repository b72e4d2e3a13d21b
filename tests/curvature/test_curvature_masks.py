"""Masks against activations of every shape, and what does not fit."""

from __future__ import annotations

import pytest
import torch

from mats.curvature.masks import rows_mask
from mats.errors import ShapeMismatch

MASK = torch.tensor([[True, True, True, False], [True, False, False, False], [True, True, False, False]])


def test_tokens_take_the_mask_as_it_is() -> None:
    assert torch.equal(rows_mask("x", (3, 4), 3, MASK, "input"), MASK)
    assert torch.equal(rows_mask("x", (12,), 3, MASK, "input"), MASK)


def test_one_row_per_example_always_counts() -> None:
    assert rows_mask("x", (3,), 3, MASK, "input") is None
    assert rows_mask("x", (3, 1), 3, MASK, "input") is None


def test_single_tokens_keep_their_mask() -> None:
    single = torch.tensor([[True], [False], [True]])
    assert torch.equal(rows_mask("x", (3, 1), 3, single, "target"), single)


@pytest.mark.parametrize(("leading", "axis"), [((3, 4, 2), 1), ((3, 2, 4), 2), ((3, 4, 2, 5), 1)])
def test_further_dimensions_repeat_the_mask(leading: tuple[int, ...], axis: int) -> None:
    shape = [3] + [4 if n == axis else 1 for n in range(1, len(leading))]
    expected = MASK.reshape(shape).expand(leading).reshape(3, -1)
    assert torch.equal(rows_mask("x", leading, 3, MASK, "input"), expected)


def test_without_a_mask_all_rows_count() -> None:
    assert rows_mask("x", (3, 17), 3, None, "input") is None
    assert rows_mask("x", (6, 5), 3, None, "input") is None  # windows of an image


@pytest.mark.parametrize(
    ("leading", "mask", "message"),
    [
        ((3, 5), MASK, "site x: mask has 4 tokens, activations 5; it was given the target mask"),
        ((3, 5, 6), MASK, "site x: mask has 4 tokens, activations 5"),
        ((7,), MASK, "site x: 7 leading rows fit neither 3 examples nor 3·4 tokens"),
        ((1, 4), MASK, "site x: 1 leading rows fit neither"),
        ((12, 2), MASK, r"site x: rows of shape \(12, 2\)"),
        ((1, 4), None, "site x: 1 leading rows for 3 examples; expected a multiple"),
        ((), MASK, "site x: activations without a batch dimension"),
    ],
)
def test_what_does_not_fit_is_an_error(leading: tuple[int, ...], mask: torch.Tensor | None, message: str) -> None:
    with pytest.raises(ShapeMismatch, match=message):
        rows_mask("x", leading, 3, mask, "target")
