"""Every stored layout, there and back, against what torch's own modules compute."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from mats.engine.layout import canonical_shape, from_canonical, to_canonical

SHAPES = {"out_in": (3, 4), "in_out": (4, 3), "conv": (3, 2, 2, 1), "vector": (5,), "flat": (2, 3)}


@pytest.mark.parametrize("layout", SHAPES)
@pytest.mark.parametrize("with_bias", [False, True])
def test_round_trip(layout: str, with_bias: bool) -> None:
    if with_bias and layout in ("vector", "flat"):
        pytest.skip("a vector has no bias")
    shape = SHAPES[layout]
    weight = torch.randn(shape)
    rows, columns = canonical_shape(shape, layout, bias=with_bias)
    bias = torch.randn(rows) if with_bias else None
    matrix = to_canonical(weight, layout, bias)
    assert matrix.shape == (rows, columns)
    again, column = from_canonical(matrix, shape, layout, bias=with_bias)
    assert torch.equal(again, weight)
    assert again.is_contiguous()
    assert column is None if bias is None else torch.equal(column, bias)


def test_canonical_matrix_acts_like_the_modules() -> None:
    linear = torch.nn.Linear(4, 3)
    inputs = torch.randn(6, 4)
    with_one = torch.cat([inputs, torch.ones(6, 1)], dim=1)
    torch.testing.assert_close(with_one @ to_canonical(linear.weight, "out_in", linear.bias).T, linear(inputs))
    convolution = torch.nn.Conv2d(2, 3, (2, 1), stride=(2, 1))
    image = torch.randn(1, 2, 4, 3)
    patches = torch.nn.functional.unfold(image, (2, 1), stride=(2, 1))
    found = to_canonical(convolution.weight, "conv") @ patches + convolution.bias[:, None]
    torch.testing.assert_close(found.reshape(-1), convolution(image).reshape(-1))
    embedding = torch.nn.Embedding(5, 3)
    one_hot = torch.eye(5)
    torch.testing.assert_close(one_hot @ to_canonical(embedding.weight, "in_out").T, embedding.weight)


@given(st.lists(st.integers(1, 4), min_size=1, max_size=4))
def test_flat_is_one_row_of_any_shape(shape: list[int]) -> None:
    tensor = torch.arange(float(torch.tensor(shape).prod())).reshape(shape)
    matrix = to_canonical(tensor, "flat")
    assert matrix.shape[0] == 1
    assert torch.equal(from_canonical(matrix, tuple(shape), "flat")[0], tensor)
