"""Step one: a checkpoint and its data become a metadata store.

Everything that can be wrong with the request is found before the model is loaded; what is wrong with the model before
the first batch. Partial sums are saved on the way, so that a run killed at any moment is finished by the same command,
with the bytes of a run that was not.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.checkpoints import Checkpoint, load_model, open_checkpoint, parameter_names
from mats.checkpoints.adapters import merge_base
from mats.checkpoints.densify import on_one_base
from mats.checkpoints.heads import head_names
from mats.curvature import CollectionPlan, plan_collection, unfuse_experts_
from mats.curvature.accumulators import Home
from mats.curvature.collector import entry_device
from mats.data import Batch, Example, check_labels_fit, load_processor, make_batches
from mats.engine.between import move_toward_base_
from mats.engine.collection_memory import MemoryPlan, plan_memory
from mats.engine.collection_passes import Run, run_passes
from mats.engine.collection_placement import check_all_here, home_of, spread
from mats.engine.collection_plan import SavePlan
from mats.engine.collection_request import (
    CollectionRequest,
    collection_folder,
    data_identity,
    estimator_of,
    select_examples,
)
from mats.engine.devices import device_of_process, resolve_device, resolve_dtype
from mats.engine.memory import peak_memory
from mats.engine.processes import Processes, together
from mats.errors import OutOfSpace, OutputExists, RequestError, StoreCorrupt
from mats.files import exclusive
from mats.progress import Progress
from mats.store import (
    DataIdentity,
    Manifest,
    ModelIdentity,
    open_store,
    partial_folder,
    remove_partial,
    write_store_locked,
)
from mats.store.sources import SourceParts

__all__ = ["CollectionRequest", "SavePlan", "collection_folder", "plan_save_metadata", "save_metadata"]

LIBRARIES = ("mats", "torch", "transformers", "safetensors")


@dataclass(frozen=True)
class Work:
    """What is known before the model is loaded: the store's folder, and whose curvature, head and examples."""

    request: CollectionRequest
    folder: Path
    model: ModelIdentity
    data: DataIdentity
    examples: tuple[Example, ...]
    head: str | None = None


@dataclass(frozen=True)
class Loaded:
    """A model ready to be measured.

    Attributes:
        unheld: tensors of its checkpoint that no parameter of it holds, and why.
        unmoved: parameters that stayed where they were while the others moved toward the base.
    """

    module: nn.Module
    batches: Sequence[Batch]
    plan: CollectionPlan
    unheld: dict[str, str]
    memory: MemoryPlan
    home: Home
    unmoved: tuple[str, ...]


def plan_save_metadata(request: CollectionRequest) -> SavePlan:
    """What `save_metadata(request)` would do; loads the model, writes nothing.

    Raises:
        MatsError: as `save_metadata`.
    """
    with together() as processes, _prepared(request) as (work, checkpoint):
        if processes.first_says(lambda: _is_complete(work)):
            return SavePlan(work.folder, "complete", len(work.examples), 0, None)
        return _save_plan(work, _load(work, checkpoint, processes))


def save_metadata(request: CollectionRequest, progress: Progress | None = None) -> Path:
    """Measure one model on its data and write the store; a store of the same measurement is left as it is.

    Under `accelerate launch` or `torchrun` the processes share the batches, and the first one writes.

    Args:
        request: What to measure.
        progress: Hears the plan first, then of every batch.

    Returns:
        The store's folder.

    Raises:
        RequestError: a path or a field of the request is wrong, or the folder holds another measurement (OutputExists).
        DataError: the dataset is empty or faulty.
        CheckpointCorrupt, NonFiniteWeights, InputsMismatch: the checkpoint cannot be read, or does not fit its base.
        NonFiniteStatistic: the model computes NaN or infinity.
        OutOfSpace: disk or memory is full.
    """
    started = time.monotonic()
    # The device is looked up first, so that a wrong one is told before processes wait for each other.
    with together(resolve_device(request.device)) as processes, _prepared(request) as (work, checkpoint):
        progress = processes.progress(progress)
        lock = exclusive(work.folder.with_name(f".{work.folder.name}.lock")) if processes.is_first else nullcontext()
        with lock:
            if processes.first_says(lambda: _is_complete(work)):
                progress.note(f"{work.folder}: complete, measured on these weights and examples; nothing to do")
                if processes.is_first:
                    remove_partial(work.folder)
                return work.folder
            with _memory_errors(request):
                loaded = _load(work, checkpoint, processes)
                for line in _save_plan(work, loaded).lines():
                    progress.note(line)
                _measure(work, loaded, processes, progress, started)
    return work.folder


