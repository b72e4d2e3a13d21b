"""`mats check`: a recipe against the files it names. Headers and manifests are read, no tensor; all problems told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mats.data import DatasetSpec, missing_files
from mats.errors import DataError, MatsError, OutputExists, RequestError
from mats.recipes.adapters import adapters_of
from mats.recipes.requests import dataset_of, existing_metadata, heads_of, merge_request, reads_metadata
from mats.recipes.schema import Recipe
from mats.recipes.sections import ModelEntry
from mats.recipes.vocabulary import vocabulary_of


@dataclass(frozen=True)
class Problem:
    """One thing that would stop a command, and the exit status it would stop with."""

    message: str
    exit_status: int


def find_problems(recipe: Recipe, output: str | Path | None = None) -> list[Problem]:
    """Everything that stands in the way of `mats merge` on this recipe, as far as headers and manifests tell.

    Args:
        recipe: a recipe that the schema has accepted.
        output: folder of the result, where it is not the recipe's.
    """
    problems = input_problems(recipe)
    if reads_metadata(recipe):
        for model in recipe.models:
            problems.extend(_attempt("", partial(_open_existing, recipe, model)))
    chosen = output if output is not None else recipe.output
    if chosen is None:
        problems.append(Problem("output: missing; `output:` in the recipe or OUT would be right", 2))
    elif Path(chosen).exists():
        problems.append(_problem("", OutputExists(f"output {chosen}: exists already; --overwrite would replace it")))
    if not problems:
        problems.extend(_attempt("", partial(_plan, recipe, chosen)))
    return problems


def input_problems(recipe: Recipe) -> list[Problem]:
    """What is wrong with the models, the base and the dataset files of a recipe, as far as headers tell."""
    problems: list[Problem] = []
    for model in recipe.models:
        if model.data is not None:
            problems.extend(_data_problems(recipe, f"models.{model.name}.data", partial(dataset_of, model)))
    problems.extend(_checkpoint_problems(recipe))
    return problems


def exit_status(problems: list[Problem]) -> int:
    """The status that tells most: a wrong request before inputs that do not fit before files that fail."""
    found = {problem.exit_status for problem in problems}
    return next((status for status in (2, 3, 1) if status in found), max(found, default=0))


def _checkpoint_problems(recipe: Recipe) -> Iterator[Problem]:
    """Each checkpoint must open, and each model must fit the base (or the first model)."""
    from mats.checkpoints import match_tensors

    opened: dict[str, Any] = {}
    sources = {"base": recipe.base} if recipe.base is not None else {}
    sources |= {f"models.{model.name}": model.path for model in recipe.models}
    for place, source in sources.items():
        yield from _attempt(f"{place}: ", partial(_open_into, opened, place, source))
    try:
        kinds = {checkpoint.kind for place, checkpoint in opened.items() if place != "base"}
        if recipe.heads is not None or recipe.tokenizer is not None or recipe.vocab != "error":
            if len(opened) == len(sources):
                yield from _attempt("", partial(_separate, recipe))
            return
        if "lora" in kinds:
            return  # factors of different ranks fit each other; the plan tells what does not
        reference = opened.get("base") if kinds == {"model"} else None
        for place, checkpoint in opened.items():
            if place == "base":
                continue
            reference = reference if reference is not None else checkpoint
            yield from _attempt(f"{place}: ", partial(match_tensors, reference, [checkpoint]))
    finally:
        for checkpoint in opened.values():
            checkpoint.close()


def _separate(recipe: Recipe) -> None:
    """Bodies must fit each other, under one vocabulary, and each model must have a head where heads are kept."""
    from mats.engine.inputs import MergeInputs
    from mats.engine.request import MergeRequest, ModelInput

    models = tuple(ModelInput(model.name, model.path, model.weight) for model in recipe.models)
    request = MergeRequest(
        models,
        recipe.merge.settings,
        Path(),
        base=recipe.base,
        heads=heads_of(recipe),
        missing=recipe.missing,
        vocab=recipe.vocab,
        tokenizer=vocabulary_of(recipe.tokenizer),
        adapters=adapters_of(recipe.adapters),
    )
    MergeInputs(request).close()


def _data_problems(recipe: Recipe, place: str, load: Callable[[], DatasetSpec]) -> Iterator[Problem]:
    """The dataset file must be readable, know the splits, and find its files."""
    loaded: list[DatasetSpec] = []
    yield from _attempt(f"{place}: ", partial(_load_into, loaded, load))
    for spec in loaded:
        for split in dict.fromkeys((recipe.curvature.split, recipe.evaluate.split)):
            yield from _attempt(f"{place}: ", partial(_check_split, spec, split))


def _check_split(spec: DatasetSpec, split: str) -> None:
    if spec.source.format != "hub" and split not in spec.split_names:
        raise DataError(f"dataset {spec.name}: no split {split!r}; one of {', '.join(spec.split_names)} would be right")
    missing = missing_files(spec, split)
    if missing:
        raise DataError("\n".join(missing))


def _load_into(loaded: list[DatasetSpec], load: Callable[[], DatasetSpec]) -> None:
    loaded.append(load())


def _open_into(opened: dict[str, Any], place: str, source: str) -> None:
    from mats.checkpoints import open_checkpoint

    opened[place] = open_checkpoint(source)


def _open_existing(recipe: Recipe, model: ModelEntry) -> None:
    from mats.store import open_store

    open_store(existing_metadata(recipe, model))


def _plan(recipe: Recipe, output: str | Path | None) -> None:
    from mats.engine import plan_merge

    plan_merge(merge_request(recipe, output))


def _attempt(prefix: str, action: Callable[[], Any]) -> list[Problem]:
    """The problems that an action meets; none when it goes through."""
    try:
        action()
    except MatsError as error:
        return [Problem(f"{prefix}{line}", error.exit_status) for line in str(error).splitlines()]
    return []


def _problem(prefix: str, error: RequestError) -> Problem:
    return Problem(f"{prefix}{error}", error.exit_status)
