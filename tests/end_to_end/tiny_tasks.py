"""Tiny real checkpoints on disk, each with its tokenizer and dataset: a base and three specialists of one family.

Three tasks ask the same question (yes or no) of different cues, so that specialists differ, a merge can serve all
three, and one head fits all. Everything goes through the product's own data room, from files; the
models are trained for real.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
from torch.nn.functional import cross_entropy

from mats.data import Batch, load_examples, load_processor, load_spec, make_batches

FAMILIES = ("bert", "t5", "vit")
CUES = {"colour": ("red", "blue"), "size": ("small", "large"), "mood": ("happy", "sad")}
FILLER = ["the", "a", "cat", "dog", "bird", "house", "river", "walks", "stands", "sees", "near", "under", "and", "very"]
ROWS = {"train": 96, "validation": 32, "test": 48}
BASE_STEPS = {"bert": 9, "t5": 6, "vit": 1}  # few: a base that knew the tasks would leave nothing to the specialists
SPECIALIST_STEPS = {"bert": 24, "t5": 24, "vit": 50}
BATCH = 24
LEARNING_RATE = {"bert": 3e-3, "t5": 1e-2, "vit": 3e-3}


@dataclass(frozen=True)
class TinyTask:
    """A specialist and its dataset file (splits train, validation, test)."""

    name: str
    model: Path
    data: Path


@dataclass(frozen=True)
class TinyFamily:
    """A base and its specialists; tests read these folders and never write to them."""

    kind: str
    base: Path
    tasks: tuple[TinyTask, ...]

    @property
    def task(self) -> str:
        """What `load_model` and dataset files call the family's task."""
        return {"bert": "text_classification", "t5": "text_to_text", "vit": "image_classification"}[self.kind]

    def recipe(self, **sections: Any) -> dict[str, Any]:
        """A recipe's `base` and `models`, with further sections."""
        entries = [{"name": task.name, "path": str(task.model), "data": str(task.data)} for task in self.tasks]
        return {"base": str(self.base), "models": entries, **sections}

    def write_recipe(self, folder: Path) -> Path:
        """`recipe.yaml` in `folder`, whose stores and result lie there too; 32 examples are measured, on the CPU."""
        curvature = {"examples": 32, "batch_size": 16, "store": str(folder / "metadata")}
        data = self.recipe(output=str(folder / "out"), device="cpu", curvature=curvature)
        path = folder / "recipe.yaml"
        path.write_text(yaml.safe_dump(data, sort_keys=False))
        return path


def build_family(kind: str, folder: Path, *, seed: int = 0) -> TinyFamily:
    """Write data, train and save a base (briefly, on all tasks) and a specialist for each task; about two seconds."""
    folder.mkdir(parents=True, exist_ok=True)
    data = {name: _write_data(kind, folder / "data", name, index + 10 * seed) for index, name in enumerate(CUES)}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        base = folder / "base"
        _save(_untrained(kind), kind, base)
        batches = {name: _batches(base, path) for name, path in data.items()}
        mixture = [batch for round_of_tasks in zip(*batches.values(), strict=True) for batch in round_of_tasks]
        _save(_trained(_load(kind, base), mixture[: BASE_STEPS[kind]], LEARNING_RATE[kind]), kind, base)
        tasks = []
        for name, path in data.items():
            schedule = [batches[name][step % len(batches[name])] for step in range(SPECIALIST_STEPS[kind])]
            _save(_trained(_load(kind, base), schedule, LEARNING_RATE[kind] / 2), kind, folder / name)
            tasks.append(TinyTask(name, folder / name, path))
    return TinyFamily(kind, base, tuple(tasks))


def _write_data(kind: str, folder: Path, name: str, seed: int) -> Path:
    """The dataset file of one task and its three splits."""
    generator = np.random.default_rng(seed)
    suffix = "npz" if kind == "vit" else "jsonl"
    (folder / name).mkdir(parents=True)
    for split, count in ROWS.items():
        labels = np.arange(count) % 2
        path = folder / name / f"{split}.{suffix}"
        if kind == "vit":
            np.savez(path, image=np.stack([_image(name, label, generator) for label in labels]), label=labels)
        else:
            rows = ({"text": _sentence(name, label, generator), "label": int(label)} for label in labels)
            path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    content: dict[str, Any] = {
        "name": name,
        "task": {"bert": "text_classification", "t5": "text_to_text", "vit": "image_classification"}[kind],
        "source": {
            "format": "arrays" if kind == "vit" else "json_lines",
            "files": {split: f"{name}/{split}.{suffix}" for split in ROWS},
        },
    }
    content |= {
        "bert": {"labels": ["no", "yes"]},
        "t5": {"template": "{text} ?", "choices": ["no", "yes indeed"]},
        "vit": {"labels": 2, "image": {"channels": 1, "largest_pixel": 1.0}},
    }[kind]
    (folder / f"{name}.yaml").write_text(json.dumps(content), encoding="utf-8")
    return folder / f"{name}.yaml"


