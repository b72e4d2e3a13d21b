"""A checkpoint as a running model: from a folder, from an adapter or a lone weight file on a base."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.densify import changed_part, densify
from mats.checkpoints.heads import class_count, part_of, read_heads_index
from mats.checkpoints.legacy import PEFT_PREFIX
from mats.checkpoints.locate import MODEL_FILES
from mats.checkpoints.opening import open_checkpoint
from mats.checkpoints.overlay import overlay
from mats.checkpoints.renaming import names_in_files
from mats.errors import CheckpointCorrupt, InputsMismatch, MatsError, RequestError, ShapeMismatch

AUTO_CLASSES = {
    "text_classification": "AutoModelForSequenceClassification",
    "text_regression": "AutoModelForSequenceClassification",
    "image_classification": "AutoModelForImageClassification",
    "text_to_text": "AutoModelForSeq2SeqLM",
    "language_modeling": "AutoModelForCausalLM",
}


def load_model(
    path: str | Path,
    task: str,
    *,
    base: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    trust_remote_code: bool = False,
    head: str | None = None,
    dense: bool = False,
) -> nn.Module:
    """Load a checkpoint for a task, in eval mode.

    Args:
        path: whatever `open_checkpoint` takes.
        task: `text_classification`, `text_regression`, `image_classification`, `text_to_text` or `language_modeling`.
        base: the model under an adapter, or under a lone weight file (MaTS, TIES); a PEFT folder names its own.
        device: where the model lives.
        dtype: of the parameters (None: as stored).
        trust_remote_code: whether code that comes with the checkpoint may run.
        head: of a merged body that keeps the heads of its models (`heads: {from: own}`): the model whose head, labels
            included, goes on the body; None: the head that the folder itself has.
        dense: lay a LoRA adapter onto the weights, as a merge does, so that its parameters are those of a whole model.

    Returns:
        The model; for an adapter the PEFT model around the base.

    Raises:
        RequestError: unknown task or head, a base is needed and not given, or remote code is needed and not allowed.
        InputsMismatch: the checkpoint lacks weights of this class (they would be random), or has no such class.
        ShapeMismatch: weights and architecture differ in shape.
    """
    if task not in AUTO_CLASSES:
        raise RequestError(f"task {task!r}: expected one of {', '.join(AUTO_CLASSES)}")
    with open_checkpoint(path, head=head) as checkpoint, _quiet():
        loader = _Loader(task, dtype, trust_remote_code)
        folder = _model_folder(checkpoint)
        if folder is not None and head is not None:
            model = _under_head(checkpoint, head, folder, loader)
        elif folder is not None:
            model, missing = loader.load(folder, None)
            _refuse_missing(checkpoint.name, task, missing)
        else:
            model = _on_base(checkpoint, base, loader, dense=dense)
        return model.to(device).eval()


def _model_folder(checkpoint: Checkpoint) -> Path | None:
    """The folder that transformers can load, when the checkpoint is a whole model."""
    if checkpoint.kind != "model" or checkpoint.config is None:
        return None
    if checkpoint.path.is_dir():
        return checkpoint.path
    return checkpoint.path.parent if checkpoint.path.name in MODEL_FILES else None


def _under_head(checkpoint: Checkpoint, head: str, folder: Path, loader: _Loader) -> nn.Module:
    """The body in `folder` under the head called `head`, which `checkpoint` shows on it."""
    index = read_heads_index(folder)
    assert index is not None, "the checkpoint was opened with this head"
    parameters = index.heads[head].parameters
    model, missing = loader.load(folder, None, checkpoint.config)
    overlay(model, part_of(checkpoint, parameters))
    stored = names_in_files(model)
    absent = [name for name in missing if name not in parameters and stored.get(name) not in parameters]
    _refuse_missing(f"{checkpoint.name} with the head of {head}", loader.task, absent)
    return model


def _on_base(checkpoint: Checkpoint, base: str | Path | None, loader: _Loader, *, dense: bool) -> nn.Module:
    if base is None and checkpoint.kind != "model":
        base = (checkpoint.config or {}).get("base_model_name_or_path")
    if base is None:
        raise RequestError(f"{checkpoint.path}: weights without an architecture; name the model under them as base")
    with open_checkpoint(base) as below:
        folder = _model_folder(below)
        if folder is None:
            raise RequestError(f"base {base}: expected a model folder with its config.json")
        model, missing = loader.load(folder, class_count(checkpoint))
        covered = {name.removeprefix(PEFT_PREFIX) for name in checkpoint.tensors}
        _refuse_missing(f"{checkpoint.name} on {below.name}", loader.task, [n for n in missing if n not in covered])
        if checkpoint.kind == "model":
            overlay(model, checkpoint)
            return model
        if dense and checkpoint.kind == "lora":
            overlay(model, changed_part(densify(below, checkpoint, at_least=torch.float32)))
            return model
        return _with_adapter(model, checkpoint)


def _with_adapter(model: nn.Module, adapter: Checkpoint) -> nn.Module:
    """`model` inside PEFT, with the tensors of `adapter`; every one of them must find its place."""
    import peft

    known = dict(adapter.config or {})
    config = peft.PeftConfig.from_peft_type(**{**known, "inference_mode": True})
    try:
        wrapped = peft.get_peft_model(model, config)
        state = {name: adapter.read(name) for name in adapter.tensors}
        outcome = peft.set_peft_model_state_dict(wrapped, state)
    except (ValueError, RuntimeError) as error:
        raise InputsMismatch(f"adapter {adapter.name} does not fit its base: {_first_line(error)}") from error
    lost = list(outcome.unexpected_keys)
    absent = [name for name in outcome.missing_keys if ".ia3_l." in name or ".lora_" in name]
    if lost or absent:
        what = f"{lost[0]} has no place in the base" if lost else f"{absent[0]} is not in the adapter"
        raise InputsMismatch(f"adapter {adapter.name} does not fit its base: {what}")
    return wrapped


def _refuse_missing(name: str, task: str, missing: list[str]) -> None:
    if missing:
        more = f" and {len(missing) - 1} more" if len(missing) > 1 else ""
        raise InputsMismatch(
            f"{name}: has no {missing[0]}{more}, which a model for {task} needs; they would be random. Give a"
            " checkpoint fine-tuned for this task"
        )


class _Loader:
    """`from_pretrained` with our errors."""

    def __init__(self, task: str, dtype: torch.dtype | None, trust_remote_code: bool) -> None:
        self.task = task
        self._dtype = dtype
        self._trust = trust_remote_code

    def load(
        self, folder: Path, num_labels: int | None, config: dict[str, Any] | None = None
    ) -> tuple[nn.Module, list[str]]:
        """The model in `folder`, and the parameters that its files do not hold.

        With `config`, it is built by this configuration instead of the folder's, and files that hold a parameter in
        another shape do not hold it.
        """
        import transformers

        auto_class = getattr(transformers, AUTO_CLASSES[self.task])
        options: dict[str, Any] = {}
        if num_labels is not None:  # a head of its own will be laid over that of the files
            options |= {"num_labels": num_labels, "ignore_mismatched_sizes": True}
        options[_dtype_key()] = self._dtype or "auto"
        try:
            if config is not None:
                options |= {"config": self._configuration(folder, config), "ignore_mismatched_sizes": True}
            model, info = auto_class.from_pretrained(
                folder,
                output_loading_info=True,
                trust_remote_code=self._trust,
                local_files_only=True,
                **options,
            )
        except (ValueError, RuntimeError, OSError, KeyError) as error:
            raise self._explain(folder, error) from error
        differing = {entry if isinstance(entry, str) else entry[0] for entry in info["mismatched_keys"]}
        return model, sorted(differing.union(info["missing_keys"]))

    def _configuration(self, folder: Path, values: dict[str, Any]) -> Any:
        """`values` as a configuration of the class that `folder` has, in the dtype of its weights."""
        from transformers import AutoConfig

        own = AutoConfig.from_pretrained(folder, trust_remote_code=self._trust, local_files_only=True)
        result = type(own).from_dict(values)
        setattr(result, _dtype_key(), getattr(own, _dtype_key()))
        return result

    def _explain(self, folder: Path, error: Exception) -> MatsError:
        text = str(error)
        if "trust_remote_code" in text:
            return RequestError(f"{folder}: needs code of its own to load; allow it with --trust-remote-code")
        if "mismatch" in text.lower():
            return ShapeMismatch(f"{folder}: weights do not fit its config: {_first_line(error)}")
        if "Unrecognized configuration class" in text or isinstance(error, KeyError):
            return InputsMismatch(f"{folder}: no model of this type for {self.task}: {_first_line(error)}")
        return CheckpointCorrupt(f"{folder}: cannot be loaded for {self.task}: {_first_line(error)}")


def _dtype_key() -> str:
    """ "dtype" was called "torch_dtype" before transformers 5."""
    import transformers

    return "dtype" if int(transformers.__version__.split(".")[0]) >= 5 else "torch_dtype"


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines or [type(error).__name__])[0][:300]


@contextmanager
def _quiet() -> Iterator[None]:
    """transformers without progress bars and advice: what matters is raised here, and the user's settings return."""
    from transformers.utils import logging

    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
