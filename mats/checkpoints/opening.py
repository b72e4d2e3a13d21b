"""Opening a checkpoint: files behind a name → one mapping of tensors, whatever the format or the number of shards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mats.checkpoints.adapter_transformers import as_peft, has_loras
from mats.checkpoints.adapters import ia3_config
from mats.checkpoints.checkpoint import Checkpoint, Kind, Stored, TensorFile
from mats.checkpoints.heads import with_head
from mats.checkpoints.legacy import PEFT_IA3, peft_ia3_name, strip_wrapper
from mats.checkpoints.locate import Location, locate
from mats.checkpoints.pickled_file import PickledFile
from mats.checkpoints.safetensors_file import SafetensorsFile
from mats.errors import CheckpointCorrupt, RequestError


def open_checkpoint(source: str | Path, *, revision: str | None = None, head: str | None = None) -> Checkpoint:
    """Open a checkpoint for lazy reading: headers are read and checked, tensors are not.

    Args:
        source: a model folder (safetensors or `.bin`, single or sharded), a PEFT adapter folder, a single weight
            file (`.safetensors`, `.bin`, `.pt`; those of MaTS and TIES get their names translated), or a hub id.
        revision: branch, tag or commit of a hub id.
        head: of a merged body that keeps the heads of its models: whose head to show on it; None: the folder's own.

    Raises:
        RequestError: nothing there, no weights in the folder, an adapter type other than (IA)³ and LoRA, or no such
            head.
        CheckpointCorrupt: a missing shard, a truncated file, an unreadable header, a pickle with code in it.
    """
    location = locate(source, revision)
    opened: list[TensorFile] = []
    try:
        for path in location.files:
            opened.append(_open_file(path))
        stored = _collect(location, opened)
        config = location.config
        if has_loras(stored):
            stored, config = as_peft(location.path, stored, config if location.adapter else None)
        kind = _kind(location, stored, config)
        if kind == "ia3" and config is None:
            config = ia3_config(stored)
        checkpoint = Checkpoint(location.name, location.path, kind, stored, config)
        return checkpoint if head is None else with_head(checkpoint, head)
    except BaseException:
        for file in opened:
            file.close()
        raise


def _open_file(path: Path) -> TensorFile:
    return SafetensorsFile(path) if path.suffix == ".safetensors" else PickledFile(path)


def _collect(location: Location, files: list[TensorFile]) -> dict[str, Stored]:
    """Name → place; what an index says decides, and everything that it names must be where it says."""
    by_name = {file.path.name: file for file in files}
    if location.index is None:
        places = {name: (file, name) for file in files for name in file.infos}
    else:
        places = {name: (by_name[shard], name) for name, shard in location.index.items()}
    for name, (file, _) in places.items():
        if name not in file.infos:
            raise CheckpointCorrupt(f"{file.path}: tensor {name} is not in it, although the index says so")
    if not places:
        raise CheckpointCorrupt(f"{location.path}: holds no tensor")
    return _translate(location, places)


def _translate(location: Location, places: dict[str, tuple[TensorFile, str]]) -> dict[str, Stored]:
    """Legacy names → ours. Only a lone file is legacy: a folder with a config speaks its own language."""
    plain = {name: Stored(file, at, file.infos[at].shape) for name, (file, at) in places.items()}
    if location.config is not None or len(location.files) > 1:
        return plain
    stripped = strip_wrapper(plain)
    vectors = {name: peft_ia3_name(bare) for name, bare in stripped.items()}
    if not any(vectors.values()):
        return {stripped[name]: place for name, place in plain.items()}
    stray = [name for name, peft in vectors.items() if peft is None]
    if stray:
        raise CheckpointCorrupt(f"{location.path}: (IA)³ vectors together with other tensors, such as {stray[0]}")
    return {
        str(vectors[name]): Stored(place.file, place.name, (_vector_size(location, name, place), 1))
        for name, place in plain.items()
    }


def _vector_size(location: Location, name: str, place: Stored) -> int:
    if sum(size != 1 for size in place.shape) > 1:
        raise CheckpointCorrupt(f"{location.path}: (IA)³ vector {name} has shape {list(place.shape)}, expected [d]")
    return place.file.infos[place.name].numel


def _kind(location: Location, stored: dict[str, Stored], config: dict[str, Any] | None) -> Kind:
    declared: Any = (config or {}).get("peft_type") if location.adapter else None
    if declared == "IA3" or (declared is None and all(name.endswith(f".{PEFT_IA3}") for name in stored)):
        return "ia3"
    if declared == "LORA" or (declared is None and any(".lora_A." in name for name in stored)):
        return "lora"
    if declared is not None:
        raise RequestError(f"{location.path}: adapter type {declared}; supported are IA3 and LORA")
    if location.adapter:
        raise RequestError(
            f"{location.path}: its adapter_config.json names no peft_type, and {next(iter(stored))} is no factor of "
            "LoRA or (IA)³; these two would be right"
        )
    return "model"
