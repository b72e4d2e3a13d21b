"""Everything that can be wrong with a store on disk, told at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from mats.errors import MatsError
from mats.files import checksum_file
from mats.store.codecs import PLAIN, STORED_CODES
from mats.store.hub import local_store
from mats.store.manifest import (
    MANIFEST_NAME,
    PUBLISHED_NAMES,
    RUN_NAME,
    STATISTICS,
    Manifest,
    encoding_of,
    read_manifest,
    statistic_of,
)
from mats.store.packing import packed_diagonal
from mats.store.reading import check_records
from mats.store.tensor_file import Encoded, check_finite, read_header, read_tensor


def verify_store(folder: str | Path) -> list[str]:
    """All faults of a store, one line each; an empty list means that every byte is as it was written.

    Checked: the manifest and its schema; that records agree among themselves; each shard's length, checksum and
    header; every sum's shape, dtype, finiteness and the sign of its diagonal; files that the manifest does not list.
    """
    try:
        path = local_store(folder)
    except MatsError as error:
        return [str(error)]
    if not path.is_dir():
        return [f"{path}: no such folder"]
    try:
        manifest = read_manifest(path / MANIFEST_NAME)
        check_records(path, manifest)
    except MatsError as error:
        return [str(error)]
    faults = list(_record_faults(path, manifest))
    for name in sorted(manifest.files):
        faults.extend(_file_faults(path, name, manifest))
    listed = {*manifest.files, MANIFEST_NAME, RUN_NAME, *PUBLISHED_NAMES}
    faults.extend(
        f"{item}: not listed in the manifest; it is no part of the store"
        for item in sorted(path.iterdir())
        if item.name not in listed
    )
    return faults


def _record_faults(path: Path, manifest: Manifest) -> Iterator[str]:
    """Where the manifest contradicts itself."""
    where = path / MANIFEST_NAME
    ids = manifest.example_ids
    if manifest.examples != len(ids):
        yield f"{where}: examples is {manifest.examples}, but {len(ids)} example ids are listed"
    if len(set(ids)) != len(ids):
        yield f"{where}: {len(ids) - len(set(ids))} example ids are listed twice"
    sites = {site.name: site for site in manifest.sites}
    layers = {layer.name: layer for layer in manifest.layers}
    for layer in manifest.layers:
        if layer.site not in sites:
            yield f"{where}: layer {layer.name} is fed by site {layer.site!r}, which is not listed"
    for key, record in manifest.tensors.items():
        statistic, _, name = key.partition("/")
        expected: tuple[int, ...] | None = None
        if statistic not in STATISTICS:
            yield f"{where}: sum {key!r}; a statistic is one of {', '.join(STATISTICS)}"
            continue
        if statistic == "input_gram" and name in sites:
            size = sites[name].size
            expected = (size, size) if sites[name].kind == "gram" else (size,)
        elif statistic == "output_gram" and name in layers:
            expected = (layers[name].out_size,) * 2
        elif statistic in ("input_gram", "output_gram") or name not in manifest.parameters:
            yield f"{where}: sum {key}: no site, layer or parameter of that name is listed"
        if expected is not None and record.shape != expected:
            yield f"{where}: sum {key} has shape {list(record.shape)}, its record says {list(expected)}"
        exact = encoding_of(key, record.shape)
        if record.encoding != exact and record.encoding in PLAIN:
            yield f"{where}: sum {key} is stored as {record.encoding!r}; {exact!r} would be right"
        elif record.encoding.startswith("dense") != (exact == "dense"):
            yield f"{where}: sum {key} is stored as {record.encoding!r}, which is no encoding of {exact!r} sums"
        elif record.encoding not in PLAIN and manifest.compression is None:
            yield f"{where}: sum {key} is stored as {record.encoding!r}; the store does not say that it is compressed"


def _file_faults(path: Path, name: str, manifest: Manifest) -> Iterator[str]:
    """What is wrong with one shard; its sums are looked at only where its header can be trusted."""
    file, listed = path / name, manifest.files[name]
    try:
        header = read_header(file)
    except MatsError as error:
        yield str(error)
        return
    size = file.stat().st_size
    if size != listed.bytes:
        yield f"{file}: {size} bytes, the manifest says {listed.bytes}"
    if (found := checksum_file(file)) != listed.checksum:
        yield f"{file}: checksum {found}, the manifest says {listed.checksum}"
    expected = {
        key: Encoded(record.encoding, record.shape, record.dtype)
        for key, record in manifest.tensors.items()
        if record.file == name
    }
    stored = {key + part for key, entry in expected.items() for part in entry.parts}
    for key in sorted(set(header) - stored - {"__metadata__"}):
        yield f"{file}: holds {key}, which the manifest does not list"
    for key in sorted(expected):
        yield from _sum_faults(file, key, header, expected[key])


def _sum_faults(file: Path, key: str, header: dict[str, dict[str, object]], entry: Encoded) -> Iterator[str]:
    tensors = {}
    for part, wanted in entry.parts.items():
        name = key + part
        if name not in header:
            yield f"{file}: {name} is missing"
            return
        found = (header[name].get("dtype"), header[name].get("shape"))
        if found != (STORED_CODES[wanted.dtype], list(wanted.shape)):
            yield f"{file}: {name} is {found[0]} {found[1]}, the manifest says {wanted.dtype} {list(wanted.shape)}"
            return
        try:
            tensors[part] = read_tensor(file, name)
            check_finite(f"{file}: {name}", tensors[part])
        except MatsError as error:
            yield str(error)
            return
    diagonal = _diagonal(entry, tensors)
    if diagonal.numel() and float(torch.min(diagonal)) < 0:
        what = "squares" if statistic_of(key) != "input_gram" else "squares or counts"
        yield f"{file}: {key} has {float(torch.min(diagonal)):.3g} on its diagonal; sums of {what} are never negative"


def _diagonal(entry: Encoded, tensors: dict[str, Tensor]) -> Tensor:
    """What must not be negative of a sum, by its stored tensors."""
    if entry.encoding == "upper":
        return packed_diagonal(tensors[""], entry.shape[0])
    if entry.encoding == "dense":
        return tensors[""]
    return tensors["#diagonal"] if "#diagonal" in tensors else entry.codec.diagonal(tensors, entry.shape)
