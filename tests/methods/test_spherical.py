"""Spherical interpolation by hand-worked angles, and the methods built on it."""

from __future__ import annotations

import math

import pytest
import torch

from mats.errors import RequestError, ShapeMismatch
from mats.methods import NuslerpSettings, PassthroughSettings, SlerpSettings, elementwise
from mats.methods.spherical import interpolate_


def test_at_right_angles_the_shares_are_sine_and_cosine() -> None:
    first, second = torch.tensor([2.0, 0.0]), torch.tensor([0.0, 3.0])
    third = interpolate_(first.clone(), second, 1 / 3)
    torch.testing.assert_close(third, torch.tensor([2 * math.cos(math.pi / 6), 3 * math.sin(math.pi / 6)]))


def test_the_ends_are_the_vectors_and_the_middle_halves_the_angle() -> None:
    first, second = torch.randn(20, dtype=torch.float64), torch.randn(20, dtype=torch.float64)
    torch.testing.assert_close(interpolate_(first.clone(), second, 0.0), first)
    torch.testing.assert_close(interpolate_(first.clone(), second, 1.0), second)
    one, two = first / first.norm(), second / second.norm()
    middle = interpolate_(one.clone(), two, 0.5)
    assert float(middle.norm()) == pytest.approx(1.0)
    assert float(middle @ one) == pytest.approx(float(middle @ two))


def test_parallel_vectors_take_the_chord_and_zeros_count_as_orthogonal() -> None:
    vector = torch.tensor([1.0, 2.0])
    torch.testing.assert_close(interpolate_(vector.clone(), 3 * vector, 0.25), 1.5 * vector)
    torch.testing.assert_close(interpolate_(vector.clone(), -vector, 0.25), 0.5 * vector)
    torch.testing.assert_close(interpolate_(torch.zeros(2), vector, 0.5), math.sin(math.pi / 4) * vector)
    assert not interpolate_(torch.zeros(2), torch.zeros(2), 0.5).any()


def test_rows_and_columns_have_angles_of_their_own() -> None:
    first, second = torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64)
    by_row = elementwise(NuslerpSettings(along="row"), [1.0, 3.0]).merge("w", None, [first.clone(), second.clone()])
    for row in range(3):
        torch.testing.assert_close(by_row[row], interpolate_(first[row].clone(), second[row], 0.75))
    by_column = elementwise(NuslerpSettings(along="column"), [1.0, 3.0]).merge("w", None, [first, second])
    assert float((by_row - by_column).abs().max()) > 1e-3


def test_task_vectors_are_interpolated_from_the_base() -> None:
    base, first, second = torch.ones(2), torch.tensor([3.0, 1.0]), torch.tensor([1.0, 5.0])
    merged = elementwise(NuslerpSettings(task_vectors=True), [1.0, 1.0]).merge("w", base, [first, second])
    torch.testing.assert_close(merged, 1 + math.sin(math.pi / 4) * torch.tensor([2.0, 4.0]))


def test_inputs_are_left_alone_and_half_precision_is_computed_in_float32() -> None:
    first, second = torch.randn(8).bfloat16(), torch.randn(8).bfloat16()
    kept = first.clone()
    merged = elementwise(SlerpSettings(t=0.3), [1.0, 1.0]).merge("w", None, [first, second])
    assert merged.dtype == torch.float32
    assert torch.equal(first, kept)


def test_numbers_of_models_and_shapes_are_checked() -> None:
    with pytest.raises(RequestError, match="slerp: 3 models given; two would be right"):
        elementwise(SlerpSettings(), [1.0] * 3)
    with pytest.raises(RequestError, match=r"the weights .* sum to 0"):
        elementwise(NuslerpSettings(), [1.0, -1.0])
    with pytest.raises(RequestError, match="passthrough: 2 models given; one would be right"):
        elementwise(PassthroughSettings(), [1.0, 1.0])
    with pytest.raises(ShapeMismatch, match=r"shape \(3,\), expected \(2,\)"):
        elementwise(SlerpSettings(), [1.0, 1.0]).merge("w", None, [torch.ones(2), torch.ones(3)])


def test_passthrough_keeps_bytes_and_integers() -> None:
    tensor = torch.randn(4).bfloat16()
    assert torch.equal(elementwise(PassthroughSettings(), [1.0]).merge("w", None, [tensor.clone()]), tensor)
    counts = torch.arange(3)
    assert torch.equal(elementwise(PassthroughSettings(scale=2.0), [1.0]).merge("w", None, [counts]), counts)
