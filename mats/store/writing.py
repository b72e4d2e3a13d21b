"""Writing a metadata store: shards, manifest and run record in a sibling folder, which is then renamed."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from mats.errors import OutOfSpace, RequestError
from mats.files import (
    exclusive,
    refuse_existing,
    whole_folder,
    write_bytes_atomically,
    write_json_atomically,
)
from mats.progress import Progress, Silent
from mats.store.codecs import PART_MARK
from mats.store.manifest import (
    COMPRESSED_VERSION,
    MANIFEST_NAME,
    RUN_NAME,
    SCHEMA_VERSION,
    STATISTICS,
    FileRecord,
    Manifest,
    TensorRecord,
    statistic_of,
)
from mats.store.records import Sums
from mats.store.sources import InMemory, SumSource
from mats.store.tensor_file import Encoded, storage_order, write_tensor_file

MAX_SHARD_BYTES = 5_000_000_000
SPACE_MARGIN = 1 << 20  # bytes left for manifest, run record and folder entries


def write_store(
    folder: Path,
    manifest: Manifest,
    sums: Sums | SumSource,
    run_info: Mapping[str, Any],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """Write a store, whole or not at all; no more than one matrix is packed at a time.

    Args:
        folder: Final name. Work happens in the hidden sibling `.<name>.writing`; what a killed run left is replaced.
        manifest: `tensors` and `files` are filled in here; `example_ids` are stored sorted.
        sums: Sums over examples (tensors in memory) or a source that yields them key by key.
        run_info: JSON values that differ from run to run (versions, wall time); kept apart in run.json.
        overwrite: Replace an existing `folder`.
        max_shard_bytes: No shard exceeds it, unless by a single tensor.
        progress: Hears of each tensor.

    Raises:
        OutputExists: `folder` exists and `overwrite` is false, or another run is writing it.
        NonFiniteStatistic: a sum holds NaN or infinity.
        OutOfSpace: the disk cannot hold the store; told before the first byte where the sizes show it.
        RequestError: the manifest and the sums disagree.
    """
    folder = Path(folder)
    with exclusive(folder.with_name(f".{folder.name}.lock")):
        write_store_locked(
            folder,
            manifest,
            sums,
            run_info,
            overwrite=overwrite,
            max_shard_bytes=max_shard_bytes,
            progress=progress,
        )


def write_store_locked(
    folder: Path,
    manifest: Manifest,
    sums: Sums | SumSource,
    run_info: Mapping[str, Any],
    *,
    overwrite: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> None:
    """`write_store` for a caller that holds the lock of `folder` already."""
    source = InMemory(sums) if isinstance(sums, Sums) else sums
    _check_agreement(folder, manifest, source)
    refuse_existing(folder, overwrite=overwrite)
    with whole_folder(folder, overwrite=overwrite) as writing:
        _check_space(writing, source)
        complete = _write_shards(writing, manifest, source, max_shard_bytes, progress or Silent())
        write_json_atomically(writing / RUN_NAME, dict(run_info))
        write_bytes_atomically(writing / MANIFEST_NAME, complete.to_json())
    _remove_replaced(folder)


def plan_shards(entries: Mapping[str, Encoded], max_shard_bytes: int) -> dict[str, list[str]]:
    """File name to keys: one series of shards per statistic, filled in storage order.

    Raises:
        RequestError: `max_shard_bytes` is not positive.
    """
    if max_shard_bytes <= 0:
        raise RequestError(f"max_shard_bytes: {max_shard_bytes}; a shard holds at least 1 byte")
    files: dict[str, list[str]] = {}
    for statistic in sorted({statistic_of(key) for key in entries}):
        shards: list[list[str]] = []
        room = 0
        for key in storage_order({key: entry for key, entry in entries.items() if statistic_of(key) == statistic}):
            if not shards or entries[key].nbytes > room:
                shards.append([])
                room = max_shard_bytes
            shards[-1].append(key)
            room -= entries[key].nbytes
        for number, keys in enumerate(shards, 1):
            files[f"{statistic}-{number:05d}-of-{len(shards):05d}.safetensors"] = keys
    return files


def _write_shards(
    folder: Path, manifest: Manifest, source: SumSource, max_shard_bytes: int, progress: Progress
) -> Manifest:
    """Write every shard into `folder`; the manifest that describes them."""
    tensors: dict[str, TensorRecord] = {}
    files: dict[str, FileRecord] = {}
    version = SCHEMA_VERSION if manifest.compression is None else COMPRESSED_VERSION
    progress.start("writing the store", len(source.entries))
    for name, keys in plan_shards(source.entries, max_shard_bytes).items():
        entries = {key: source.entries[key] for key in keys}
        metadata = {"format": "mats-store", "schema_version": str(version), "statistic": statistic_of(keys[0])}
        files[name] = write_tensor_file(folder / name, entries, source.read, metadata)
        for key, entry in entries.items():
            tensors[key] = TensorRecord(name, entry.encoding, entry.shape, entry.dtype)
        progress.advance(len(keys))
    ids = tuple(sorted(manifest.example_ids))
    return replace(manifest, example_ids=ids, tensors=tensors, files=files, schema_version=version)


def _check_agreement(folder: Path, manifest: Manifest, source: SumSource) -> None:
    """Refuse a manifest that does not describe the sums, before anything is written."""
    if manifest.examples != len(manifest.example_ids):
        raise RequestError(f"{folder}: examples is {manifest.examples}, but {len(manifest.example_ids)} ids are given")
    repeated = [name for name, count in Counter(manifest.example_ids).items() if count > 1]
    if repeated:
        raise RequestError(f"{folder}: example id {repeated[0]!r} occurs twice; each example is summed once")
    for key in source.entries:
        if statistic_of(key) not in STATISTICS or "/" not in key:
            raise RequestError(
                f"{folder}: sum {key!r}; a key is <statistic>/<name> with one of {', '.join(STATISTICS)}"
            )
        if PART_MARK in key:
            raise RequestError(f"{folder}: sum {key!r}; names of modules and parameters have no {PART_MARK!r}")


def _check_space(folder: Path, source: SumSource) -> None:
    needed = sum(entry.nbytes for entry in source.entries.values()) + SPACE_MARGIN
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise OutOfSpace(f"{folder.parent}: the store takes {needed:,} bytes, {free:,} are free; free some or move it")


def _remove_replaced(folder: Path) -> None:
    """Delete what a run killed between the two renames of an overwrite has left under a hidden name."""
    for left in folder.parent.iterdir():
        middle = left.name.removeprefix(f".{folder.name}.").removesuffix(".old")
        if left.name != f".{folder.name}.{middle}.old" or not middle.isdigit():
            continue
        if left.is_dir() and not left.is_symlink():
            shutil.rmtree(left, ignore_errors=True)
        else:
            left.unlink()
