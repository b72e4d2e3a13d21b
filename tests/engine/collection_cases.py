"""A tiny real vision model and a dataset of random images, on disk; and the request that measures one on the other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from mats.curvature import CollectionSettings
from mats.data import DatasetSpec
from mats.engine.collection import CollectionRequest


def write_vit(folder: Path, seed: int = 0) -> Path:
    """A random ViT: 8 × 8 images of one channel, three classes, two layers of width 16."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=3,
    )
    ViTForImageClassification(config).save_pretrained(folder)
    return folder


def write_images(folder: Path, count: int = 10, seed: int = 0, **columns: Any) -> DatasetSpec:
    """Random images and labels under `validation`."""
    generator = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    images = generator.integers(0, 256, (count, 8, 8), dtype=np.uint8)
    labels = generator.integers(0, 3, count)
    np.savez(folder / "validation.npz", **{"image": images, "label": labels, **columns})
    return image_spec(folder)


def image_spec(folder: Path) -> DatasetSpec:
    return DatasetSpec.model_validate(
        {
            "name": "pixels",
            "task": "image_classification",
            "root": folder,
            "source": {"format": "arrays", "files": {"validation": "validation.npz"}},
            "labels": 3,
            "image": {"size": 8, "channels": 1},
        }
    )


def vit_request(tmp_path: Path, **changes: Any) -> CollectionRequest:
    """The request of these tests; the model and the data are written when they are not there yet."""
    if not (tmp_path / "vit").exists():
        write_vit(tmp_path / "vit")
    if not (tmp_path / "data").exists():
        write_images(tmp_path / "data")
    values: dict[str, Any] = {
        "model": str(tmp_path / "vit"),
        "name": "vit",
        "dataset": image_spec(tmp_path / "data"),
        "batch_size": 3,
        "settings": CollectionSettings(),
        "root": tmp_path / "metadata",
        "device": "cpu",
        **changes,
    }
    return CollectionRequest(**values)


def content_of(folder: Path) -> dict[str, bytes]:
    """All files but run.json."""
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.name != "run.json"}


class Recorder:
    """A `Progress` that remembers."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.stages: list[str] = []
        self.steps = 0

    def start(self, description: str, total: int | None) -> None:
        self.stages.append(description)
        self.steps = 0

    def advance(self, steps: int = 1) -> None:
        self.steps += steps

    def note(self, message: str) -> None:
        self.notes.append(message)


class Killed(BaseException):
    """Stands for SIGKILL inside one process: nothing catches it."""


class KillAfter(Recorder):
    """Ends the work at the n-th call of `advance`."""

    def __init__(self, calls: int) -> None:
        super().__init__()
        self.left = calls

    def advance(self, steps: int = 1) -> None:
        super().advance(steps)
        self.left -= 1
        if self.left == 0:
            raise Killed
