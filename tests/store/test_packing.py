from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.errors import RequestError, ShapeMismatch
from mats.store.packing import BLOCK, check_symmetric, matrix_size, pack, packed_diagonal, packed_size, unpack


def symmetric(n: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> torch.Tensor:
    raw = torch.randn(n, n, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    return raw + raw.T


@pytest.mark.parametrize("n", [1, 2, 7, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_pack_is_the_upper_triangle_row_by_row_and_unpack_inverts_it(n, dtype, device):
    matrix = symmetric(n, dtype).to(device)
    rows, columns = torch.triu_indices(n, n)
    packed = pack(matrix)
    assert torch.equal(packed, matrix[rows, columns])
    assert torch.equal(unpack(packed, n), matrix)
    assert torch.equal(packed_diagonal(packed, n), matrix.diagonal())
    assert packed.device == matrix.device


@given(n=st.integers(0, 40), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_round_trip_to_the_bit(n, seed):
    matrix = symmetric(n, seed=seed)
    if n > 1:
        matrix[0, 1] = matrix[1, 0] = -0.0
    back = unpack(pack(matrix))
    assert torch.equal(back.view(torch.int32), matrix.view(torch.int32))
    assert back.is_contiguous()
    assert matrix_size(packed_size(n)) == n


def test_the_lower_half_is_not_read():
    matrix = symmetric(6)
    spoilt = matrix.clone()
    spoilt[5, 0] += 1.0
    assert torch.equal(pack(spoilt), pack(matrix))
    assert not torch.equal(pack(spoilt.T), pack(matrix))


def test_rounding_of_a_product_passes_and_an_asymmetry_is_named():
    rows = torch.randn(300, 290)
    check_symmetric(rows.T @ rows)
    spoilt = rows.T @ rows
    spoilt[280, 3] += 1.0
    with pytest.raises(RequestError, match=r"output_gram/x: not symmetric, .* differ by up to 1 in rows 0\.\.255 "):
        check_symmetric(spoilt, "output_gram/x")


@pytest.mark.parametrize("shape", [(3,), (2, 3), (2, 2, 2)])
def test_only_square_matrices_are_packed(shape):
    with pytest.raises(RequestError, match=r"shape \[.*\]; a symmetric matrix \[n, n\]"):
        pack(torch.zeros(shape))
    with pytest.raises(RequestError, match=r"a symmetric matrix \[n, n\]"):
        check_symmetric(torch.zeros(shape))


def test_lengths_that_fit_no_triangle_are_refused():
    with pytest.raises(ShapeMismatch, match="5 numbers"):
        unpack(torch.zeros(5))
    with pytest.raises(ShapeMismatch, match=r"triangle of an \[4, 4\] matrix is \[10\]"):
        unpack(torch.zeros(6), 4)


@pytest.mark.parametrize("n", [3, 4096, 100_000, 2**27])
def test_matrix_size_of_long_triangles(n):
    assert matrix_size(packed_size(n)) == n
    with pytest.raises(ShapeMismatch, match="for no whole n"):
        matrix_size(packed_size(n) + 1)
