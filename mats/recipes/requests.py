"""What a recipe asks of the engine: one request to measure each model, one request to merge them all.

Both are made here from the same recipe, so that a merge looks for each model's store where measuring has put it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mats.data import DatasetSpec, load_spec
from mats.errors import MatsError, RecipeError, RequestError
from mats.methods.quadratic import QuadraticSettings
from mats.recipes.adapters import adapters_of
from mats.recipes.schema import Recipe
from mats.recipes.sections import ModelEntry
from mats.recipes.sparsify import sparsify_of
from mats.recipes.vocabulary import vocabulary_of

if TYPE_CHECKING:
    from mats.engine.collection_request import CollectionRequest
    from mats.engine.request import Heads, MergeRequest


# Half way: a merge lies about so far from each of its models, and both regimes of docs/quality.md are best there.
DEFAULT_POSITION = 0.5


def reads_metadata(recipe: Recipe) -> bool:
    """Whether the method of the recipe, any of its rules, or the ranks that adapters are cut to read statistics."""
    if recipe.adapters is not None and recipe.adapters.metric == "curvature":
        return True
    methods = [recipe.merge.settings, *(rule.settings for rule in recipe.merge.rules)]
    return any(method.reads_metadata for method in methods)


def select_models(recipe: Recipe, names: Sequence[str]) -> tuple[ModelEntry, ...]:
    """The models of these names, all of them where there is no name.

    Raises:
        RequestError: a name that the recipe does not have.
    """
    known = {model.name: model for model in recipe.models}
    for name in names:
        if name not in known:
            raise RequestError(f"model {name!r}: not in the recipe; one of {', '.join(known)} would be right")
    return tuple(known[name] for name in names) if names else recipe.models


def collection_request(
    recipe: Recipe, model: ModelEntry, *, overwrite: bool = False, trust_remote_code: bool = False
) -> CollectionRequest:
    """What `mats save-metadata` does for one model.

    Raises:
        RecipeError: the model names no dataset, or its dataset file has faults.
    """
    from mats.curvature.settings import CollectionSettings
    from mats.engine.collection_request import CollectionRequest

    choice = recipe.curvature
    position = position_of(recipe, model)
    settings = CollectionSettings(
        statistics=choice.statistics,
        labels=choice.labels,
        loss=choice.loss,
        seed=recipe.seed,
        draws=choice.draws,
        homogeneous=choice.homogeneous,
        accumulate_dtype=choice.accumulate_dtype,
        output_gram_limit=choice.output_gram_limit,
        block_limit=choice.block_limit,
        exact_limit=choice.exact_limit,
        parameters=choice.parameters,
        block_parameters=choice.block_parameters,
        diagonal_parameters=choice.diagonal_parameters,
    )
    return CollectionRequest(
        model=model.path,
        name=model.name,
        dataset=dataset_of(model),
        base=recipe.base,
        measured_on=model.measured_on,
        split=choice.split,
        examples=choice.examples,
        fold=choice.fold,
        batch_size=choice.batch_size,
        settings=settings,
        root=Path(choice.store),
        device=recipe.device,
        dtype=choice.dtype,
        memory_budget=recipe.memory_budget,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
        accumulators=choice.accumulators,
        device_map=choice.device_map,
        position=position,
        heads=recipe.heads.patterns if recipe.heads is not None and position != 1 else None,
    )


def position_of(recipe: Recipe, model: ModelEntry) -> float:
    """Where on the line from the base to the model its curvature is measured."""
    if recipe.curvature.position is not None:
        return recipe.curvature.position
    return DEFAULT_POSITION if recipe.base is not None and model.measured_on is None else 1.0


def dataset_of(model: ModelEntry) -> DatasetSpec:
    """The dataset that a model is measured and scored on.

    Raises:
        RecipeError: the model names none, or the file has faults.
        RequestError: the file is missing.
    """
    if model.data is None:
        raise RecipeError([f"models.{model.name}.data: missing; a dataset file (docs/datasets.md) would be right"])
    return load_spec(model.data)


def metadata_folder(recipe: Recipe, model: ModelEntry) -> Path:
    """Where a model's store lies: where the recipe says, or where `mats save-metadata` puts it for this recipe.

    Raises:
        RecipeError: neither `metadata` nor `data` is given.
    """
    from mats.engine.collection_request import collection_folder

    if model.metadata is not None:
        return Path(model.metadata)
    if model.data is None:
        raise RecipeError(
            [
                f"models.{model.name}: method {recipe.merge.settings.name} reads metadata, and the model names none; "
                "data: (a dataset file) or metadata: (a store) would be right"
            ]
        )
    return collection_folder(collection_request(recipe, model))


def merge_request(
    recipe: Recipe, output: str | Path | None = None, *, overwrite: bool = False, strict: bool = False
) -> MergeRequest:
    """What `mats merge` does.

    Args:
        recipe: what to merge and how.
        output: folder of the result; the recipe's own where it is None.
        overwrite: replace an existing output.
        strict: fail, after publishing, when a solve missed its tolerance.

    Raises:
        RecipeError: no output, or a model without the metadata that the method reads; every model that lacks it.
    """
    from mats.engine.request import MergeRequest, ModelInput, Rule

    chosen = output if output is not None else recipe.output
    faults = [] if chosen is not None else ["output: missing; `output:` in the recipe or OUT after it would be right"]
    inputs = []
    for model in recipe.models:
        try:
            folder = existing_metadata(recipe, model) if reads_metadata(recipe) else None
            halves = fold_folders(recipe, model) if cross_validates(recipe) else ()
            thinned = sparsify_of(recipe, model)
            inputs.append(ModelInput(model.name, model.path, model.weight, folder, model.measured_on, halves, thinned))
        except MatsError as error:
            faults.extend(str(error).splitlines())
    if faults:
        raise RecipeError(faults)
    resolved = recipe.model_copy(update={"output": str(chosen)}).as_written()
    return MergeRequest(
        models=tuple(inputs),
        method=recipe.merge.settings,
        output=Path(str(chosen)),
        base=recipe.base,
        missing=recipe.missing,
        heads=heads_of(recipe),
        vocab=recipe.vocab,
        tokenizer=vocabulary_of(recipe.tokenizer),
        chat_template=recipe.chat_template,
        adapters=adapters_of(recipe.adapters),
        rules=tuple(Rule(rule.parameters, rule.settings) for rule in recipe.merge.rules),
        dtype=recipe.dtype,
        device=recipe.device,
        memory_budget=recipe.memory_budget,
        overwrite=overwrite,
        strict=strict,
        max_shard_bytes=recipe.max_shard_size,
        resolved_recipe=resolved,
    )


def cross_validates(recipe: Recipe) -> bool:
    """Whether a strength is chosen by cross-validation."""
    settings = recipe.merge.settings
    return isinstance(settings, QuadraticSettings) and settings.cross_validate is not None


def fold_folders(recipe: Recipe, model: ModelEntry) -> tuple[Path, Path]:
    """The stores of the two halves of a model's examples, where `mats save-metadata` puts them.

    Raises:
        RecipeError: one is not there.
    """
    first, second = (
        existing_metadata(
            recipe.model_copy(update={"curvature": recipe.curvature.model_copy(update={"fold": (half, 2)})}),
            model.model_copy(update={"metadata": None}),
            advice=f"run mats save-metadata on this recipe with curvature.fold=[{half},2] first",
        )
        for half in (0, 1)
    )
    return first, second


def heads_of(recipe: Recipe) -> Heads | None:
    """What becomes of heads; None where everything is merged."""
    from mats.engine.request import Heads

    return None if recipe.heads is None else Heads(recipe.heads.patterns, recipe.heads.source)


def existing_metadata(
    recipe: Recipe, model: ModelEntry, *, advice: str = "run mats save-metadata on this recipe first"
) -> Path:
    """`metadata_folder`, if a store is there; a hub id as it is written, if its store is in the cache then.

    Raises:
        RecipeError: there is none; other stores of the model, measured with other settings, are named.
    """
    from mats.store.hub import local_store

    folder = metadata_folder(recipe, model)
    try:
        if (folder if model.metadata is None else local_store(model.metadata)).is_dir():
            return folder
    except RequestError as error:
        raise RecipeError([f"models.{model.name}.metadata: {error}"]) from error
    home = folder.parent if model.metadata is None else None
    others = sorted(found.name for found in home.iterdir() if found.is_dir()) if home and home.is_dir() else []
    finished = [name for name in others if not name.startswith(".")]
    if finished:
        advice += f", or name one with metadata: (with other settings there: {', '.join(finished[:3])})"
    raise RecipeError([f"models.{model.name}: no metadata store at {folder}; {advice}"])
