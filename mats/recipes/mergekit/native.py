"""This program's own methods in a merge file: `merge_method: mats`, models with `metadata:`, settings as parameters."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mats.errors import RecipeError, RequestError
from mats.methods.registry import MethodSettings, parse_method
from mats.methods.sparse_task_arithmetic import USED_BY, SparseTaskArithmeticSettings
from mats.recipes.mergekit.schema import MergeFile, Source
from mats.recipes.mergekit.tokens import vocabulary_keys

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest, ModelInput
    from mats.recipes.mergekit.importing import Options


def native_request(file: MergeFile, options: Options) -> MergeRequest:
    """The request of a merge file that names one of this program's own methods.

    Its `parameters` are the method's settings, one value each; `weight`, `metadata`, `measured_on` and `name` stand
    with the models.

    Raises:
        RecipeError: a setting that the method does not have, or a model without the metadata that it reads.
    """
    from mats.engine.request import MergeRequest
    from mats.recipes.mergekit.importing import resolved_path

    assert file.settings is not None
    try:
        method = _seeded(parse_method(_spelt_out(file.settings)), options.seed)
    except RequestError as error:
        raise RecipeError([f"{file.file.path}: {line}" for line in str(error).splitlines()]) from error
    sources = file.modules[0].slices[0].sources
    models = tuple(_model(file, source, reads=method.reads_metadata) for source in sources)
    references = {source.model: model for source, model in zip(sources, models, strict=True)}
    return MergeRequest(
        models=models,
        method=method,
        output=options.output,
        base=None if file.base is None else resolved_path(file.base.model),
        dtype=file.dtype or _adapted_dtype(file),
        device=options.device,
        memory_budget=options.memory_budget,
        overwrite=options.overwrite,
        strict=options.strict,
        max_shard_bytes=options.max_shard_bytes,
        vocab=options.vocab,
        resolved_recipe=dict(file.file.data),
        **vocabulary_keys(file, references),
    )


def _adapted_dtype(file: MergeFile) -> str | None:
    """Without a base, adapters on models leave the number format open; it is that of the models."""
    from mats.recipes.mergekit.importing import formats_of, open_reference, smallest_for_all

    sources = file.modules[0].slices[0].sources
    if file.base is not None or all(source.model.adapter is None for source in sources):
        return None
    with ExitStack() as until:
        return smallest_for_all(formats_of([open_reference(source.model, until) for source in sources]))


def _seeded(method: MethodSettings, seed: int) -> MethodSettings:
    """The method with the command's seed, where it draws and its own settings name none."""
    if not isinstance(method, SparseTaskArithmeticSettings) or "seed" in method.model_fields_set:
        return method
    return method.model_copy(update={"seed": seed}) if method.sparsify in USED_BY["seed"] else method


def _spelt_out(settings: Any) -> dict[str, Any]:
    """`init: average` → `init: {method: average}`."""
    return {
        key: {"method": value} if key in ("init", "outside") and isinstance(value, str) else value
        for key, value in settings.items()
    }


def _model(file: MergeFile, source: Source, *, reads: bool) -> ModelInput:
    from mats.engine.request import ModelInput
    from mats.recipes.mergekit.importing import resolved_path

    native, where = source.native, f"{file.file.path}: models: {source.model}"
    weight = native.get("weight", 1.0)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)):
        raise RecipeError([f"{where}: weight: received {weight!r}; one number would be right with {file.method}"])
    if reads and native.get("metadata") is None:
        raise RecipeError([f"{where}: metadata: missing; the folder of the model's store would be right"])
    return ModelInput(
        name=native.get("name") or source.model.short_name,
        path=resolved_path(source.model.model),
        weight=float(weight),
        metadata=Path(native["metadata"]) if reads else None,
        measured_on=native.get("measured_on"),
        adapter=None if source.model.adapter is None else resolved_path(source.model.adapter),
    )