def _sentence(name: str, label: int, generator: np.random.Generator) -> str:
    """Filler of unequal length with the task's cue for the label somewhere in it."""
    words = list(generator.choice(FILLER, size=generator.integers(2, 9)))
    words.insert(int(generator.integers(0, len(words) + 1)), CUES[name][label])
    return " ".join(words)


def _image(name: str, label: int, generator: np.random.Generator) -> np.ndarray:
    """8 × 8 noise with a bright stroke; the task says which of two strokes means which label."""
    image = generator.normal(scale=0.4, size=(8, 8)).astype(np.float32)
    position = int(generator.integers(0, 8))
    if name == "colour":
        image[:, position] += 1.5 if label else -1.5
    elif name == "size":
        image[position, :4] += 2.0
        image[position, 4:] += 2.0 if label else -2.0
    else:
        image[np.arange(8), np.arange(8) if label else np.arange(8)[::-1]] += 2.0
    return image


def _tokenizer(kind: str) -> Any:
    """Whole words, framed as the family frames them."""
    from transformers import PreTrainedTokenizerFast

    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    words = [*FILLER, *(cue for pair in CUES.values() for cue in pair), "no", "yes", "indeed", "?"]
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.train_from_iterator([words], trainers.WordLevelTrainer(special_tokens=special))
    single = "[CLS] $A [SEP]" if kind == "bert" else "$A [SEP]"
    tokenizer.post_processor = processors.TemplateProcessing(single=single, special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    names = {
        "pad_token": "[PAD]",
        "unk_token": "[UNK]",
        "cls_token": "[CLS]",
        "sep_token": "[SEP]",
        "eos_token": "[SEP]",
    }
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names)


def _untrained(kind: str) -> Any:
    """A model of a few ten thousand parameters; weights larger than the default, or it would hardly learn."""
    import transformers

    vocabulary = len(_tokenizer(kind))
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    dropout = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    if kind == "bert":
        text = transformers.BertConfig(
            vocab_size=vocabulary,
            num_labels=2,
            max_position_embeddings=32,
            pad_token_id=0,
            **shape,
            **dropout,
            initializer_range=0.1,
        )
        return transformers.BertForSequenceClassification(text)
    if kind == "vit":
        image = transformers.ViTConfig(
            image_size=8, patch_size=4, num_channels=1, num_labels=2, **shape, **dropout, initializer_range=0.1
        )
        return transformers.ViTForImageClassification(image)
    writer = transformers.T5Config(
        vocab_size=vocabulary,
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        dropout_rate=0.0,
        tie_word_embeddings=False,
        pad_token_id=0,
        eos_token_id=3,
        decoder_start_token_id=0,
    )
    return transformers.T5ForConditionalGeneration(writer)


def _load(kind: str, folder: Path) -> Any:
    import transformers

    loaders = {
        "bert": transformers.BertForSequenceClassification,
        "t5": transformers.T5ForConditionalGeneration,
        "vit": transformers.ViTForImageClassification,
    }
    return loaders[kind].from_pretrained(folder)


def _save(model: Any, kind: str, folder: Path) -> None:
    model.save_pretrained(folder)
    if kind != "vit":
        _tokenizer(kind).save_pretrained(folder)


def _batches(model: Path, data: Path) -> list[Batch]:
    spec = load_spec(data)
    return list(make_batches(load_examples(spec, "train"), spec, load_processor(model, spec), BATCH))


def _trained(model: Any, batches: Iterable[Batch], learning_rate: float) -> Any:
    """One AdamW step for each batch."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=learning_rate, weight_decay=0.0)
    model.train()
    for batch in batches:
        logits = model(**batch.inputs).logits
        loss = cross_entropy(logits.flatten(0, -2), batch.labels.flatten())
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
    return model.eval()
