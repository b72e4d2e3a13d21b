"""Where a collection computes and where its sums accumulate: devices of ranks, models over several, memory or disk."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.curvature.accumulators import BesideTheLayer, Home, InHostMemory, OnDisk
from mats.engine.collection_memory import available_memory
from mats.engine.collection_request import CollectionRequest
from mats.errors import OutOfSpace, RequestError

HEADROOM = 0.9  # of the free memory may be planned with
WORKING_FOLDER = "accumulators"


def spread(module: nn.Module, request: CollectionRequest) -> nn.Module:
    """Lay a model in host memory over this machine's GPUs with accelerate's hooks (`device_map: auto`).

    Parts that would be left in host memory or on disk are refused: their weights exist only while they compute, and
    the backward pass would need all of them at once.

    Raises:
        OutOfSpace: the GPUs do not hold the model.
    """
    from accelerate import dispatch_model, infer_auto_device_map
    from accelerate.utils import get_balanced_memory

    together = list(getattr(module, "_no_split_modules", None) or [])
    memory = get_balanced_memory(module, no_split_module_classes=together)
    device_map: dict[str, Any] = dict(
        infer_auto_device_map(module, max_memory=memory, no_split_module_classes=together)
    )
    left = [name for name, device in device_map.items() if device in ("cpu", "disk")]
    if torch.cuda.is_available() and left:
        raise OutOfSpace(
            f"{request.name}: device_map: auto: the GPUs have no room for {', '.join(left[:3])}; dtype: bfloat16, "
            "one more GPU, or device: cpu would be right"
        )
    return dispatch_model(module, device_map, main_device=None)


def check_all_here(module: nn.Module, name: str) -> None:
    """Refuse a model parts of whose weights are elsewhere (accelerate's offloading, FSDP's shards).

    Raises:
        RequestError: names one.
    """
    absent = [key for key, parameter in module.named_parameters() if parameter.device.type == "meta"]
    if absent:
        raise RequestError(
            f"{name}: {len(absent)} parameters are not in memory ({absent[0]} …): offloaded or sharded weights cannot "
            "be measured; a model that is whole on its devices (device_map without cpu or disk) would be right"
        )


def home_of(request: CollectionRequest, device: torch.device, largest_pass: int, folder: Path, rank: int) -> Home:
    """Where sums accumulate: as `accumulators` says, or for `auto` the first place with room for the largest pass.

    Args:
        request: What is measured.
        device: Where the model computes; its weights are there already.
        largest_pass: Bytes of the sums of the largest pass.
        folder: That of the partial sums.
        rank: This process.
    """
    chosen = request.accumulators
    if chosen == "auto":
        chosen = placement_of(device, largest_pass)
    if chosen == "device":
        return BesideTheLayer()
    return InHostMemory() if chosen == "cpu" else OnDisk(folder / f"{WORKING_FOLDER}-{rank}")


def placement_of(device: torch.device, largest_pass: int) -> str:
    """`device`, `cpu` or `disk`: the first of them whose free memory holds `largest_pass` bytes."""
    if device.type == "cuda" and largest_pass <= HEADROOM * torch.cuda.mem_get_info(device)[0]:
        return "device"
    if largest_pass <= HEADROOM * available_memory():
        return "device" if device.type == "cpu" else "cpu"
    return "disk"
