"""The folder in which an output grows: its name, its lock, its preallocated shards, and the space that they need."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from pathlib import Path

import xxhash

from mats.checkpoints.bytes import CHUNK_BYTES
from mats.checkpoints.layout import Layout, Shard
from mats.errors import MatsError, OutOfSpace, OutputExists, WorkFailed
from mats.files import explain_os_error, lock


def partial_folder(output: Path) -> Path:
    """The hidden sibling of `output` in which work on it happens."""
    output = output.parent.resolve() / output.name if output.name not in ("", "..") else output.resolve()
    return output.with_name(f".{output.name}.partial")


def lock_folder(folder: Path) -> int:
    """Make `folder` and hold it for this process; the kernel lets go of it when the process ends, however it ends.

    Returns:
        The descriptor that holds the lock.

    Raises:
        OutputExists: another process holds it.
        WorkFailed: it cannot be made or locked.
    """
    while True:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:  # "not found" among them: /proc and its like make no folders
            raise explain_os_error(error, folder) from error
        try:
            descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue  # its owner finished and removed it between the two calls
        except OSError as error:
            raise explain_os_error(error, folder) from error
        try:
            lock(descriptor, folder)
        except MatsError:
            os.close(descriptor)
            raise
        if _is_still(folder, descriptor):
            return descriptor
        os.close(descriptor)


def _is_still(folder: Path, descriptor: int) -> bool:
    """Whether the name still means the folder that was locked: its owner may have published it and gone."""
    try:
        return os.path.samestat(folder.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def remove_leftover(folder: Path, content: Path) -> None:
    """Remove a partial folder whose content was published by a run that died before it could do so itself."""
    if content.exists() or not folder.exists():
        return
    try:
        descriptor = lock_folder(folder)
    except OutputExists:
        return  # its owner is alive and about to fill it
    try:
        if not content.exists():
            shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(descriptor)


def shards_are_whole(folder: Path, shards: Iterable[Shard]) -> bool:
    """Whether each shard file is there with its final size."""
    files = [(folder / shard.file_name, shard.size) for shard in shards]
    return all(file.is_file() and file.stat().st_size == size for file, size in files)


def check_space(output: Path, folder: Path, layout: Layout) -> None:
    """Refuse work that cannot be finished on this device; what `folder` already holds of it is counted as there.

    Raises:
        OutOfSpace: too little is free.
    """
    files = [folder / shard.file_name for shard in layout.shards]
    held = sum(file.stat().st_blocks * 512 for file in files if file.exists())
    needed, free = layout.size - held, shutil.disk_usage(folder).free
    if needed > free:
        raise OutOfSpace(
            f"{output}: needs {needed / 1e9:.2f} GB more, the device has {free / 1e9:.2f} GB free; free some or choose"
            " another output"
        )


def open_shard(folder: Path, shard: Shard) -> int:
    """Open a shard, made or completed to its final size with its header in place; returns the descriptor.

    The blocks are reserved, not merely promised by a sparse file: a device that fills up says so here, at the start.
    """
    descriptor = os.open(folder / shard.file_name, os.O_RDWR | os.O_CREAT, 0o644)
    try:
        if os.fstat(descriptor).st_size != shard.size:
            os.ftruncate(descriptor, 0)
            os.posix_fallocate(descriptor, 0, shard.size)
        write_at(descriptor, memoryview(shard.header), 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def write_at(descriptor: int, view: memoryview, offset: int) -> None:
    """Write all of `view` at `offset`; one call of the kernel may take less."""
    while view.nbytes:
        count = os.pwrite(descriptor, view, offset)
        view, offset = view[count:], offset + count


def checksum_range(descriptor: int, offset: int, size: int) -> str:
    """xxh3_128 of a range of an open file, in hexadecimal."""
    digest = xxhash.xxh3_128()
    while size:
        block = os.pread(descriptor, min(CHUNK_BYTES, size), offset)
        if not block:
            break
        digest.update(block)
        offset, size = offset + len(block), size - len(block)
    return digest.hexdigest()


def flush_tree(folder: Path) -> None:
    """Wait until every file under `folder`, and the folders themselves, are on the disk.

    Raises:
        OutOfSpace, WorkFailed: the device refused.
    """
    for entry in (*sorted(folder.rglob("*")), folder):
        if entry.is_symlink():
            continue
        try:
            descriptor = os.open(entry, os.O_RDONLY)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise explain_os_error(error, entry) from error


def remove(entry: Path) -> None:
    """Delete a file or a folder with all that is in it."""
    try:
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        else:
            entry.unlink()
    except OSError as error:
        raise WorkFailed(f"{entry}: cannot be removed: {error.strerror or error}") from error
