from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from mats.data import Example, ImageSettings, make_batches, parse_spec, pixel_values
from mats.errors import DataError


def settings(**changes: Any) -> ImageSettings:
    return ImageSettings.model_validate(changes)


def test_normalisation_by_hand() -> None:
    image = np.array([[[0, 51, 102], [153, 204, 255]]], dtype=np.uint8)  # [H 1, W 2, C 3]
    values = pixel_values([image], settings(mean=[0.1, 0.2, 0.3], std=[0.5, 1.0, 2.0]), ["a"])
    expected = [[[[-0.2, 1.0]], [[0.0, 0.6]], [[0.05, 0.35]]]]
    torch.testing.assert_close(values, torch.tensor(expected))


def test_channel_axis_and_gray() -> None:
    image = np.arange(12, dtype=np.float32).reshape(3, 2, 2)
    first = pixel_values([image], settings(channel_axis="first", largest_pixel=1), ["a"])
    last = pixel_values([image.transpose(1, 2, 0)], settings(channel_axis="last", largest_pixel=1), ["a"])
    assert torch.equal(first, last)
    gray = pixel_values([image[0]], settings(largest_pixel=1), ["a"])
    assert gray.shape == (1, 3, 2, 2)
    assert torch.equal(gray[0, 0], gray[0, 2])


def test_other_sizes_are_resampled() -> None:
    flat = pixel_values(
        [np.full((6, 8), 5.0), np.full((3, 3), 5.0)], settings(size=4, channels=1, largest_pixel=10), ["a", "b"]
    )
    torch.testing.assert_close(flat, torch.full((2, 1, 4, 4), 0.5))


@pytest.mark.parametrize(
    ("images", "changes", "message"),
    [
        (
            [np.zeros((4, 4)), np.zeros((5, 4))],
            {},
            r"example b: image is \[5, 4\] and not \[4, 4\]; set image.size|set image.size",
        ),
        ([np.zeros((4, 4, 2))], {}, "example a: image .* has 2 channels"),
        ([np.zeros((4, 4, 3))], {"channels": 1, "mean": 0, "std": 1}, "has 3 channels"),
        ([np.full((4, 4), np.nan)], {}, "example a: a pixel is NaN"),
    ],
)
def test_bad_images_are_named(images: list[Any], changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        pixel_values(images, settings(**changes), ["a", "b"][: len(images)])


def test_image_batches(tmp_path: Any) -> None:
    content = {
        "name": "toy",
        "task": "image_classification",
        "source": {"format": "arrays", "files": {"test": "x.npz"}},
        "labels": 3,
        "image": {"channels": 1, "largest_pixel": 16, "mean": 0.25, "std": 0.5},
    }
    spec = parse_spec(content, folder=tmp_path)
    examples = [Example(f"test:{n}", image=np.full((2, 2), n, dtype=np.uint8), label=n % 3) for n in range(5)]
    batches = make_batches(examples, spec, None, 3)
    values = torch.cat([batch.inputs["pixel_values"] for batch in batches])
    torch.testing.assert_close(values[:, 0, 0, 0], (torch.arange(5) / 16 - 0.25) / 0.5)
    assert torch.cat([batch.labels for batch in batches]).tolist() == [0, 1, 2, 0, 1]
    assert all(batch.input_mask is None for batch in batches)
