"""Tiny BERT classifiers of one body with heads of 2, 3 and 5 classes, on disk with stores drawn by hand."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from engine_families import draw_store, make_model, nudge, save, write_raw
from torch import Tensor, nn

from mats.engine import ModelInput

CLASSES = {"two": 2, "three": 3, "five": 5}


@dataclass
class Headed:
    """A base, its specialists and their stores; states by file names."""

    base: Path
    models: dict[str, Path]
    stores: dict[str, Path]
    states: dict[str, dict[str, Tensor]]
    base_state: dict[str, Tensor]

    def inputs(self, *, metadata: bool = False) -> tuple[ModelInput, ...]:
        return tuple(
            ModelInput(name, str(path), metadata=self.stores[name] if metadata else None)
            for name, path in self.models.items()
        )


def with_classes(model: Any, count: int, seed: int) -> nn.Module:
    """`model` with another head, whose labels have names."""
    torch.manual_seed(seed)
    model.classifier = nn.Linear(16, count)
    names = {index: f"{count} classes: {index}" for index in range(count)}
    model.config.id2label, model.config.label2id = names, {name: index for index, name in names.items()}
    model.num_labels = count
    return model


def make_headed(root: Path, *, bare: bool = False, stores: bool = True) -> Headed:
    """The base is a classifier of four classes, or with `bare` the body alone, saved as `BertModel`."""
    base: Any = with_classes(make_model("bert", 0), 4, 9)
    if bare:
        base.bert.save_pretrained(root / "base")
    else:
        save(base, root / "base")
    headed = Headed(root / "base", {}, {}, {}, {k: v.clone() for k, v in base.state_dict().items()})
    for number, (name, count) in enumerate(CLASSES.items()):
        model = nudge(with_classes(make_model("bert", 0), count, number), 100 + number)
        save(model, root / name)
        headed.models[name] = root / name
        headed.states[name] = {k: v.clone() for k, v in model.state_dict().items()}
        if stores:
            raw, parameters, _ = draw_store(model, 200 + number)
            write_raw(root / f"{name}-store", raw, root / name, parameters)
            headed.stores[name] = root / f"{name}-store"
    return headed


def logits_of(model: nn.Module) -> Tensor:
    """On fixed tokens."""
    ids = torch.arange(2, 14).reshape(2, 6)
    with torch.no_grad():
        return model.eval()(input_ids=ids).logits
