"""Fine-tuned models of the benchmark: one per task and seed, and one trained on all tasks together. All are kept."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import encoder
from tasks import Task, load_task
from transformers import AutoTokenizer

from mats.checkpoints import load_model
from mats.progress import Progress
from mats.training import TrainingRequest, TrainingSettings, fine_tune, fine_tune_jointly

LEARNING_RATE, HEAD_LEARNING_RATE = 8e-5, 1e-3
ADAPTER_LEARNING_RATE = {"lora": 5e-4, "ia3": 5e-3}


def base_folder(home: Path) -> Path:
    """The pretrained encoder as a checkpoint, written on first use."""
    folder = home / "base"
    if not (folder / "config.json").is_file():
        encoder.save_base(folder)
    return folder


def individual_folder(home: Path, track: str, task: Task, seed: int) -> Path:
    """Where a task's own model lies: full weights; an adapter's are its base's with the adapter worked in."""
    folder = home / "models" / track / f"seed-{seed}" / task.name
    return folder if track == "full" else folder.with_name(f"{task.name}-dense")


def settings(track: str, task: Task, seed: int, examples: int | None = None) -> TrainingSettings:
    """How a task's own model is trained; `examples` takes the place of the task's number for a quick look."""
    values: dict[str, Any] = {
        "examples": min(task.train, examples or task.train),
        "validation": None,
        "epochs": task.epochs,
        "batch_size": 32,
        "learning_rate": ADAPTER_LEARNING_RATE.get(track, LEARNING_RATE),
        "head_learning_rate": HEAD_LEARNING_RATE,
        "fresh_head": True,
        "schedule": "linear",
        "warmup": 0.06,
        "weight_decay": 0.01,
        "keep": "last",
        "seed": seed,
    }
    if track != "full":
        values["tuning"] = {"method": track}
    return TrainingSettings(**values)


def train_individual(
    home: Path, data: Path, track: str, task: Task, seed: int, progress: Progress, examples: int | None = None
) -> Path:
    """A task's own model; a finished one is not trained again, an unfinished one goes on."""
    request = TrainingRequest(
        base_folder(home),
        (load_task(task, data),),
        settings(track, task, seed, examples),
        output=home / "models" / track / f"seed-{seed}" / task.name,
        name=task.name,
        device="auto",
    )
    trained = fine_tune(request, progress)
    folder = individual_folder(home, track, task, seed)
    if folder != trained and not folder.is_dir():
        _densify(trained, base_folder(home), folder)
    return folder


def _densify(adapter: Path, base: Path, folder: Path) -> None:
    """Work an adapter into the weights of its base, and save the whole model."""
    model: Any = load_model(adapter, "text_classification", base=base)
    beside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    model.merge_and_unload().save_pretrained(beside)
    AutoTokenizer.from_pretrained(base).save_pretrained(beside)
    beside.rename(folder)


def train_jointly(
    home: Path, data: Path, tasks: tuple[Task, ...], seed: int, progress: Progress, examples: int | None = None
) -> dict[str, Path]:
    """One body trained on all tasks with a head for each: what merging would have to match."""
    train = min(max(task.train for task in tasks), examples or 10**9)
    request = TrainingRequest(
        base_folder(home),
        tuple(load_task(task, data) for task in tasks),
        settings("full", Task("joint", epochs=4, train=train), seed),
        output=home / "models" / "full" / f"seed-{seed}" / "joint",
        name="joint",
        heads="per_dataset",
        device="auto",
    )
    return fine_tune_jointly(request, progress)
