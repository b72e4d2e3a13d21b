"""Outputs put together from layers of the inputs: which tensor of which input each of their tensors is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from mats.checkpoints import Checkpoint
from mats.checkpoints.arranged import arranged


@dataclass(frozen=True)
class Arrangement:
    """The layers of an output.

    Attributes:
        models: for each of the request's models: tensor of the output → its own tensor that takes part in it. Every
            tensor of the output is given by a model or by the base.
        base: the same for the base; empty without one.
        config: values of the output's config.json that follow from it (numbers of layers, lists by layer).
    """

    models: tuple[Mapping[str, str], ...]
    base: Mapping[str, str] = field(default_factory=dict)
    config: Mapping[str, Any] = field(default_factory=dict)

    def of(
        self, models: Sequence[Checkpoint], base: Checkpoint | None
    ) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
        """The inputs with their tensors under the output's names.

        What an input gives nothing to, it shows as the base does, or the first model that gives something; whether a
        merge looks there is decided by `MergeRequest.assignments`.
        """
        if base is None:
            return arranged(models, self.models, self.config), None
        shown, *views = arranged([base, *models], [self.base, *self.models], self.config)
        return tuple(views), shown
