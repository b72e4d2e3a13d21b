"""Metadata files as the published MaTS code saves them, written as a store.

They are pickled dictionaries name → float32 tensor, one file per statistic and model, and hold *means*: the diagonal
and the block Fisher over examples, under names of parameters; both Grams over tokens, under names of modules. What a
store needs besides (how many examples and tokens) they do not hold; the caller says it. A store keeps sums, so means
are multiplied with these numbers; a method with `scaling: tokens`, as published, divides by them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, open_checkpoint
from mats.checkpoints.legacy import peft_ia3_name, strip_wrapper
from mats.checkpoints.pickled_file import PickledFile
from mats.errors import InputsMismatch, RequestError, ShapeMismatch
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.progress import Progress
from mats.store import DataIdentity, LayerRecord, Manifest, ModelIdentity, SiteRecord, pack, write_store
from mats.store.manifest import encoding_of
from mats.store.packing import check_symmetric
from mats.store.tensor_file import Encoded

Published = Literal["input_gram", "output_gram", "diagonal", "block"]
CROSS_ATTENTION = ("EncDecAttention.k", "EncDecAttention.v")


@dataclass(frozen=True)
class ImportRequest:
    """What to import.

    Attributes:
        model: The checkpoint that was measured, as `open_checkpoint` takes it.
        name: What recipes call the model.
        files: Statistic → file.
        output: Folder of the store.
        base: The model under an adapter or a lone weight file; None for a whole model.
        examples: Number of examples that the means are over.
        input_tokens: Tokens of all inputs: rows of encoder layers and of cross-attention's k and v. None: not known.
        target_tokens: Tokens of all targets: rows of the other layers. None: not known.
        data: Name of the dataset.
        split: Of it.
        sampled: Labels were drawn from the model ("true" Fisher), not the data's own.
        overwrite: Replace an existing store.
    """

    model: str
    name: str
    files: Mapping[Published, Path]
    output: Path
    base: str | None = None
    examples: int = 1000
    input_tokens: int | None = None
    target_tokens: int | None = None
    data: str = "unknown"
    split: str = "validation"
    sampled: bool = False
    overwrite: bool = False

    def __post_init__(self) -> None:
        """Check what needs no file.

        Raises:
            RequestError: with the field, its value and what would be right.
        """
        if not self.files:
            raise RequestError("nothing to import: one of input_gram, output_gram, diagonal, block would be right")
        if "output_gram" in self.files and "input_gram" not in self.files:
            raise RequestError("output_gram without input_gram: no method uses output Grams alone; give both files")
        for field in ("examples", "input_tokens", "target_tokens"):
            value = getattr(self, field)
            if value is not None and value < 1:
                raise RequestError(f"{field}: {value}; 1 or more would be right")

    def rows(self, module: str) -> int:
        """Rows that the Grams of `module` are means over; where that is not known, one per example."""
        is_input = "encoder" in module or module.endswith(CROSS_ATTENTION)
        return (self.input_tokens if is_input else self.target_tokens) or self.examples

    @property
    def knows_tokens(self) -> bool:
        """Whether the Grams' share per example can be told."""
        return self.input_tokens is not None and self.target_tokens is not None


def import_metadata(request: ImportRequest, progress: Progress | None = None) -> Manifest:
    """Write the store; the files are read tensor by tensor, without running any code in them.

    Raises:
        InputsMismatch: a name in a file is none of the checkpoint's.
        ShapeMismatch: a statistic does not fit its weight.
        CheckpointCorrupt, NonFiniteStatistic, OutputExists, OutOfSpace: from the files and the disk.
    """
    refuse_existing(request.output, overwrite=request.overwrite)
    refuse_replacing_inputs(request.output, (request.model, request.base or request.model, *request.files.values()))
    with ExitStack() as stack:
        checkpoint = stack.enter_context(open_checkpoint(request.model))
        base = None if request.base is None else stack.enter_context(open_checkpoint(request.base))
        source = _PublishedSums(request, checkpoint, stack)
        manifest = _manifest(request, checkpoint, base, source)
        write_store(request.output, manifest, source, {}, overwrite=request.overwrite, progress=progress)
        return manifest


