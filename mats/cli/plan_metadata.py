"""`mats plan-metadata`: what step one would take for a model of any size, from its configuration alone."""

from __future__ import annotations

from typing import Annotated

import typer

from mats.cli.arguments import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("plan-metadata", short_help="Say what step one would take for a model on paper.")(plan_metadata)


def plan_metadata(
    config: Annotated[
        str, typer.Argument(metavar="CONFIG", help="Model folder, its config.json, or a hub id.", show_default=False)
    ],
    on: Annotated[str, typer.Option("--on", metavar="GPU", help="a100, h100, h200, l4 or rtx4090.")] = "h100",
    gpus: Annotated[
        int | None,
        typer.Option("--gpus", min=1, help="How many hold the model. Default: as few as can.", show_default=False),
    ] = None,
    tokens: Annotated[int, typer.Option("--tokens", min=1, help="Tokens of an input.")] = 512,
    targets: Annotated[int, typer.Option("--targets", min=1, help="Tokens of a target (encoder-decoders).")] = 64,
    examples: Annotated[int, typer.Option("--examples", min=1, help="Examples measured.")] = 1000,
    batch_size: Annotated[int, typer.Option("--batch-size", min=1, help="Examples in a forward pass.")] = 8,
    dtype: Annotated[str, typer.Option("--dtype", help="Number format in which the model runs.")] = "bfloat16",
    memory_budget: Annotated[
        str | None,
        typer.Option(
            "--memory-budget", metavar="SIZE", help="Most bytes of sums in a pass, as 40GB.", show_default=False
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say how many bytes, passes and hours measuring would take; no weights are read.

    The hours are operations and traffic by a data sheet (docs/collection.md); nothing was timed.

    \b
    Examples:
      mats plan-metadata exp_out/merged
      mats plan-metadata models/large/config.json --on h100 --gpus 8 --tokens 1024 --json
    """
    from dataclasses import asdict

    from mats.cli.printing import print_json, print_lines
    from mats.curvature.settings import CollectionSettings
    from mats.engine.collection_forecast import Workload, forecast
    from mats.engine.devices import DTYPES
    from mats.errors import RequestError
    from mats.recipes.sizes import parse_size

    if dtype not in DTYPES:
        raise RequestError(f"--dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    try:
        budget = None if memory_budget is None else parse_size(memory_budget)
    except ValueError as error:
        raise RequestError(f"--memory-budget {memory_budget!r}: {error}") from error
    settings = CollectionSettings(memory_budget=budget)
    found = forecast(config, Workload(tokens, targets, examples, batch_size, dtype, settings, on, gpus))
    if not as_json:
        print_lines(found.lines())
        return
    print_json(
        {
            "parameters": found.model.parameters,
            "model_bytes": found.model.bytes,
            "activation_bytes": found.model.activations,
            "pass_bytes": list(found.pass_bytes),
            "operations": found.operations,
            "hours": found.hours,
            "gpus": found.gpus,
            "accelerator": asdict(found.accelerator),
        }
    )
