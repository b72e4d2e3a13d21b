"""The open inputs of one merge: base, models and stores, addressed by the names of the merged checkpoint."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from types import TracebackType

import torch
from torch import Tensor

from mats.checkpoints import (
    Checkpoint,
    TensorInfo,
    labels,
    match_tensors,
    open_checkpoint,
    output_tensors,
    tied_in_all,
)
from mats.checkpoints.adapters import merge_base, neutral_adapter
from mats.checkpoints.densify import densify
from mats.checkpoints.heads import head_names
from mats.checkpoints.safetensors_file import SafetensorsFile
from mats.engine.adapter_parts import adapted_parts
from mats.engine.asked import AskedCheckpoints, asked_paths
from mats.engine.devices import resolve_dtype
from mats.engine.filled import completed
from mats.engine.fused_parts import PartInfos, split_part
from mats.engine.heads import Separated, separate, under_head
from mats.engine.opened import open_input, whole_models
from mats.engine.request import MergeRequest
from mats.engine.sparsified import sparsified_views
from mats.engine.vocabulary import common_vocabulary, under_one_head
from mats.errors import InputsMismatch, RequestError
from mats.methods.sampling import sample_checkpoint
from mats.store import MetadataStore, open_store


class MergeInputs:
    """Checkpoints and stores of a request, opened lazily; use as a context manager.

    Attributes:
        opened: the request's models as they lie on disk, with what some adapters bring to lie on.
        checkpoints: these models alone, or their adapters.
        models: what is merged of them: their bodies where the request keeps heads apart, else all of them.
        given_base: the checkpoint that `base:` names; None without one.
        vocabulary: the models and the base with one vocabulary between them.
        base: what task vectors are measured against: `given_base` (its body), or ones for (IA)³ adapters; or None.
        separated: heads and bodies; None where the request keeps no heads apart.
        owner: whose configuration and head the output has: the base or the first model, or as the heads say.
        reference: whose tensors the output has: the base, or the first model; with heads, under the owner's head.
        kind: "model" or "ia3".
        tensors: what the merged checkpoint contains, in its order and dtype.
        asked: checkpoints that a method reads beside the models.
        missing, extra: model name → tensor names, against the reference.
        followers: tensor → the other names under which the output stores the same (tied) content.
    """

    def __init__(self, request: MergeRequest) -> None:
        self.request = request
        self._exit = ExitStack()
        self._stores: dict[int, MetadataStore] = {}
        self._measured: dict[int, Checkpoint] = {}
        self._last_read: tuple[tuple[int | None, str], Tensor] | None = None
        self._measured_aliases: dict[int, Mapping[str, str]] = {}
        try:
            self.opened = tuple(open_input(model.path, model.adapter, self._exit) for model in request.models)
            self.checkpoints = tuple(model.stored for model in self.opened)
            self.given_base = None if request.base is None else self._open(request.base)
            self.kind = self._common_kind()
            models, base = self._arranged()
            self.vocabulary = common_vocabulary(self.model_names, models, base, request.vocabulary)
            self.separated = self._separated()
            self.models = self.vocabulary.models if self.separated is None else self.separated.bodies
            self.base = self._merge_base()
            self._body = self._reference_body()
            self.owner = self._body if self.separated is None else self.separated.owner
            self.reference = self._body if self.separated is None else under_head(self._body, self.separated.head)
            self._match_names()
            self.asked = self._asked()
            self._thinned = sparsified_views(request.models, self.models, self.base, self._floating_names)
        except BaseException:
            self._exit.close()
            raise

    def _open(self, path: str) -> Checkpoint:
        return self._exit.enter_context(open_checkpoint(path))

    def _arranged(self) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
        """Models and base with their layers where the output has them; adapters laid onto the base first."""
        models, base = self._whole()
        if self.request.arrangement is None:
            return models, base
        shown, _ = under_one_head([*([] if base is None else [base]), *models])
        models, base = (shown, None) if base is None else (shown[1:], shown[0])
        return self.request.arrangement.of(models, base)

    def _whole(self) -> tuple[tuple[Checkpoint, ...], Checkpoint | None]:
        """Adapters as whole models on the base, unless all are (IA)³ vectors, which are merged as they are.

        Raises:
            RequestError: no base to lay them on.
        """
        if self.kind == "ia3":
            return self.checkpoints, self.given_base
        loose = [index for index, each in enumerate(self.opened) if each.stored.kind != "model" and each.under is None]
        if self.given_base is None and loose:
            raise RequestError(
                f"model {self.model_names[loose[0]]}: an adapter ({self.checkpoints[loose[0]].kind}) is merged as a "
                "whole model, laid onto the base, and none is given; `base:` with the model under it would be right"
            )
        models, base = whole_models(self.opened, self.given_base)
        if base is None:
            return models, None
        return adapted_parts(models, base) if self.request.makes_adapter else (models, base)

    def _common_kind(self) -> str:
        """What is merged: (IA)³ vectors where all models are such adapters, else (or where asked for) whole models."""
        if self.request.adapters is not None and not self.request.makes_adapter:
            return "model"
        return "ia3" if all(each.stored.kind == "ia3" and each.under is None for each in self.opened) else "model"

    def _separated(self) -> Separated | None:
        if self.request.heads is None or self.request.makes_adapter:
            return None
        shown = self.vocabulary
        return separate(self.model_names, shown.models, shown.base, self.request.heads, self.kind)

    def _reference_body(self) -> Checkpoint:
        """The base, or without one the first model; its body alone, and under the owner's names, with heads."""
        if self.base is not None or self.separated is None:
            return self.base or self.models[0]
        return self.models[self.vocabulary.models.index(self.separated.owner)]

    def _merge_base(self) -> Checkpoint | None:
        if self.separated is not None and self.kind == "model":
            return self.separated.base
        if self.vocabulary.base is not None:
            return merge_base(self.vocabulary.base, self.models)
        return neutral_adapter(self.models) if self.kind == "ia3" else None

    def _match_names(self) -> None:
        match = match_tensors(self._body, self.models)
        names = self.model_names
        keys = labels(self.models)
        self._aliases = [match.aliases.get(key, {}) for key in keys]
        self.missing = {name: match.missing.get(key, ()) for name, key in zip(names, keys, strict=True)}
        self.extra = {name: match.extra.get(key, ()) for name, key in zip(names, keys, strict=True)}
        self._common = frozenset(match.common)
        self.models, added = completed(
            self.models, self._body, self.missing, self.request.missing, kind=self.kind, base=self.base
        )
        self._common |= added
        self.tensors: list[TensorInfo] = output_tensors(
            self.reference,
            self.models,
            dtype=torch.float32 if self.request.makes_adapter else resolve_dtype(self.request.dtype),
        )
        if self.request.dtype is None and not self.request.makes_adapter:
            self.tensors = self.vocabulary.as_stored(self.tensors, self.given_base or self.checkpoints[0])
        self._check_assigned()
        groups = tied_in_all(self._body, self.models)
        self.followers = {group[0]: group[1:] for group in groups}
        self._leaders = {other: group[0] for group in groups for other in group[1:]}

    def _check_assigned(self) -> None:
        """Where single tensors have settings of their own, all must have: what others do is not meant for them."""
        assigned = self.request.assignments
        lost = [info.name for info in self.tensors if info.name not in assigned] if assigned else []
        if lost:
            raise InputsMismatch(
                f"{self.reference.name}: nothing says how to merge {len(lost)} tensors of the result (first: "
                f"{lost[0]}); settings for each would be right"
            )

    def _asked(self) -> AskedCheckpoints:
        opened = {path: self._open(path) for path in asked_paths(self.request)}
        return AskedCheckpoints(opened, self._body, self.given_base, self.kind, self._common)

    def _floating_names(self, index: int) -> dict[str, str]:
        """Floating-point tensor that all models have → what model `index` calls it."""
        model, aliases = self.models[index], self._aliases[index]
        own = {name: aliases.get(name, name) for name in self._body.tensors if name in self._common}
        return {name: theirs for name, theirs in own.items() if model.tensors[theirs].dtype.is_floating_point}

    @cached_property
    def model_names(self) -> tuple[str, ...]:
        """How the request calls its models."""
        return self.request.model_names

    @cached_property
    def infos(self) -> dict[str, TensorInfo]:
        """Every tensor of the output by name."""
        return PartInfos((info.name, info) for info in self.tensors)

    @property
    def leading(self) -> list[TensorInfo]:
        """The output's tensors, each tied one once."""
        return [info for info in self.tensors if info.name not in self._leaders]

    @cached_property
    def head(self) -> frozenset[str]:
        """Tensors of the output that belong to its head, which is not merged (or averaged, if the request says so)."""
        return frozenset() if self.separated is None else frozenset(self.separated.head.tensors)

    def in_all_models(self, name: str) -> bool:
        """Whether every model has the tensor `name` of the output, itself or under a tied name."""
        return name in self._common

    def output_name(self, index: int, name: str) -> str:
        """What the tensor that model `index` calls `name` is called in the output (the first of its tied names)."""
        return self._renamed(name, self._aliases[index], self.models[index])

    def store_name(self, index: int, name: str) -> str:
        """As `output_name`, for a name in the store of model `index`, which may be measured on another checkpoint."""
        measured = self.measured(index)
        if measured is self.checkpoints[index]:
            return self.output_name(index, name)
        return self._renamed(name, self._measured_aliases[index], measured)

    def _renamed(self, name: str, aliases: Mapping[str, str], model: Checkpoint) -> str:
        whole, number = split_part(name)
        if number is not None:
            return f"{self._renamed(whole, aliases, model)}[{number}]"
        if name not in self.infos:
            back = {theirs: ours for ours, theirs in aliases.items()}
            groups = (*model.tied, *self._body.tied)
            twins = [other for group in groups if name in group for other in group if other in self.infos]
            name = back.get(name) or next(iter(twins), name)
        return self._leaders.get(name, name)

    def under(self, index: int) -> Checkpoint | None:
        """What the model `index`, if it is an adapter, lies on: the model that came with it, or the base."""
        return self.opened[index].under or self.given_base

    def measured(self, index: int) -> Checkpoint:
        """The checkpoint whose statistics the store of model `index` must hold: the model, or what `measured_on` names.

        Raises:
            InputsMismatch: it does not fit the models that are merged.
            RequestError: it is not there, or keeps heads and none of this model.
        """
        model = self.request.models[index]
        if model.measured_on is None:
            return self.checkpoints[index]
        if index not in self._measured:
            head = model.name if head_names(model.measured_on) else None
            opened = self._exit.enter_context(open_checkpoint(model.measured_on, head=head))
            if (opened.kind == "ia3") != (self.kind == "ia3"):
                raise InputsMismatch(
                    f"model {model.name}: measured_on {model.measured_on} is {opened.kind}, the model {self.kind}; a "
                    "checkpoint of the same kind would be right"
                )
            under = self.under(index)
            whole = densify(under, opened) if opened.kind == "lora" and under else opened
            match = match_tensors(self._body, [whole])
            self.vocabulary.check_measured(whole)
            self._measured_aliases[index] = match.aliases[whole.name]
            self._measured[index] = opened
        return self._measured[index]

    def read(self, index: int, name: str) -> Tensor:
        """Model `index`'s tensor for `name` of the output: fresh, finite, in its stored dtype.

        Raises:
            NonFiniteWeights, CheckpointCorrupt: from the file.
        """
        if name in self.head:
            return self.vocabulary.models[index].read(name)
        whole, number = split_part(name)
        if number is not None:
            return self._whole_last_read(index, whole)[number].clone()
        checkpoint, own = self._place(index, name)
        return checkpoint.read(own)

    def _whole_last_read(self, index: int | None, name: str) -> Tensor:
        """A tensor whose parts are read one after the other; None: the base's."""
        if self._last_read is None or self._last_read[0] != (index, name):
            self._last_read = None
            tensor = self.read_base(name) if index is None else self.read(index, name)
            self._last_read = ((index, name), tensor)
        return self._last_read[1]

    def _place(self, index: int, name: str) -> tuple[Checkpoint, str]:
        """Where model `index`'s tensor for `name` of the output is read, and under which name."""
        thinned = self._thinned.get(index)
        if thinned is not None and name in thinned.tensors:
            return thinned, name
        return self.models[index], self._aliases[index].get(name, name)

    def token_rows(self, index: int, name: str) -> Tensor | None:
        """For each row of the output's tensor `name` the row of the model `index` that its statistics call so.

        -1 where the model has no such token; None where the rows are as they were measured, or are not tokens.
        """
        if self.request.models[index].measured_on is not None or name not in self.vocabulary.named_tensors:
            return None
        return self.vocabulary.own_rows(index)

    def shareable(self, name: str) -> bool:
        """Whether base and models hold the tensor `name` of the output in files as it is, not computed when it is read.

        Then threads may read it at the same time.
        """
        if name in self.head or split_part(name)[1] is not None:
            return False
        places = [self._place(index, name) for index in range(len(self.models)) if self.in_all_models(name)]
        places += [] if self.base is None else [(self.base, name)]
        return all(isinstance(checkpoint.place(own).file, SafetensorsFile) for checkpoint, own in places)

    def read_base(self, name: str) -> Tensor:
        """The base's tensor for `name`.

        Raises:
            RequestError: there is no base.
        """
        whole, number = split_part(name)
        if number is not None:
            return self._whole_last_read(None, whole)[number].clone()
        return self._needed_base(name).read(name)

    def _needed_base(self, name: str) -> Checkpoint:
        if self.base is None:
            raise RequestError(f"{name}: a base model is needed here and none is given (`base:`)")
        return self.base

    def numel(self, name: str) -> int:
        """How many entries the tensor `name` of the output has (`mats.methods.Sampler`)."""
        return self.infos[name].numel

    def sample(self, model: int | None, name: str, count: int) -> Tensor:
        """About `count` entries of a model's tensor (None: of the base), evenly spread (`mats.methods.Sampler`)."""
        if model is not None:
            return sample_checkpoint(*self._place(model, name), count)
        if self.kind == "ia3":
            return torch.ones_like(self.sample(0, name, count))
        return sample_checkpoint(self._needed_base(name), name, count)

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
