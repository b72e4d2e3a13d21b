"""From a device's name in a request to a device of torch, and the number formats of the output."""

from __future__ import annotations

import torch

from mats.engine.processes import Processes
from mats.errors import RequestError

DTYPES = {
    "float32": torch.float32,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
    "float64": torch.float64,
}


def resolve_device(name: str) -> torch.device:
    """`auto` is cuda where there is one, else the CPU.

    Raises:
        RequestError: no device of that name here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise RequestError(f"device: {name!r} is unknown; use auto, cpu, cuda or cuda:<number>") from error
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise RequestError(f"device: {name!r} is not here ({torch.cuda.device_count()} CUDA devices); use cpu or auto")
    return device


def device_of_process(name: str, processes: Processes, *, in_turn: bool = False) -> torch.device:
    """The device of this process: of several GPUs the one of its own number on this machine.

    A GPU that is asked for by number is taken by all.

    Args:
        name: As for `resolve_device`.
        processes: Those that work together.
        in_turn: Whether more processes than GPUs share them in turn, rather than being refused.

    Raises:
        RequestError: the device is not here, or fewer GPUs than processes on this machine and not `in_turn`.
    """
    device = resolve_device(name)
    if processes.count == 1 or device.type != "cuda" or device.index is not None:
        return device
    number = processes.local_rank
    return resolve_device(f"cuda:{number % torch.cuda.device_count() if in_turn else number}")


def resolve_dtype(name: str | None) -> torch.dtype | None:
    """The dtype of that name; None stays None (each tensor keeps the base's)."""
    return None if name is None else DTYPES[name]
