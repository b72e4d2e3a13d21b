"""Stores named by a hub id: `owner/name`, `owner/name@revision`, `owner/name:folder`, `owner/name@revision:folder`."""

from __future__ import annotations

import re
from pathlib import Path

from mats.checkpoints.hub import snapshot
from mats.checkpoints.locate import looks_local
from mats.errors import RequestError
from mats.store.manifest import MANIFEST_NAME

STORE_ID = re.compile(
    r"(?P<repository>[\w.-]+/[\w.-]+)(@(?P<revision>[\w.-]+(/[\w.-]+)*))?(:(?P<folder>[\w.-]+(/[\w.-]+)*))?"
)


def find_store(source: str) -> Path | None:
    """The folder of a store, here or on the hub; None for what is something else: a checkpoint, or nothing at all.

    Of a repository that may be either, the manifest alone is asked for.

    Raises:
        RequestError: as `local_store`, of an id with a revision or a folder, which only stores have.
    """
    path = Path(source).expanduser()
    found = STORE_ID.fullmatch(source)
    if path.exists() or found is None or looks_local(Path(found["repository"])):
        return path if (path / MANIFEST_NAME).is_file() else None
    if found["revision"] is None and found["folder"] is None:
        try:
            root = snapshot(found["repository"], None, allow=[MANIFEST_NAME], ignore=["*/*"])
        except RequestError:
            return None  # whoever opens it as a checkpoint tells why it cannot be had
        if not (root / MANIFEST_NAME).is_file():
            return None
    return local_store(source)


def local_store(source: str | Path) -> Path:
    """The folder of a store: as it is where there is one, else the local snapshot of a hub id.

    Without a network, or with HF_HUB_OFFLINE=1, only the hub's cache is asked. What is neither a folder nor a hub id
    comes back as a path, for the caller to say that there is nothing.

    Raises:
        RequestError: no such repository, revision or folder in it, no access, or offline and not in the cache.
    """
    path = Path(source).expanduser()
    found = STORE_ID.fullmatch(str(source))
    if path.exists() or found is None or looks_local(Path(found["repository"])):
        return path
    inside = "" if found["folder"] is None else f"{found['folder']}/"
    root = snapshot(
        found["repository"],
        found["revision"],
        allow=[f"{inside}*.json", f"{inside}*.safetensors"],
        ignore=[f"{inside}*/*"],
    )
    folder = root / inside
    if not (folder / MANIFEST_NAME).is_file():
        known = sorted(item.parent.relative_to(root).as_posix() for item in root.glob(f"**/{MANIFEST_NAME}"))
        folders = [found["repository"] if item == "." else f"{found['repository']}:{item}" for item in known]
        hint = folders[0] if folders else "the id of a repository made by `mats metadata export`"
        raise RequestError(
            f"{source}: no metadata store, there is no {inside}{MANIFEST_NAME} in it; {hint} would be right"
        )
    return folder
