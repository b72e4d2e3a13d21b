"""Whether a dataset's labels fit a model's head, told from its configuration, before any weight is loaded."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from mats.data.spec import DatasetSpec
from mats.errors import DataError

DEFAULT_CLASSES = 2  # what transformers leaves out of config.json
TASKS_WITH_HEADS = ("text_classification", "text_regression", "image_classification")


def check_labels_fit(spec: DatasetSpec, config: Mapping[str, Any], model: str) -> None:
    """Refuse labels that the head has no output for; they would end in an index error deep inside the loss.

    Args:
        spec: The dataset.
        config: The values of the model's `config.json`.
        model: How the message calls the model.

    Raises:
        DataError: the dataset has more classes than the head, or asks a head of classes for one number.
    """
    check_outputs(spec, head_outputs(config), model)


def head_outputs(config: Mapping[str, Any]) -> int:
    """Number of outputs of the head that a configuration describes."""
    names = config.get("id2label")
    return len(names) if names else int(config.get("num_labels") or DEFAULT_CLASSES)


def check_outputs(spec: DatasetSpec, outputs: int, model: str) -> None:
    """`check_labels_fit` for a head of so many outputs."""
    if spec.task not in TASKS_WITH_HEADS:
        return
    wanted = spec.num_labels or 0
    if spec.task == "text_regression" and outputs != 1:
        raise DataError(
            f"dataset {spec.name}: asks for one number, but the head of {model} has {outputs} outputs; a head with one "
            "output would be right"
        )
    if wanted > outputs:
        raise DataError(
            f"dataset {spec.name}: labels 0 to {wanted - 1}, but the head of {model} has {outputs} outputs; a model "
            "trained on this dataset would be right"
        )
