"""The demo's models: one small vision transformer, and one specialist of it for each domain, trained in seconds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from mats.demo.domains import DOMAINS, PIXEL_DEVIATION, PIXEL_MEAN, Split, in_domain
from mats.progress import Progress

if TYPE_CHECKING:
    from transformers import PreTrainedModel

BATCH = 64


@dataclass(frozen=True)
class Schedule:
    """How long and how fast a model is trained: AdamW, one cycle up to `learning_rate`."""

    steps: int
    learning_rate: float


BASE_SCHEDULE = Schedule(steps=300, learning_rate=1.5e-3)
SPECIALIST_SCHEDULE = Schedule(steps=120, learning_rate=1e-3)
UPRIGHT_EXAMPLES, EXAMPLES_PER_DOMAIN = 500, 60  # what the base sees: it knows digits, and has met every domain


def untrained_model(seed: int) -> PreTrainedModel:
    """A ViT for 8 × 8 images: patches of 2, width 96, 3 layers, 10 classes.

    `initializer_range` 0.1: with the default 0.02 so small a network hardly learns.
    """
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        image_size=8,
        patch_size=2,
        num_channels=1,
        hidden_size=96,
        num_hidden_layers=3,
        num_attention_heads=4,
        intermediate_size=192,
        initializer_range=0.1,
        num_labels=10,
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
    )
    return ViTForImageClassification(config)


def pixel_values(split: Split) -> Tensor:
    """Images as the model takes them: float32 [n, 1, 8, 8], normalised."""
    return torch.from_numpy((split.images[:, None] - PIXEL_MEAN) / PIXEL_DEVIATION).float()


def minibatches(examples: int, steps: int, seed: int) -> Iterator[Tensor]:
    """`steps` batches of row numbers, in shuffled passes over the examples."""
    generator = torch.Generator().manual_seed(seed)
    rows = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(rows) < BATCH:
            rows = torch.cat([rows, torch.randperm(examples, generator=generator)])
        yield rows[:BATCH]
        rows = rows[BATCH:]


def train(model: PreTrainedModel, split: Split, schedule: Schedule, seed: int) -> None:
    """Train `model` in place by cross-entropy on the split's labels."""
    images, labels = pixel_values(split), torch.from_numpy(split.labels)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.learning_rate)
    cycle = torch.optim.lr_scheduler.OneCycleLR(optimizer, schedule.learning_rate, schedule.steps)
    model.train()
    for rows in minibatches(len(labels), schedule.steps, seed):
        loss = cross_entropy(model(pixel_values=images[rows]).logits, labels[rows])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        cycle.step()
    model.eval()


def base_examples(train_split: Split) -> Split:
    """Upright digits and a few images of every domain: enough to start from, too few to be good at any."""
    upright = Split(train_split.images[:UPRIGHT_EXAMPLES], train_split.labels[:UPRIGHT_EXAMPLES])
    few = Split(train_split.images[:EXAMPLES_PER_DOMAIN], train_split.labels[:EXAMPLES_PER_DOMAIN])
    shown = [upright, *(in_domain(domain, few) for domain in DOMAINS)]
    return Split(np.concatenate([part.images for part in shown]), np.concatenate([part.labels for part in shown]))


def train_specialists(folder: Path, digits: dict[str, Split], seed: int, progress: Progress) -> dict[str, Path]:
    """Train the base and one specialist per domain; save them as Hugging Face folders.

    Returns:
        The folder of each model by name; `base` among them.
    """
    progress.start(f"seed {seed}: training the base and {len(DOMAINS)} specialists", len(DOMAINS) + 1)
    from transformers.utils import logging

    logging.disable_progress_bar()  # saving takes no time worth a bar, and bars would cross ours
    base = untrained_model(seed)
    train(base, base_examples(digits["train"]), BASE_SCHEDULE, seed)
    folders = {"base": folder / "base"}
    base.save_pretrained(folders["base"])
    start = {name: value.clone() for name, value in base.state_dict().items()}
    progress.advance()
    for number, domain in enumerate(DOMAINS, start=1):
        base.load_state_dict(start)
        train(base, in_domain(domain, digits["train"]), SPECIALIST_SCHEDULE, seed * 100 + number)
        folders[domain] = folder / domain
        base.save_pretrained(folders[domain])
        progress.advance()
    return folders
