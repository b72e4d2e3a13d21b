"""Checkpoints that a method reads beside the models it merges: the multitask model that tells TIES the signs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, match_tensors
from mats.checkpoints.densify import on_one_base
from mats.engine.request import MergeRequest
from mats.errors import InputsMismatch
from mats.methods.quadratic import QuadraticSettings
from mats.methods.settings import ElementwiseSettings


def asked_paths(request: MergeRequest) -> tuple[str, ...]:
    """Every such checkpoint that the methods of a request name, starts included."""
    methods: list[object] = [*request.methods, *request.assignments.values()]
    for method in list(methods):
        if isinstance(method, QuadraticSettings):
            methods += [method.init, method.outside_settings]
    named = (method.extra_checkpoints for method in methods if isinstance(method, ElementwiseSettings))
    return tuple(dict.fromkeys(path for paths in named for path in paths))


class AskedCheckpoints:
    """Open checkpoints by the path they were asked for, read under the names of the merge.

    Attributes:
        checkpoints: path → the checkpoint as it lies on disk.
    """

    def __init__(
        self,
        checkpoints: Mapping[str, Checkpoint],
        body: Checkpoint,
        base: Checkpoint | None,
        kind: str,
        needed: Iterable[str],
    ) -> None:
        """Match them with the models.

        Args:
            checkpoints: path → checkpoint.
            body: whose names the merge uses.
            base: the base as it lies on disk, for adapters that are merged as whole models.
            kind: of what is merged, "model" or "ia3".
            needed: names that every model has.

        Raises:
            InputsMismatch: another kind or architecture, or a tensor that all models have is missing.
        """
        self.checkpoints = dict(checkpoints)
        self._whole: dict[str, Checkpoint] = {}
        self._aliases: dict[str, Mapping[str, str]] = {}
        names = sorted(needed)
        for path, opened in checkpoints.items():
            whole = opened
            if kind == "model" and opened.kind != "model" and base is not None:
                _, (whole,) = on_one_base(base, [opened], at_least=torch.float32)
            if whole.kind != kind:
                raise InputsMismatch(f"{path}: is {opened.kind}, what is merged {kind}; one of the same would be right")
            match = match_tensors(body, [whole])
            absent = [name for name in names if name not in match.common]
            if absent:
                raise InputsMismatch(
                    f"{path}: lacks {len(absent)} tensors that every model has (first: {absent[0]}); a model of the "
                    "same architecture would be right"
                )
            self._whole[path], self._aliases[path] = whole, match.aliases[whole.name]

    def reader(self, path: str) -> Callable[[str], Tensor]:
        """Reads the tensors of the checkpoint asked for as `path`: fresh, finite, in their stored dtype."""
        whole, aliases = self._whole[path], self._aliases[path]
        return lambda name: whole.read(aliases.get(name, name))
