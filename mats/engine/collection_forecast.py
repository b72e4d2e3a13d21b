"""A collection on paper: bytes, passes and hours for a model of which there is only a configuration.

    hours = passes' Σ batches · (operations / (rate · UTILISATION) + traffic / bandwidth) / 3600

A pass that sums input Grams alone runs the forward pass as far as its last layer; any other runs it whole, and the
backward pass (of activations) as far as its first layer. A Gram of n rows of size d takes 2 n d² operations; its sum is
read and written once for every batch. Reading data, loading the model and writing the store are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mats.checkpoints.classes import model_class
from mats.curvature.outline import LayerOutline, Outline, outline
from mats.curvature.plan import Item, partitions
from mats.curvature.settings import CollectionSettings
from mats.engine.devices import DTYPES
from mats.errors import OutOfSpace, RequestError

UTILISATION = 0.4  # of the rate on the data sheet that products of this size are assumed to reach
HEADROOM = 0.9  # of a GPU's memory that is planned with


@dataclass(frozen=True)
class Accelerator:
    """A GPU by its maker's data sheet: dense rates, without sparsity.

    Attributes:
        name: What people call it.
        memory: Bytes.
        low: Operations per second on bfloat16 and float16.
        single: Operations per second on float32, without TF32.
        bandwidth: Bytes per second from its memory.
    """

    name: str
    memory: float
    low: float
    single: float
    bandwidth: float

    def rate(self, dtype: str) -> float:
        """Operations per second; float64 is taken at half of float32."""
        return {"float32": self.single, "float64": self.single / 2}.get(dtype, self.low)


ACCELERATORS = {
    "a100": Accelerator("A100 80GB", 80e9, 312e12, 19.5e12, 2.039e12),
    "h100": Accelerator("H100 80GB SXM", 80e9, 989e12, 67e12, 3.35e12),
    "h200": Accelerator("H200 141GB", 141e9, 989e12, 67e12, 4.8e12),
    "l4": Accelerator("L4 24GB", 24e9, 121e12, 30.3e12, 0.3e12),
    "rtx4090": Accelerator("RTX 4090 24GB", 24e9, 165.2e12, 82.6e12, 1.008e12),
}


@dataclass(frozen=True)
class Workload:
    """What would be measured, and how.

    Attributes:
        tokens: Of one input, padding included.
        targets: Of one target, for encoder-decoders.
        examples: How many.
        batch_size: In one forward pass.
        dtype: In which the model runs.
        settings: Statistics, limits, budget; only Grams are planned.
        accelerator: Key of `ACCELERATORS`.
        gpus: How many hold the model together, one computing at a time; None: as few as have room.
    """

    tokens: int = 512
    targets: int = 64
    examples: int = 1000
    batch_size: int = 8
    dtype: str = "bfloat16"
    settings: CollectionSettings = field(default_factory=CollectionSettings)
    accelerator: str = "h100"
    gpus: int | None = None


@dataclass(frozen=True)
class Forecast:
    """What it would take.

    Attributes:
        model: The model on paper.
        accelerator: The GPU.
        gpus: How many.
        passes: Keys of the sums of each pass.
        pass_bytes: Their bytes.
        operations: Of all passes over all batches.
        hours: Of computing alone.
    """

    model: Outline
    accelerator: Accelerator
    gpus: int
    passes: tuple[tuple[str, ...], ...]
    pass_bytes: tuple[int, ...]
    operations: float
    hours: float

    def lines(self) -> list[str]:
        """In words."""
        sums = sum(self.pass_bytes)
        return [
            f"model: {self.model.parameters:,} parameters, {self.model.bytes / 1e9:.1f} GB; "
            f"{len(self.model.layers)} layers at {len({layer.site for layer in self.model.layers})} sites",
            f"sums: {sums / 1e9:.1f} GB in {len(self.passes)} passes of at most {max(self.pass_bytes) / 1e9:.1f} GB; "
            f"activations of a batch: {self.model.activations / 1e9:.1f} GB",
            f"on {self.gpus} × {self.accelerator.name}: {self.hours:.2g} hours for {self.operations:.2e} operations, "
            f"assuming {UTILISATION:.0%} of the data sheet's rate",
        ]


def forecast(config: str | Path | Any, workload: Workload) -> Forecast:
    """Plan a collection for the model that `config` describes.

    Args:
        config: A folder with config.json, the file, a hub id, or a configuration of transformers.
        workload: What would be measured.

    Raises:
        RequestError: the configuration names no class of transformers, or the model cannot be gone through on paper.
        OutOfSpace: the GPUs do not hold the model and its largest sum.
    """
    configuration = _configuration(config)
    model = outline(lambda: _build(configuration, workload.dtype), lambda: _inputs(configuration, workload))
    accelerator = _accelerator(workload.accelerator)
    items = gram_items(model, workload.settings)
    if not items:
        raise RequestError(f"{type(configuration).__name__}: no layer with a Gram: nothing to measure")
    fixed, largest = model.bytes + model.activations, max(item.bytes for item in items)
    gpus = workload.gpus or math.ceil((fixed + largest) / (HEADROOM * accelerator.memory))
    room = int(gpus * HEADROOM * accelerator.memory - fixed)
    if room < largest:
        raise OutOfSpace(
            f"{gpus} × {accelerator.name}: model and activations take {fixed / 1e9:.1f} GB and the largest sum "
            f"{largest / 1e9:.1f} GB; more GPUs or a smaller batch would be right"
        )
    budget = min(room, workload.settings.memory_budget or room)
    groups = partitions(items, budget)
    sizes = {item.key: item.bytes for item in items}
    pass_bytes = tuple(sum(sizes[key] for key in keys) for keys in groups)
    batches = math.ceil(workload.examples / workload.batch_size)
    operations = sum(pass_operations(model, keys) for keys in groups) * batches
    traffic = 2 * sum(pass_bytes) * batches
    seconds = operations / (UTILISATION * accelerator.rate(workload.dtype)) + traffic / accelerator.bandwidth
    return Forecast(model, accelerator, gpus, groups, pass_bytes, operations, seconds / 3600)


def gram_items(model: Outline, settings: CollectionSettings) -> list[Item]:
    """The sums, in the order in which passes take them."""
    width = torch.finfo(settings.dtype).bits // 8
    items = []
    if settings.wants("input_gram"):
        owners = [layer for layer in model.layers if layer.site == layer.name]
        sizes = {layer.site: max(one.in_size for one in model.layers if one.site == layer.site) for layer in owners}
        items += [
            Item(f"input_gram/{layer.name}", layer.in_size * 8 if layer.counts else sizes[layer.site] ** 2 * width)
            for layer in owners
        ]
    if settings.wants("output_gram"):
        items += [
            Item(f"output_gram/{layer.name}", layer.out_size**2 * width)
            for layer in model.layers
            if layer.out_size <= settings.output_gram_limit
        ]
    return items


def pass_operations(model: Outline, keys: tuple[str, ...]) -> int:
    """Operations of one batch in the pass that sums `keys`: forward, backward and Grams."""
    layers = {layer.name: layer for layer in model.layers}
    inputs = [layers[key.removeprefix("input_gram/")] for key in keys if key.startswith("input_gram/")]
    outputs = [layers[key.removeprefix("output_gram/")] for key in keys if key.startswith("output_gram/")]
    grams = sum(2 * layer.rows * layer.in_size**2 for layer in inputs if not layer.counts)
    grams += sum(2 * layer.rows * layer.out_size**2 for layer in outputs)
    if outputs:
        return grams + model.forward + max(layer.backward for layer in outputs)
    sites = {layer.site for layer in inputs}
    return grams + max(_last_reader(layer, sites) for layer in model.layers)


def _last_reader(layer: LayerOutline, sites: set[str]) -> int:
    return layer.forward if layer.site in sites else 0


def _accelerator(name: str) -> Accelerator:
    if name.lower() not in ACCELERATORS:
        raise RequestError(f"GPU {name!r} is unknown; one of {', '.join(ACCELERATORS)} would be right")
    return ACCELERATORS[name.lower()]


def _configuration(config: str | Path | Any) -> Any:
    if not isinstance(config, (str, Path)):
        return config
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(str(config))
    except (OSError, ValueError, KeyError) as error:
        line = str(error).splitlines()[0]
        raise RequestError(f"{config}: no configuration of a model ({line}); its folder would be right") from error


def _build(configuration: Any, dtype: str) -> nn.Module:
    """The model without its weights, of the class that its configuration names."""
    from transformers.initialization import no_init_weights

    name = next(iter(getattr(configuration, "architectures", None) or ()), None)
    family = model_class(str(name))
    if family is None:
        raise RequestError(
            f"{type(configuration).__name__}: architectures: {name!r} is no class of transformers; a configuration "
            "that names the class of the model (architectures: [LlamaForCausalLM]) would be right"
        )
    before = torch.get_default_dtype()
    try:
        torch.set_default_dtype(DTYPES[dtype])
        with no_init_weights():
            model = family(configuration)
    finally:
        torch.set_default_dtype(before)
    model.tie_weights()  # which comes with the initialisation that was left out
    built: nn.Module = model
    return built


def _inputs(configuration: Any, workload: Workload) -> Mapping[str, Tensor]:
    """One batch of the size asked for."""
    size = getattr(configuration, "image_size", None)
    if size is not None and not hasattr(configuration, "vocab_size"):
        height, width = (size, size) if isinstance(size, int) else tuple(size)
        shape = (workload.batch_size, getattr(configuration, "num_channels", 3), height, width)
        return {"pixel_values": torch.zeros(shape, dtype=DTYPES[workload.dtype])}
    ids = torch.zeros(workload.batch_size, workload.tokens, dtype=torch.int64)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if getattr(configuration, "is_encoder_decoder", False):
        inputs["decoder_input_ids"] = torch.zeros(workload.batch_size, workload.targets, dtype=torch.int64)
    return inputs
