"""Of several merges that one command asks for: those that an earlier run of it has finished."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

from mats.errors import OutputExists

if TYPE_CHECKING:
    from mats.engine.request import MergeRequest


def is_finished(request: MergeRequest) -> bool:
    """Whether the output is there, made by the same recipe.

    Raises:
        OutputExists: it is there, and not this merge's.
    """
    if not request.output.exists():
        return False
    from mats.engine.describing import recipe_of

    saved = request.output / "recipe.yaml"
    told = yaml.safe_load(saved.read_text()) if saved.is_file() else None
    if told != yaml.safe_load(yaml.safe_dump(recipe_of(request))):
        raise OutputExists(
            f"{request.output}: exists already, from another merge; choose another output or --overwrite"
        )
    return True
