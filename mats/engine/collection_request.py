"""What step one is asked to measure, the folder that follows from it, and the identity of its examples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import xxhash

from mats.curvature.settings import CollectionSettings
from mats.data import DatasetSpec, Example, load_examples
from mats.engine.devices import DTYPES
from mats.errors import DataError, RequestError
from mats.store import DataIdentity, store_folder

ACCUMULATORS = ("auto", "device", "cpu", "disk")
# Settings that bound the work but do not change a single sum.
NOT_MEASURED = ("memory_budget", "exact_limit")
# Patterns that leave everything in unless a request says otherwise.
NARROWED = ("block_parameters", "diagonal_parameters")
# Parts of a dataset file that no example depends on, or that DataIdentity holds by itself.
NOT_SHOWN = {"name", "root", "metrics", "length_normalization", "generation", "perplexity"}
FINGERPRINT_MODULUS = 1 << 128


@dataclass(frozen=True)
class CollectionRequest:
    """Everything that decides what `save_metadata` measures, and how it goes about it.

    Attributes:
        model: Folder, file or hub id of the checkpoint or adapter.
        name: How recipes and stores call the model.
        dataset: What it is shown.
        base: The base weights, for adapters and for checkpoints that are state dicts alone.
        split: Split of the dataset.
        examples: At most so many examples of the split, from its start; None for all.
        fold: (k, n): only examples whose id falls into hash class k of n. The stores of all n classes add up to that
            of the whole, so halves can be kept apart and added later.
        batch_size: Examples in one forward pass; changes the sums by rounding alone.
        settings: What is summed.
        root: Home of the stores.
        device: `auto` (cuda where there is one), `cpu`, `cuda`, `cuda:1`.
        dtype: In which the model runs; None for the checkpoint's own.
        memory_budget: Bytes that the sums of one pass may take; overrides the one in `settings`.
        overwrite: Measure again and replace a store that is there.
        checkpoint_seconds: Partial sums are saved this often, or less where saving would take over a tenth of the time.
        checkpoint_batches: Save after so many batches instead.
        trust_remote_code: Whether code shipped with the checkpoint may run.
        accumulators: Where sums accumulate: `device` (beside their layers), `cpu` (host memory), `disk` (memory-mapped
            files beside the partial sums), or `auto`, the first of these with room.
        device_map: `auto` lays the model over all GPUs of this machine; None: on `device` alone.
        revision: Branch, tag or commit of a hub id.
        measured_on: Another checkpoint to measure in place of `model`: a merged model, for statistics at its weights.
            Where it keeps heads, that of the model called `name` goes on it.
        head: The head to put on a merged body that keeps several; default: see `measured_on`, else the folder's own.
        position: Where the model stands while it is measured, on the line from its base (0) to its own weights (1).
        heads: Where `position` is below 1: patterns of the parameters that stay its own, being a head that is not
            merged; (): what transformers calls a head; None: everything moves, heads too, because they are merged. A
            head moved toward one that was never trained (a base's random one) measures another task.
    """

    model: str
    name: str
    dataset: DatasetSpec
    base: str | None = None
    split: str = "validation"
    examples: int | None = 1000
    fold: tuple[int, int] | None = None
    batch_size: int = 8
    settings: CollectionSettings = field(default_factory=CollectionSettings)
    root: Path = Path("metadata")
    device: str = "auto"
    dtype: str | None = "float32"
    memory_budget: int | None = None
    overwrite: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_batches: int | None = None
    trust_remote_code: bool = False
    accumulators: str = "auto"
    device_map: str | None = None
    revision: str | None = None
    measured_on: str | None = None
    head: str | None = None
    position: float = 1.0
    heads: tuple[str, ...] | None = ()

    def __post_init__(self) -> None:
        """Check what needs no file.

        Raises:
            RequestError: with the field, its value and its range.
        """
        for name in ("examples", "batch_size", "checkpoint_batches"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise RequestError(f"{name}: {value}; 1 or more would be right")
        if not self.checkpoint_seconds > 0:
            raise RequestError(f"checkpoint_seconds: {self.checkpoint_seconds}; more than 0 would be right")
        if not 0 <= self.position <= 1:
            raise RequestError(f"position: {self.position}; from 0 (the base) to 1 (the model) would be right")
        if self.position != 1 and self.measured_on is not None:
            raise RequestError(
                f"position: {self.position}: statistics measured on {self.measured_on} are those of its weights; "
                "position 1 would be right"
            )
        if self.fold is not None and not (self.fold[1] >= 1 and 0 <= self.fold[0] < self.fold[1]):
            raise RequestError(f"fold: {self.fold}; (k, n) with 0 ≤ k < n would be right")
        if self.accumulators not in ACCUMULATORS:
            raise RequestError(f"accumulators: {self.accumulators!r} is not one of {', '.join(ACCUMULATORS)}")
        if self.device_map not in (None, "auto"):
            raise RequestError(f"device_map: {self.device_map!r}; auto, or nothing, would be right")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise RequestError(f"dtype: {self.dtype!r} is not one of {', '.join(DTYPES)}")

    @property
    def effective_settings(self) -> CollectionSettings:
        """`settings` under the request's own memory budget."""
        if self.memory_budget is None:
            return self.settings
        return replace(self.settings, memory_budget=self.memory_budget)


def estimator_of(request: CollectionRequest) -> dict[str, Any]:
    """What is summed, as JSON values: equal for stores that may be added."""
    settings = {key: value for key, value in asdict(request.settings).items() if key not in NOT_MEASURED}
    for key in NARROWED:
        if tuple(settings[key]) == ("*",):
            del settings[key]  # stores measured before there were such patterns keep their names
    if settings["draws"] == 1:
        del settings["draws"]
    settings["statistics"] = sorted(set(settings["statistics"]))
    if request.position != 1:
        settings |= {"position": request.position, "heads": request.heads}
    plain: dict[str, Any] = json.loads(json.dumps({**settings, "dtype": request.dtype}))
    return plain


def collection_folder(request: CollectionRequest) -> Path:
    """The folder of the store that `request` makes; known before anything is read.

    Batch size, device, memory and the place of the dataset's files have no say in it.
    """
    settings = {
        "estimator": estimator_of(request),
        "data": shown_settings(request.dataset),
        "examples": request.examples,
        "fold": request.fold,
        "base": request.base,
        "revision": request.revision,
    }
    # Named where they are given, so that all other stores keep the names that they had before.
    settings |= {name: value for name in ("measured_on", "head") if (value := getattr(request, name)) is not None}
    choice = request.settings
    return store_folder(
        request.root, request.name, request.dataset.name, request.split, choice.labels, choice.loss, settings
    )


def shown_settings(spec: DatasetSpec) -> dict[str, Any]:
    """All of a dataset file that decides what one example looks like to the model, as JSON values."""
    return spec.model_dump(mode="json", exclude=NOT_SHOWN)


def select_examples(request: CollectionRequest) -> list[Example]:
    """The examples to measure, in file order.

    Raises:
        DataError: the split is empty, a row is faulty, or the fold holds no example.
    """
    examples = load_examples(request.dataset, request.split, limit=request.examples)
    if request.fold is None:
        return examples
    part, parts = request.fold
    chosen = [item for item in examples if xxhash.xxh3_64_intdigest(item.example_id.encode()) % parts == part]
    if not chosen:
        raise DataError(
            f"dataset {request.dataset.name}, split {request.split}: fold {part}/{parts} holds none of the "
            f"{len(examples)} examples; fewer folds or more examples would be right"
        )
    return chosen


def data_identity(request: CollectionRequest, examples: Sequence[Example]) -> DataIdentity:
    """What the manifest says about the examples.

    The fingerprint is a sum over examples, so that the fingerprints of disjoint stores add like their sums.
    """
    spec = request.dataset
    total = sum(int(example_digest(example), 16) for example in examples) % FINGERPRINT_MODULUS
    return DataIdentity(
        name=spec.name,
        split=request.split,
        template=" | ".join(template.name or template.text for template in spec.known_templates) or None,
        settings=shown_settings(spec),
        fold=None if request.fold is None else f"{request.fold[0]}/{request.fold[1]}",
        fingerprint=f"{total:032x}",
    )


def example_digest(example: Example) -> str:
    """32 hex digits of one example's content, its id included."""
    fields = [example.example_id, example.text, example.text_pair, example.label, example.target, example.choices]
    digest = xxhash.xxh3_128(json.dumps(fields).encode())
    if example.image is not None:
        digest.update(f"{example.image.dtype.str}{example.image.shape}".encode())
        digest.update(example.image.tobytes())
    return digest.hexdigest()
