"""The checkpoints of an unfinished run: which are complete, which are still needed, and the weights in them.

Trainer's own files (optimiser, schedule, random state) lie beside `weights.safetensors`, which holds the trained
parameters alone, each once however many names it has, and `progress.json`. A checkpoint counts once `progress.json` is
there, for it is written last.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mats.errors import CheckpointCorrupt
from mats.files import write_json_atomically

WEIGHTS, PROGRESS = "weights.safetensors", "progress.json"


def checkpoint_folder(home: Path, updates: int) -> Path:
    """Where Trainer puts the checkpoint after so many updates."""
    return home / f"checkpoint-{updates}"


def complete_checkpoints(home: Path) -> list[int]:
    """Updates of the complete checkpoints, in order."""
    found = (path.parent.name.rpartition("-")[2] for path in home.glob(f"checkpoint-*/{PROGRESS}"))
    return sorted(int(updates) for updates in found)


def mark_complete(folder: Path, progress: dict[str, Any]) -> None:
    """Say that everything else in the checkpoint is written."""
    write_json_atomically(folder / PROGRESS, progress)


def read_progress(folder: Path) -> dict[str, Any]:
    """What `mark_complete` wrote."""
    progress: dict[str, Any] = json.loads((folder / PROGRESS).read_text(encoding="utf-8"))
    return progress


def prune(home: Path, keep_weights: Iterable[int]) -> None:
    """Delete what no resumption needs: all but the newest checkpoint, except the weights of `keep_weights`."""
    complete = complete_checkpoints(home)
    wanted = {*keep_weights, *complete[-1:]}
    for path in home.glob("checkpoint-*"):
        updates = int(path.name.rpartition("-")[2])
        if updates not in wanted or updates not in complete:
            shutil.rmtree(path, ignore_errors=True)
        elif updates != complete[-1]:
            for file in path.iterdir():
                if file.name not in (WEIGHTS, PROGRESS):
                    file.unlink()


def trained_tensors(module: nn.Module) -> dict[str, Tensor]:
    """The parameters that are trained and the stored buffers, each once."""
    tensors: dict[str, Tensor] = {name: tensor for name, tensor in module.named_parameters() if tensor.requires_grad}
    stored = module.state_dict(keep_vars=True)
    tensors |= {name: buffer for name, buffer in module.named_buffers() if name in stored}
    return tensors


def save_weights(module: nn.Module, folder: Path) -> None:
    """Write the trained tensors."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in trained_tensors(module).items()}
    save_file(tensors, folder / WEIGHTS)


def load_weights(module: nn.Module, folder: Path) -> None:
    """Put the tensors of `save_weights` back into the same module.

    Raises:
        CheckpointCorrupt: the file is unreadable, or holds other names.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        stored = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointCorrupt(f"{folder / WEIGHTS}: {error}; delete the folder to start again") from error
    present = trained_tensors(module)
    if stored.keys() != present.keys():
        name = min(stored.keys() ^ present.keys())
        raise CheckpointCorrupt(f"{folder / WEIGHTS}: {name} is on one side only; delete the folder to start again")
    with torch.no_grad():
        for name, tensor in present.items():
            tensor.copy_(stored[name])
