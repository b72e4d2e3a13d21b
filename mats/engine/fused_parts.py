"""Experts whose weights are one tensor in files, [experts, in, out] (gpt-oss): a system for each, one tensor to write.

Stores call the parts `<tensor>[3]`, and so does everything between plan and writer.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints import CheckpointWriter, TensorInfo
from mats.engine.coverage import Cover, StoreIndex, cover
from mats.methods.quadratic import QuadraticSettings

PART = re.compile(r"(?P<whole>.+)\[(?P<number>\d+)\]")


def split_part(name: str) -> tuple[str, int | None]:
    """The tensor, and which part of it `name` is; None where it is the tensor itself.

    >>> split_part("experts.down_proj[3]"), split_part("experts.down_proj")
    (('experts.down_proj', 3), ('experts.down_proj', None))
    """
    match = PART.fullmatch(name)
    return (name, None) if match is None else (match["whole"], int(match["number"]))


def whole_name(name: str) -> str:
    """The tensor that `name` is a part of, or is."""
    return split_part(name)[0]


class PartInfos(dict[str, TensorInfo]):
    """Tensors by name; asked for a part, it answers with the part's shape."""

    def __missing__(self, name: str) -> TensorInfo:
        """The part called `name`."""
        whole, number = split_part(name)
        if number is None or whole not in self:
            raise KeyError(name)
        return replace(self[whole], name=name, shape=self[whole].shape[1:])


def covers_of_parts(
    info: TensorInfo, settings: QuadraticSettings, stores: Sequence[StoreIndex]
) -> dict[str, Cover] | None:
    """Part → its curvature, where the stores of all models know the tensor by its parts and each has some."""
    if len(info.shape) != 3 or not stores:
        return None
    names = [f"{info.name}[{number}]" for number in range(info.shape[0])]
    if not all(name in index.layers or name in index.parameters for index in stores for name in names):
        return None
    found = {name: cover(name, settings, stores) for name in names}
    return None if any(each.rule == "init" for each in found.values()) else found


def common_bias(covers: Mapping[str, Cover]) -> str | None:
    """The tensor whose parts ride along with all of these parts, or None."""
    wholes = {None if each.bias is None else whole_name(each.bias) for each in covers.values()}
    return wholes.pop() if len(wholes) == 1 else None


@dataclass
class _Whole:
    tensor: Tensor
    missing: set[int]
    entries: list[tuple[int, Any]] = field(default_factory=list)


class Assembly:
    """Parts wait here until their tensor is whole. Added on one thread: what is a part is not shareable."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, str], _Whole] = {}

    def add(
        self, writer: CheckpointWriter, info: TensorInfo, number: int, part: Tensor, entry: Any
    ) -> tuple[Tensor, list[Any]] | None:
        """Take one part of a tensor of `writer`'s output.

        Args:
            writer: whose output it is for.
            info: of the whole tensor.
            number: which part.
            part: its content.
            entry: what the report says about it, or None.

        Returns:
            The whole tensor and the entries in the order of the parts, when this was the last; else None.
        """
        key = (id(writer), info.name)
        if key not in self._waiting:
            empty = torch.empty(info.shape, dtype=part.dtype)
            self._waiting[key] = _Whole(empty, set(range(info.shape[0])))
        whole = self._waiting[key]
        whole.tensor[number] = part
        whole.missing.discard(number)
        whole.entries += [] if entry is None else [(number, entry)]
        if whole.missing:
            return None
        del self._waiting[key]
        return whole.tensor, [told for _, told in sorted(whole.entries, key=lambda pair: pair[0])]
