"""LoRA and (IA)³ files of adapter-transformers and its forks (`….loras.<name>.lora_A`), shown as PEFT would hold them.

That library has one class for both. LoRA (`composition_mode: add`) adds (α/r)·B·A; r and α are 8 unless its
configuration says otherwise, and α does not follow r. (IA)³ (`composition_mode: scale`) has only `lora_B` [out, 1] and
multiplies the layer's output by it, bias included: l ⊙ (W·x + b). That is PEFT's (IA)³ without feed-forward modules.
(The library's own weight merging leaves the bias unscaled and so differs from its forward; the forward counts here.)

GPT-2's fused `c_attn` [q, k, v] has factors for some of its three blocks: A [r·m, in] and B [out/3·m, r] for m
matrices, each block of B with its own rows of A. It becomes one update of rank r·m with a block-diagonal B.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mats.checkpoints.adapters import ia3_config
from mats.checkpoints.checkpoint import Stored
from mats.checkpoints.legacy import PEFT_IA3, PEFT_PREFIX
from mats.checkpoints.lora_config import config_for
from mats.checkpoints.tensors import TensorInfo
from mats.errors import CheckpointCorrupt, RequestError

FACTOR = re.compile(r"(?P<module>.+)\.loras\.(?P<name>[^.]+)\.lora_(?P<factor>[AB])")
FUSED = "c_attn"
MATRICES = ("q", "k", "v")
DEFAULT_RANK, DEFAULT_ALPHA = 8, 8


def has_loras(names: Iterable[str]) -> bool:
    """Whether any of a file's names is that of an adapter-transformers factor."""
    return any(FACTOR.fullmatch(name) for name in names)


def as_peft(
    path: Path, stored: Mapping[str, Stored], described: Mapping[str, Any] | None
) -> tuple[dict[str, Stored], dict[str, Any]]:
    """PEFT's names and configuration for the tensors of an adapter-transformers file.

    Args:
        path: of the file or folder, for messages.
        stored: name in the file → place.
        described: its `adapter_config.json`; None where there is none.

    Raises:
        RequestError: a feature without a counterpart in PEFT's LoRA and (IA)³, several adapters, or no configuration
            where one is needed.
        CheckpointCorrupt: a factor without its partner, or of another shape than the configuration says.
    """
    loras = _by_module(path, stored)
    outer = dict(described or {})
    settings = dict(outer.get("config") or {})
    if settings.get("use_gating"):
        raise RequestError(f"{path}: use_gating makes the update depend on the input; it cannot be merged")
    matrices = [part for part in MATRICES if part in (settings.get("attn_matrices") or ())]
    scales = all("A" not in factors for factors in loras.values())
    tensors: dict[str, Stored] = {}
    if scales:
        for module, factors in loras.items():
            tensors[f"{PEFT_PREFIX}{module}.{PEFT_IA3}"] = _vector(path, module, factors["B"], matrices)
        config = ia3_config(tensors)
    else:
        if described is None:
            raise RequestError(f"{path}: no adapter_config.json beside it, so its scaling α/r is unknown")
        modules = {name: _update(path, name, factors, settings, matrices) for name, factors in loras.items()}
        for module, update in modules.items():
            tensors[f"{PEFT_PREFIX}{module}.lora_A.weight"] = update.down
            tensors[f"{PEFT_PREFIX}{module}.lora_B.weight"] = update.up
        named = {name: (update.down.shape[0], update.scaling) for name, update in modules.items()}
        config = config_for({"bias": "none", "task_type": None, "fan_in_fan_out": False}, named)
    return tensors, {**config, "base_model_name_or_path": outer.get("model_name")}


@dataclass(frozen=True)
class _Update:
    down: Stored
    up: Stored
    scaling: float


