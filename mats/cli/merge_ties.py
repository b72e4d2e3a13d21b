"""`mats merge --from-ties STRING`: a merge string of the published TIES code as one merge for each of its scales."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mats.cli.finished import is_finished
from mats.cli.requested import MergeOptions, requested_merge
from mats.errors import RequestError

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest


def ties_requests(
    text: str, path: Path, output: str | None, overrides: Sequence[str], options: MergeOptions
) -> tuple[MergeRequest, ...]:
    """The merges that a string asks for: one into OUT, or with several scales each into OUT/scale-<scale>.

    Of several, those that an earlier run finished are left out, so that the same command goes on where it was.

    Raises:
        RequestError: faults in the string or the recipe.
        OutputExists: an output is there that is not this merge's.
    """
    from mats.recipes.mergekit import is_merge_file
    from mats.recipes.ties_strings import parse_ties_string, ties_overrides
    from mats.yaml_reader import read_yaml

    string = parse_ties_string(text)
    if is_merge_file(read_yaml(path).data):
        raise RequestError(f"{path}: is a merge file of mergekit; a recipe would be right with --from-ties")
    merges = [ties_overrides(string, scale, overrides) for scale in string.variants]
    first = requested_merge(path, output, merges[0], options)
    if len(merges) == 1:
        return (first,)
    folders = [first.output / f"scale-{scale!r}" for scale in string.scales]
    requests = [
        requested_merge(path, str(folder), given, options) for folder, given in zip(folders, merges, strict=True)
    ]
    return tuple(request for request in requests if options.overwrite or not is_finished(request))
