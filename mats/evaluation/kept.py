"""Predictions kept on disk, and taken up again by a request that is the same to the last word and weight."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import xxhash

from mats.checkpoints import open_checkpoint
from mats.data import DatasetSpec, Example
from mats.evaluation.result import EvaluationResult, result_of, write_predictions
from mats.files import checksum_file, write_json_atomically

SCHEMA_VERSION = 1
LIBRARIES = ("mats", "torch", "transformers")
PLACE = {"root", "source", "splits"}  # keys of a dataset file that say where rows are, not what they are


def model_fingerprint(path: str | Path, base: str | None, head: str | None = None) -> str:
    """Content of weights, head and configuration of a model, and of the base under an adapter; reads all of them."""
    with open_checkpoint(path, head=head) as checkpoint:
        parts = [checkpoint.fingerprint(), checkpoint.config]
        whole = checkpoint.kind == "model" and checkpoint.config is not None
        below = base or (checkpoint.config or {}).get("base_model_name_or_path")
    if not whole and below is not None:
        with open_checkpoint(below) as checkpoint:
            parts += [checkpoint.fingerprint(), checkpoint.config]
    return _digest(parts)


def request_of(
    fingerprint: str, tokens: str, dtype: str | None, spec: DatasetSpec, examples: Sequence[Example]
) -> dict[str, Any]:
    """All that the predictions depend on, ready for JSON.

    Args:
        fingerprint: Of the model.
        tokens: Fingerprint of the tokenizer.
        dtype: Of the loaded weights; None: as stored.
        spec: Of the dataset.
        examples: What the model is shown, with the right answers.
    """
    return {
        "schema_version": SCHEMA_VERSION,
        "versions": {name: _version(name) for name in LIBRARIES},
        "model": fingerprint,
        "tokenizer": tokens,
        "dtype": dtype,
        "dataset": json.loads(spec.model_dump_json(exclude=PLACE)),
        "examples": _digest([_content(example) for example in examples]),
        "count": len(examples),
    }


def read_kept(path: Path, request: dict[str, Any], metrics: Sequence[str]) -> EvaluationResult | None:
    """The result of the predictions at `path`, if they are whole and were made by the same request."""
    manifest = manifest_of(path)
    try:
        content = json.loads(manifest.read_text(encoding="utf-8"))
        if content["request"] != request or content["checksum"] != checksum_file(path):
            return None
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, ValueError, KeyError, TypeError):  # absent, or not ours: scored anew and replaced
        return None
    return result_of(metrics, [json.loads(line) for line in lines if line], int(request["count"]))


def keep(path: Path, request: dict[str, Any], result: EvaluationResult) -> None:
    """Write the predictions, then the request that they answer: predictions alone are never taken up."""
    manifest_of(path).unlink(missing_ok=True)
    write_predictions(result, path)
    write_json_atomically(manifest_of(path), {"request": request, "checksum": checksum_file(path)})


def manifest_of(path: Path) -> Path:
    """Where the request behind a predictions file is written."""
    return path.with_suffix(".request.json")


def _content(example: Example) -> list[Any]:
    image = None if example.image is None else [list(example.image.shape), str(example.image.dtype)]
    pixels = None if example.image is None else xxhash.xxh3_128(example.image.tobytes()).hexdigest()
    texts = [example.text, example.text_pair, example.target, list(example.choices), list(example.answers)]
    return [example.example_id, example.label, *texts, dict(example.kept), image, pixels]


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, default=str)
    return f"xxh3_128:{xxhash.xxh3_128(text.encode()).hexdigest()}"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "unknown"
