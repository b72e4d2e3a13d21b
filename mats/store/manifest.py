"""The manifest of a metadata store: what was measured, on which weights, from which examples, and in which files."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import StringConstraints, TypeAdapter, ValidationError

from mats.errors import InputsMismatch, StoreCorrupt
from mats.store.codecs import ENCODING_PATTERN
from mats.store.records import LayerRecord, SiteRecord

SCHEMA_VERSION = 1
COMPRESSED_VERSION = 2  # of stores whose sums are not exactly those that were measured
MANIFEST_NAME = "manifest.json"
RUN_NAME = "run.json"
CHECKSUMS_NAME = "checksums.sha256"
PUBLISHED_NAMES = ("README.md", "LICENSE", CHECKSUMS_NAME, ".gitattributes")  # beside a store that was exported
STATISTICS = ("block", "diagonal", "input_gram", "output_gram")
ALWAYS_SYMMETRIC = ("block", "output_gram")

Encoding = Annotated[str, StringConstraints(pattern=f"^{ENCODING_PATTERN}$")]
DtypeName = Literal["float32", "float64"]


@dataclass(frozen=True)
class ModelIdentity:
    """The weights that were measured.

    Attributes:
        name: The name a recipe gives the model.
        source: Path or hub id it was read from, as asked for.
        revision: Revision on the hub, or None.
        fingerprint: Content of the weights (`Checkpoint.fingerprint`).
        base: Source of the base weights under an adapter, or None.
        base_fingerprint: Content of those base weights, or None.
    """

    name: str
    source: str
    revision: str | None
    fingerprint: str
    base: str | None = None
    base_fingerprint: str | None = None


@dataclass(frozen=True)
class DataIdentity:
    """The examples that were shown.

    Attributes:
        name: Name of the dataset.
        split: Split, or several joined by `+` after stores were added.
        template: Prompt template (or templates), or None.
        settings: Everything else that decides what one example looks like to the model.
        fold: `"k/n"`: only examples of that hash class were shown; None for all. Folds joined by `+` after adding.
        fingerprint: Content of the examples: 32 hex digits, a sum over examples modulo 2^128, so that it adds too.
    """

    name: str
    split: str
    template: str | None
    settings: dict[str, Any] = field(default_factory=dict)
    fold: str | None = None
    fingerprint: str = "0" * 32


@dataclass(frozen=True)
class TensorRecord:
    """One stored sum: `upper` holds a [n, n] symmetric matrix as n (n + 1) / 2 numbers, `dense` the tensor itself.

    All other encodings are lossy (`mats.store.codecs`); `shape` and `dtype` are those of the tensor that comes back.
    """

    file: str
    encoding: Encoding
    shape: tuple[int, ...]
    dtype: DtypeName


@dataclass(frozen=True)
class FileRecord:
    """One shard: its length and `xxh3_128:<hex>` of its bytes."""

    bytes: int
    checksum: str


@dataclass(frozen=True)
class Manifest:
    """Everything about a store but the numbers themselves.

    `tensors` and `files` are filled in by `write_store`; the caller leaves them empty.

    Attributes:
        model: The weights measured.
        data: The examples shown.
        estimator: What was summed: labels, loss, seed, statistics, dtypes; equal between stores that may be added.
        examples: Number of examples summed.
        example_ids: Their ids, sorted.
        sites: Where inputs were measured.
        layers: Modules with a weight, and the site that feeds each.
        parameters: Checkpoint names with a `diagonal` or `block`.
        uncovered: Checkpoint name to the reason why nothing was measured for it.
        tokens: Rows summed, under `site:<name>` and `layer:<name>`.
        fourth_moments: Σ‖x‖⁴ over those rows, same keys.
        tensors: `<statistic>/<name>` to where and how it is stored.
        files: Shard name to length and checksum.
        schema_version: Version of this format.
        compression: None for sums as they were measured. Else `format`, `of` (fingerprint of the exact store) and
            `relative_error` (key → ‖stored − measured‖ ÷ ‖measured‖, Frobenius), or what such stores were added from.
    """

    model: ModelIdentity
    data: DataIdentity
    estimator: dict[str, Any]
    examples: int
    example_ids: tuple[str, ...]
    sites: tuple[SiteRecord, ...]
    layers: tuple[LayerRecord, ...]
    parameters: tuple[str, ...]
    uncovered: dict[str, str]
    tokens: dict[str, float]
    fourth_moments: dict[str, float]
    tensors: dict[str, TensorRecord] = field(default_factory=dict)
    files: dict[str, FileRecord] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    compression: dict[str, Any] | None = None

    def to_json(self) -> bytes:
        """The file's bytes: sorted keys, so that equal manifests are equal files.

        What came later than schema 1 and is not used is left out, so that stores without it keep their bytes.
        """
        content = asdict(self)
        if self.compression is None:
            del content["compression"]
        text = json.dumps(content, indent=1, sort_keys=True, ensure_ascii=False, allow_nan=False)
        return (text + "\n").encode()


def read_manifest(path: Path) -> Manifest:
    """Parse and check a manifest file.

    Raises:
        StoreCorrupt: not JSON, a key missing or unknown, or a value of the wrong type.
        InputsMismatch: written by another version of the format.
    """
    try:
        raw = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreCorrupt(f"{path}: missing; a store without its manifest is incomplete") from error
    except (OSError, ValueError) as error:
        raise StoreCorrupt(f"{path}: not readable as JSON ({error})") from error
    if not isinstance(raw, dict):
        raise StoreCorrupt(f"{path}: holds a JSON {type(raw).__name__}, a manifest is an object")
    _check_version(path, raw)
    unknown = sorted(set(raw) - {item.name for item in fields(Manifest)})
    if unknown:
        raise StoreCorrupt(f"{path}: unknown key {unknown[0]!r}; schema {raw['schema_version']} has none of that name")
    try:
        return _adapter().validate_json(json.dumps(raw))
    except ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"])
        raise StoreCorrupt(f"{path}: {where}: {fault['msg']} (received {fault['input']!r:.80})") from error


def statistic_of(key: str) -> str:
    """The statistic of `<statistic>/<name>`."""
    return key.split("/", 1)[0]


def encoding_of(key: str, shape: tuple[int, ...]) -> Encoding:
    """How the sum under `key` is stored: symmetric statistics by their upper triangle, all else as it is.

    The kind of an `input_gram` shows in its shape: [d, d] for a Gram matrix, [vocab] for the counts of an embedding.
    """
    statistic = statistic_of(key)
    if statistic in ALWAYS_SYMMETRIC or (statistic == "input_gram" and len(shape) == 2):
        return "upper"
    return "dense"


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """`key: a, not b` for each key in which two flat mappings differ."""
    missing = object()
    return [
        f"{key}: {ours.get(key, 'absent')!r} and {theirs.get(key, 'absent')!r}"
        for key in sorted(set(ours) | set(theirs))
        if ours.get(key, missing) != theirs.get(key, missing)
    ]


def _check_version(path: Path, raw: Mapping[str, Any]) -> None:
    version = raw.get("schema_version")
    if version not in (SCHEMA_VERSION, COMPRESSED_VERSION):
        raise InputsMismatch(
            f"{path}: schema_version {version!r}, this mats reads {SCHEMA_VERSION} and {COMPRESSED_VERSION}; "
            "use the mats that wrote it, or measure again with save-metadata"
        )


@cache
def _adapter() -> TypeAdapter[Manifest]:
    return TypeAdapter(Manifest)
