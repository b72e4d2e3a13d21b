"""From stored pixels to a model's `pixel_values`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import interpolate

from mats.data.image_settings import ImageSettings
from mats.errors import DataError


def pixel_values(images: Sequence[NDArray[Any]], settings: ImageSettings, names: Sequence[str]) -> Tensor:
    """Normalised images, float32 [B, C, H, W].

    Args:
        images: Stored pixels, each [H, W], [H, W, C] or [C, H, W].
        settings: Size, channels and normalisation.
        names: Ids of the examples, for messages.

    Raises:
        DataError: an image has channels that the settings do not allow, a pixel that is NaN or infinite, or (where no
            size is set) another size than the first one.
    """
    tensors = [_one_image(image, settings, name) for image, name in zip(images, names, strict=True)]
    for tensor, name in zip(tensors, names, strict=True):
        if tensor.shape != tensors[0].shape:
            sizes = f"{list(tensor.shape[1:])} and not {list(tensors[0].shape[1:])} as before"
            raise DataError(f"example {name}: image is {sizes}; set image.size to bring all to one size")
    mean = torch.tensor(settings.mean).view(1, -1, 1, 1)
    std = torch.tensor(settings.std).view(1, -1, 1, 1)
    return (torch.stack(tensors) / settings.largest_pixel - mean) / std


def _one_image(image: NDArray[Any], settings: ImageSettings, name: str) -> Tensor:
    """Float32 [C, H, W] of the size wanted, in stored units."""
    tensor = torch.from_numpy(np.array(image, dtype=np.float32))  # a copy: memory-mapped arrays are read-only
    if not bool(torch.isfinite(tensor).all()):
        raise DataError(f"example {name}: a pixel is NaN or infinite")
    if tensor.dim() == 2:
        tensor = tensor[None]
    elif settings.channel_axis == "last":
        tensor = tensor.permute(2, 0, 1)
    if tensor.shape[0] not in (1, settings.channels):
        raise DataError(
            f"example {name}: image {list(image.shape)} has {tensor.shape[0]} channels with channel_axis "
            f"{settings.channel_axis}; 1 or {settings.channels} would be right"
        )
    tensor = tensor.expand(settings.channels, -1, -1)
    if settings.size is None or tuple(tensor.shape[1:]) == settings.size:
        return tensor
    return interpolate(tensor[None], size=settings.size, mode="bilinear", antialias=True, align_corners=False)[0]
