"""The model that training starts from: a base whose head may be missing, or made for other labels."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.checkpoints import open_checkpoint
from mats.checkpoints.loading import AUTO_CLASSES
from mats.data import DatasetSpec
from mats.errors import CheckpointCorrupt, InputsMismatch, RequestError

REGRESSION = "text_regression"


@dataclass(frozen=True)
class Loaded:
    """A model ready to be trained.

    Attributes:
        model: In float32, on the CPU.
        fresh: Names of the parameters that are new.
        unused: Names of the base's tensors that this class has no place for.
    """

    model: nn.Module
    fresh: tuple[str, ...]
    unused: tuple[str, ...]


def head_names(model: nn.Module) -> frozenset[str]:
    """Names of the parameters outside the model's body, as transformers tells them apart; none for models without one.

    `base_model_prefix` is the attribute that holds the body (`bert`, `vit`). T5 and language models write with their
    output embedding, which belongs to pretraining; they have no head of this kind.
    """
    prefix = getattr(model, "base_model_prefix", "")
    if not prefix or not hasattr(model, prefix) or not hasattr(getattr(model, "config", None), "num_labels"):
        return frozenset()
    if type(model).__name__.endswith(("ForConditionalGeneration", "ForCausalLM", "LMHeadModel")):
        return frozenset()
    return frozenset(name for name, _ in model.named_parameters() if not name.startswith(f"{prefix}."))


def load_for_training(
    base: str | Path, spec: DatasetSpec, *, seed: int, fresh_head: bool = False, trust_remote_code: bool = False
) -> Loaded:
    """Load `base` as a model for the task of `spec`, with a head for its labels.

    Args:
        base: Folder or hub id of a whole model.
        spec: The dataset: its task, number and names of classes.
        seed: Of the new head's weights.
        fresh_head: Draw the head anew even where the base has one of this size.
        trust_remote_code: Whether code that comes with the base may run.

    Raises:
        RequestError: the base is no model folder, or needs code of its own.
        InputsMismatch: no model of this type for the task, or tensors other than the head are missing.
        CheckpointCorrupt: the folder cannot be loaded.
    """
    folder = _folder(base)
    generator_state = torch.get_rng_state()
    try:
        torch.manual_seed(seed)
        model, info = _from_pretrained(folder, spec, trust_remote_code)
    finally:
        torch.set_rng_state(generator_state)
    head = head_names(model)
    fresh = {*info["missing_keys"], *(entry[0] for entry in info["mismatched_keys"])}
    _refuse_fresh_body(folder, spec, fresh - head)
    if fresh_head and head - fresh:
        _draw_anew(model, head - fresh, seed)
        fresh |= head
    return Loaded(model, tuple(sorted(fresh)), tuple(sorted(info["unexpected_keys"])))


def _folder(base: str | Path) -> Path:
    with open_checkpoint(base) as checkpoint:
        if checkpoint.kind != "model" or checkpoint.config is None or not checkpoint.path.is_dir():
            raise RequestError(f"base {base}: is no whole model; a folder with config.json and weights would be right")
        return checkpoint.path


def _label_options(spec: DatasetSpec) -> dict[str, Any]:
    """What the model's configuration must say about the classes."""
    if spec.task == REGRESSION:
        return {"num_labels": 1, "problem_type": "regression"}
    if not spec.task.endswith("classification"):
        return {}
    names = spec.label_names or tuple(f"LABEL_{index}" for index in range(spec.num_labels or 0))
    return {
        "num_labels": len(names),
        "id2label": dict(enumerate(names)),
        "label2id": {name: index for index, name in enumerate(names)},
        "problem_type": None,
    }


def _from_pretrained(folder: Path, spec: DatasetSpec, trust_remote_code: bool) -> tuple[nn.Module, dict[str, Any]]:
    import transformers

    task = "text_classification" if spec.task == REGRESSION else spec.task
    auto_class = getattr(transformers, AUTO_CLASSES[task])
    # "dtype" was called "torch_dtype" before transformers 5.
    dtype = "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"
    options = {**_label_options(spec), dtype: torch.float32}
    try:
        model, info = auto_class.from_pretrained(
            folder,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
            local_files_only=True,
            trust_remote_code=trust_remote_code,
            **options,
        )
    except (ValueError, RuntimeError, OSError, KeyError) as error:
        text = (str(error).strip().splitlines() or [type(error).__name__])[0][:300]
        if "trust_remote_code" in str(error):
            raise RequestError(f"{folder}: needs code of its own to load; allow it with --trust-remote-code") from error
        if "Unrecognized" in str(error) or isinstance(error, KeyError):
            raise InputsMismatch(f"{folder}: no model of this type for {spec.task}: {text}") from error
        raise CheckpointCorrupt(f"{folder}: cannot be loaded for {spec.task}: {text}") from error
    return model, info


def _refuse_fresh_body(folder: Path, spec: DatasetSpec, names: set[str]) -> None:
    if names:
        first, more = min(names), f" and {len(names) - 1} more" if len(names) > 1 else ""
        raise InputsMismatch(
            f"base {folder}: has no {first}{more} of the shape that a model for {spec.task} needs, and only a head may"
            " be new; the base of this very architecture would be right"
        )


def _draw_anew(model: nn.Module, names: Iterable[str], seed: int) -> None:
    """Initialise the modules that hold these parameters as the architecture initialises them.

    transformers skips tensors that it has marked as loaded; the mark is taken off first.
    """
    generator_state = torch.get_rng_state()
    modules = dict(model.named_modules())
    initialise: Any = getattr(model, "_init_weights")  # noqa: B009 - nn.Module's type does not know it
    try:
        torch.manual_seed(seed)
        for path in sorted({name.rpartition(".")[0] for name in names}):
            for tensor in modules[path].parameters(recurse=False):
                if hasattr(tensor, "_is_hf_initialized"):
                    del tensor._is_hf_initialized
            initialise(modules[path])
    finally:
        torch.set_rng_state(generator_state)
