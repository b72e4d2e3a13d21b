"""`mats refresh`: merge once more, with the metadata measured at the weights of an earlier merge."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from mats.cli.arguments import (
    DeviceOption,
    JsonOption,
    MemoryOption,
    OverridesArgument,
    OverwriteOption,
    RecipeArgument,
    TrustOption,
    only_overrides,
    with_options,
)

MergedArgument = Annotated[
    Path, typer.Argument(metavar="MERGED", help="Result of an earlier merge of this recipe.", show_default=False)
]
OutputArgument = Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the new result.", show_default=False)]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("refresh", short_help="Merge once more, measured at the weights of an earlier merge.")(refresh)


def refresh(
    recipe: RecipeArgument,
    merged: MergedArgument,
    output: OutputArgument,
    overrides: OverridesArgument = None,
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    device: DeviceOption = None,
    memory_budget: MemoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure every task once more at the weights of MERGED, and merge the models again by what is found there.

    The models stay the aim; only what matters to each task is taken from nearer by. It needs every task's data, which
    `mats merge` does not. Stopped half-way, the same command goes on where it was. Its result may be refreshed again.

    \b
    Examples:
      mats refresh recipe.yaml exp_out/merged exp_out/refreshed
      mats refresh recipe.yaml exp_out/merged exp_out/refreshed curvature.examples=200
    """
    from mats.cli.merge import carry_out
    from mats.cli.progress_display import progress_display
    from mats.recipes import load_recipe
    from mats.recipes.refreshing import refreshed_recipe

    given = with_options(only_overrides(overrides), device=device, memory_budget=memory_budget)
    found = refreshed_recipe(load_recipe(recipe, given), merged, output, overwrite=overwrite)

    from mats.engine.collection import save_metadata
    from mats.recipes.requests import collection_request, merge_request

    measurements = [collection_request(found, model, trust_remote_code=trust_remote_code) for model in found.models]
    with progress_display(as_json=as_json) as progress:
        for measurement in measurements:
            save_metadata(measurement, progress)
    carry_out((merge_request(found, output, overwrite=overwrite),), one_pass=False, as_json=as_json)
