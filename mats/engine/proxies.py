"""Curvature without data: stores made of the task vector alone, so that every quadratic method runs on bare weights.

Gradient descent adds up τ = −η Σ_t δ_t a_tᵀ for the weight of a linear layer, over all tokens that it ever saw. So the
rows of τ lie in the span of the layer's inputs a and its columns in that of the gradients δ at its output, and

    task_vector_gram     A = τᵀτ,         G = ττᵀ            kfac and input_gram
    task_vector_root     A = (τᵀτ)^½,     G = (ττᵀ)^½        kfac and input_gram
    task_vector_square   F = τ∘τ                             diagonal

stand in for Σ a aᵀ, Σ δ δᵀ and the squared gradients. A alone is the proxy of WUDI (arXiv 2503.08099, up to its scale)
and of data-free covariance estimation (2604.01329, 2603.02945); τ∘τ as an importance is that of PCB-Merging
(2410.02396). The roots make G ⊗ A as large as τ, not τ², in every direction, as Shampoo does (1802.09568).

Nothing tells how curved a task is: every matrix has mean diagonal 1 (every τ∘τ mean 1), so that all tasks count alike.
With a bias, τ is [τ_W | τ_b], as the homogeneous 1 has it. Such a store says `proxy` in its estimator; it has one
"example", so that sums and means are the same, and no fourth moments.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from mats.checkpoints import Checkpoint, densify, open_checkpoint
from mats.checkpoints.matching import correspondence
from mats.curvature import CollectionSettings
from mats.engine.layout import canonical_shape, to_canonical
from mats.engine.skeletons import skeleton_of
from mats.errors import InputsMismatch, RequestError
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.progress import Progress, Silent
from mats.store import DataIdentity, LayerRecord, Manifest, ModelIdentity, SiteRecord, pack, write_store
from mats.store.tensor_file import Encoded

ProxyKind = Literal["task_vector_gram", "task_vector_root", "task_vector_square"]
SOURCES: dict[str, str] = {
    "task_vector_gram": "arXiv:2503.08099, arXiv:2604.01329, arXiv:2603.02945",
    "task_vector_root": "arXiv:1802.09568 on the task vector",
    "task_vector_square": "arXiv:2410.02396",
}
PROXY_EXAMPLE = "proxy: no example was shown"
NEGLIGIBLE = 1e-14  # eigenvalues below this share of the largest are rounding of float64
OUTPUT_LIMIT = CollectionSettings.output_gram_limit  # rows; beyond, a weight gets no output Gram, as when measured


def write_proxy(
    base: str,
    model: str,
    output: str | Path,
    kind: str,
    *,
    name: str | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the store of a proxy of one model's curvature; no data is read.

    Args:
        base: The checkpoint that the model was fine-tuned from.
        model: The fine-tuned model, or a LoRA adapter on `base`.
        output: Folder of the store.
        kind: Which proxy; see above.
        name: What the store calls the model; default: the last part of its path.
        overwrite: Replace an existing `output`.
        progress: Hears of the shards.

    Raises:
        RequestError: an unknown kind, an (IA)³ adapter, or a class that transformers does not have.
        InputsMismatch: model and base do not fit together, or do not differ.
        CheckpointCorrupt, NonFiniteWeights, OutOfSpace, OutputExists: from files.
    """
    if kind not in get_args(ProxyKind):
        raise RequestError(f"kind {kind!r}: one of {', '.join(get_args(ProxyKind))} would be right")
    refuse_existing(Path(output), overwrite=overwrite)
    refuse_replacing_inputs(Path(output), (base, model))
    with ExitStack() as opened:
        below, stored = (opened.enter_context(open_checkpoint(source)) for source in (base, model))
        whole = _whole(below, stored)
        vectors = _TaskVectors(below, whole)
        if kind == "task_vector_square":
            source: _GramSource | _SquareSource = _SquareSource(vectors)
        else:
            source = _GramSource(vectors, tuple(skeleton_of(whole).layers()), root=kind == "task_vector_root")
        identity = ModelIdentity(
            name or Path(model).name, model, None, stored.fingerprint(), str(base), below.fingerprint()
        )
        if identity.fingerprint == identity.base_fingerprint:
            raise InputsMismatch(f"{model}: the weights of {base}; there is no task vector to make a proxy of")
        manifest = _manifest(identity, kind, source, whole)
        write_store(Path(output), manifest, source, {"proxy": kind}, overwrite=overwrite, progress=progress or Silent())
    return Path(output)


def _whole(base: Checkpoint, model: Checkpoint) -> Checkpoint:
    if model.kind == "ia3" or base.kind != "model":
        what = "an (IA)³ adapter" if model.kind == "ia3" else f"on a base that is {base.kind}"
        raise RequestError(f"{model.path}: {what}; a whole model or a LoRA adapter, on a whole base, would be right")
    return densify(base, model, at_least=torch.float32) if model.kind == "lora" else model


