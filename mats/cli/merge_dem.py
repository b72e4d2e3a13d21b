"""`mats merge --from-dem FILE`: a DEM configuration as one merge for each combination of its constants."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mats.cli.finished import is_finished
from mats.cli.requested import MergeOptions, as_overrides
from mats.errors import RecipeError

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest


def dem_requests(
    path: Path, output: str | None, overrides: Sequence[str], options: MergeOptions
) -> tuple[MergeRequest, ...]:
    """The merges that a file asks for: one into OUT, several each into OUT/<combination_id>/<constants>.

    All are planned before the first is made. Of several, those that an earlier run finished are left out, so that the
    same command goes on where it was.

    Raises:
        RecipeError: faults in the file or the overrides, or no output.
        MatsError: the models do not fit together, or an output is there that is not this merge's.
    """
    from mats.engine.plan import plan_merge
    from mats.recipes import recipe_from
    from mats.recipes.dem import DEFAULT_SEED, read_dem
    from mats.recipes.requests import merge_request

    seed = DEFAULT_SEED if options.random_seed is None else options.random_seed
    merges = read_dem(path, seed)
    given = as_overrides(overrides, options)
    requests = []
    for merge in merges:
        recipe = recipe_from(merge.data, given)
        folder = output if output is not None else recipe.output
        if folder is None:
            raise RecipeError([f"{path}: a DEM file names no output; mats merge --from-dem {path} OUT would be right"])
        place = Path(folder) / merge.folder
        requests.append(merge_request(recipe, place, overwrite=options.overwrite, strict=options.strict))
    if len(requests) > 1 and not options.overwrite:
        requests = [request for request in requests if not is_finished(request)]
    for request in requests:  # so that nothing that headers can tell stops the work half-way
        plan_merge(request)
    return tuple(requests)
