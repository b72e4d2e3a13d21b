"""A store as a folder that can be uploaded as it is: shards, a manifest without local paths, a card, checksums."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from mats.errors import WorkFailed
from mats.files import (
    CHUNK,
    exclusive,
    read_json_object,
    refuse_existing,
    refuse_replacing_inputs,
    whole_folder,
    write_bytes_atomically,
    write_json_atomically,
)
from mats.progress import Progress, Silent
from mats.store.manifest import CHECKSUMS_NAME, MANIFEST_NAME, RUN_NAME, Manifest
from mats.store.reading import open_store

LOCAL_PATH = re.compile(r"(/[^/\s]+/|~[^/\s]*/|\.\.?/|[A-Za-z]:[\\/])\S*")  # a label may be "/" or "/s"
LOCAL_FILE = re.compile(r"(/|~|\.\.?/|[A-Za-z]:[\\/]|file:).*", re.DOTALL)
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
KEPT_OF_RUN = ("libraries", "seconds", "peak_memory_bytes", "peak_device_memory_bytes", "device", "proxy", "compressed")


def export_store(
    store: str | Path,
    output: str | Path,
    write_card: Callable[[Manifest, dict[str, Any]], str],
    license_text: str,
    *,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Manifest:
    """Copy a store for publication; each shard's checksum is compared on the way.

    Args:
        store: What to publish.
        output: The folder to be uploaded; a store itself, with `README.md`, `LICENSE` and `checksums.sha256` in it.
        write_card: The README from the manifest as it is published and what run.json keeps.
        license_text: Content of `LICENSE`.
        overwrite: Replace an existing `output`.
        progress: Hears of each shard.

    Returns:
        The manifest as it is published.

    Raises:
        StoreCorrupt: a shard is not what the manifest says.
        OutputExists: `output` exists and `overwrite` is false.
        OutOfSpace, WorkFailed: the files cannot be written, or a local path is left in them.
    """
    folder, progress = Path(output), progress or Silent()
    refuse_existing(folder, overwrite=overwrite)
    refuse_replacing_inputs(folder, (store,))
    opened = open_store(store, verify=True)
    manifest = publishable(opened.manifest)
    run = {key: value for key, value in _run_of(opened.path).items() if key in KEPT_OF_RUN}
    texts = {"README.md": write_card(manifest, run), "LICENSE": license_text}
    _check_no_paths({**texts, MANIFEST_NAME: manifest.to_json().decode(), RUN_NAME: str(run)})
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        refuse_existing(folder, overwrite=overwrite)
        with whole_folder(folder, overwrite=overwrite) as writing:
            progress.start("copying the store", len(manifest.files))
            for name in sorted(manifest.files):
                _copy_durably(opened.path / name, writing / name)
                progress.advance()
            for name, text in texts.items():
                write_bytes_atomically(writing / name, text.encode())
            write_json_atomically(writing / RUN_NAME, run)
            write_bytes_atomically(writing / MANIFEST_NAME, manifest.to_json())
            lines = [f"{sha256(item)}  {item.name}\n" for item in sorted(writing.iterdir())]
            write_bytes_atomically(writing / CHECKSUMS_NAME, "".join(lines).encode())
    return manifest


def publishable(manifest: Manifest) -> Manifest:
    """The manifest without paths of this machine: hub ids stay, of all else the last part; fingerprints stay."""
    model = manifest.model
    base = None if model.base is None else public_name(model.base)
    data = replace(manifest.data, settings=_without_paths(manifest.data.settings))
    return replace(manifest, model=replace(model, source=public_name(model.source), base=base), data=data)


def public_name(source: str) -> str:
    """A hub id as it is; the last part of a path, with what is said after it.

    `runs/paws` could be either. It counts as a hub id only if the hub's cache holds it: a name too little harms less
    than a folder of somebody's machine.
    """
    path, mark, rest = source.partition(" with the head of ")
    return (path if HUB_ID.fullmatch(path) and _in_hub_cache(path) else Path(path).name) + mark + rest


def _in_hub_cache(repository: str) -> bool:
    from huggingface_hub import constants

    return (Path(constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}").is_dir()


def sha256(path: Path) -> str:
    """Hex digits, as `sha256sum` prints them."""
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _copy_durably(source: Path, target: Path) -> None:
    """A copy that is on the disk when this returns, before its folder gets its final name."""
    shutil.copyfile(source, target)
    with open(target, "rb") as file:
        os.fsync(file.fileno())


def _without_paths(value: Any, pattern: re.Pattern[str] = LOCAL_PATH) -> Any:
    """JSON values, every string that is a path of this machine replaced by its last part.

    Where a dataset's files are named, spaces do not tell a path from a text.
    """
    if isinstance(value, dict):
        return {key: _without_paths(item, LOCAL_FILE if key == "source" else pattern) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_paths(item, pattern) for item in value]
    if isinstance(value, str) and pattern.fullmatch(value):
        return re.split(r"[\\/]", value.rstrip("/\\"))[-1]
    return value


def _run_of(folder: Path) -> dict[str, Any]:
    path = folder / RUN_NAME
    return read_json_object(path) if path.is_file() else {}


def _check_no_paths(texts: dict[str, str]) -> None:
    """Nothing that is published names this machine's folders.

    Raises:
        WorkFailed: it would.
    """
    for home in {str(Path.home()), str(Path.cwd())} - {"/"}:
        for name, text in texts.items():
            if f"{home}/" in text:
                raise WorkFailed(f"{name}: would hold the local path {home}/…; a name without it would be right")