class _TaskVectors:
    """τ of every tensor that both checkpoints have in one shape, by the model's names."""

    def __init__(self, base: Checkpoint, model: Checkpoint) -> None:
        self._base, self._model = base, model
        self._of = {
            theirs: ours
            for ours, theirs in correspondence(base, model).items()
            if base.tensors[ours].shape == model.tensors[theirs].shape and model.tensors[theirs].dtype.is_floating_point
        }
        if not self._of:
            raise InputsMismatch(f"{model.path}: no tensor in common with {base.path}, so there is no task vector")

    def __contains__(self, name: str) -> bool:
        return name in self._of

    def __iter__(self) -> Iterator[str]:
        return iter(sorted(self._of))

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a tensor."""
        return self._model.tensors[name].shape

    def read(self, name: str) -> Tensor:
        """In float64."""
        return self._model.read(name).double().sub_(self._base.read(self._of[name]))


class _GramSource:
    """τᵀτ and ττᵀ of every layer, or their roots; one matrix in memory at a time."""

    def __init__(self, vectors: _TaskVectors, layers: Sequence[LayerRecord], *, root: bool) -> None:
        self._vectors = vectors
        self._root = root
        self.layers = {layer.name: _known(layer, vectors) for layer in layers if layer.weight in vectors}
        if not self.layers:
            raise InputsMismatch("no layer of the model has a weight in the base too; the diagonal kind would be right")
        self.sites = tuple(
            SiteRecord(layer.name, "gram", self._shape(layer)[1], layer.bias is not None)
            for layer in self.layers.values()
        )
        self.parameters: tuple[str, ...] = ()
        self.entries = {
            f"{statistic}/{name}": Encoded("upper", (size, size), "float32")
            for name, layer in self.layers.items()
            for statistic, size in zip(("output_gram", "input_gram"), self._shape(layer), strict=True)
            if statistic == "input_gram" or size <= OUTPUT_LIMIT
        }

    def _shape(self, layer: LayerRecord) -> tuple[int, int]:
        return canonical_shape(self._vectors.shape(layer.weight), layer.layout, bias=layer.bias is not None)

    def read(self, key: str) -> Tensor:
        """The packed Gram, its mean diagonal 1; 0 where nothing moved."""
        statistic, _, name = key.partition("/")
        layer = self.layers[name]
        bias = None if layer.bias is None else self._vectors.read(layer.bias)
        change = to_canonical(self._vectors.read(layer.weight), layer.layout, bias)
        if statistic == "output_gram":
            change = change.mT
        gram = root_gram(change) if self._root else change.mT @ change
        trace = float(gram.trace())
        return pack(gram.mul_(len(gram) / trace if trace > 0 else 0.0).float())

    def covered(self) -> set[str]:
        """Parameters that it has something for."""
        return {name for layer in self.layers.values() for name in (layer.weight, layer.bias) if name is not None}


class _SquareSource:
    """τ∘τ of every tensor, its mean 1; 0 where nothing moved."""

    def __init__(self, vectors: _TaskVectors) -> None:
        self._vectors = vectors
        self.layers: dict[str, LayerRecord] = {}
        self.sites: tuple[SiteRecord, ...] = ()
        self.parameters = tuple(vectors)
        self.entries = {f"diagonal/{name}": Encoded("dense", vectors.shape(name), "float32") for name in vectors}

    def read(self, key: str) -> Tensor:
        """The sum of one parameter."""
        squares = self._vectors.read(key.partition("/")[2]).square_()
        mean = float(squares.mean()) if squares.numel() else 0.0
        return squares.mul_(1 / mean if mean > 0 else 0.0).float()

    def covered(self) -> set[str]:
        """Parameters that it has something for."""
        return set(self.parameters)


def _known(layer: LayerRecord, vectors: _TaskVectors) -> LayerRecord:
    """The layer without a bias that the base does not have."""
    return layer if layer.bias is None or layer.bias in vectors else replace(layer, bias=None)


def root_gram(change: Tensor) -> Tensor:
    """(XᵀX)^½ of X [rows, columns], by the eigenvectors of the smaller of XᵀX and XXᵀ; float64, symmetric."""
    rows, columns = change.shape
    if columns <= rows:
        values, vectors = torch.linalg.eigh(change.mT @ change)
        root = (vectors * values.clamp(min=0).sqrt()) @ vectors.mT
    else:
        values, vectors = torch.linalg.eigh(change @ change.mT)
        seen = values > NEGLIGIBLE * values[-1:].clamp(min=0)
        across = change.mT @ vectors[:, seen]  # [columns, rank]: right singular vectors times σ
        root = (across / values[seen].sqrt()) @ across.mT
    return (root + root.mT) / 2


def _manifest(identity: ModelIdentity, kind: str, source: _GramSource | _SquareSource, model: Checkpoint) -> Manifest:
    manifest = proxy_manifest(
        identity,
        model,
        {
            "proxy": kind,
            "of": SOURCES[kind],
            "statistics": sorted({key.partition("/")[0] for key in source.entries}),
            "scale": "mean diagonal 1",
        },
        source.covered(),
        "no layer with a task vector of its own; a proxy has Grams of matrices alone",
    )
    return replace(
        manifest,
        sites=source.sites,
        layers=tuple(source.layers.values()),
        parameters=source.parameters,
        tokens={f"{place}:{name}": 1.0 for name in source.layers for place in ("site", "layer")},
    )


def proxy_manifest(
    identity: ModelIdentity, model: Checkpoint, estimator: dict[str, Any], covered: set[str], why: str
) -> Manifest:
    """The manifest of a proxy with sums of parameters alone: nothing was shown, and nothing is counted.

    Args:
        identity: of the model.
        model: the checkpoint whose parameters it is about.
        estimator: what the proxy is.
        covered: parameters that it has something for.
        why: the reason for all others.
    """
    floating = {name for name, info in model.tensors.items() if info.dtype.is_floating_point}
    return Manifest(
        model=identity,
        data=DataIdentity("none", "none", None),
        estimator=estimator,
        examples=1,
        example_ids=(PROXY_EXAMPLE,),
        sites=(),
        layers=(),
        parameters=tuple(sorted(covered)),
        uncovered=dict.fromkeys(sorted(floating - covered), why),
        tokens={},
        fourth_moments={},
    )
