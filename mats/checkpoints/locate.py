"""From what the user wrote (a folder, a file, a hub id) to the weight files behind it. No weight file is opened."""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from mats.checkpoints.hub import download
from mats.errors import CheckpointCorrupt, RequestError
from mats.files import explain_os_error

HUB_ID = re.compile(r"[\w.-]+(/[\w.-]+)?")
SHARD = re.compile(r"(.+)-(\d{5})-of-(\d{5})\.(safetensors|bin)")
WEIGHT_SUFFIXES = (".safetensors", ".bin", ".pt", ".pth")
MODEL_FILES = (
    "model.safetensors.index.json",  # an index beats a single file beside it
    "model.safetensors",
    "pytorch_model.bin.index.json",
    "pytorch_model.bin",
)
ADAPTER_FILES = (
    "adapter_model.safetensors",
    "adapter_model.bin",
    "adapter.safetensors",  # adapter-transformers, of which a prediction head beside it is no part
    "pytorch_adapter.bin",
)


@dataclass(frozen=True)
class Location:
    """Where a checkpoint's weights lie.

    Attributes:
        name: what to call it.
        path: the folder, or the single file.
        files: weight files, in order of their names.
        index: tensor name → file name, where an index file exists.
        config: the parsed `config.json` or `adapter_config.json` beside the weights, if any.
        adapter: whether the weights are those of a PEFT adapter.
    """

    name: str
    path: Path
    files: tuple[Path, ...]
    index: dict[str, str] | None
    config: dict[str, Any] | None
    adapter: bool


def locate(source: str | Path, revision: str | None = None) -> Location:
    """Find the weight files of a local folder, a local file or a hub id.

    Raises:
        RequestError: nothing is there (with the nearest name that is), or a folder without weights.
        CheckpointCorrupt: an index that is unreadable or names files that are missing.
    """
    path = local_path(source, revision)
    name = path.name or str(path)
    if isinstance(source, str) and not Path(source).expanduser().exists():
        name = source  # a hub id: its folder in the cache is named by a commit
    return _locate_file(path) if path.is_file() else _locate_folder(path, name)


def local_path(source: str | Path, revision: str | None = None) -> Path:
    """The local folder or file behind `source`; a hub id is downloaded, or found in the cache, first.

    Raises:
        RequestError: neither here nor on the hub.
    """
    path = Path(source).expanduser()
    if path.exists():
        return path
    if isinstance(source, str) and HUB_ID.fullmatch(source) and not looks_local(path):
        return download(source, revision)
    raise RequestError(f"{path}: no such file or folder{nearest_existing(path)}")


def nearest_existing(path: Path) -> str:
    """`; nearest: …` with the most similar name beside the first missing part of `path`, or nothing."""
    missing = path
    while not missing.parent.exists():
        missing = missing.parent
    try:
        names = [entry.name for entry in missing.parent.iterdir()]
    except OSError:
        return ""
    close = get_close_matches(missing.name, names, n=1)
    return f"; nearest: {missing.parent / close[0]}" if close else ""


def looks_local(path: Path) -> bool:
    """Whether a path that does not exist was meant as one: written as one, or its parent is a folder here."""
    written = str(path)
    if written.startswith((".", "~", os.sep)) or path.suffix in WEIGHT_SUFFIXES:
        return True
    return len(path.parts) > 1 and path.parent.is_dir()


def _locate_file(path: Path) -> Location:
    if path.suffix not in WEIGHT_SUFFIXES:
        raise RequestError(f"{path}: not a weight file; expected one of {', '.join(WEIGHT_SUFFIXES)}")
    shard = SHARD.fullmatch(path.name)
    if shard and int(shard[3]) > 1:
        raise RequestError(f"{path}: one of {int(shard[3])} shards; give the folder {path.parent} instead")
    adapter = path.name in ADAPTER_FILES
    config = _read_json(path.parent / ("adapter_config.json" if adapter else "config.json"))
    return Location(path.stem, path, (path,), None, config, adapter)


def _locate_folder(folder: Path, name: str) -> Location:
    adapter = (folder / "adapter_config.json").is_file()
    wanted = ADAPTER_FILES if adapter else MODEL_FILES
    config = _read_json(folder / ("adapter_config.json" if adapter else "config.json"))
    for candidate in wanted:
        file = folder / candidate
        if file.is_file() and file.suffix == ".json":
            index = _read_index(file)
            return Location(name, folder, _shards(file, index), index, config, adapter)
        if file.is_file():
            return Location(name, folder, (file,), None, config, adapter)
    others = sorted(file for file in folder.iterdir() if file.suffix in WEIGHT_SUFFIXES)
    if len(others) == 1 and not SHARD.fullmatch(others[0].name):
        return Location(name, folder, (others[0],), None, config, adapter)
    raise _no_weights(folder, wanted, others)


def _no_weights(folder: Path, wanted: tuple[str, ...], others: list[Path]) -> Exception:
    shards = [file.name for file in others if SHARD.fullmatch(file.name)]
    if shards:
        return CheckpointCorrupt(f"{folder}: holds {shards[0]} but no index file {wanted[0]}")
    if others:
        names = ", ".join(file.name for file in others[:4])
        return RequestError(f"{folder}: several weight files ({names}) and none named {wanted[-1]}; name one of them")
    return RequestError(f"{folder}: no weights here; expected one of {', '.join(wanted)}")


def _read_index(file: Path) -> dict[str, str]:
    index = _read_json(file)
    weight_map = index.get("weight_map") if index else None
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointCorrupt(f"{file}: no weight_map in this index")
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or Path(shard).name != shard:
            raise CheckpointCorrupt(f"{file}: tensor {name} points to {shard!r}; expected a file beside the index")
    return weight_map


def _shards(index_file: Path, index: dict[str, str]) -> tuple[Path, ...]:
    files = tuple(index_file.parent / shard for shard in sorted(set(index.values())))
    missing = [file.name for file in files if not file.is_file()]
    if missing:
        raise CheckpointCorrupt(
            f"{index_file.parent / missing[0]}: shard is missing ({len(missing)} of {len(files)} named in"
            f" {index_file.name} are)"
        )
    return files


def _read_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file; None where there is no file.

    Raises:
        CheckpointCorrupt: unreadable, or not an object.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise CheckpointCorrupt(f"{path}: not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointCorrupt(f"{path}: expected a JSON object, got {type(content).__name__}")
    return content
