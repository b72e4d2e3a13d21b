"""Arguments and options that several commands share, so that they read the same everywhere."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from mats.errors import RequestError

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="Recipe file (YAML or JSON).", show_default=False)
]
OverridesArgument = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE", help="Values that replace the recipe's, as merge.anchor=0.2.", show_default=False
    ),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N. Default: the recipe's.", show_default=False
    ),
]
MemoryOption = Annotated[
    str | None,
    typer.Option(
        "--memory-budget",
        metavar="SIZE",
        help="Most memory to plan with, as 8GB. Default: the recipe's.",
        show_default=False,
    ),
]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace an output that exists.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Print the plan and what it takes, and do nothing.")]
TrustOption = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run model code that a checkpoint brings along.")
]

_OVERRIDE = re.compile(r"[^/=\s]+=", re.DOTALL)


def is_override(argument: str) -> bool:
    """Whether an argument is `key.path=value` rather than a path: keys hold no slash."""
    return _OVERRIDE.match(argument) is not None


def only_overrides(arguments: Sequence[str] | None) -> list[str]:
    """The overrides of a command that takes nothing else after the recipe.

    Raises:
        RequestError: an argument is no override.
    """
    for argument in arguments or ():
        if not is_override(argument):
            raise RequestError(f"argument {argument!r}: not understood; key.path=value would be right")
    return list(arguments or ())


def output_and_overrides(arguments: Sequence[str] | None) -> tuple[str | None, list[str]]:
    """`[OUT] [key=value]…` taken apart.

    Raises:
        RequestError: more than one argument is no override.
    """
    outputs = [argument for argument in arguments or () if not is_override(argument)]
    if len(outputs) > 1:
        raise RequestError(f"arguments {outputs}: one output folder is enough; overrides have the form key.path=value")
    return (outputs[0] if outputs else None), [argument for argument in arguments or () if is_override(argument)]


def with_options(overrides: Sequence[str], **options: str | None) -> list[str]:
    """Options such as `--device` as overrides, so that they are checked and recorded like any other."""
    return [*overrides, *(f"{key}={value}" for key, value in options.items() if value is not None)]
