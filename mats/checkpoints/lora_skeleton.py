"""What a base's class says beyond its files: which parameters are tied, and what files call them.

Asked only where a file leaves it open: an adapter on an output head that is stored nowhere because it is tied to the
embedding, or on modules that transformers renames on loading.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from mats.checkpoints.renaming import names_in_files


@dataclass(frozen=True)
class Skeleton:
    """A model's parameters without their values.

    Attributes:
        tied: groups of names that are one parameter, in files' names.
        stored: name in memory → name in files, where the two differ.
        known: whether transformers has the class, so that what is not here is not so.
    """

    tied: tuple[tuple[str, ...], ...]
    stored: Mapping[str, str]
    known: bool = True

    def twins(self, name: str) -> tuple[str, ...]:
        """The other names of the parameter `name`."""
        return next((tuple(other for other in group if other != name) for group in self.tied if name in group), ())


def skeleton_of(config: Mapping[str, Any] | None) -> Skeleton:
    """The skeleton of the class that a `config.json` names; an empty one where transformers has no such class."""
    if not config or not config.get("architectures") or config.get("auto_map"):
        return Skeleton((), {}, known=False)
    return _build(json.dumps(config, sort_keys=True, default=str))


@lru_cache(maxsize=4)
def _build(text: str) -> Skeleton:
    import torch
    import transformers

    config = json.loads(text)
    model_class = getattr(transformers, str(config["architectures"][0]), None)
    if model_class is None:
        return Skeleton((), {}, known=False)
    with torch.device("meta"):
        model = model_class(model_class.config_class.from_dict(config))
    model.tie_weights()
    stored = names_in_files(model)
    names: dict[int, list[str]] = defaultdict(list)
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names[id(parameter)].append(stored.get(name, name))
    return Skeleton(tuple(tuple(group) for group in names.values() if len(group) > 1), stored)
