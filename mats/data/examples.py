"""From rows to examples: templates filled, labels checked, every fault named with its file and row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mats.data.labels import label_index, label_number
from mats.data.prompts import AnyTemplate
from mats.data.rendering import show
from mats.data.rows import Row, read_rows
from mats.data.spec import DatasetSpec
from mats.data.templates import MissingFieldError, find_value, look_up, nearest
from mats.errors import DataError


@dataclass(frozen=True)
class Example:
    """One example, before tokenisation. What its task does not use is empty.

    Attributes:
        example_id: `<split>:<row>`, rows counted from 0 in the split; the same in every run. With every template shown
            (`template_rule: all`) `<split>:<row>:<template>`.
        text: Input text, or the prompt.
        text_pair: Second text of a pair.
        image: Stored pixels, [H, W] or [H, W, C] or [C, H, W], not normalised.
        label: Class, index of the right choice, or the number to tell (text_regression).
        target: Text to write: the right choice where there are choices; for language_modeling, what follows the prompt.
        choices: Answer choices.
        answers: The texts that would be right, where the model writes; the target where the file names no others.
        kept: The columns that the dataset file keeps, for files of predictions.
    """

    example_id: str
    text: str = ""
    text_pair: str | None = None
    image: NDArray[Any] | None = None
    label: int | float | None = None
    target: str | None = None
    choices: tuple[str, ...] = ()
    answers: tuple[str, ...] = ()
    kept: Mapping[str, Any] = field(default_factory=dict)


def load_examples(spec: DatasetSpec, split: str, *, limit: int | None = None, start: int = 0) -> list[Example]:
    """The examples of a split, in its order: of at most `limit` rows, from row `start` on.

    A row keeps its id, and its template under `cycle`, whatever `start` is. With `template_rule: all` every row gives
    an example per template, one after another.

    Raises:
        DataError: no such split, no rows, an unreadable file, a missing column or field, a label outside range; the
            message names file and row.
        RequestError: `start` lies beyond the last row, or `limit` is below 1.
    """
    build = {
        "text_classification": _text_classification,
        "text_regression": _text_regression,
        "image_classification": _image_classification,
        "text_to_text": _text_to_text,
        "language_modeling": _language_modeling,
    }[spec.task]
    examples = []
    for index, row in enumerate(read_rows(spec, split, limit=limit, start=start), start=start):
        row_id = f"{split}:{index}"
        try:
            kept = {name: _column(row, name, "keep") for name in spec.columns.keep}
            for example_id, template in _templates_of(spec, index, row_id):
                example = build(spec, row, row_id, template)
                examples.append(replace(example, example_id=example_id, kept=kept))
        except MissingFieldError as error:
            raise DataError(f"{row.where}: {error}") from error
    return examples


def _templates_of(spec: DatasetSpec, index: int, row_id: str) -> Iterator[tuple[str, AnyTemplate | None]]:
    """Id and template of each example that row `index` becomes."""
    if spec.template_rule != "all":
        yield row_id, spec.template_of(index)
        return
    for number, template in enumerate(spec.known_templates):
        yield f"{row_id}:{number}", template


def _text_classification(spec: DatasetSpec, row: Row, row_id: str, template: AnyTemplate | None) -> Example:
    value = _column(row, spec.columns.label, "label")
    label = label_index(value, spec.label_names, spec.num_labels or 0, row.where)
    return replace(_texts(spec, row, row_id, template), label=label)


def _text_regression(spec: DatasetSpec, row: Row, row_id: str, template: AnyTemplate | None) -> Example:
    number = label_number(_column(row, spec.columns.label, "label"), row.where)
    return replace(_texts(spec, row, row_id, template), label=number)


def _texts(spec: DatasetSpec, row: Row, row_id: str, template: AnyTemplate | None) -> Example:
    """The text or pair of texts of one row, without its label."""
    if template is not None:
        return Example(row_id, text=show(template, row, spec, row_id).prompt)
    text_pair = spec.columns.text_pair
    return Example(
        row_id,
        text=_text(row, spec.columns.text, "text"),
        text_pair=_text(row, text_pair, "text_pair") if text_pair else None,
    )


def _image_classification(spec: DatasetSpec, row: Row, row_id: str, _: AnyTemplate | None) -> Example:
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
    return Example(row_id, image=image, label=label)


def _text_to_text(spec: DatasetSpec, row: Row, row_id: str, template: AnyTemplate | None) -> Example:
    assert template is not None  # the specification was checked when made
    shown = show(template, row, spec, row_id)
    return Example(
        row_id,
        text=shown.prompt,
        label=shown.gold,
        target=shown.target,
        choices=shown.choices,
        answers=_answers(spec, row, shown.target),
    )


def _language_modeling(spec: DatasetSpec, row: Row, row_id: str, template: AnyTemplate | None) -> Example:
    if template is None:
        text = _text(row, spec.columns.text, "text")
        return Example(row_id, text=text, answers=_answers(spec, row, None))
    shown = show(template, row, spec, row_id)
    return Example(row_id, text=shown.prompt, target=shown.target, answers=_answers(spec, row, shown.target))


def _answers(spec: DatasetSpec, row: Row, target: str | None) -> tuple[str, ...]:
    """The right answers: the column that the file names, else the target.

    Raises:
        DataError: the column holds an empty list.
    """
    column = spec.generation.answers if spec.generation is not None else None
    if column is None:
        return (target,) if target is not None else ()
    value = _column(row, column, "generation.answers")
    several = not isinstance(value, (str, Mapping)) and hasattr(value, "__iter__")
    answers = tuple(str(answer) for answer in value) if several else (str(value),)
    if not answers:
        raise DataError(f"{row.where}: column '{column}' holds no answer; one or more would be right")
    return answers


def _column(row: Row, name: str, role: str) -> Any:
    """A column's value; the message says how to map the column when it goes by another name."""
    if name not in row.values and "." not in name:
        key = role if "." in role else f"columns.{role}"
        raise DataError(f"{row.where}: no column '{name}' for {role}{nearest(name, row.values)} (set {key})")
    return find_value(row.values, name)


def _text(row: Row, name: str, role: str) -> str:
    _column(row, name, role)
    return look_up(row.values, name)
