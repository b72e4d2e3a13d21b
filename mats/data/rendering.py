"""One row as a template shows it: prompt, target, answer choices and which of them is right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from mats.data import jinja_prompts
from mats.data.labels import label_index
from mats.data.prompts import AnyTemplate, Choices, ColumnChoices, JinjaTemplate, Template
from mats.data.rows import Row
from mats.data.spec import DatasetSpec
from mats.data.templates import find_value, nearest, parse_template
from mats.errors import DataError


@dataclass(frozen=True)
class Shown:
    """What a template makes of a row.

    Attributes:
        prompt: What the model reads.
        target: What it should write: the right choice where there are choices; None without a target.
        choices: Answer choices; empty where there are none.
        gold: Index of the right choice; None where there are none.
    """

    prompt: str
    target: str | None = None
    choices: tuple[str, ...] = ()
    gold: int | None = None


def show(template: AnyTemplate, row: Row, spec: DatasetSpec, row_id: str) -> Shown:
    """Fill `template` from `row`; `row_id` (`<split>:<row>`) seeds what a template draws.

    Raises:
        MissingFieldError: the row lacks a field that the template names.
        DataError: a label outside the choices, no list of choices, fewer than two, or a target that is none of them.
    """
    if isinstance(template, JinjaTemplate):
        return _show_jinja(template, row, spec, row_id)
    prompt = _fill(template.input, row, spec)
    wanted = _choices_wanted(template, spec)
    if wanted is None:
        return Shown(prompt, _fill(template.target, row, spec) if template.target else None)
    choices = _choices(wanted, row, spec)
    if spec.columns.label not in row.values and "." not in spec.columns.label:
        known = nearest(spec.columns.label, row.values)
        raise DataError(f"{row.where}: no column '{spec.columns.label}' for label{known} (set columns.label)")
    label = label_index(find_value(row.values, spec.columns.label), spec.label_names, len(choices), row.where)
    return Shown(prompt, choices[label], choices, label)


def _show_jinja(template: JinjaTemplate, row: Row, spec: DatasetSpec, row_id: str) -> Shown:
    """The right choice is the one that the template gives as target; among equal choices the first."""
    assert spec.prompts is not None  # these templates come from there alone
    rendered = jinja_prompts.render(
        template.name,
        template.jinja,
        template.answer_choices,
        row.values,
        seed=f"{spec.prompts.seed}/{row_id}/{template.name}",
        draw=template.draw,
        longest_text=spec.longest_field or jinja_prompts.LONGEST_TEXT,
    )
    if rendered.target is None and spec.task == "text_to_text":
        raise DataError(f"{row.where}: template '{template.name}' makes no target of this row; a target would be right")
    if not rendered.choices or spec.task != "text_to_text":
        return Shown(rendered.prompt, rendered.target)
    if rendered.gold is None:
        raise DataError(
            f"{row.where}: template '{template.name}': target {rendered.target!r} is none of the answer choices "
            f"{list(rendered.choices)}; a label of this dataset would be right"
        )
    _check_count(rendered.choices, row)
    return Shown(rendered.prompt, rendered.choices[rendered.gold], rendered.choices, rendered.gold)


def _choices_wanted(template: Template, spec: DatasetSpec) -> Choices | None:
    """The template's own choices, else the dataset's unless the template has a target."""
    if template.choices is not None:
        return template.choices
    return None if template.target else spec.choices


def _fill(text: str, row: Row, spec: DatasetSpec) -> str:
    return parse_template(text).render(row.values, longest_field=spec.longest_field)


def _choices(wanted: Choices, row: Row, spec: DatasetSpec) -> tuple[str, ...]:
    """The answer choices of one row.

    Raises:
        DataError: the column holds no list, or there are fewer than two choices.
    """
    if not isinstance(wanted, ColumnChoices):
        choices: Sequence[str] = [_fill(text, row, spec) for text in wanted]
    else:
        value = find_value(row.values, wanted.column)
        if isinstance(value, (str, Mapping)) or not hasattr(value, "__iter__"):
            raise DataError(
                f"{row.where}: column '{wanted.column}' holds {type(value).__name__}; a list of choices would be right"
            )
        choices = [str(choice)[: spec.longest_field] for choice in value]
    _check_count(choices, row)
    return tuple(choices)


def _check_count(choices: Sequence[str], row: Row) -> None:
    if len(choices) < 2:
        raise DataError(f"{row.where}: {len(choices)} answer choices; two or more would be right")
