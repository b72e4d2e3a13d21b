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
    typer.Option("--data", metavar="YAML", help="Dataset file for --model; may be repeated.", show_default=False),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("evaluate", short_help="Score models and merged results on tasks.")(evaluate)


def evaluate(
    arguments: ArgumentsArgument = None,
    model: ModelOption = None,
    data: DataOption = None,
    split: Annotated[
        str | None, typer.Option("--split", metavar="NAME", help="Split to score. Default: test, or the recipe's.")
    ] = None,
    examples: Annotated[
        int | None, typer.Option("--examples", metavar="N", min=1, help="At most so many examples of each split.")
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
        Path | None, typer.Option("--predictions", metavar="FOLDER", help="Write each example's prediction there.")
    ] = None,
    device: DeviceOption = None,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Score a recipe's models and their merged result on the models' data, or any checkpoint on any data.

    \b
    Examples:
      mats evaluate recipe.yaml evaluate.split=validation
      mats evaluate --model exp_out/merged --data configs/datasets/paws.yaml --split test
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
            **{"evaluate.split": split, "evaluate.examples": _text(examples), "evaluate.batch_size": _text(batch_size)},
        )
        recipe = load_recipe(recipe_path, options)

    from mats.recipes.scoring import evaluation_settings, path_scorings, recipe_scorings, run_scorings, write_scores

    if recipe is not None and not model:
        scorings = recipe_scorings(recipe)
        target = output if output is not None else _default_output(recipe)
    elif recipe is None:
        scorings, target = path_scorings(model or (), data or ()), output
    else:
        files = data or [entry.data for entry in recipe.models if entry.data is not None]
        scorings, target = path_scorings(model or (), list(dict.fromkeys(files))), output
    settings = evaluation_settings(
        recipe,
        split=split,
        examples=examples,
        batch_size=batch_size,
        base=base,
        device=device,
        predictions=predictions,
        trust_remote_code=trust_remote_code,
    )
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


def _default_output(recipe: Any) -> Path | None:
    """Beside the result, when there is one."""
    if recipe.evaluate.output is not None:
        return Path(recipe.evaluate.output)
    if recipe.output is not None and Path(recipe.output).is_dir():
        return Path(recipe.output) / f"scores-{recipe.evaluate.split}.json"
    return None


def _print_scores(scores: dict[str, Any], target: Path | None) -> None:
    from mats.cli.printing import print_lines, print_table

    datasets = [entry["name"] for entry in scores["datasets"]]
    relative = any("mean_relative" in entry for entry in scores["models"])
    columns = ("model", *datasets, "mean", *(("relative",) if relative else ()))
    rows = []
    for entry in scores["models"]:
        values = [entry["results"][name]["value"] if name in entry["results"] else None for name in datasets]
        values += [entry["mean"], *((entry.get("mean_relative"),) if relative else ())]
        rows.append((entry["name"], *("–" if value is None else f"{value:.3f}" for value in values)))
    print_table(f"split {scores['split']}", columns, rows)
    if relative:
        print_lines(["relative: mean over datasets of the score ÷ that of the dataset's own model"])
    if target is not None:
        print_lines([str(target)])
