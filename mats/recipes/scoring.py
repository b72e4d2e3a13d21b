"""`mats evaluate` on a recipe: each model on its own data, the merged result on the data of all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mats.data import DatasetSpec, load_mixture, load_spec
from mats.errors import RequestError
from mats.files import write_json_atomically
from mats.progress import Progress, Silent
from mats.recipes.requests import dataset_of
from mats.recipes.schema import Recipe
from mats.recipes.sections import EvaluateSection
from mats.yaml_reader import read_yaml

if TYPE_CHECKING:
    from mats.evaluation import EvaluationSettings

MERGED, BASE = "merged", "base"


@dataclass(frozen=True)
class Scoring:
    """One model to be scored on some datasets.

    Attributes:
        name: What reports call it.
        path: The checkpoint.
        datasets: What it is scored on.
        heads: Dataset name → model whose own head is put on the merged body for it.
        reference: Dataset name → model that the score is compared with.
    """

    name: str
    path: str
    datasets: tuple[DatasetSpec, ...]
    heads: Mapping[str, str] = field(default_factory=dict)
    reference: Mapping[str, str] = field(default_factory=dict)


def recipe_scorings(recipe: Recipe, result: str | Path | None = None) -> list[Scoring]:
    """Whom to score on what.

    Args:
        recipe: its models that name data, with its `evaluate` section.
        result: folder of the merged model; the recipe's output where it is None.

    Raises:
        RequestError: no model names data, or the result does not exist.
        RecipeError: a dataset file has faults.
    """
    own = {model.name: dataset_of(model) for model in recipe.models if model.data is not None}
    if not own:
        raise RequestError("models: none names data; `data:` with a dataset file is what models are scored on")
    everything = tuple({spec.name: spec for spec in own.values()}.values())
    owners = {spec.name: name for name, spec in reversed(own.items())}  # the first model of each dataset
    scorings = []
    if recipe.evaluate.base and recipe.base is not None:
        scorings.append(Scoring(BASE, recipe.base, everything, reference=owners))
    if recipe.evaluate.individual:
        scorings += [Scoring(m.name, m.path, (own[m.name],)) for m in recipe.models if m.name in own]
    chosen = result if result is not None else recipe.output
    if chosen is not None and Path(chosen).exists():
        scorings.append(Scoring(MERGED, str(chosen), everything, _own_heads(str(chosen), owners), owners))
    elif result is not None or not scorings:
        raise RequestError(f"{chosen}: no merged model there; run mats merge on this recipe first")
    return scorings


def _own_heads(result: str, owners: Mapping[str, str]) -> dict[str, str]:
    """Dataset → model whose head was kept beside the merged body, where one was."""
    from mats.checkpoints.heads import head_names

    kept = head_names(result)
    return {data: model for data, model in owners.items() if model in kept}


def path_scorings(paths: Sequence[str], data: Sequence[str], head: str | None = None) -> list[Scoring]:
    """Checkpoints given by path, each on every dataset file given; the others are compared with the first.

    Args:
        paths: The checkpoints.
        data: The dataset files; a mixture file stands for those that it lists.
        head: Model whose kept head is put on them all; None: the heads that they have.

    Raises:
        RequestError: no path, or no dataset file.
    """
    if not paths or not data:
        raise RequestError("give a RECIPE, or --model with --data")
    specs = tuple(spec for path in data for spec in _datasets_in(path))
    names = _distinct_names(paths)
    to_first = {spec.name: names[0] for spec in specs}
    heads = {spec.name: head for spec in specs} if head is not None else {}
    return [
        Scoring(name, path, specs, heads, to_first if name != names[0] else {})
        for name, path in zip(names, paths, strict=True)
    ]


def _datasets_in(path: str) -> tuple[DatasetSpec, ...]:
    """The dataset of a file, or the datasets of a mixture file."""
    if "datasets" in read_yaml(Path(path)).data:
        return load_mixture(path).datasets
    return (load_spec(path),)


def _distinct_names(paths: Sequence[str]) -> list[str]:
    """The last part of each path, or the whole path where those are alike."""
    last = [Path(path).name or path for path in paths]
    return [name if last.count(name) == 1 else path for name, path in zip(last, paths, strict=True)]


def run_scorings(
    scorings: Sequence[Scoring], settings: EvaluationSettings, progress: Progress | None = None
) -> dict[str, Any]:
    """Score everything; with individual scores at hand, the merged model's are also given relative to them.

    Returns:
        The value of `mats.evaluation.evaluate_jobs`; an entry that could be compared has `relative`: dataset → its
        value ÷ that of the dataset's own model (of a perplexity the inverse), and `mean_relative`.
    """
    from mats.evaluation import EvaluationJob, evaluate_jobs

    jobs = [EvaluationJob(s.name, s.path, s.datasets, s.heads, s.reference) for s in scorings]
    scores = evaluate_jobs(settings, jobs, progress=progress or Silent())
    add_relative(scores["models"])
    return scores


def add_relative(entries: list[dict[str, Any]]) -> None:
    """Compare models scored on several datasets with the ones that were scored on one of them alone."""
    individual: dict[str, float] = {}
    for entry in entries:
        if entry["name"] not in (MERGED, BASE) and len(entry["results"]) == 1:
            ((dataset, result),) = entry["results"].items()
            individual.setdefault(dataset, _more_is_better(result))
    for entry in entries:
        if entry["name"] not in (MERGED, BASE) or not set(entry["results"]) <= set(individual):
            continue
        ratios = {name: _ratio(_more_is_better(result), individual[name]) for name, result in entry["results"].items()}
        known = [ratio for ratio in ratios.values() if ratio is not None]
        entry["relative"] = ratios
        entry["mean_relative"] = sum(known) / len(known) if known else None


def _more_is_better(result: Mapping[str, Any]) -> float:
    """The value; of a perplexity its inverse."""
    value = float(result["value"])
    return 1.0 / value if result["metric"] == "perplexity" else value


def _ratio(value: float, reference: float) -> float | None:
    return value / reference if reference else None


def write_scores(scores: Mapping[str, Any], path: Path) -> Path:
    """Write the scores as JSON, whole or not at all; an existing file is replaced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json_atomically(path, json.loads(json.dumps(scores)))
    return path