@contextmanager
def _prepared(request: CollectionRequest) -> Iterator[tuple[Work, Checkpoint]]:
    """Open the checkpoint, read the examples, take both fingerprints."""
    source, head = _source_of(request)
    with open_checkpoint(source, revision=None if request.measured_on else request.revision, head=head) as checkpoint:
        if checkpoint.kind == "model" and checkpoint.config is not None:
            check_labels_fit(request.dataset, checkpoint.config, request.name)
        examples = select_examples(request)
        base, base_fingerprint = _base_of(request, checkpoint), None
        if base is None and request.position != 1:
            raise RequestError(
                f"{request.name}: position {request.position:g} lies between the base and the model, and no base is "
                "given; a base, or position 1, would be right"
            )
        if base is not None:
            with open_checkpoint(base) as below:
                base_fingerprint = below.fingerprint()
        model = ModelIdentity(
            name=request.name,
            source=source if head is None else f"{source} with the head of {head}",
            revision=request.revision,
            fingerprint=checkpoint.fingerprint(),
            base=base,
            base_fingerprint=base_fingerprint,
        )
        data = data_identity(request, examples)
        yield Work(request, collection_folder(request), model, data, tuple(examples), head), checkpoint


def _source_of(request: CollectionRequest) -> tuple[str, str | None]:
    """What is measured, and whose head is put on it."""
    if request.measured_on is None:
        return request.model, request.head
    kept = head_names(request.measured_on)
    return request.measured_on, request.head or (request.name if kept else None)


def _base_of(request: CollectionRequest, checkpoint: Checkpoint) -> str | None:
    """The base asked for, or the one that an adapter names as its own."""
    if request.base is not None or checkpoint.kind == "model":
        return request.base
    named = (checkpoint.config or {}).get("base_model_name_or_path")
    return None if named is None else str(named)


def _is_complete(work: Work) -> bool:
    """Whether the store is there already, measured on the same weights and examples.

    Raises:
        OutputExists: the folder holds something else, and `overwrite` is not given.
        StoreCorrupt: it is damaged, and `overwrite` is not given.
    """
    if not work.folder.exists() or work.request.overwrite:
        return False
    try:
        found = open_store(work.folder).manifest
    except StoreCorrupt as error:
        raise StoreCorrupt(f"{error}; pass --overwrite to measure again") from error
    ours = (work.model.fingerprint, work.model.base_fingerprint, work.data.fingerprint)
    theirs = (found.model.fingerprint, found.model.base_fingerprint, found.data.fingerprint)
    if ours == theirs:
        return True
    what = (
        "examples" if ours[:2] == theirs[:2] else f"weights ({found.model.fingerprint}, not {work.model.fingerprint})"
    )
    raise OutputExists(f"{work.folder}: measured on other {what}; pass --overwrite to measure again")


def _load(work: Work, checkpoint: Checkpoint, processes: Processes) -> Loaded:
    """The model on its device, its batches, and the plan made from the first one."""
    request = work.request
    spec, device = request.dataset, device_of_process(request.device, processes)
    processor = load_processor(checkpoint.path, spec, fallback=work.model.base)
    batches = make_batches(work.examples, spec, processor, request.batch_size, by_length=True)
    module = load_model(
        checkpoint.path,
        spec.task,
        base=work.model.base,
        device="cpu" if request.device_map else str(device),
        dtype=resolve_dtype(request.dtype),
        trust_remote_code=request.trust_remote_code,
        head=work.head,
        dense=True,
    )
    if request.device_map:
        module = spread(module, request)
    check_all_here(module, request.name)
    with _as_whole_model(work, checkpoint) as (whole, below):
        names: Mapping[str, str] = parameter_names(module, whole)
        unmoved: tuple[str, ...] = ()
        if request.position != 1 and below is not None:
            unmoved = move_toward_base_(module, names, whole, below, request.position, request.heads)
        names = unfuse_experts_(module, names)
        if not any(request.settings.selects(name) for name in names.values()):
            raise _nothing_to_measure(request)
        plan = plan_collection(module, batches[0], request.effective_settings, names)
        if not plan.items:
            raise _nothing_to_measure(request)
        largest, folder = max(plan.partition_bytes), partial_folder(work.folder)
        home = home_of(request, device, largest, folder, processes.rank)
        memory = plan_memory(module, plan, batches[0].to(entry_device(module)), home.name)
        return Loaded(module, batches, plan, _unheld(whole, names, plan), memory, home, unmoved)


@contextmanager
def _as_whole_model(work: Work, checkpoint: Checkpoint) -> Iterator[tuple[Checkpoint, Checkpoint | None]]:
    """The checkpoint whose names statistics get, and the base beside it where it is needed: all ones for (IA)³.

    Of a LoRA adapter it is the model that the adapter makes of its base, as merged.
    """
    if work.model.base is None or (checkpoint.kind != "lora" and work.request.position == 1):
        yield checkpoint, None
        return
    with open_checkpoint(work.model.base) as base:
        if checkpoint.kind == "lora":
            below, (whole,) = on_one_base(base, (checkpoint,), at_least=torch.float32)
            yield whole, below
        else:
            yield checkpoint, merge_base(base, (checkpoint,))