class _PublishedSums:
    """The files' means as sums under a store's keys, one at a time (`mats.store.sources.SumSource`)."""

    def __init__(self, request: ImportRequest, checkpoint: Checkpoint, stack: ExitStack) -> None:
        self._request = request
        self._places: dict[str, tuple[PickledFile, str]] = {}
        self._factors: dict[str, float] = {}
        self.entries: dict[str, Encoded] = {}
        self.layers: dict[str, LayerRecord] = {}
        self.sites: dict[str, SiteRecord] = {}
        self.parameters: list[str] = []
        for statistic in sorted(request.files):
            file = PickledFile(request.files[statistic])
            stack.callback(file.close)
            for stored, name in strip_wrapper(file.infos).items():
                if statistic in ("input_gram", "output_gram"):
                    self._add_gram(statistic, file, stored, name, checkpoint)
                else:
                    self._add_fisher(statistic, file, stored, name, checkpoint)

    def _add(self, key: str, file: PickledFile, stored: str, factor: float) -> None:
        shape = file.infos[stored].shape
        self._places[key] = (file, stored)
        self._factors[key] = factor
        self.entries[key] = Encoded(encoding_of(key, shape), shape, "float32")

    def _add_gram(self, statistic: str, file: PickledFile, stored: str, name: str, checkpoint: Checkpoint) -> None:
        weight = _known(f"{name}.weight", checkpoint, file, stored)
        shape = checkpoint.tensors[weight].shape
        size = shape[1 if statistic == "input_gram" else 0] if len(shape) == 2 else None
        if size is None or file.infos[stored].shape != (size, size):
            raise ShapeMismatch(
                f"{file.path}: {stored} {list(file.infos[stored].shape)} is no {statistic} of {weight} {list(shape)}"
            )
        if statistic == "input_gram":
            self.sites[name] = SiteRecord(name, "gram", size, homogeneous=False)
            self.layers[name] = LayerRecord(name, "linear", weight, None, name, "out_in", shape[0])
        elif name not in self.sites:
            raise InputsMismatch(f"{file.path}: {stored} has an output Gram, and no input Gram in the other file")
        self._add(f"{statistic}/{name}", file, stored, float(self._request.rows(name)))

    def _add_fisher(self, statistic: str, file: PickledFile, stored: str, name: str, checkpoint: Checkpoint) -> None:
        parameter = _known(peft_ia3_name(name) or name, checkpoint, file, stored)
        info, received = checkpoint.tensors[parameter], file.infos[stored].shape
        count = torch.Size(received).numel()
        if count != info.numel ** (2 if statistic == "block" else 1) or (
            statistic == "block" and received != (info.numel, info.numel)
        ):
            raise ShapeMismatch(
                f"{file.path}: {stored} {list(received)} is no {statistic} of {parameter} {list(info.shape)}"
            )
        self.parameters += [] if parameter in self.parameters else [parameter]
        self._add(f"{statistic}/{parameter}", file, stored, float(self._request.examples))

    def read(self, key: str) -> Tensor:
        """The encoded sum."""
        file, stored = self._places[key]
        info = file.infos[stored]
        flat = torch.empty(info.numel, dtype=info.dtype)
        file.load(stored, 0, flat)
        tensor = flat.reshape(info.shape).float() * self._factors[key]
        if self.entries[key].encoding == "dense":
            return tensor
        check_symmetric(tensor, f"{file.path}: {stored}")
        return pack(tensor)


def _known(name: str, checkpoint: Checkpoint, file: PickledFile, stored: str) -> str:
    if name in checkpoint.tensors:
        return name
    near = get_close_matches(name, checkpoint.tensors, n=1)
    hint = f"; the nearest is {near[0]}" if near else ""
    raise InputsMismatch(f"{file.path}: {stored} is of {name}, which {checkpoint.name} does not hold{hint}")


def _manifest(
    request: ImportRequest, checkpoint: Checkpoint, base: Checkpoint | None, source: _PublishedSums
) -> Manifest:
    covered = set(source.parameters) | {layer.weight for layer in source.layers.values()}
    floating = [name for name, info in checkpoint.tensors.items() if info.dtype.is_floating_point]
    rows = {name: float(request.rows(name)) for name in source.layers}
    identity = ModelIdentity(
        name=request.name,
        source=request.model,
        revision=None,
        fingerprint=checkpoint.fingerprint(),
        base=request.base,
        base_fingerprint=None if base is None else base.fingerprint(),
    )
    return Manifest(
        model=identity,
        data=DataIdentity(request.data, request.split, None),
        estimator={
            "imported": "MaTS, published code",
            "labels": "sampled" if request.sampled else "empirical",
            "loss": "mean",
            "homogeneous": False,
            "statistics": sorted(request.files),
            "tokens_known": request.knows_tokens,
        },
        examples=request.examples,
        example_ids=tuple(sorted(f"imported:{number}" for number in range(request.examples))),
        sites=tuple(source.sites.values()),
        layers=tuple(source.layers.values()),
        parameters=tuple(source.parameters),
        uncovered={name: "not in the imported files" for name in floating if name not in covered},
        tokens={f"{kind}:{name}": number for name, number in rows.items() for kind in ("site", "layer")},
        fourth_moments={},
    )
