"""From rows to examples: templates filled, labels checked, every fault named with its file and row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mats.data.labels import label_index
from mats.data.rows import Row, read_rows
from mats.data.spec import Choices, ColumnChoices, DatasetSpec, Template
from mats.data.templates import MissingFieldError, find_value, look_up, nearest, parse_template
from mats.errors import DataError


@dataclass(frozen=True)
class Example:
    """One example, before tokenisation. What its task does not use is empty.

    Attributes:
        example_id: `<split>:<row>`, rows counted from 0 in the split; the same in every run.
        text: Input text, or the prompt.
        text_pair: Second text of a pair.
        image: Stored pixels, [H, W] or [H, W, C] or [C, H, W], not normalised.
        label: Class, or index of the right choice.
        target: Text to write: the right choice where there are choices; for language_modeling, what follows the prompt.
        choices: Answer choices.
    """

    example_id: str
    text: str = ""
    text_pair: str | None = None
    image: NDArray[Any] | None = None
    label: int | None = None
    target: str | None = None
    choices: tuple[str, ...] = ()


def load_examples(spec: DatasetSpec, split: str, *, limit: int | None = None) -> list[Example]:
    """The examples of a split, in file order, at most the first `limit`.

    Raises:
        DataError: no such split, no rows, an unreadable file, a missing column or field, a label outside range; the
            message names file and row.
    """
    build = {
        "text_classification": _text_classification,
        "image_classification": _image_classification,
        "text_to_text": _text_to_text,
        "language_modeling": _language_modeling,
    }[spec.task]
    examples = []
    for index, row in enumerate(read_rows(spec, split, limit=limit)):
        try:
            examples.append(build(spec, row, f"{split}:{index}", spec.template_of(index)))
        except MissingFieldError as error:
            raise DataError(f"{row.where}: {error}") from error
    return examples


def _text_classification(spec: DatasetSpec, row: Row, example_id: str, template: Template | None) -> Example:
    label = label_index(_column(row, spec.columns.label, "label"), spec.label_names, spec.num_labels or 0, row.where)
    if template is not None:
        return Example(example_id, text=_render(template.input, row.values, spec), label=label)
    text_pair = spec.columns.text_pair
    return Example(
        example_id,
        text=_text(row, spec.columns.text, "text"),
        text_pair=_text(row, text_pair, "text_pair") if text_pair else None,
        label=label,
    )


def _image_classification(spec: DatasetSpec, row: Row, example_id: str, _: Template | None) -> Example:
    value = _column(row, spec.columns.image, "image")
    try:
        image = np.asarray(value)
        numeric = image.dtype.kind in "uifb" and image.ndim in (2, 3)
    except ValueError:  # ragged lists
        numeric = False
    if not numeric:
        raise DataError(
            f"{row.where}: column '{spec.columns.image}' is no image; an array [H, W] or [H, W, C] would be right"
        )
    label = label_index(_column(row, spec.columns.label, "label"), spec.label_names, spec.num_labels or 0, row.where)
    return Example(example_id, image=image, label=label)


def _text_to_text(spec: DatasetSpec, row: Row, example_id: str, template: Template | None) -> Example:
    assert template is not None  # the specification was checked when made
    text = _render(template.input, row.values, spec)
    wanted = template.choices if template.choices is not None else (None if template.target else spec.choices)
    if wanted is None:
        return Example(example_id, text=text, target=_render(template.target or "", row.values, spec))
    choices = _choices(wanted, row, spec)
    label = label_index(_column(row, spec.columns.label, "label"), spec.label_names, len(choices), row.where)
    return Example(example_id, text=text, label=label, target=choices[label], choices=choices)


def _language_modeling(spec: DatasetSpec, row: Row, example_id: str, template: Template | None) -> Example:
    if template is None:
        return Example(example_id, text=_text(row, spec.columns.text, "text"))
    target = _render(template.target, row.values, spec) if template.target else None
    return Example(example_id, text=_render(template.input, row.values, spec), target=target)


def _column(row: Row, name: str, role: str) -> Any:
    """A column's value; the message says how to map the column when it goes by another name."""
    if name not in row.values and "." not in name:
        raise DataError(f"{row.where}: no column '{name}' for {role}{nearest(name, row.values)} (set columns.{role})")
    return find_value(row.values, name)


def _text(row: Row, name: str, role: str) -> str:
    _column(row, name, role)
    return look_up(row.values, name)


def _render(text: str, values: Mapping[str, Any], spec: DatasetSpec) -> str:
    return parse_template(text).render(values, longest_field=spec.longest_field)


def _choices(wanted: Choices, row: Row, spec: DatasetSpec) -> tuple[str, ...]:
    """The answer choices of one row.

    Raises:
        DataError: the column holds no list, or there are fewer than two choices.
    """
    if not isinstance(wanted, ColumnChoices):
        choices: Sequence[str] = [_render(text, row.values, spec) for text in wanted]
    else:
        value = find_value(row.values, wanted.column)
        if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
            raise DataError(
                f"{row.where}: column '{wanted.column}' holds {type(value).__name__}; a list of choices would be right"
            )
        choices = [str(choice)[: spec.longest_field] for choice in value]
    if len(choices) < 2:
        raise DataError(f"{row.where}: {len(choices)} answer choices; two or more would be right")
    return tuple(choices)