def _by_module(path: Path, stored: Mapping[str, Stored]) -> dict[str, dict[str, Stored]]:
    loras: dict[str, dict[str, Stored]] = {}
    names = set()
    for name, place in stored.items():
        match = FACTOR.fullmatch(name)
        if match is None:
            raise RequestError(f"{path}: {name} is no LoRA or (IA)³ factor; adapters of other kinds cannot be merged")
        loras.setdefault(match["module"], {})[match["factor"]] = place
        names.add(match["name"])
    if len(names) > 1:
        raise RequestError(f"{path}: holds several adapters ({', '.join(sorted(names))}); one per file would be right")
    for module, factors in loras.items():
        if "B" not in factors or len(factors["B"].shape) != 2:
            raise CheckpointCorrupt(f"{path}: module {module} has no lora_B [out, r]")
    return loras


def _update(
    path: Path, module: str, factors: Mapping[str, Stored], settings: Mapping[str, Any], matrices: list[str]
) -> _Update:
    """One module's A and B, fused blocks unfolded."""
    down, up = factors.get("A"), factors["B"]
    rank, alpha = int(settings.get("r", DEFAULT_RANK)), float(settings.get("alpha", DEFAULT_ALPHA))
    fused = module.rpartition(".")[2] == FUSED
    blocks = len(matrices) if fused else 1
    if down is None or len(down.shape) != 2 or (down.shape[0], up.shape[1]) != (rank * blocks, rank):
        shapes = f"lora_A {None if down is None else list(down.shape)}, lora_B {list(up.shape)}"
        raise CheckpointCorrupt(f"{path}: module {module}: {shapes}; with r {rank} and {blocks} blocks they do not fit")
    if fused:
        up = _unfolded(path, module, up, matrices, rank, fill=0.0)
    return _Update(down, up, alpha / rank)


def _vector(path: Path, module: str, vector: Stored, matrices: list[str]) -> Stored:
    """An (IA)³ vector [out, 1]; of a fused layer with ones for the matrices that it leaves alone."""
    if vector.shape[1] != 1:
        raise CheckpointCorrupt(f"{path}: module {module}: lora_B {list(vector.shape)} alone; (IA)³ has [out, 1]")
    if module.rpartition(".")[2] != FUSED:
        return vector
    return _unfolded(path, module, vector, matrices, 0, fill=1.0)


def _unfolded(path: Path, module: str, up: Stored, matrices: list[str], rank: int, *, fill: float) -> Stored:
    if not matrices or up.shape[0] % len(matrices):
        raise RequestError(
            f"{path}: {module} is fused, and attn_matrices in its configuration ({', '.join(matrices) or 'none'}) do "
            f"not say which parts its {up.shape[0]} rows belong to; some of q, k, v would be right"
        )
    shape = (up.shape[0] // len(matrices) * len(MATRICES), rank * len(matrices) or 1)
    info = TensorInfo(module, up.file.infos[up.name].dtype, shape)
    return Stored(_Unfolded(up, info, [MATRICES.index(part) for part in matrices], rank, fill), module, shape)


class _Unfolded:
    """A `TensorFile` of one small tensor: blocks of rows put where the fused layer has them."""

    def __init__(self, up: Stored, info: TensorInfo, positions: list[int], rank: int, fill: float) -> None:
        self.path = up.file.path
        self.infos = {info.name: info}
        self._up, self._positions, self._rank, self._fill = up, positions, rank, fill

    def load(self, name: str, start: int, out: Tensor) -> None:
        """Fill `out` with the elements from index `start` on."""
        out.copy_(self._whole(self.infos[name]).flatten()[start : start + out.numel()])

    def view(self, name: str) -> Tensor | None:  # noqa: ARG002 - it lies nowhere in this form
        """None."""
        return None

    def close(self) -> None:
        """Close the file below."""
        self._up.file.close()

    def _whole(self, info: TensorInfo) -> Tensor:
        flat = torch.empty(self._up.file.infos[self._up.name].numel, dtype=info.dtype)
        self._up.file.load(self._up.name, 0, flat)
        blocks = flat.reshape(self._up.shape).chunk(len(self._positions))
        whole = torch.full(info.shape, self._fill, dtype=info.dtype)
        height = info.shape[0] // len(MATRICES)
        for number, (position, block) in enumerate(zip(self._positions, blocks, strict=True)):
            columns = slice(number * self._rank, (number + 1) * self._rank) if self._rank else slice(None)
            whole[position * height : (position + 1) * height, columns] = block
        return whole
