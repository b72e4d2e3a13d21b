"""What a row becomes: the templates of a dataset file, own ones (`{column}`) and promptsource's (Jinja)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from mats.data.jinja_prompts import check_syntax
from mats.data.strict import Strict
from mats.data.templates import parse_template


class ColumnChoices(Strict):
    """Answer choices held by one column whose values are lists."""

    column: str = Field(min_length=1, description="Column, or field inside one, as `choices.text`.")


Choices = tuple[str, ...] | ColumnChoices


class Template(Strict):
    """How a row becomes a prompt and, where the model writes text, a target. A bare text stands for `{input: …}`."""

    name: str | None = Field(default=None, description="For reports.")
    input: str = Field(min_length=1, description="Prompt; `{column}` is filled from the row.")
    target: str | None = Field(default=None, min_length=1, description="Text to write, for tasks without choices.")
    choices: Choices | None = Field(default=None, description="Choices of this template; default: the dataset's.")

    @model_validator(mode="before")
    @classmethod
    def _bare_text(cls, value: Any) -> Any:
        return {"input": value} if isinstance(value, str) else value

    @model_validator(mode="after")
    def _parse(self) -> Template:
        """Faults of a template are faults of the file, not of the first row."""
        fixed = self.choices if isinstance(self.choices, tuple) else ()
        for text in (self.input, self.target or "", *fixed):
            parse_template(text)
        return self

    @property
    def text(self) -> str:
        """What identifies a template that has no name."""
        return self.input


class JinjaTemplate(Strict):
    """A template in promptsource's form: prompt `|||` target, rendered in Jinja's sandbox."""

    name: str = Field(min_length=1, description="promptsource's name, or one of your own.")
    jinja: str = Field(min_length=1, description="Prompt and target, with `|||` between them.")
    answer_choices: str | None = Field(default=None, description="Jinja of the choices, with `|||` between them.")
    draw: int | None = Field(default=None, ge=0, description="Each draw takes this item. Default: one at random.")

    @model_validator(mode="after")
    def _parse(self) -> JinjaTemplate:
        """Faults of a template are faults of the file, not of the first row."""
        for text in (self.jinja, self.answer_choices or ""):
            check_syntax(text)
        return self

    @property
    def text(self) -> str:
        """What identifies a template that has no name."""
        return self.jinja


class Prompts(Strict):
    """Templates of promptsource: all of one of its files, in its order, or those that the filters keep."""

    promptsource: str | None = Field(default=None, min_length=1, description="Its dataset, as `super_glue`.")
    config: str | None = Field(default=None, min_length=1, description="Its configuration, as `rte`.")
    folder: Path | None = Field(
        default=None,
        description="Folder of its files, relative to this file. Default: `promptsource` in the nearest folder above.",
    )
    original_task: bool | None = Field(default=None, description="Keep templates that say so of themselves.")
    choices: bool | None = Field(default=None, description="Keep templates with answer choices, or without them.")
    metric: str | None = Field(default=None, description="Keep templates whose every metric is this one.")
    only: tuple[str, ...] = Field(default=(), description="Keep these names alone.")
    without: tuple[str, ...] = Field(default=(), description="Leave these names out.")
    seed: int = Field(default=0, ge=0, description="Of the draws that a few templates make, one per example.")
    fixed_draws: dict[str, int] = Field(
        default={},
        description="Template that draws from a list of its own → length n of the list; n templates with fixed draws "
        "take its place, after all others.",
    )
    templates: tuple[JinjaTemplate, ...] = Field(
        default=(), description="The templates themselves, instead of a file; filled in when one is read."
    )

    @model_validator(mode="after")
    def _has_some(self) -> Prompts:
        if self.promptsource is None and not self.templates:
            raise ValueError("names no templates; promptsource, or templates, would be right")
        return self


AnyTemplate = Template | JinjaTemplate
