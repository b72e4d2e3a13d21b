"""The open LoRA adapters of one merge, module by module: who adapts what, and whether that can be added up."""

from __future__ import annotations

from contextlib import ExitStack
from functools import cached_property
from types import TracebackType

from mats.checkpoints import open_checkpoint
from mats.checkpoints.lora import LoraAdapter, LoraModule, as_lora
from mats.checkpoints.lora_places import Places
from mats.checkpoints.tensors import natural_order
from mats.engine.request import MergeRequest
from mats.errors import InputsMismatch, ShapeMismatch


class AdapterInputs:
    """The adapters of a request, by its order; headers and configurations are read, no factor. A context manager.

    Attributes:
        adapters: one per model.
        names: of the models.
        base: the checkpoint under them, where the request names one.
    """

    def __init__(self, request: MergeRequest) -> None:
        self.request = request
        self.names = tuple(model.name for model in request.models)
        self._exit = ExitStack()
        try:
            self.adapters = tuple(self._open(model.name, model.path) for model in request.models)
            self.base = None if request.base is None else self._exit.enter_context(open_checkpoint(request.base))
            self._check_modules()
            self._check_base()
        except BaseException:
            self._exit.close()
            raise

    def _open(self, name: str, path: str) -> LoraAdapter:
        checkpoint = self._exit.enter_context(open_checkpoint(path))
        if checkpoint.kind != "lora":
            what = {"ia3": "an (IA)³ adapter", "model": "a whole model"}[checkpoint.kind]
            advice = "leave adapters out" if checkpoint.kind == "ia3" else "LoRA adapters alone, or no adapters section"
            raise InputsMismatch(f"model {name}: {path} is {what}, and adapters is about LoRA; {advice} would be right")
        return as_lora(checkpoint)

    @cached_property
    def modules(self) -> dict[str, tuple[LoraModule | None, ...]]:
        """Module → each adapter's update of it, None where it has none; in natural order."""
        every = sorted({name for adapter in self.adapters for name in adapter.modules}, key=natural_order)
        return {name: tuple(adapter.modules.get(name) for adapter in self.adapters) for name in every}

    @cached_property
    def _places(self) -> Places | None:
        return None if self.base is None else Places.of(self.base, self.modules)

    def shown(self, name: str) -> str:
        """What a merge calls a tensor of the adapters' model: as the base's file does, where there is a base.

        transformers renames parameters on loading, and adapters follow the loaded model.
        """
        return name if self._places is None else self._places.shown(name)

    def stored(self, name: str) -> str | None:
        """What the base's file calls a tensor of the adapters' model; None without a base, or where it has none."""
        return None if self._places is None else self._places.stored(name)

    @property
    def weight_decomposed(self) -> tuple[str, ...]:
        """Names of the models with DoRA magnitudes, whose update is not s·B·A alone."""
        return tuple(
            name
            for name, adapter in zip(self.names, self.adapters, strict=True)
            if any(module.magnitude is not None for module in adapter.modules.values())
        )

    def _check_modules(self) -> None:
        """Updates of one module must be of one kind and shape.

        Raises:
            ShapeMismatch: they are not.
        """
        for name, updates in self.modules.items():
            first: tuple[str, LoraModule] | None = None
            for model, update in zip(self.names, updates, strict=True):
                if update is None:
                    continue
                first = first or (model, update)
                if (update.layer, update.shape) != (first[1].layer, first[1].shape):
                    raise ShapeMismatch(
                        f"model {model}: its update of {name} is {update.layer} {list(update.shape)}, that of model "
                        f"{first[0]} {first[1].layer} {list(first[1].shape)}; adapters of one base would be right"
                    )

    def _check_base(self) -> None:
        """A base that is given is the adapters' base, whether or not the sum reads it.

        Raises:
            InputsMismatch: it lacks a module that an adapter changes.
        """
        if self.base is not None:
            for name, adapter in zip(self.names, self.adapters, strict=True):
                places = Places.of(self.base, adapter.modules)
                for module in adapter.modules:
                    places.weight(module, f"model {name}")

    def close(self) -> None:
        """Close every file."""
        self._exit.close()

    def __enter__(self) -> AdapterInputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def canonical_shape(update: LoraModule) -> tuple[int, int]:
    """(out, in) of the product B A: a convolution unfolded, an embedding as [width, rows]."""
    columns = 1
    for size in update.down.shape[1:]:
        columns *= size
    return update.up.shape[0], columns
