"""The open inputs of one merge: base, models and stores, addressed by the names of the merged checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, TensorInfo, TensorMatch, match_tensors, open_checkpoint, output_tensors
from mats.engine.devices import resolve_dtype
from mats.engine.request import MergeRequest
from mats.errors import InputsMismatch, RequestError
from mats.store import MetadataStore, open_store


class MergeInputs:
    """Checkpoints and stores of a request, opened lazily; use as a context manager.

    Attributes:
        base: the pretrained checkpoint; None when none was given, or when adapters are merged (their base is ones).
        models: as in the request.
        reference: whose tensors and companion files the output takes: the base, or the first model.
        kind: "model" or "ia3".
        tensors: what the merged checkpoint contains, in its order and dtype.
        match: what is missing or extra in each model.
    """

    def __init__(self, request: MergeRequest) -> None:
        self.request = request
        self._exit = ExitStack()
        try:
            self.models = tuple(self._open(model.path) for model in request.models)
            self.kind = self._common_kind()
            self.base = self._open(request.base) if request.base is not None and self.kind == "model" else None
            self.reference = self.base or self.models[0]
            self.match: TensorMatch = match_tensors(self.reference, self.models)
            self._refuse_holes_without_base()
            self.tensors: list[TensorInfo] = output_tensors(
                self.reference, self.models, dtype=resolve_dtype(request.dtype)
            )
        except BaseException:
            self._exit.close()
            raise
        self._stores: dict[int, MetadataStore] = {}

    def _open(self, path: str) -> Checkpoint:
        return self._exit.enter_context(open_checkpoint(path))

    def _common_kind(self) -> str:
        kinds = {model.kind for model in self.models}
        if len(kinds) > 1:
            listed = ", ".join(f"{m.name}: {c.kind}" for m, c in zip(self.request.models, self.models, strict=True))
            raise InputsMismatch(
                f"models of different kinds cannot be merged ({listed}); give all as models or all as adapters"
            )
        kind = kinds.pop()
        if kind == "lora":
            raise RequestError(
                f"model {self.request.models[0].name}: LoRA adapters are read, not merged; merge each into its base "
                "first (PEFT's merge_and_unload) and give the resulting models"
            )
        return kind

    def _refuse_holes_without_base(self) -> None:
        if self.base is not None:
            return
        for model, names in self.match.missing.items():
            if names:
                raise InputsMismatch(
                    f"model {model} lacks {len(names)} tensors of {self.request.models[0].name} (first: {names[0]}); "
                    "give `base:` to keep the base's values there"
                )

    def in_all_models(self, name: str) -> bool:
        """Whether every model has the tensor `name` of the output."""
        return all(self._locate(model, name) is not None for model in self.models)

    def _locate(self, checkpoint: Checkpoint, name: str) -> str | None:
        """What `name` of the output is called in `checkpoint`: itself, or a name tied to it."""
        if name in checkpoint.tensors:
            return name
        for group in (*checkpoint.tied, *self.reference.tied):
            if name in group:
                return next((other for other in group if other in checkpoint.tensors), None)
        return None

    def output_name(self, index: int, name: str) -> str:
        """What the tensor that model `index` calls `name` is called in the output."""
        outputs = self.output_names
        if name in outputs:
            return name
        for group in (*self.models[index].tied, *self.reference.tied):
            if name in group:
                return next((other for other in group if other in outputs), name)
        return name

    @cached_property
    def output_names(self) -> frozenset[str]:
        """Names of all tensors of the output."""
        return frozenset(info.name for info in self.tensors)

    @cached_property
    def output_dtypes(self) -> dict[str, torch.dtype]:
        """The dtype in which each tensor of the output is written."""
        return {info.name: info.dtype for info in self.tensors}

    def read(self, index: int, name: str) -> Tensor:
        """Model `index`'s tensor for `name` of the output: fresh, finite, in its stored dtype.

        Raises:
            NonFiniteWeights, CheckpointCorrupt: from the file.
        """
        located = self._locate(self.models[index], name)
        if located is None:
            raise InputsMismatch(f"model {self.request.models[index].name}: tensor {name} is missing")
        return self.models[index].read(located)

    def read_all(self, name: str) -> Iterator[Tensor]:
        """Every model's tensor for `name`, one at a time."""
        for index in range(len(self.models)):
            yield self.read(index, name)

    @property
    def has_base(self) -> bool:
        """Whether there are base values: a base checkpoint, or the ones that (IA)³ adapters start from."""
        return self.base is not None or self.kind == "ia3"

    def read_base(self, name: str) -> Tensor:
        """The base's tensor for `name`; ones for an (IA)³ vector, which multiplies and so leaves a model as it was.

        Raises:
            RequestError: there is no base.
        """
        if self.kind == "ia3":
            info = self.models[0].tensors[name]
            return torch.ones(info.shape, dtype=info.dtype)
        if self.base is None:
            raise RequestError(f"{name}: a base model is needed here and none is given (`base:`)")
        return self.base.read(name)

    def store(self, index: int) -> MetadataStore:
        """The store of model `index`.

        Raises:
            RequestError: the request names none.
        """
        if index not in self._stores:
            model = self.request.models[index]
            if model.metadata is None:
                raise RequestError(
                    f"model {model.name}: method {self.request.method.name} needs metadata measured on it and none is "
                    "given; make it with `mats save-metadata RECIPE` and name its folder under `metadata:`"
                )
            self._stores[index] = open_store(model.metadata)
        return self._stores[index]

    @property
    def opened_stores(self) -> tuple[int, ...]:
        """Indices of the models whose stores the plan needed."""
        return tuple(sorted(self._stores))

    def close(self) -> None:
        """Close every file."""
        self._exit.close()

    def __enter__(self) -> MergeInputs:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
