"""Merges that work entry by entry: one tensor of one model in memory at a time, accumulated in fp32 or better.

The life of an `ElementwiseMerge`, driven by the engine:

    merge = elementwise(settings, model_weights)
    merge.prepare(reader, base_reader, names, progress, sampler=sampler)     # a global pre-pass, where one is needed
    for name in names:
        write(name, merge.merge(name, base, models))                        # `models`: a generator, consumed once
    for name in merge.deferred():                                           # what the whole had to be seen for
        rewrite(name, merge.merge(name, base, models))

`names` are the parameters that the method is responsible for and that every model has; whatever is not floating point
is returned as the base has it (`is_mergeable` tells, so that the engine can report it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol, TypeAlias, runtime_checkable

from mats.errors import RequestError, ShapeMismatch
from mats.methods.settings import ElementwiseSettings, MethodSettingsBase
from mats.progress import Progress

if TYPE_CHECKING:  # a recipe is checked against the settings of the methods without the seconds that torch takes
    import torch
    from torch import Tensor

ModelReader: TypeAlias = "Callable[[int, str], Tensor]"
"""`reader(model_index, name)`: a fresh tensor that the merge may overwrite."""
BaseReader: TypeAlias = "Callable[[str], Tensor]"
"""`base_reader(name)`: a fresh tensor that the merge may overwrite."""

CHUNK = 1 << 17  # entries worked on at a time: a few fp32 buffers of this length stay in the second-level cache


class Sampler(Protocol):
    """Reads a small part of a tensor without reading the rest; it makes a global threshold one pass cheaper."""

    def numel(self, name: str) -> int:
        """How many entries tensor `name` has."""

    def sample(self, model: int | None, name: str, count: int) -> Tensor:
        """About `count` entries of tensor `name` of a model (None: of the base), flat, in blocks spread evenly.

        The places depend on the tensor's size and on `count` alone: entry j is the same place in every model.
        """


class ElementwiseMerge(Protocol):
    """One elementwise method at work on one set of models."""

    restarts: bool
    """True: the end result depends on what `merge` saw of all tensors, so a resumed run merges every tensor again."""

    def prepare(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        progress: Progress,
        *,
        sampler: Sampler | None = None,
    ) -> None:
        """Look at all tensors before the first `merge`, if the method must (TIES: thresholds of whole models)."""

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """The merged tensor, in fp32 (fp64 if an input is); the tensors given may be overwritten.

        Args:
            name: the parameter's name.
            base: the base model's tensor; None where the method needs none and there is none.
            models: each model's tensor, in the order of the weights, produced when asked for and dropped at once.

        Raises:
            ShapeMismatch: a model's tensor has another shape, or the number of models is not that of the weights.
        """

    def deferred(self) -> tuple[str, ...]:
        """After the last `merge`: the tensors that must be merged once more, now that the whole has been seen."""


@runtime_checkable
class OracleMerge(Protocol):
    """A merge that asks one more model, whose tensors the engine gives it a reader of before the first `merge`."""

    oracle: Callable[[str], Tensor] | None


class SinglePass:
    """Base of merges that see each tensor once and need no look at the whole."""

    restarts = False

    def prepare(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        progress: Progress,
        *,
        sampler: Sampler | None = None,
    ) -> None:
        """Nothing to look at beforehand."""

    def deferred(self) -> tuple[str, ...]:
        """Nothing to merge again."""
        return ()


def elementwise(
    settings: MethodSettingsBase, model_weights: Sequence[float], model_names: Sequence[str] | None = None
) -> ElementwiseMerge:
    """The merge for `settings`, with one weight per model.

    Args:
        settings: of an elementwise method.
        model_weights: λ_i, in the order of the models.
        model_names: with names, `merge` wants the models that `settings.models_read` lists, in its order; without, all
            in theirs.

    Raises:
        RequestError: the method is not elementwise, there is no model, or the models do not fit the method.
    """
    if not isinstance(settings, ElementwiseSettings):
        raise RequestError(f"method {settings.name!r} does not work entry by entry; it needs the solver and metadata")
    if not model_weights:
        raise RequestError(f"method {settings.name!r}: 0 models given; at least one is needed")
    if fault := settings.count_fault(len(model_weights)):
        raise RequestError(fault)
    weights = tuple(float(weight) for weight in model_weights)
    return settings.build(weights) if model_names is None else settings.build_for(tuple(model_names), weights)


def is_mergeable(dtype: torch.dtype) -> bool:
    """Whether tensors of this dtype are merged; integer and boolean buffers are taken from the base instead."""
    return dtype.is_floating_point


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The dtype sums are kept in: fp32, or fp64 where the input is fp64."""
    import torch

    return torch.promote_types(dtype, torch.float32)


def differences(tensor: Tensor, base: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """θ − θ0 of flat tensors in fresh pieces of fp32 (or better, as the inputs are), with their places."""
    import torch

    dtype = torch.promote_types(working_dtype(tensor.dtype), base.dtype)
    for start in range(0, tensor.numel(), CHUNK):
        piece = slice(start, start + CHUNK)
        yield piece, torch.sub(tensor[piece].to(dtype), base[piece].to(dtype))


def numbered(name: str, shape: torch.Size | None, models: Iterable[Tensor], count: int) -> Iterator[tuple[int, Tensor]]:
    """`models` with their indices, each checked to have `shape` (None: that of the first), and exactly `count` of them.

    Raises:
        ShapeMismatch: another shape, or another number of models.
    """
    index = 0
    for tensor in models:  # `enumerate` would keep the last tensor alive while the next one is read
        if index >= count:
            raise ShapeMismatch(f"{name}: more tensors given than the {count} models that have weights")
        shape = tensor.shape if shape is None else shape
        if tensor.shape != shape:
            raise ShapeMismatch(f"{name}: model {index} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
        yield index, tensor
        del tensor
        index += 1
    if index != count:
        raise ShapeMismatch(f"{name}: {index} tensors given for {count} models that have weights")


def require_base(method: str, name: str, base: Tensor | None) -> Tensor:
    """`base`, or the error that tells why it is needed."""
    if base is None:
        raise RequestError(
            f"{method}: {name}: task vectors are differences from a base model, and none is given (`base:`)"
        )
    return base
