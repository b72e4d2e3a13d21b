"""Which tensors of a base an (IA)³ adapter changes, and what each of them becomes.

A vector on a module's output (l [out, 1]) scales the rows of its weight and its bias: l ⊙ (W·x + b). A feed-forward
vector (l [1, in]) scales its input, so the columns of its weight, and leaves the bias alone: W·(l ⊙ x) + b.
Liu et al. 2022, "Few-Shot Parameter-Efficient Fine-Tuning is Better and Cheaper than In-Context Learning", section 3.3.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.dense_rows import Dense, Plain, Scaled
from mats.checkpoints.legacy import PEFT_PREFIX, ia3_module, is_ia3_vector
from mats.checkpoints.lora import Lazy, plain_name
from mats.checkpoints.lora_places import Orientation, Places, orientation
from mats.errors import InputsMismatch, ShapeMismatch


def ia3_parts(base: Checkpoint, adapter: Checkpoint) -> tuple[Places, dict[str, Dense]]:
    """The base under the adapter's names, and name → what it becomes, for all that the adapter changes.

    Raises:
        InputsMismatch: a module that the base lacks, or a tied weight, which only its vector could tell apart.
        ShapeMismatch: a vector of another size than its module.
    """
    vectors = {ia3_module(name): name for name in adapter.tensors if is_ia3_vector(name)}
    places = Places.of(base, vectors)
    parts: dict[str, Dense] = {}
    for name in adapter.tensors:
        if not is_ia3_vector(name):
            inside = plain_name(name.removeprefix(PEFT_PREFIX))
            parts[places.shown(inside)] = Plain(adapter.place(name))
    for module, name in vectors.items():
        stored = places.weight(module, adapter.name)
        weight_name = f"{module}.weight"
        shown = weight_name if weight_name in places.untied else places.prefix + stored
        vector = Lazy.stored(adapter, name)
        weight = Plain(base.place(stored))
        feedforward = is_feedforward(module, vector.shape, adapter.config or {})
        parts[shown] = _scaled(base, module, weight, vector, feedforward)
        bias = places.stored(f"{module}.bias")
        if bias is not None and not feedforward:
            parts[places.prefix + bias] = Scaled(Plain(base.place(bias)), vector, "rows")
    return places, parts


def is_feedforward(module: str, shape: tuple[int, ...], config: Mapping[str, Any]) -> bool:
    """By the vector's shape; the configuration is asked for convolutions alone, whose vectors look alike."""
    if len(shape) == 2 and shape != (1, 1):
        return shape[0] == 1
    listed = config.get("feedforward_modules") or ()
    if isinstance(listed, str):
        return re.fullmatch(listed, module) is not None
    return any(module == entry or module.endswith(f".{entry}") for entry in listed)


def _scaled(base: Checkpoint, module: str, weight: Plain, vector: Lazy, feedforward: bool) -> Scaled:
    shape, size = weight.shape, max(vector.shape)
    where: Orientation = "out_in"
    groups = 1
    if len(shape) == 2:
        where = _layout(base, module, shape, size, feedforward)
    elif feedforward:
        groups = max(1, size // shape[1])
    fits = {
        ("out_in", False): shape[0],
        ("out_in", True): shape[-1] if len(shape) == 2 else shape[1] * groups,
        ("in_out", False): shape[-1],
        ("in_out", True): shape[0],
    }[(where, feedforward)]
    if fits != size or shape[0] % groups:
        raise ShapeMismatch(
            f"{base.name}: weight of {module} has shape {list(shape)}, its (IA)³ vector {list(vector.shape)}; {fits}"
            " entries would be right"
        )
    along = "columns" if (where == "out_in") == feedforward else "rows"
    return Scaled(weight, vector, along, groups)


def _layout(base: Checkpoint, module: str, shape: tuple[int, ...], size: int, feedforward: bool) -> Orientation:
    """How a weight is stored, from the one side of it that the vector shows.

    Raises:
        InputsMismatch: the vector has the size of neither side.
    """
    if size not in shape:
        raise InputsMismatch(
            f"{base.name}: weight of {module} has shape {list(shape)}, its (IA)³ vector {size} entries; {shape[0]} or"
            f" {shape[-1]} would be right"
        )
    other = shape[1 - shape.index(size)] if shape[0] != shape[1] else size
    expected = (other, size) if feedforward else (size, other)
    return orientation(base, module, shape, expected, False)
