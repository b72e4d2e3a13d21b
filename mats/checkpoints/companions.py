"""The files beside the weights: which are copied to an output, and what in its config must follow its content."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from mats.checkpoints.adapters import ia3_config, reference_of, task_type
from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.locate import ADAPTER_FILES
from mats.checkpoints.opening import open_checkpoint
from mats.checkpoints.tensors import TensorInfo, dtype_name
from mats.checkpoints.ties import tied_groups
from mats.files import explain_os_error, write_json_atomically

COMPANIONS = (
    "config.json",
    "generation_config.json",
    "tokenizer*.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "bpe.codes",
    "*.model",  # sentencepiece
    "*.spm",
    "chat_template.*",
    "processor_config.json",
    "preprocessor_config.json",
    "image_processor_config.json",
    "feature_extractor_config.json",
    "video_preprocessor_config.json",
    "LICENSE*",
    "NOTICE*",
)
ADAPTER_COMPANIONS = ("adapter_config.json", *COMPANIONS[1:])
HEADS = ("lm_head.weight", "cls.predictions.decoder.weight", "embed_out.weight")
FLAG_MEANS_SCALING = frozenset({"t5", "mt5", "umt5", "longt5", "pop2piano", "switch_transformers", "udop"})
"""Model types for which `tie_word_embeddings` also decides whether the decoder's output is scaled by d^-1/2."""


TOKENIZER_FILES = ("tokenizer.json", "vocab.*", "*.model", "*preprocessor_config.json")


def copy_companions(
    source: Checkpoint, folder: Path, *, base: Checkpoint | None = None, replace: bool = True
) -> list[str]:
    """Copy config, generation config, tokenizer, processor and licence files into `folder`; never weights.

    Code files (`*.py`) are copied only where the config refers to them (`auto_map`). An adapter without a config on
    disk (a legacy checkpoint) gets the one that `source.config` holds.

    Args:
        source: the checkpoint that the output follows.
        folder: where to.
        base: the model under an adapter; named in the adapter's config where that names none.
        replace: write over what lies in `folder` already.

    Returns:
        The names written, sorted.

    Raises:
        WorkFailed: a file cannot be read or written.
    """
    home = source.path if source.path.is_dir() else source.path.parent
    adapter = source.kind != "model"
    patterns: tuple[str, ...] = ADAPTER_COMPANIONS if adapter else COMPANIONS
    if (source.config or {}).get("auto_map"):
        patterns = (*patterns, "*.py")
    if source.config is None:
        patterns = ()  # a lone file of weights: what lies beside it need not belong to it
    names = sorted(
        entry.name
        for entry in (home.iterdir() if home.is_dir() else ())
        if entry.is_file() and any(fnmatch(entry.name, pattern) for pattern in patterns)
        if replace or not (folder / entry.name).exists()
    )
    for name in names:
        try:
            shutil.copyfile(home / name, folder / name)
        except OSError as error:
            raise explain_os_error(error, folder / name) from error
    if adapter:
        write_json_atomically(folder / "adapter_config.json", adapter_configuration(source, base))
        names = sorted({*names, "adapter_config.json"})
    return names


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder holds a tokenizer, or what prepares images."""
    return any(any(folder.glob(pattern)) for pattern in TOKENIZER_FILES)


def adapter_configuration(source: Checkpoint, base: Checkpoint | None) -> dict[str, Any]:
    """The `adapter_config.json` of an adapter as an output has it: ready for use, with the base named."""
    on_disk = source.path.is_dir() or source.path.name in ADAPTER_FILES
    config = {
        **(source.config if on_disk and source.config else ia3_config(source.tensors, base)),
        "inference_mode": True,
    }
    if base is not None and not config.get("base_model_name_or_path"):
        config["base_model_name_or_path"] = reference_of(base)
    if base is not None and not config.get("task_type"):
        config["task_type"] = task_type(base)
    return config


def reconcile_config(folder: Path) -> dict[str, Any]:
    """Make `config.json` of a finished model folder tell the truth about its weights; returns what was changed.

    * The dtype becomes that of the floating-point weights.
    * `tie_word_embeddings` becomes false when an output head is stored that differs from every tensor of its shape.
      transformers 5 looks at the content itself and leaves such a head alone, whatever the flag; older versions
      believe the flag and would overwrite the head. For T5 and its relatives the flag is left as it is: there
      it also switches the scaling of the decoder's output, which the merge did not change.
    """
    file = folder / "config.json"
    if not file.is_file():
        return {}
    config = json.loads(file.read_text(encoding="utf-8"))
    with open_checkpoint(folder) as checkpoint:
        changes = _dtype_change(config, checkpoint.tensors)
        if config.get("model_type") not in FLAG_MEANS_SCALING and has_own_head(checkpoint):
            changes["tie_word_embeddings"] = False
    changes = {key: value for key, value in changes.items() if config.get(key) != value}
    if changes:
        write_json_atomically(file, {**config, **changes})
    return changes


def has_own_head(checkpoint: Checkpoint) -> bool:
    """Whether an output head is stored that could be tied to another tensor, by its shape, and by content is not."""
    for head in HEADS:
        info = checkpoint.tensors.get(head)
        if info is None:
            continue
        alike = [name for name, other in checkpoint.tensors.items() if other.shape == info.shape]
        if not any(head in group for group in tied_groups(checkpoint, alike)):
            return len(alike) > 1
    return False


def _dtype_change(config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]) -> dict[str, Any]:
    """The dtype of most floating-point numbers, under the key that the config uses."""
    count: dict[str, int] = {}
    for info in tensors.values():
        if info.dtype.is_floating_point:
            count[dtype_name(info.dtype)] = count.get(dtype_name(info.dtype), 0) + info.numel
    if not count:
        return {}
    key = "torch_dtype" if "torch_dtype" in config and "dtype" not in config else "dtype"
    return {key: max(count, key=lambda name: count[name])}
