"""Facts about files, for `mats inspect`: a flat mapping to print, and one row per tensor."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from math import prod
from pathlib import Path
from typing import Any

Description = tuple[dict[str, Any], list[tuple[Any, ...]], Sequence[str]]
"""Facts, rows, and the names of the rows' columns."""


def describe_checkpoint(source: str) -> Description:
    """What the headers of a checkpoint say.

    Raises:
        MatsError: as `open_checkpoint`.
    """
    from mats.checkpoints import open_checkpoint

    with open_checkpoint(source) as checkpoint:
        infos = list(checkpoint.tensors.values())
        config = checkpoint.config or {}
        facts = {
            "path": str(checkpoint.path),
            "kind": checkpoint.kind,
            "architecture": (config.get("architectures") or [config.get("peft_type")])[0],
            "parameters": sum(info.numel for info in infos),
            "bytes": sum(info.nbytes for info in infos),
            "tensor_count": len(infos),
            "dtypes": dict(Counter(_dtype(info.dtype) for info in infos)),
        }
        rows = [(info.name, _dtype(info.dtype), list(info.shape)) for info in infos]
    return facts, rows, ("name", "dtype", "shape")


def describe_store(folder: Path) -> Description:
    """What the manifest of a store says.

    Raises:
        MatsError: as `open_store`.
    """
    from mats.store import open_store
    from mats.store.compression import compression_line
    from mats.store.manifest import statistic_of

    store = open_store(folder)
    manifest = store.manifest
    facts = {
        "path": str(folder),
        "kind": "metadata store",
        "model": manifest.model.name,
        "model_source": manifest.model.source,
        "model_fingerprint": manifest.model.fingerprint,
        "data": manifest.data.name,
        "split": manifest.data.split,
        "examples": manifest.examples if store.proxy is None else None,
        "statistics": dict(Counter(statistic_of(key) for key in manifest.tensors)),
        "sites": len(manifest.sites),
        "layers": len(manifest.layers),
        "bytes": sum(record.bytes for record in manifest.files.values()),
        "proxy": store.proxy,
        "compression": None if manifest.compression is None else compression_line(manifest.compression),
        "estimator": manifest.estimator,
        "uncovered": manifest.uncovered,
    }
    rows = [
        (key, record.encoding, record.dtype, list(record.shape), prod(record.shape))
        for key, record in sorted(manifest.tensors.items())
    ]
    return facts, rows, ("sum", "encoding", "dtype", "shape", "entries")


def describe_report(path: Path) -> dict[str, Any]:
    """How a result was made, by its report.

    Raises:
        RequestError: the report is not one that this version reads.
    """
    from mats.errors import WorkFailed
    from mats.reporting.report import validate_report
    from mats.reporting.summary import solved_layers, unconverged

    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise WorkFailed(f"{path}: not JSON ({error}); merge again to write it anew") from error
    report = validate_report(value, source=str(path))
    return {
        "method": report["method"],
        "base": report["base"],
        "models": [f"{model['name']} (weight {model['weight']:g})" for model in report["models"]],
        "parameters_by_rule": report["parameters"]["by_rule"],
        "systems_solved": len(solved_layers(report)),
        "unconverged": [layer["name"] for layer in unconverged(report)],
    }


def _dtype(dtype: Any) -> str:
    """`float32` for `torch.float32`."""
    return str(dtype).removeprefix("torch.")
