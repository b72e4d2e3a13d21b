"""What decides the bytes of a merge, digested: partial work is taken up again only under the same digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import xxhash

from mats.checkpoints import Checkpoint
from mats.checkpoints.locate import local_path
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.plan import MergePlan
from mats.methods.assigned import AssignedSettings


def merge_identity(inputs: MergeInputs, plan: MergePlan) -> str:
    """`xxh3_128:<hex>` of settings, plan, device kind, and the input files' names, sizes and times of change.

    Times of change stand in for content, which would cost a read of everything. They decide only whether partial work
    is reused; nothing of them reaches the output.
    """
    request = inputs.request
    content: dict[str, Any] = {
        "method": request.method.model_dump(mode="json"),
        "rules": [[rule.parameters, rule.method.model_dump(mode="json")] for rule in request.rules],
        "models": [
            [model.name, model.weight, model.path, str(model.metadata), model.measured_on] for model in request.models
        ],
        "laid_on": [
            [model.adapter, _states(local_path(model.path))] for model in request.models if model.adapter is not None
        ],
        "sparsify": [model.sparsify and model.sparsify.model_dump(mode="json") for model in request.models],
        "vocabulary": repr((request.vocabulary, request.chat_template)),
        "adapters": None if request.adapters is None else request.adapters.model_dump(mode="json"),
        "missing": request.missing,
        "heads": None if request.heads is None else [list(request.heads.parameters), request.heads.source],
        "files": [file_states(checkpoint) for checkpoint in (*inputs.checkpoints, *filter(None, [inputs.given_base]))],
        "asked": [file_states(checkpoint) for checkpoint in inputs.asked.checkpoints.values()],
        "assignments": _assignments(request.assignments),
        "arrangement": None if request.arrangement is None else asdict(request.arrangement),
        "stores": [inputs.store(index).fingerprint for index in inputs.opened_stores],
        "device": resolve_device(request.device).type,
        "dtype": request.dtype,
        "groups": [list(group.names) for group in plan.groups],
        "recipe": dict(request.resolved_recipe),
    }
    text = json.dumps(content, sort_keys=True, default=str)
    return f"xxh3_128:{xxhash.xxh3_128(text.encode()).hexdigest()}"


def _assignments(assignments: Mapping[str, AssignedSettings]) -> dict[str, Any]:
    """Which tensors share settings, and what these are: settings once each, whatever the number of tensors."""
    numbers: dict[AssignedSettings, int] = {}
    tensors = {name: numbers.setdefault(settings, len(numbers)) for name, settings in assignments.items()}
    return {"settings": [settings.model_dump(mode="json") for settings in numbers], "tensors": tensors}


def file_states(checkpoint: Checkpoint) -> list[tuple[str, int, int]]:
    """Name, size and time of change of every file of a checkpoint."""
    return _states(Path(checkpoint.path))


def _states(path: Path) -> list[tuple[str, int, int]]:
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files if file.is_file()]
