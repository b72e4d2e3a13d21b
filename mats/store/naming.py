"""The folder of a store: readable parts, and eight hex digits of everything that changes what is measured."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import xxhash

from mats.errors import RequestError


def store_folder(
    root: str | Path, model: str, dataset: str, split: str, labels: str, loss: str, settings: Mapping[str, Any]
) -> Path:
    """`<root>/<model>/<dataset>-<split>-<labels>-<loss>-<8 hex>`.

    The digits are a hash of `settings` and of the other parts as given, so that two requests share a folder only if
    they measure the same; parts are made safe as file names, which alone could make two of them equal.

    Args:
        root: Home of the stores, `metadata` by default in recipes.
        model: Name of the model.
        dataset: Name of the dataset.
        split: Split measured.
        labels: `empirical`, `sampled` or `exact`.
        loss: `mean` or `sum`.
        settings: JSON values: all else that changes what is measured, and nothing that does not (batch size, device).

    Raises:
        RequestError: a part has no character that a file name can hold, or a setting is not a JSON value.
    """
    parts = {"model": model, "dataset": dataset, "split": split, "labels": labels, "loss": loss}
    names = {what: _file_name(what, part) for what, part in parts.items()}
    digits = settings_digits({"settings": dict(settings), **parts})
    leaf = "-".join((names["dataset"], names["split"], names["labels"], names["loss"], digits))
    return Path(root) / names["model"] / leaf


def settings_digits(settings: Mapping[str, Any]) -> str:
    """Eight hex digits of the canonical JSON of `settings`: key order and tuple or list make no difference.

    Raises:
        RequestError: a value is not JSON.
    """
    try:
        text = json.dumps(settings, sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise RequestError(f"settings of a store: {error}; only JSON values can be recorded") from error
    return xxhash.xxh3_64_hexdigest(text.encode())[:8]


def _file_name(what: str, part: str) -> str:
    name = re.sub(r"[^\w.-]+", "--", part, flags=re.ASCII).strip(".-")
    if not name:
        raise RequestError(f"{what} name {part!r}: no letter or digit in it; a folder is named after it")
    return name[:100]
