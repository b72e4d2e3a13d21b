"""What a training recipe asks of the training room: one request for each run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mats.data import DatasetSpec, load_mixture, load_spec, missing_files
from mats.errors import DataError, MatsError, RecipeError
from mats.recipes.training import TrainingRecipe, select_runs, settings_of
from mats.training import TrainingRequest, TrainingSettings
from mats.yaml_reader import read_yaml


def training_requests(
    recipe: TrainingRecipe, names: Sequence[str] = (), *, overwrite: bool = False, trust_remote_code: bool = False
) -> list[TrainingRequest]:
    """The requests of the runs named, all of them where there is no name; dataset files are read, no data.

    Raises:
        RequestError: a run that the recipe does not have.
        RecipeError: a dataset file is missing or has faults, or one head cannot serve a run's datasets; of all runs.
    """
    faults: list[str] = []
    requests = []
    for name in select_runs(recipe, names):
        try:
            request = _request(recipe, name, overwrite=overwrite, trust_remote_code=trust_remote_code)
            request.check_heads()
            requests.append(request)
        except MatsError as error:
            faults += [f"runs.{name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise RecipeError(faults)
    return requests


def _request(recipe: TrainingRecipe, name: str, *, overwrite: bool, trust_remote_code: bool) -> TrainingRequest:
    run, settings = recipe.runs.root[name], settings_of(recipe, name)
    specs: list[DatasetSpec] = []
    for file in run.data:
        if "datasets" in read_yaml(Path(file)).data:
            mixture = load_mixture(file)
            specs += mixture.datasets
            settings = settings.model_copy(update={"cap": settings.cap or mixture.most_examples})
        else:
            specs.append(load_spec(file))
    return TrainingRequest(
        base=run.base or recipe.base,
        datasets=tuple(specs),
        settings=settings,
        output=Path(run.output) if run.output is not None else Path(recipe.output) / name,
        name=name,
        heads=run.heads,
        device=recipe.device,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )


def check_data(requests: Sequence[TrainingRequest]) -> None:
    """Look for the splits and files that the runs will read, so that the last run does not fail after hours.

    Raises:
        RecipeError: what is missing, of all runs.
    """
    faults: list[str] = []
    for request in requests:
        for spec in request.datasets:
            try:
                _check_splits(spec, request.settings)
            except MatsError as error:
                faults += [f"runs.{request.name}: {line}" for line in str(error).splitlines()]
    if faults:
        raise RecipeError(faults)


def _check_splits(spec: DatasetSpec, settings: TrainingSettings) -> None:
    """Refuse splits that the dataset does not have, as far as its file tells.

    Raises:
        DataError: naming the splits there are, or the files that are missing.
    """
    for split in filter(None, (settings.split, settings.validation)):
        if spec.source.format != "hub" and split not in spec.split_names:
            known = ", ".join(spec.split_names)
            raise DataError(f"dataset {spec.name}: no split {split!r}; one of {known} would be right")
        missing = missing_files(spec, split)
        if missing:
            raise DataError("\n".join(missing))
