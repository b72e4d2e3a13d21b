"""LoRA adapters: their factors by module, read when asked for, and the update s·B·A that each module stands for.

The update of a weight in canonical shape [out, in] is ΔW = s·B·A with A [r, in], B [out, r] and s = α/r, or α/√r with
rsLoRA (Hu et al. 2021, "LoRA", section 4.1; Kalajdzievski 2023, "A Rank Stabilization Scaling Factor"). With DoRA the
adapted weight is m·(W + ΔW)/‖W + ΔW‖ per output (Liu et al. 2024, "DoRA", equation 5).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

import torch
from torch import Tensor

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.legacy import PEFT_PREFIX
from mats.checkpoints.lora_config import declared_rank, refuse_unsupported, scaling
from mats.checkpoints.opening import open_checkpoint
from mats.errors import CheckpointCorrupt, RequestError, ShapeMismatch

Layer = Literal["linear", "embedding", "convolution"]
LEAVES = {  # ending of a name in the file → the part of a module that it is
    ".lora_A.weight": "A",
    ".lora_B.weight": "B",
    ".lora_B.bias": "bias",
    ".lora_embedding_A": "A",
    ".lora_embedding_B": "B",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}


@dataclass(frozen=True)
class Lazy:
    """A tensor by shape and dtype whose values are read each time that they are asked for."""

    shape: tuple[int, ...]
    dtype: torch.dtype
    read: Callable[[], Tensor]

    @classmethod
    def of(cls, tensor: Tensor) -> Lazy:
        """A tensor that is in memory already."""
        return cls(tuple(tensor.shape), tensor.dtype, lambda: tensor)

    @classmethod
    def stored(cls, checkpoint: Checkpoint, name: str) -> Lazy:
        """A tensor of an open checkpoint."""
        info = checkpoint.tensors[name]
        return cls(info.shape, info.dtype, lambda: checkpoint.read(name))


@dataclass(frozen=True)
class LoraModule:
    """The low-rank update of one module.

    Attributes:
        name: the module in the names of the base (`encoder.layer.0.attention.self.query`).
        layer: `linear` (also transformers' Conv1D, whose weight is stored transposed), `embedding` or `convolution`.
        down: A: [r, in]; embedding [r, rows]; convolution [r, in, k…].
        up: B: [out, r]; embedding [width, r]; convolution [out, r, 1…].
        scaling: s, once.
        fan_in_fan_out: what the configuration declares; the base's own layer decides (see `densify`).
        magnitude: DoRA's m, [out] (embedding: [width]); None without DoRA.
        bias: of B (`lora_bias`), [out]; s times it is added to the output. None without.
    """

    name: str
    layer: Layer
    down: Lazy
    up: Lazy
    scaling: float
    fan_in_fan_out: bool = False
    magnitude: Lazy | None = None
    bias: Lazy | None = None

    @classmethod
    def of(
        cls,
        name: str,
        A: Tensor,
        B: Tensor,
        *,
        scaling: float = 1.0,
        layer: Layer = "linear",
        bias: Tensor | None = None,
    ) -> LoraModule:
        """A module from factors in memory."""
        return cls(name, layer, Lazy.of(A), Lazy.of(B), scaling, bias=None if bias is None else Lazy.of(bias))

    @property
    def A(self) -> Tensor:  # noqa: N802 - the paper's name
        """[r, in], as stored, read anew."""
        return self.down.read()

    @property
    def B(self) -> Tensor:  # noqa: N802 - the paper's name
        """[out, r], as stored, read anew."""
        return self.up.read()

    @property
    def rank(self) -> int:
        """r: the rows of A."""
        return self.down.shape[0]

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the update: [out, in]; convolution [out, in, k…]; embedding [rows, width], as it is stored."""
        if self.layer == "embedding":
            return (self.down.shape[1], self.up.shape[0])
        return (self.up.shape[0], *self.down.shape[1:])

    def update(self, *, dtype: torch.dtype = torch.float64) -> Tensor:
        """s·B·A of shape `shape`, multiplied in `dtype`.

        DoRA's magnitude and the bias are not in it; what they do depends on the base.
        """
        product = self.B.to(dtype).flatten(1) @ self.A.to(dtype).flatten(1)
        product.mul_(self.scaling)
        return product.T.contiguous() if self.layer == "embedding" else product.reshape(self.shape)


@dataclass(frozen=True)
class LoraAdapter(AbstractContextManager["LoraAdapter"]):
    """An open LoRA adapter.

    Attributes:
        checkpoint: its file.
        modules: module name → its low-rank update, in natural order.
        other: what was saved beside the factors, by its name in the base: whole modules (`modules_to_save`), trained
            biases (`bias: all` or `lora_only`), the weight of an adapted embedding.
        config: `adapter_config.json`.
    """

    checkpoint: Checkpoint
    modules: Mapping[str, LoraModule]
    other: Mapping[str, Lazy]
    config: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """How messages call it."""
        return self.checkpoint.name

    @property
    def path(self) -> Path:
        """The folder, or the single file."""
        return self.checkpoint.path

    def stored_name(self, name: str) -> str:
        """What the file calls an entry of `other`."""
        return next(full for full in self.checkpoint.tensors if plain_name(full.removeprefix(PEFT_PREFIX)) == name)

    def close(self) -> None:
        """Close the file."""
        self.checkpoint.close()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_lora(source: str | Path) -> LoraAdapter:
    """Open a LoRA adapter: a PEFT folder or file, or one of adapter-transformers. No factor is read.

    Raises:
        RequestError: nothing there, not a LoRA adapter, or one with a feature that is not supported.
        CheckpointCorrupt: a factor without its partner.
        ShapeMismatch: factors that do not fit each other or the configuration.
    """
    checkpoint = open_checkpoint(source)
    try:
        return as_lora(checkpoint)
    except BaseException:
        checkpoint.close()
        raise


def as_lora(checkpoint: Checkpoint) -> LoraAdapter:
    """The modules of an open checkpoint of kind `lora`; raises as `open_lora`."""
    if checkpoint.kind != "lora":
        raise RequestError(f"{checkpoint.path}: is a {checkpoint.kind}; a LoRA adapter is needed here")
    if checkpoint.config is None:
        raise RequestError(f"{checkpoint.path}: no adapter_config.json beside it, so its scaling α/r is unknown")
    refuse_unsupported(checkpoint.config, str(checkpoint.path))
    parts: dict[str, dict[str, str]] = {}
    other: dict[str, Lazy] = {}
    for name in checkpoint.tensors:
        ending = next((ending for ending in LEAVES if name.endswith(ending)), None)
        inside = name.removeprefix(PEFT_PREFIX)
        if ending is not None:
            parts.setdefault(inside.removesuffix(ending), {})[LEAVES[ending]] = name
        elif _is_foreign(inside):
            raise RequestError(f"{checkpoint.path}: {name} is no part of a LoRA module known here; it cannot be merged")
        else:
            other[plain_name(inside)] = Lazy.stored(checkpoint, name)
    modules = {name: _module(checkpoint, name, found) for name, found in parts.items()}
    return LoraAdapter(checkpoint, modules, other, dict(checkpoint.config))


def plain_name(name: str) -> str:
    """A name in the base for a name under PEFT: without what PEFT puts around a layer.

    >>> plain_name("encoder.query.base_layer.bias"), plain_name("classifier.modules_to_save.default.weight")
    ('encoder.query.bias', 'classifier.weight')
    """
    name = name.replace(".base_layer.", ".")
    left, found, right = name.partition(".modules_to_save.")
    return f"{left}.{right.partition('.')[2] or right}" if found else name


def _is_foreign(name: str) -> bool:
    """Whether a name is that of adapter content (not of a module saved whole) that we do not know."""
    return any(part.startswith("lora_") or part in ("token_adapter", "ia3_l") for part in name.split("."))


def _module(checkpoint: Checkpoint, name: str, found: Mapping[str, str]) -> LoraModule:
    config = checkpoint.config or {}
    for part in ("A", "B"):
        if part not in found:
            raise CheckpointCorrupt(f"{checkpoint.path}: module {name} has {sorted(found)} and no factor {part}")
    lazy = {part: Lazy.stored(checkpoint, stored) for part, stored in found.items()}
    down, up = lazy["A"], lazy["B"]
    layer: Layer = "linear"
    if "lora_embedding" in found["A"]:
        layer = "embedding"
    elif len(down.shape) > 2:
        layer = "convolution"
    _check_factors(checkpoint, name, down, up)
    declared = declared_rank(config, name)
    if declared is not None and declared != down.shape[0]:
        raise ShapeMismatch(
            f"{checkpoint.path}: module {name} has factors of rank {down.shape[0]}, its configuration says {declared}"
        )
    rate = scaling(config, name, down.shape[0])
    flag = bool(config.get("fan_in_fan_out"))
    return LoraModule(name, layer, down, up, rate, flag, lazy.get("magnitude"), lazy.get("bias"))


def _check_factors(checkpoint: Checkpoint, name: str, down: Lazy, up: Lazy) -> None:
    shapes = list(down.shape), list(up.shape)
    if len(down.shape) < 2 or len(down.shape) != len(up.shape) or any(size != 1 for size in up.shape[2:]):
        raise ShapeMismatch(
            f"{checkpoint.path}: module {name}: factors of shapes {shapes} are no A [r, in], B [out, r]"
        )
    rank, seen = down.shape[0], up.shape[1]
    if rank != seen:
        why = (
            "; of grouped convolutions updates cross the groups, which no weight can hold" if len(up.shape) > 2 else ""
        )
        raise ShapeMismatch(
            f"{checkpoint.path}: module {name}: A {shapes[0]} has rank {rank}, B {shapes[1]} {seen}{why}"
        )


def factors(modules: Mapping[str, LoraModule]) -> Iterator[tuple[str, Lazy]]:
    """Name in a PEFT file → content, for every part of `modules`."""
    for name, module in modules.items():
        prefix = f"{PEFT_PREFIX}{name}"
        if module.layer == "embedding":
            yield f"{prefix}.lora_embedding_A", module.down
            yield f"{prefix}.lora_embedding_B", module.up
        else:
            yield f"{prefix}.lora_A.weight", module.down
            yield f"{prefix}.lora_B.weight", module.up
        if module.bias is not None:
            yield f"{prefix}.lora_B.bias", module.bias
        if module.magnitude is not None:
            yield f"{prefix}.lora_magnitude_vector", module.magnitude
