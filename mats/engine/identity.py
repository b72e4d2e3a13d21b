"""What decides the bytes of a merge, digested: partial work is taken up again only under the same digest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

import xxhash
from pydantic import BaseModel

from mats.checkpoints import Checkpoint
from mats.checkpoints.locate import local_path
from mats.engine.devices import resolve_device
from mats.engine.inputs import MergeInputs
from mats.engine.plan import MergePlan
from mats.engine.request import MergeRequest
from mats.methods.assigned import AssignedSettings

WITHOUT_EFFECT = {
    "output": "where the bytes lie",
    "overwrite": "what happens to other bytes",
    "strict": "what is said once all is written",
    "memory_budget": "which systems are solved together; the plan's groups are in the identity",
    "max_shard_bytes": "the layout of the files, which the writer compares itself",
    "device": "its kind is in the identity, after `auto` is resolved",
    "notes": "told in the report, which is written anew",
}
"""Fields of a request that are not in its identity, and why; all others are, those to come included."""


def merge_identity(inputs: MergeInputs, plan: MergePlan) -> str:
    """`xxh3_128:<hex>` of settings, plan, device kind, and the input files' names, sizes and times of change.

    Times of change stand in for content, which would cost a read of everything. They decide only whether partial work
    is reused; nothing of them reaches the output.
    """
    request = inputs.request
    adapted = [model for model in request.models if model.adapter is not None]
    return digest(
        {
            "request": request_content(request),
            "laid_on": [_states(local_path(model.path)) for model in adapted],
            "files": [
                file_states(checkpoint) for checkpoint in (*inputs.checkpoints, *filter(None, [inputs.given_base]))
            ],
            "asked": [file_states(checkpoint) for checkpoint in inputs.asked.checkpoints.values()],
            "stores": [inputs.store(index).fingerprint for index in inputs.opened_stores],
            "device": resolve_device(request.device).type,
            "groups": [list(group.names) for group in plan.groups],
        }
    )


def request_content(request: MergeRequest) -> dict[str, Any]:
    """A request as plain data: every field that may change the bytes of the output."""
    names = [field.name for field in fields(request) if field.name not in WITHOUT_EFFECT]
    content = {name: _plain(getattr(request, name)) for name in names if name != "assignments"}
    return {**content, "assignments": _assignments(request.assignments)}


def digest(content: Mapping[str, Any]) -> str:
    """`xxh3_128:<hex>` of plain data."""
    text = json.dumps(content, sort_keys=True, default=str)
    return f"xxh3_128:{xxhash.xxh3_128(text.encode()).hexdigest()}"


def _plain(value: Any) -> Any:
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if is_dataclass(value):
        return {field.name: _plain(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    return [_plain(entry) for entry in value] if isinstance(value, (tuple, list)) else value


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
