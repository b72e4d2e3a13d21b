"""Checkpoints named by a hub id: from the cache, or downloaded into it. Weights of one format alone are fetched."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mats.errors import RequestError

COMPANIONS = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "NOTICE*"]


def download(repository: str, revision: str | None = None) -> Path:
    """The local snapshot of a hub repository: safetensors where it has them, `.bin` otherwise.

    Without a network, or with HF_HUB_OFFLINE=1, only the cache is asked.

    Raises:
        RequestError: no such repository or revision, no access to it, or offline and not in the cache.
    """
    for weights in ("*.safetensors", "*.bin"):
        folder = snapshot(repository, revision, allow=[*COMPANIONS, weights], ignore=["*/*"])
        if any(folder.glob(weights)):
            break
    return folder


def snapshot(repository: str, revision: str | None, *, allow: Sequence[str], ignore: Sequence[str]) -> Path:
    """The local snapshot of the files of a hub repository that match `allow` and not `ignore`.

    Raises:
        RequestError: as `download`.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(repository, revision=revision, allow_patterns=list(allow), ignore_patterns=list(ignore))
        )
    except LocalEntryNotFoundError as error:
        at = f" at revision {revision}" if revision else ""
        raise RequestError(
            f"{repository}: no such folder here, and not in the hub cache{at}; the hub cannot be reached (offline?)"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise RequestError(
            f"{repository}{at}: neither a folder here nor a readable hub repository: {reason}"
        ) from error
