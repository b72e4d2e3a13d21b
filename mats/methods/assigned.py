"""Settings of one tensor: a method's settings together with the models that take part in it and their weights.

A merge whose parameters differ from tensor to tensor (merge files of mergekit) gives each tensor such settings; the
engine treats them like any other, and tensors under equal ones share a merge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar

from pydantic import SerializeAsAny

from mats.errors import RequestError
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor

    from mats.methods.elementwise import BaseReader, ElementwiseMerge, ModelReader, Sampler
    from mats.progress import Progress


class AssignedSettings(ElementwiseSettings):
    """What is done to one tensor.

    Attributes:
        settings: of an elementwise method.
        models: indices of the request's models that take part, in the order in which the method gets them.
        weights: one for each of `models`; the request's own weights do not count.
    """

    allowed_weights: ClassVar[AllowedWeights] = "any"
    settings: SerializeAsAny[ElementwiseSettings]
    models: tuple[int, ...]
    weights: tuple[float, ...]

    @property
    def name(self) -> str:
        """The method's word."""
        return self.settings.name

    def copies_held(self, name: str, shape: Sequence[int]) -> int:
        """As the method says."""
        return self.settings.copies_held(name, shape)

    @property
    def runs_anywhere(self) -> bool:
        """As the method says."""
        return self.settings.runs_anywhere

    @property
    def copies_per_model(self) -> int:
        """As the method says."""
        return self.settings.copies_per_model

    @property
    def extra_checkpoints(self) -> tuple[str, ...]:
        """As the method says."""
        return self.settings.extra_checkpoints

    def reads_base(self, model_names: Sequence[str]) -> bool:
        """As the method says of the models that take part."""
        return self.settings.reads_base([model_names[index] for index in self.models])

    def models_read(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[int, ...]:  # noqa: ARG002
        """The models that take part."""
        return self.models

    def build(self, model_weights: Sequence[float]) -> ElementwiseMerge:  # noqa: ARG002
        """The method's merge with this tensor's own weights.

        Raises:
            RequestError: the method does not take so many models, or these weights.
        """
        if fault := self.settings.models_fault([str(index) for index in self.models]):
            raise RequestError(fault)
        return _AssignedMerge(self.settings.build(self.weights), self.models)


class _AssignedMerge:
    """A merge that asks for models by their place among those that take part, put before readers of all models."""

    def __init__(self, merge: ElementwiseMerge, models: tuple[int, ...]) -> None:
        self._merge, self._models = merge, models
        self.restarts = merge.restarts

    @property
    def oracle(self) -> Callable[[str], Tensor] | None:
        """The merge's own (`OracleMerge`)."""
        return getattr(self._merge, "oracle", None)

    @oracle.setter
    def oracle(self, reader: Callable[[str], Tensor] | None) -> None:
        self._merge.oracle = reader  # type: ignore[attr-defined]

    def prepare(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        progress: Progress,
        *,
        sampler: Sampler | None = None,  # noqa: ARG002 - it counts all models; a look without samples is as exact
    ) -> None:
        """See `ElementwiseMerge.prepare`."""

        def read(place: int, name: str) -> Tensor:
            return reader(self._models[place], name)

        self._merge.prepare(read, base_reader, names, progress)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        return self._merge.merge(name, base, models)

    def deferred(self) -> tuple[str, ...]:
        """See `ElementwiseMerge.deferred`."""
        return self._merge.deferred()