def _nothing_to_measure(request: CollectionRequest) -> RequestError:
    patterns, statistics = ", ".join(request.settings.parameters), ", ".join(request.settings.statistics)
    return RequestError(
        f"{request.name}: nothing to measure: no parameter of it that the patterns {patterns} choose has a rule for "
        f"{statistics}; other patterns or statistics would be right"
    )


def _unheld(checkpoint: Checkpoint, names: Mapping[str, str], plan: CollectionPlan) -> dict[str, str]:
    """Floating-point tensors of the checkpoint that the loaded model does not show, each with the reason."""
    held = set(names.values()) | set(plan.uncovered)
    held |= {name for group in checkpoint.tied if held & set(group) for name in group}
    chosen = [name for name, info in checkpoint.tensors.items() if info.dtype.is_floating_point and name not in held]
    return {name: "no parameter of the loaded model holds it" for name in chosen if plan.settings.selects(name)}


def _save_plan(work: Work, loaded: Loaded) -> SavePlan:
    state = "resume" if partial_folder(work.folder).exists() else "new"
    uncovered = {**loaded.plan.uncovered, **loaded.unheld}
    return SavePlan(
        work.folder,
        state,
        len(work.examples),
        len(loaded.batches),
        loaded.plan,
        loaded.memory,
        uncovered,
        position=work.request.position,
        unmoved=loaded.unmoved,
    )


def _measure(work: Work, loaded: Loaded, processes: Processes, progress: Progress, started: float) -> None:
    """All passes over the data; then the first process writes the store."""
    title = f"measuring {work.model.name} on {work.data.name}"
    identity = _identity(work, loaded)
    plan = loaded.plan
    run = Run(work.request, work.folder, title, identity, loaded.module, loaded.batches, plan, loaded.home, processes)
    measured = run_passes(run, progress)
    if measured is not None:
        manifest = _manifest(work, loaded, measured.scalars)
        run_info = _run_info(work.request, processes, loaded, started, measured.resumed_at)
        overwrite = work.request.overwrite
        write_store_locked(work.folder, manifest, measured.sums, run_info, overwrite=overwrite, progress=progress)
        remove_partial(work.folder)
    processes.barrier()


def _identity(work: Work, loaded: Loaded) -> dict[str, Any]:
    """What partial sums must have in common to be gone on from; every batch boundary follows from it."""
    return {
        "model": work.model.fingerprint,
        "base": work.model.base_fingerprint,
        "examples": work.data.fingerprint,
        "batch_size": work.request.batch_size,
        "batches_by": "length",
        "batches": len(loaded.batches),
        "sites": [site.name for site in loaded.plan.sites],
        "layers": [layer.name for layer in loaded.plan.layers],
    }


def _manifest(work: Work, loaded: Loaded, scalars: SourceParts) -> Manifest:
    """The manifest, whose `tensors` and `files` the writer fills in."""
    plan = loaded.plan
    in_order = [example.example_id for example in work.examples]  # whatever the order in which batches took them
    assert sorted(scalars.example_ids) == sorted(in_order), "a batch was lost or seen twice"
    return Manifest(
        model=work.model,
        data=work.data,
        estimator=estimator_of(work.request),
        examples=len(in_order),
        example_ids=tuple(in_order),
        sites=tuple(plan.sites),
        layers=tuple(plan.layers),
        parameters=tuple(plan.parameters),
        uncovered={**plan.uncovered, **loaded.unheld},
        tokens=scalars.tokens,
        fourth_moments=scalars.fourth_moments,
    )


def _run_info(
    request: CollectionRequest, processes: Processes, loaded: Loaded, started: float, resumed_at: int
) -> dict[str, Any]:
    """What differs from run to run."""
    device = entry_device(loaded.module)
    on_gpu = device.type == "cuda"
    return {
        "libraries": {
            "python": platform.python_version(),
            **{name: version(name) for name in LIBRARIES},
        },
        "seconds": round(time.monotonic() - started, 3),
        "peak_memory_bytes": peak_memory(),
        "peak_device_memory_bytes": torch.cuda.max_memory_allocated(device) if on_gpu else 0,
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "threads": torch.get_num_threads(),
        "processes": processes.count,
        "passes": len(loaded.plan.partitions),
        "accumulators": loaded.memory.accumulators,
        "batch_size": request.batch_size,
        "resumed_at_batch": resumed_at,
    }


@contextmanager
def _memory_errors(request: CollectionRequest) -> Iterator[None]:
    """Tell a lack of memory in one line, with what to change."""
    advice = f"lower batch_size (now {request.batch_size}) or set memory_budget to split the sums into passes"
    try:
        yield
    except MemoryError as error:
        raise OutOfSpace(f"{request.name}: out of memory; {advice}") from error
    except torch.OutOfMemoryError as error:
        raise OutOfSpace(f"{request.name}: out of memory on {request.device}; {advice}") from error