def evaluation_settings(
    recipe: Recipe | None,
    *,
    split: str | None = None,
    examples: int | None = None,
    batch_size: int | None = None,
    base: str | None = None,
    device: str | None = None,
    predictions: Path | None = None,
    trust_remote_code: bool = False,
    start: int | None = None,
    end: int | None = None,
    templates: str | None = None,
) -> EvaluationSettings:
    """How to score: what is given here, else the recipe's `evaluate` section, else its defaults.

    Raises:
        RequestError: a slice that ends before it begins.
    """
    from mats.engine.devices import resolve_device
    from mats.evaluation import EvaluationSettings

    section = recipe.evaluate if recipe is not None else EvaluateSection()
    kept = predictions if predictions is not None or section.predictions is None else Path(section.predictions)
    first = section.start if start is None else start
    return EvaluationSettings(
        split=split or section.split,
        batch_size=batch_size or section.batch_size,
        device=str(resolve_device(device or (recipe.device if recipe is not None else "auto"))),
        limit=_limit(first, section.end if end is None else end, examples or section.examples),
        base=base or (recipe.base if recipe is not None else None),
        trust_remote_code=trust_remote_code,
        predictions=kept,
        start=first,
        templates=templates or section.templates,
    )


def _limit(start: int, end: int | None, examples: int | None) -> int | None:
    """How many rows from `start` on: up to `end`, and at most `examples`."""
    if end is not None and end <= start:
        raise RequestError(
            f"end {end} with start {start}: no rows between them; an end beyond the start would be right"
        )
    counts = [count for count in (None if end is None else end - start, examples) if count is not None]
    return min(counts, default=None)
