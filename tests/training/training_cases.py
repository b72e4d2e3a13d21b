"""What the tests of training share: tiny bases, quick settings, and reading weights back."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_tasks
import torch
from safetensors.torch import load_file

from mats.data import DatasetSpec, load_spec
from mats.training import TrainingRequest, TrainingSettings

QUICK: dict[str, Any] = {"updates": 6, "batch_size": 8, "learning_rate": 3e-3, "evaluate_every": 3, "seed": 3}


@dataclass(frozen=True)
class TinyBase:
    """An untrained base (of 2 classes, where it classifies) and dataset files of its tasks."""

    base: Path
    data: dict[str, Path]

    def spec(self, name: str = "colour") -> DatasetSpec:
        return load_spec(self.data[name])

    def request(
        self, output: Path, *names: str, request: dict[str, Any] | None = None, **settings: Any
    ) -> TrainingRequest:
        """A quick run on the datasets of these names."""
        return TrainingRequest(
            self.base,
            tuple(self.spec(name) for name in names or ("colour",)),
            TrainingSettings(**{**QUICK, **settings}),
            output=output,
            device="cpu",
            **(request or {}),
        )


def build_base(kind: str, folder: Path) -> TinyBase:
    folder.mkdir(parents=True)
    family = "bert" if kind == "gpt2" else kind
    data = {
        name: tiny_tasks._write_data(family, folder / "data", name, seed) for seed, name in enumerate(tiny_tasks.CUES)
    }
    torch.manual_seed(0)
    if kind == "gpt2":
        _save_gpt2(folder / "base")
        data = {name: _as_language_modeling(path) for name, path in data.items()}
    else:
        tiny_tasks._save(tiny_tasks._untrained(kind), kind, folder / "base")
    return TinyBase(folder / "base", data)


def _save_gpt2(folder: Path) -> None:
    from transformers import GPT2Config, GPT2LMHeadModel

    tokenizer = tiny_tasks._tokenizer("t5")
    config = GPT2Config(
        vocab_size=len(tokenizer), n_positions=32, n_embd=32, n_layer=2, n_head=2, bos_token_id=2, eos_token_id=3
    )
    GPT2LMHeadModel(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def _as_language_modeling(path: Path) -> Path:
    content = json.loads(path.read_text())
    del content["labels"]
    content |= {"task": "language_modeling", "max_length": 32, "perplexity": {"window": 32, "stride": 16}}
    path.write_text(json.dumps(content))
    return path


def changed(spec: DatasetSpec, **fields: Any) -> DatasetSpec:
    """The dataset with other fields, checked again."""
    return DatasetSpec.model_validate({**spec.model_dump(), **fields})


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """All tensors of a result."""
    (file,) = [path for path in folder.iterdir() if path.suffix == ".safetensors"]
    return load_file(file)


def distance(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> float:
    """The largest difference of any entry; the names must agree."""
    assert one.keys() == other.keys()
    return max(float((one[name].double() - other[name].double()).abs().max()) for name in one)


class Recorder:
    """A `Progress` that remembers, and can end a run by an exception after some updates."""

    def __init__(self, stop_after: int | None = None) -> None:
        self.stages: list[tuple[str, int | None]] = []
        self.notes: list[str] = []
        self.steps = 0
        self._stop_after = stop_after

    def start(self, description: str, total: int | None) -> None:
        self.stages.append((description, total))

    def advance(self, steps: int = 1) -> None:
        self.steps += steps
        if self._stop_after is not None and self.steps >= self._stop_after:
            raise KeyboardInterrupt

    def note(self, message: str) -> None:
        self.notes.append(message)
