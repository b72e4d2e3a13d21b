"""The trained models: a base that has seen all tasks briefly, and one model per task and seed. All are kept."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from encoder import pretrained_folder
from extent import Extent
from pieces import cut_pieces
from prompted import OWN, SHARED, PromptedTask, label_words, load_prompted
from small_t5 import save_untrained

from mats.data import load_examples
from mats.progress import Progress
from mats.training import TrainingRequest, TrainingSettings, fine_tune

BASE_LEARNING_RATE, LEARNING_RATE = 1e-3, 5e-4
BASE_BATCH, BATCH = 24, 16


def train_base(home: Path, data: Path, extent: Extent, progress: Progress) -> Path:
    """The base: from random layers, on the first rows of all tasks as one mixture; made at most once."""
    request = TrainingRequest(
        _untrained(home, data, extent),
        tuple(load_prompted(task, data) for task in extent.tasks),
        _settings(SHARED, None, extent.base_epochs, BASE_BATCH, BASE_LEARNING_RATE, seed=0),
        output=home / "base",
        name="base",
    )
    return fine_tune(request, progress)


def train_own(home: Path, data: Path, task: PromptedTask, seed: int, progress: Progress) -> Path:
    """A task's own model: the base, all of it, fine-tuned on further rows of the task; made at most once."""
    request = TrainingRequest(
        home / "base",
        (load_prompted(task, data),),
        _settings(OWN, task.train, task.epochs, BATCH, LEARNING_RATE, seed),
        output=own_folder(home, task, seed),
        name=task.name,
    )
    return fine_tune(request, progress)


def own_folder(home: Path, task: PromptedTask, seed: int) -> Path:
    """Where a task's own model lies."""
    return home / "models" / f"seed-{seed}" / task.name


def _settings(
    split: str, examples: int | None, epochs: int, batch: int, learning_rate: float, seed: int
) -> TrainingSettings:
    return TrainingSettings(
        split=split,
        examples=examples,
        validation=None,
        epochs=epochs,
        batch_size=batch,
        learning_rate=learning_rate,
        warmup=0.06,
        weight_decay=0.01,
        keep="last",
        seed=seed,
    )


def _untrained(home: Path, data: Path, extent: Extent) -> Path:
    """The model that the base starts as, written on first use."""
    folder = home / "untrained"
    if not (folder / "tokenizer.json").is_file():  # the last file that is written
        source = pretrained_folder()
        save_untrained(folder, extent.shape, cut_pieces(source, _texts(data, extent), extent.shape.pieces), source)
    return folder


def _texts(data: Path, extent: Extent) -> Iterator[str]:
    """What the base and the tasks' own models are taught: prompts, and the answers as often as they are right."""
    for task in extent.tasks:
        words = label_words(task, data)
        for example in load_examples(load_prompted(task, data), "train", limit=task.shared + task.train):
            yield example.text
            yield words[example.label]
