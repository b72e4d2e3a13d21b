"""From a merge file of mergekit to a request: its models are opened for their names, and no tensor is read."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from mats.errors import RecipeError
from mats.recipes.mergekit.native import native_request
from mats.recipes.mergekit.references import ModelReference, PathAndRevision
from mats.recipes.mergekit.schema import MergeFile, Slice, Source, read_merge_file
from mats.recipes.mergekit.tokens import vocabulary_keys
from mats.yaml_reader import YamlFile

if TYPE_CHECKING:
    import torch

    from mats.checkpoints import Checkpoint
    from mats.engine.opened import Opened
    from mats.engine.request import MergeRequest, ModelInput
    from mats.methods.registry import MethodSettings


@dataclass(frozen=True)
class Options:
    """What the command line adds to a merge file."""

    output: Path
    device: str = "auto"
    memory_budget: int | None = None
    max_shard_bytes: int = 5_000_000_000
    seed: int = 0
    vocab: Literal["error", "base", "union"] = "error"
    overwrite: bool = False
    strict: bool = False


def merge_file_request(file: YamlFile, options: Options) -> MergeRequest:
    """What `mats merge FILE OUT` does with a merge file of mergekit.

    Raises:
        RecipeError: the file has faults; all of them, one line each.
        RequestError: a model is not there.
        InputsMismatch: a model lacks layers that the file asks for.
    """
    checked = read_merge_file(file)
    if checked.settings is not None:
        return native_request(checked, options)
    return _request(_with_base_first(checked), options)


def _with_base_first(file: MergeFile) -> MergeFile:
    """For slerp: the base is one of the two models, and the arc starts there.

    Raises:
        RecipeError: a slice lacks it.
    """
    if file.method != "slerp" or file.base is None:
        return file
    base = file.base

    def ordered(part: Slice) -> Slice:
        own = [source for source in part.sources if source.model == base][:1]
        if not own and part.length is not None:
            raise RecipeError([f"{file.file.path}: {part.at[0]}: slerp starts from the base_model, which is no source"])
        own = own or [Source(part.at, base, None, {})]
        return replace(part, sources=(*own, *(source for source in part.sources if source is not own[0])))

    modules = (replace(module, slices=tuple(map(ordered, module.slices))) for module in file.modules)
    return replace(file, modules=tuple(modules))


def _request(file: MergeFile, options: Options) -> MergeRequest:
    from mats.engine.arrangement import Arrangement
    from mats.engine.request import MergeRequest
    from mats.recipes.mergekit.assigning import Assigner
    from mats.recipes.mergekit.laying_out import Layout, whole_parts
    from mats.recipes.mergekit.structure import structure_of

    assigner = Assigner(file, options.seed)
    sliced = any(part.length is not None for module in file.modules for part in module.slices) or len(file.modules) > 1
    arrangement = None
    with ExitStack() as exit_stack:
        on_disk = {each: open_reference(each, exit_stack) for each in _references(file)}
        opened = _shown(on_disk)
        structures = {each: structure_of(model.tensors, model.config) for each, model in opened.items()}
        formats = formats_of(on_disk.values())
        adapted = any(model.under is not None for model in on_disk.values())
        dtype = file.dtype or (smallest_for_all(formats) if adapted or len(formats) > 1 else None)
        if sliced:
            layout = Layout(file, structures, {each: model.config or {} for each, model in opened.items()})
            assignments = assigner.assign(layout.parts())
            names = assigner.inputs.names
            arrangement = Arrangement(tuple(names), assigner.inputs.base_names, layout.config())
        else:
            donor = file.base or file.modules[0].slices[0].sources[0].model
            assignments = assigner.assign(whole_parts(file, structures[donor]))
    models = model_inputs(assigner.inputs.references)
    return MergeRequest(
        models=models,
        method=cast("MethodSettings", next(iter(assignments.values())).settings),
        output=options.output,
        base=None if file.base is None else resolved_path(file.base.model),
        dtype=dtype,
        device=options.device,
        memory_budget=options.memory_budget,
        overwrite=options.overwrite,
        strict=options.strict,
        max_shard_bytes=options.max_shard_bytes,
        vocab=options.vocab,
        assignments=assignments,
        arrangement=arrangement,
        notes=_notes(file, dtype if len(formats) > 1 else None),
        resolved_recipe=dict(file.file.data),  # `mats merge` on it with the same options gives the same
        **vocabulary_keys(file, dict(zip(assigner.inputs.references, models, strict=True))),
    )


def _references(file: MergeFile) -> Sequence[ModelReference]:
    """Every model that a file names, the base first."""
    found = [source.model for module in file.modules for part in module.slices for source in part.sources]
    return list(dict.fromkeys([*([] if file.base is None else [file.base]), *found]))


def _shown(opened: Mapping[ModelReference, Opened]) -> dict[ModelReference, Checkpoint]:
    """The models as the engine will see them: adapters laid on, and a head for all where one has its own."""
    from mats.checkpoints.vocabulary_heads import with_heads
    from mats.engine.opened import whole_models

    models, _ = whole_models(list(opened.values()), None)
    shown, _ = with_heads(models)
    return dict(zip(opened, shown, strict=True))


def open_reference(reference: ModelReference, until: ExitStack) -> Opened:
    """A model as it lies on disk, with its adapter; `until` closes it."""
    from mats.engine.opened import open_input

    adapter = None if reference.adapter is None else resolved_path(reference.adapter)
    return open_input(resolved_path(reference.model), adapter, until)


def resolved_path(part: PathAndRevision) -> str:
    """A path as the engine takes it; a revision of a hub id becomes the folder of its snapshot."""
    from mats.checkpoints.locate import local_path

    return part.path if part.revision is None else str(local_path(part.path, part.revision))


def model_inputs(references: Sequence[ModelReference]) -> tuple[ModelInput, ...]:
    """The models of a request, named by the last part of their paths, numbered where that would not tell them apart."""
    from mats.engine.request import ModelInput

    short = [reference.short_name for reference in references]
    inputs = []
    for index, reference in enumerate(references):
        twins = [place for place, name in enumerate(short) if name == short[index]]
        name = short[index] if len(twins) == 1 else f"{short[index]} #{twins.index(index) + 1}"
        adapter = None if reference.adapter is None else resolved_path(reference.adapter)
        inputs.append(ModelInput(name, resolved_path(reference.model), adapter=adapter))
    return tuple(inputs)


def formats_of(models: Iterable[Opened]) -> set[torch.dtype]:
    """The number formats of the models; of `model+adapter` those of the model."""
    tensors = (info for model in models for info in model.in_files.tensors.values())
    return {info.dtype for info in tensors if info.dtype.is_floating_point}


def smallest_for_all(formats: Collection[torch.dtype]) -> str | None:
    """The smallest number format that holds every number of the given ones (float16 and bfloat16 meet in float32)."""
    import torch

    if not formats:
        return None
    common = next(iter(formats))
    for each in formats:
        common = torch.promote_types(common, each)
    return str(common).removeprefix("torch.")


def _notes(file: MergeFile, dtype: str | None) -> tuple[str, ...]:
    """What the user should know; `dtype` is the result's where the inputs' differ, else None."""
    notes = [f"a merge file of mergekit ({file.method}); sums are kept in float32 or better, whatever dtype says"]
    if file.dtype is None and dtype is not None:
        notes.append(f"the models' number formats differ, and the file names none: the result is {dtype}")
    idle = [key for key, each in file.form.parameters.items() if each.idle and key in file.written_parameters]
    if idle:
        notes.append(f"of no effect here, as in mergekit or by nature: {', '.join(idle)}")
    if file.form.random:
        notes.append("random masks come from this program's generator; mergekit's are others, of the same density")
    return tuple(notes)
