"""Writing a LoRA adapter as a folder that PEFT loads, every module with its own rank and scaling."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash
from torch import Tensor

from mats.checkpoints.adapters import reference_of, task_type
from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.heads import is_head
from mats.checkpoints.legacy import PEFT_PREFIX
from mats.checkpoints.lora import Lazy, LoraModule, factors
from mats.checkpoints.lora_config import config_for
from mats.checkpoints.tensors import TensorInfo
from mats.checkpoints.writer import CheckpointWriter
from mats.errors import RequestError
from mats.files import write_json_atomically

HEADED_TASKS = ("SEQ_CLS", "TOKEN_CLS", "QUESTION_ANS")
"""Task types under which PEFT looks for a head in the file, and does not load without one."""
ONE_FILE = 1 << 62  # bytes; PEFT loads no adapter in parts


def write_lora_adapter(
    folder: Path,
    modules: Mapping[str, LoraModule],
    config: Mapping[str, Any],
    other: Mapping[str, Lazy | Tensor] | None = None,
    *,
    base: Checkpoint | None = None,
    overwrite: bool = False,
) -> Path:
    """Write `adapter_config.json` and `adapter_model.safetensors`; the folder appears when both are complete.

    Args:
        folder: to be made.
        modules: module name → factors; ranks and scalings may differ (`rank_pattern`, `alpha_pattern`).
        config: a LoRA configuration to start from; ranks, α, targets, DoRA and bias of B follow `modules`.
        other: tensors saved beside the factors, by their names in the base (`LoraAdapter.other`).
        base: the model under it; named in the configuration where that names none.
        overwrite: replace an existing folder.

    Raises:
        RequestError: no module, or modules with and without DoRA (or a bias of B), which no configuration can say.
        OutputExists: the folder is there.
        NonFiniteWeights, OutOfSpace, WorkFailed: from content or disk.
    """
    finished = lora_configuration(modules, config, other or {}, base)
    tensors = dict(lora_tensors(modules, other or {}))
    infos = [TensorInfo(name, lazy.dtype, lazy.shape) for name, lazy in tensors.items()]
    identity = xxhash.xxh3_128(json.dumps(finished, sort_keys=True, default=str).encode()).hexdigest()
    with CheckpointWriter(
        folder, infos, identity=identity, overwrite=overwrite, weights_name="adapter_model", max_shard_bytes=ONE_FILE
    ) as writer:
        for name, lazy in tensors.items():
            put = writer.rewrite if name in writer.done else writer.write  # the identity knows no content
            put(name, lazy.read())
        write_json_atomically(writer.folder / "adapter_config.json", finished)
        return writer.publish()


def lora_tensors(modules: Mapping[str, LoraModule], other: Mapping[str, Lazy | Tensor]) -> dict[str, Lazy]:
    """PEFT name → content of everything that an adapter file holds."""
    tensors = dict(factors(modules))
    for name, content in other.items():
        tensors[saved_name(name, modules)] = content if isinstance(content, Lazy) else Lazy.of(content)
    return tensors


def saved_name(name: str, modules: Mapping[str, LoraModule]) -> str:
    """What PEFT calls a tensor saved beside the factors, from its name in the base: that of an adapted layer is inside.

    >>> saved_name("classifier.weight", {})
    'base_model.model.classifier.weight'
    """
    module, _, leaf = name.rpartition(".")
    return PEFT_PREFIX + (f"{module}.base_layer.{leaf}" if module in modules else name)


def lora_configuration(
    modules: Mapping[str, LoraModule],
    config: Mapping[str, Any],
    other: Mapping[str, Lazy | Tensor],
    base: Checkpoint | None = None,
) -> dict[str, Any]:
    """The `adapter_config.json` under which PEFT loads exactly these tensors.

    Raises:
        RequestError: no module, or modules with and without DoRA, or a bias of B.
    """
    if not modules:
        raise RequestError("LoRA adapter to be written: it has no module; at least one would be right")
    dora, bias = ({getattr(module, part) is not None for module in modules.values()} for part in ("magnitude", "bias"))
    for what, found in (("a DoRA magnitude", dora), ("a bias of B", bias)):
        if len(found) > 1:
            raise RequestError(
                f"LoRA adapter to be written: some modules have {what}, others none; PEFT knows only all"
            )
    finished = config_for(config, {name: (module.rank, module.scaling) for name, module in modules.items()})
    finished |= {"use_dora": dora == {True}, "lora_bias": bias == {True}, **_saved(modules, config, other)}
    task = finished.get("task_type") or (None if base is None else task_type(base))
    finished["task_type"] = task if task not in HEADED_TASKS or any(map(is_head, other)) else None
    if base is not None:
        finished["base_model_name_or_path"] = finished.get("base_model_name_or_path") or reference_of(base)
    return finished


def _saved(
    modules: Mapping[str, LoraModule], config: Mapping[str, Any], other: Mapping[str, Lazy | Tensor]
) -> dict[str, Any]:
    """`bias` and `modules_to_save` that cover what is in `other`."""
    listed = list(config.get("modules_to_save") or ())
    bias = config.get("bias") or "none"
    for name in other:
        module, _, leaf = name.rpartition(".")
        covered = any(f".{module}.".find(f".{saved}.") >= 0 for saved in listed)
        if covered or module in modules or (leaf == "bias" and bias == "all"):
            continue
        listed.append(module)
    return {"modules_to_save": listed or None, "bias": bias}
