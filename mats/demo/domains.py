"""The demo's real data: scikit-learn's 1797 handwritten digits, seen under several changes of appearance.

Each change makes a *domain*: one task for one specialist. The digits come with scikit-learn (Alpaydin and Kaynak, 1998,
UCI "Optical Recognition of Handwritten Digits"), so nothing is downloaded.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from mats.errors import RequestError

Images = NDArray[np.float32]  # [n, 8, 8], ink between 0 (paper) and 1
Labels = NDArray[np.int64]  # [n], 0 … 9

PIXEL_MEAN, PIXEL_DEVIATION = 0.305, 0.376  # of the digits scaled to 0 … 1
TRAIN_EXAMPLES, VALIDATION_EXAMPLES = 1000, 300  # the other 497 are the test split
CHECKERBOARD = (np.indices((8, 8)).sum(axis=0) % 2).astype(np.float32)


def affine(images: Images, matrix: NDArray[np.float64]) -> Images:
    """Resample every image through a 2 × 2 map about its centre (bilinear, paper outside)."""
    centre = (np.array(images.shape[1:]) - 1) / 2
    offset = centre - matrix @ centre
    moved = [ndimage.affine_transform(image, matrix, offset=offset, order=1) for image in images]
    return np.stack(moved).astype(np.float32)


def rotate(images: Images, degrees: float) -> Images:
    """Turn every image about its centre."""
    angle = np.deg2rad(degrees)
    return affine(images, np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]))


DOMAINS: dict[str, Callable[[Images], Images]] = {
    "turned_left": lambda images: rotate(images, 35.0),
    "turned_right": lambda images: rotate(images, -35.0),
    "negative": lambda images: (1.0 - images).astype(np.float32),
    "sheared": lambda images: affine(images, np.array([[1.0, 0.0], [0.6, 1.0]])),
    "mirrored": lambda images: np.ascontiguousarray(images[:, :, ::-1]),
    "checkered": lambda images: np.abs(images - CHECKERBOARD),
}


@dataclass(frozen=True)
class Split:
    """Images and labels of one split of one domain."""

    images: Images
    labels: Labels


def load_digits(seed: int) -> dict[str, Split]:
    """The upright digits in a shuffled order, cut into train, validation and test.

    Raises:
        RequestError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits as read_digits
    except ImportError as error:
        raise RequestError("the demo needs scikit-learn for its digits; install mats[demo]") from error
    digits = read_digits()
    images = (digits.images / 16.0).astype(np.float32)
    order = np.random.default_rng(seed).permutation(len(images))
    cuts = np.split(order, [TRAIN_EXAMPLES, TRAIN_EXAMPLES + VALIDATION_EXAMPLES])
    labels = digits.target.astype(np.int64)
    return {
        name: Split(images[rows], labels[rows])
        for name, rows in zip(("train", "validation", "test"), cuts, strict=True)
    }


def in_domain(domain: str, split: Split) -> Split:
    """The same digits as `domain` shows them."""
    return Split(DOMAINS[domain](split.images), split.labels)


def write_dataset(folder: Path, domain: str, digits: dict[str, Split]) -> Path:
    """Write one domain as `.npz` files and the dataset file that describes them; return the dataset file."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, split in digits.items():
        shown = in_domain(domain, split)
        np.savez(folder / f"{domain}-{name}.npz", image=shown.images[:, None], label=shown.labels)
    files = "".join(f"    {name}: {domain}-{name}.npz\n" for name in digits)
    text = (
        f"# scikit-learn's digits, {domain.replace('_', ' ')}\n"
        f"name: {domain}\ntask: image_classification\n"
        f"source:\n  format: arrays\n  files:\n{files}"
        f"columns: {{image: image, label: label}}\nlabels: 10\n"
        f"image: {{channels: 1, channel_axis: first, largest_pixel: 1.0, "
        f"mean: [{PIXEL_MEAN}], std: [{PIXEL_DEVIATION}]}}\n"
    )
    path = folder / f"{domain}.yaml"
    path.write_text(text)
    return path
