"""A request with everything settled before a model is loaded: sizes, examples, identity, and where things go."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import xxhash

from mats.checkpoints import open_checkpoint
from mats.data import Example
from mats.engine.collection_request import example_digest, shown_settings
from mats.engine.devices import resolve_device
from mats.errors import RequestError
from mats.training.continuations import continuation_spec
from mats.training.examples import TrainingData, read_data
from mats.training.order import Shape
from mats.training.processes import process_count
from mats.training.request import ROOT, TrainingRequest
from mats.training.settings import TrainingSettings

DEFAULT_EPOCHS = 3.0
WITHOUT_EFFECT = ("micro_batch_size",)  # changes no update, beyond rounding


@dataclass(frozen=True)
class TrainingPlan:
    """What a run will do.

    Attributes:
        request: What was asked.
        data: Every example.
        shape: Examples per update, per micro-batch, and how many updates.
        evaluate_every: Updates between two evaluations.
        output: Folder of the result.
        identity: What decides the result; a finished folder with the same one is not made again.
        device: `cpu` or `cuda`.
    """

    request: TrainingRequest
    data: TrainingData
    shape: Shape
    evaluate_every: int
    output: Path
    identity: dict[str, Any]
    device: str

    @property
    def partial(self) -> Path:
        """Where the unfinished run lies."""
        return self.output.with_name(f".{self.output.name}.partial")


def plan_training(request: TrainingRequest) -> TrainingPlan:
    """Settle everything that needs no model.

    Raises:
        RequestError: sizes that do not divide, heads that do not suit, an unknown device, no base there.
        DataError: a split is missing or empty, or a row is faulty.
    """
    request.check_heads()
    device = _device(request.device)
    settings = request.settings
    if settings.continuation is not None:
        shown = tuple(continuation_spec(spec, settings.continuation) for spec in request.datasets)
        request = replace(request, datasets=shown)
    micro, accumulation = divide_batch(settings, process_count())
    data = read_data(request)
    per_pass = len(data.items) / settings.batch_size
    epochs = settings.epochs or DEFAULT_EPOCHS
    updates = settings.updates if settings.updates is not None else max(1, math.ceil(epochs * per_pass))
    shape = Shape(settings.batch_size, micro, accumulation, process_count(), updates)
    every = settings.evaluate_every or max(1, round(per_pass))
    return TrainingPlan(
        request=request,
        data=data,
        shape=shape,
        evaluate_every=every,
        output=request.output if request.output is not None else default_output(request),
        identity=_identity(request, data, updates),
        device=device,
    )


def divide_batch(settings: TrainingSettings, processes: int) -> tuple[int, int]:
    """Examples in a micro-batch, and how many of them each process sees per update.

    Raises:
        RequestError: `batch_size` is no multiple of micro-batch × processes.
    """
    micro = settings.micro_batch_size or max(1, settings.batch_size // processes)
    accumulation, rest = divmod(settings.batch_size, micro * processes)
    if rest or not accumulation:
        raise RequestError(
            f"batch_size {settings.batch_size} is no multiple of micro_batch_size {micro} × {processes} processes;"
            f" {max(1, round(settings.batch_size / (micro * processes))) * micro * processes} would be right"
        )
    return micro, accumulation


def default_output(request: TrainingRequest) -> Path:
    """`exp_out/train/<task>/<base>-<digest>`: other settings, another folder."""
    content = {
        "settings": request.settings.model_dump(mode="json"),
        "base": str(request.base),
        "data": [shown_settings(spec) for spec in request.datasets],
    }
    digest = xxhash.xxh3_64_hexdigest(json.dumps(content, sort_keys=True, default=str).encode())[:8]
    return ROOT / request.task_name / f"{Path(str(request.base)).name}-{digest}"


def _device(name: str) -> str:
    """`cpu` or `cuda`; which of several GPUs is for the environment to say, as Trainer has it."""
    device = resolve_device(name)
    if device.index:
        raise RequestError(
            f"device: {name!r}; cuda would be right, with CUDA_VISIBLE_DEVICES={device.index} in the environment"
        )
    return device.type


def _identity(request: TrainingRequest, data: TrainingData, updates: int) -> dict[str, Any]:
    """Settings, base and examples, as JSON values."""
    settings = request.settings.model_dump(mode="json", exclude=set(WITHOUT_EFFECT))
    with open_checkpoint(request.base) as base:
        fingerprint = base.fingerprint()
    datasets = []
    for position, spec in enumerate(request.datasets):
        rows = [example for at, example in data.items if at == position]
        entry = {"name": spec.name, "examples": len(rows), "fingerprint": _digest(rows)}
        if data.validation:
            held_out = data.validation[position]
            entry |= {"validation_examples": len(held_out), "validation_fingerprint": _digest(held_out)}
        datasets.append({**entry, "shown": shown_settings(spec), "metrics": list(spec.metrics)})
    settings |= {"updates": updates, "epochs": None, "heads": request.heads}
    whole = {"settings": settings, "base": fingerprint, "data": datasets}
    plain: dict[str, Any] = json.loads(json.dumps(whole))
    return plain


def _digest(examples: list[Example] | tuple[Example, ...]) -> str:
    """32 hex digits of the examples' content, in order."""
    digest = xxhash.xxh3_128()
    for example in examples:
        digest.update(example_digest(example).encode())
    return digest.hexdigest()
