"""`mats evaluate`: score models on tasks."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mats.cli.arguments import DeviceOption, JsonOption, TrustOption, is_override, with_options
from mats.errors import RequestError

ArgumentsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="RECIPE|KEY=VALUE",
        help="Recipe whose models and result are scored, and values that replace its own.",
        show_default=False,
    ),
]
ModelOption = Annotated[
    list[str] | None,
    typer.Option("--model", metavar="PATH", help="Score this checkpoint instead; may be repeated.", show_default=False),
]
DataOption = Annotated[
    list[str] | None,
    typer.Option(
        "--data", metavar="YAML", help="Dataset or mixture file for --model; may be repeated.", show_default=False
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("evaluate", short_help="Score models and merged results on tasks.")(evaluate)


def evaluate(
    arguments: ArgumentsArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    head: Annotated[
        str | None,
        typer.Option("--head", metavar="NAME", help="Put the head that the merged folder kept of this model on it."),
    ] = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Split to score. Default: test, or the recipe's.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", metavar="N", min=1, help="At most so many examples of each split.")
    ] = None,
    start: Annotated[
        int | None, typer.Option("--start", metavar="N", min=0, help="First row of each split, counted from 0.")
    ] = None,
    end: Annotated[
        int | None, typer.Option("--end", metavar="N", min=1, help="One past the last row of each split.")
    ] = None,
    templates: Annotated[
        str | None,
        typer.Option(
            "--templates",
            metavar="all|I,J|cycle",
            help="Score each prompt template (or these) alone and tell their median; or in turn.",
        ),
    ] = None,
    batch_size: Annotated[
        int | None, typer.Option("--batch-size", metavar="N", min=1, help="Examples at once.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH", help="Base weights, for adapters given by --model.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option("--output", "-o", metavar="FILE", help="Write the scores there as JSON.")
    ] = None,
    predictions: Annotated[
        Path | None,
        typer.Option(
            "--predictions", metavar="FOLDER", help="Keep each example's prediction there, and score nothing twice."
        ),
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a recipe's models and their merged result on the models' data, or any checkpoint on any data.

    \b
    Examples:
      mats evaluate recipe.yaml evaluate.split=validation
      mats evaluate --model exp_out/merged --data configs/datasets/p3/paws.yaml --split test
    """
    from mats.cli.printing import print_json
    from mats.cli.progress_display import progress_display
    from mats.recipes import load_recipe

    recipe_path, overrides = _recipe_and_overrides(arguments)
    recipe = None
    if recipe_path is not None:
        options = with_options(
            overrides,
            device=device,
            **{
                "evaluate.split": split,
                "evaluate.examples": _text(examples),
                "evaluate.start": _text(start),
                "evaluate.end": _text(end),
                "evaluate.templates": templates,
                "evaluate.batch_size": _text(batch_size),
            },
        )
        recipe = load_recipe(recipe_path, options)

    from mats.recipes.scoring import evaluation_settings, path_scorings, recipe_scorings, run_scorings, write_scores

    if recipe is not None and not model:
        for option, given in (("--data", " ".join(data or ())), ("--head", head or "")):
            if given:
                raise RequestError(f"{option} {given}: goes with --model; a recipe says what its models are scored on")
        scorings = recipe_scorings(recipe)
    else:
        own = [entry.data for entry in recipe.models if entry.data is not None] if recipe is not None else []
        scorings = path_scorings(model or (), list(dict.fromkeys(data or own)), head)
    settings = evaluation_settings(
        recipe,
        split=split,
        examples=examples,
        batch_size=batch_size,
        base=base,
        device=device,
        predictions=predictions,
        trust_remote_code=trust_remote_code,
        start=start,
        end=end,
        templates=templates,
    )
    target = output
    if target is None and recipe is not None and not model:
        target = _default_output(recipe, settings)
    with progress_display(as_json=as_json) as progress:
        scores = run_scorings(scorings, settings, progress)
    if target is not None:
        write_scores(scores, target)
    if as_json:
        print_json({**scores, "written": str(target) if target is not None else None})
    else:
        _print_scores(scores, target)


def _recipe_and_overrides(arguments: list[str] | None) -> tuple[str | None, list[str]]:
    """`[RECIPE] [key=value]…` taken apart."""
    paths = [argument for argument in arguments or () if not is_override(argument)]
    if len(paths) > 1:
        raise RequestError(f"arguments {paths}: one recipe is enough; overrides have the form key.path=value")
    overrides = [argument for argument in arguments or () if is_override(argument)]
    if overrides and not paths:
        raise RequestError(f"argument {overrides[0]!r}: an override needs a RECIPE before it")
    return (paths[0] if paths else None), overrides


def _text(value: int | None) -> str | None:
    return None if value is None else str(value)


def _default_output(recipe: Any, settings: Any) -> Path | None:
    """Beside the result, when there is one; scores of a part of the rows or templates keep off those of the whole."""
    if recipe.evaluate.output is not None:
        return Path(recipe.evaluate.output)
    if recipe.output is None or not Path(recipe.output).is_dir():
        return None
    parts = ["scores", settings.split, *settings.rows]
    if settings.templates is not None:
        parts += ["templates", settings.templates.replace(",", "-").replace(" ", "")]
    return Path(recipe.output) / f"{'-'.join(parts)}.json"


def _print_scores(scores: dict[str, Any], target: Path | None) -> None:
    from mats.cli.printing import print_lines, print_table

    datasets = [entry["name"] for entry in scores["datasets"]]
    relative = any("mean_relative" in entry for entry in scores["models"])
    columns = ("model", *datasets, "mean", *(("relative",) if relative else ()))
    rows = []
    for entry in scores["models"]:
        values = [entry["results"][name]["value"] if name in entry["results"] else None for name in datasets]
        values += [entry["mean"], *((entry.get("mean_relative"),) if relative else ())]
        rows.append((entry["name"], *(_score(value) for value in values)))
    print_table(f"split {scores['split']}", columns, rows)
    if relative:
        print_lines(["relative: mean over datasets of the score ÷ that of the dataset's own model"])
    print_lines([""])
    _print_intervals(scores)
    if target is not None:
        print_lines([str(target)])


def _print_intervals(scores: dict[str, Any]) -> None:
    """Each score with what is known about its accuracy."""
    from mats.cli.printing import print_lines, print_table

    found = [(entry, name, result) for entry in scores["models"] for name, result in entry["results"].items()]
    templates = any("quartiles" in result for _, _, result in found)
    compared = any("differences" in entry for entry in scores["models"])
    columns = ["model", "dataset", "metric", "score", "95 % interval", "examples"]
    columns += ["quartiles over templates"] if templates else []
    columns += ["difference [95 %]"] if compared else []
    rows = []
    for entry, dataset, result in found:
        row = [entry["name"], dataset, result["metric"], _score(result["value"]), _range(result["interval"])]
        row.append(f"{result['examples']:,}")
        row += [_range(result.get("quartiles"))] if templates else []
        row += [_difference(entry.get("differences", {}).get(dataset))] if compared else []
        rows.append(row)
    print_table("", columns, rows)
    if templates:
        print_lines(["score: the median over templates, each scored alone"])
    if compared:
        print_lines(
            ["difference: from the model named, on the same examples; an interval that holds 0 decides nothing"]
        )


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _range(ends: list[float] | None) -> str:
    return "–" if ends is None else f"{ends[0]:.3f} to {ends[1]:.3f}"


def _difference(difference: dict[str, Any] | None) -> str:
    if difference is None:
        return ""
    return f"{difference['value']:+.3f} [{_range(difference['interval'])}] to {difference['to']}"
