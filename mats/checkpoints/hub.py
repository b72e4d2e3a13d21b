"""Checkpoints named by a hub id: from the cache, or downloaded into it. Weights of one format alone are fetched."""

from __future__ import annotations

from pathlib import Path

from mats.errors import RequestError

COMPANIONS = ["*.json", "*.txt", "*.model", "*.jinja", "*.py", "LICENSE*", "NOTICE*"]


def download(repository: str, revision: str | None = None) -> Path:
    """The local snapshot of a hub repository: safetensors where it has them, `.bin` otherwise.

    Without a network, or with HF_HUB_OFFLINE=1, only the cache is asked.

    Raises:
        RequestError: no such repository or revision, no access to it, or offline and not in the cache.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        for weights in ("*.safetensors", "*.bin"):
            folder = Path(
                snapshot_download(
                    repository, revision=revision, allow_patterns=[*COMPANIONS, weights], ignore_patterns=["*/*"]
                )
            )
            if any(folder.glob(weights)):
                break
        return folder
    except LocalEntryNotFoundError as error:
        raise RequestError(
            f"{repository}: no such folder here, and not in the hub cache; the hub cannot be reached (offline?)"
        ) from error
    except (HfHubHTTPError, HFValidationError) as error:
        reason = str(error).strip().splitlines()[0]
        at = f" at revision {revision}" if revision else ""
        raise RequestError(
            f"{repository}{at}: neither a folder here nor a readable hub repository: {reason}"
        ) from error
