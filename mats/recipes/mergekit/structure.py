"""Where a tensor stands in a model, told by its name: in which layer of which stack, or before or after the layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LAYER = re.compile(r"(.*?)\.(\d+)\.(.+)")
SIZE_KEYS = (
    "num_hidden_layers",
    "num_layers",
    "num_decoder_layers",
    "n_layer",
    "n_layers",
    "encoder_layers",
    "decoder_layers",
)
"""Keys of a model's config that say how many layers one of its stacks has."""
NESTED = ("text_config", "vision_config", "decoder", "encoder")
BEFORE = re.compile(r"embed(?!_out)|wte|wpe|shared|emb\b|rotary|conv1|patch")
AFTER = re.compile(r"norm|ln_f|head|pooler|classifier|score|qa_outputs|\bcls\b|predictions|embed_out|proj_out|output")


@dataclass(frozen=True)
class Structure:
    """The tensors of one checkpoint in order.

    Attributes:
        stacks: stack (what stands before the number of a layer) → layer → rest of the name → name.
        outside: all other names.
    """

    stacks: Mapping[str, Mapping[int, Mapping[str, str]]]
    outside: tuple[str, ...]

    def length(self, stack: str) -> int:
        """One past the last layer of a stack."""
        return max(self.stacks[stack]) + 1


@dataclass
class _Found:
    layers: dict[int, dict[str, str]] = field(default_factory=dict)


def structure_of(names: Iterable[str], config: Mapping[str, Any] | None) -> Structure:
    """Sort names into stacks of layers by the first number in each.

    A config tells how long stacks are; numbers that count something else (the parts of a head) are no layers then.
    """
    found: dict[str, _Found] = {}
    names = list(names)
    for name in names:
        match = LAYER.fullmatch(name)
        if match is not None:
            layers = found.setdefault(match[1], _Found()).layers
            layers.setdefault(int(match[2]), {})[match[3]] = name
    sizes = sizes_in(config or {})
    lengths = {stack: max(each.layers) + 1 for stack, each in found.items()}
    if sizes & set(lengths.values()):
        found = {stack: each for stack, each in found.items() if lengths[stack] in sizes}
    inside = {name for each in found.values() for layer in each.layers.values() for name in layer.values()}
    outside = tuple(name for name in names if name not in inside)
    return Structure({stack: each.layers for stack, each in found.items()}, outside)


def sizes_in(config: Mapping[str, Any]) -> set[int]:
    """Every number of layers that a config names, those of its parts included."""
    sizes = {config[key] for key in SIZE_KEYS if isinstance(config.get(key), int)}
    for part in NESTED:
        if isinstance(config.get(part), dict):
            sizes |= sizes_in(config[part])
    return sizes


def comes_after(name: str) -> bool:
    """Whether a tensor outside of layers stands behind them: the last norm, a head; embeddings stand before.

    >>> comes_after("model.norm.weight"), comes_after("embeddings.LayerNorm.weight"), comes_after("lm_head.weight")
    (True, False, True)
    """
    return BEFORE.search(name) is None and AFTER.search(name) is not None


def resized(config: Mapping[str, Any], stack: str, layers: list[int], before: int) -> dict[str, Any]:
    """What changes in a config when a stack of `before` layers becomes the layers listed: its length, lists by layer.

    Args:
        config: of the donor.
        stack: which stack; of an encoder and a decoder the keys differ.
        layers: for each layer of the output, the donor's.
        before: number of layers of the donor.
    """
    part = "decoder" if "decoder" in stack else "encoder" if "encoder" in stack else ""
    own = {"encoder": ("num_layers", "encoder_layers"), "decoder": ("num_decoder_layers", "decoder_layers"), "": ()}
    two_parts = any(key in config for key in ("num_decoder_layers", "decoder_layers"))
    keys = own[part] if two_parts and part else SIZE_KEYS
    changes: dict[str, Any] = {key: len(layers) for key in keys if config.get(key) == before}
    for key, value in config.items():
        if key.endswith("layer_types") and isinstance(value, list) and len(value) == before:
            changes[key] = [value[layer] for layer in layers]
    if not changes:
        for key in NESTED:
            if isinstance(config.get(key), dict):
                inner = resized(config[key], stack, layers, before)
                if inner:
                    return {key: {**config[key], **inner}}
    return changes
