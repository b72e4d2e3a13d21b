"""Writing files so that a final name is never incomplete: sibling temporary, fsync, rename, fsync the folder."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import xxhash

from mats.errors import CheckpointCorrupt, OutOfSpace, OutputExists, RequestError, WorkFailed

CHUNK = 1 << 22  # bytes read at a time when hashing


def fsync_folder(folder: Path) -> None:
    """Make the names inside `folder` durable (a rename is atomic, but durable only after this)."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_bytes_atomically(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all.

    Raises:
        OutOfSpace: the disk is full.
        WorkFailed: any other I/O error, with the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        fsync_folder(path.parent)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise explain_os_error(error, path) from error


def write_json_atomically(path: Path, value: Any) -> None:
    """Write `value` as indented JSON with sorted keys, whole or not at all."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_bytes_atomically(path, (text + "\n").encode())


def read_json_object(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        CheckpointCorrupt: it is no JSON, or no object.
        WorkFailed: it cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise explain_os_error(error, path) from error
    except ValueError as error:
        raise CheckpointCorrupt(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointCorrupt(f"{path}: holds a {type(content).__name__}; a JSON object would be right")
    return content


def refuse_existing(output: Path, *, overwrite: bool) -> None:
    """Said before anything long begins; publishing says it again when it matters.

    Raises:
        OutputExists: `output` exists and `overwrite` is false.
    """
    if not overwrite and (output.exists() or output.is_symlink()):
        raise OutputExists(f"{output}: exists already; choose another output or pass --overwrite")


def refuse_replacing_inputs(output: Path, inputs: Iterable[str | Path]) -> None:
    """Say no where `--overwrite` would delete what is read: an output that is an input, or a folder that holds one.

    Args:
        output: What would be replaced if it is there.
        inputs: Files and folders that are read; hub ids and what does not exist are passed over.

    Raises:
        RequestError: with the input.
    """
    replaced = output.resolve()
    for source in map(Path, inputs):
        if source.exists() and replaced in (source.resolve(), *source.resolve().parents):
            where = "is an input" if source.resolve() == replaced else f"holds the input {source}"
            raise RequestError(f"{output}: {where}, which would be lost; choose another output")


def publish_folder(temporary: Path, final: Path, *, overwrite: bool = False) -> None:
    """Give a finished folder its final name. An existing `final` is replaced only with `overwrite`.

    Raises:
        OutputExists: `final` exists and `overwrite` is false.
    """
    refuse_existing(final, overwrite=overwrite)
    if final.exists() or final.is_symlink():
        discarded = final.with_name(f".{final.name}.{os.getpid()}.old")
        os.replace(final, discarded)
        os.replace(temporary, final)
        fsync_folder(final.parent)
        if discarded.is_dir() and not discarded.is_symlink():
            shutil.rmtree(discarded)
        else:
            discarded.unlink()
        return
    os.replace(temporary, final)
    fsync_folder(final.parent)


@contextmanager
def whole_folder(final: Path, *, overwrite: bool) -> Iterator[Path]:
    """A folder that appears whole or not at all: what the block writes beside `final` takes its name.

    The block gets `.<name>.writing`. The caller holds a lock; what a killed run left is replaced.

    Raises:
        OutputExists: `final` exists and `overwrite` is false.
        OutOfSpace, WorkFailed: from the disk, in the block too.
    """
    writing = final.with_name(f".{final.name}.writing")
    try:
        shutil.rmtree(writing, ignore_errors=True)
        writing.mkdir(parents=True)
        yield writing
        fsync_folder(writing)
        publish_folder(writing, final, overwrite=overwrite)
    except OSError as error:
        raise explain_os_error(error, final) from error
    finally:
        shutil.rmtree(writing, ignore_errors=True)


def lock(descriptor: int, folder: Path, *, wait: bool = False) -> None:
    """Lock an open file or folder for this process; the kernel frees it when the process ends, however it ends.

    Args:
        descriptor: what is locked.
        folder: where, for messages.
        wait: wait until it is free, where another process holds it.

    Raises:
        OutputExists: another process holds it, and `wait` is false.
        WorkFailed: this file system has no locks (some network file systems).
    """
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise OutputExists(f"{folder}: another run is writing here; wait for it or choose another output") from error
    except OSError as error:
        raise WorkFailed(
            f"{folder}: cannot be locked ({error.strerror or error}); an output on a local disk would be right"
        ) from error


@contextmanager
def exclusive(lock_path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold `lock_path` for this process; the kernel frees it when the process ends, however it ends.

    Args:
        lock_path: the file; its folder is made.
        wait: wait until it is free, where another process holds it.

    Raises:
        OutputExists: another process holds it, and `wait` is false.
        WorkFailed: its folder cannot be made, written to or locked.
    """
    try:
        lock_path.parent.mkdir(parents=True, exist_ok=True)
        file = open(lock_path, "a+b")  # noqa: SIM115 (closed below; an error of opening is not one of the caller's work)
    except OSError as error:
        raise explain_os_error(error, lock_path.parent) from error
    with file:
        lock(file.fileno(), lock_path.parent, wait=wait)
        yield


def checksum_file(path: Path) -> str:
    """`xxh3_128:<hex>` of a file's bytes."""
    digest = xxhash.xxh3_128()
    with open(path, "rb") as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return f"xxh3_128:{digest.hexdigest()}"


def explain_os_error(error: OSError, path: Path) -> WorkFailed:
    """The one-line error for an `OSError` met at `path`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return OutOfSpace(f"{path}: no space left on the device; free some or choose another output")
    return WorkFailed(f"{path}: {error.strerror or error}")
