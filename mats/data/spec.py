"""What a dataset file may say (docs/datasets.md): where the rows are, what they mean, and how they become batches."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mats.data.batch import Task
from mats.data.templates import parse_template

MetricName = Literal["accuracy", "f1_macro", "matthews_correlation"]
Paths = tuple[str, ...]


class Strict(BaseModel):
    """A part of a dataset file: frozen, strict about keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FileSource(Strict):
    """Rows in files beside the dataset file, or under `root`."""

    files: dict[str, Paths] = Field(min_length=1, description="Split → file or list of files, read one after another.")

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """A single path where a list is meant."""
        return {k: [v] if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value


class JsonLinesSource(FileSource):
    """One JSON object per line, UTF-8."""

    format: Literal["json_lines"]


class CsvSource(FileSource):
    """Separated values with a quote character; the first line names the columns unless `header` does."""

    format: Literal["csv"]
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="Between values; a tab for TSV.")
    quoting: bool = Field(default=True, description="Whether double quotes hold a value together.")
    header: tuple[str, ...] | None = Field(
        default=None, description="Names of the columns, for files without a first line of names."
    )


class ArraySource(FileSource):
    """Arrays in .npz files, one array per column, rows along the first axis. Pickled arrays are refused."""

    format: Literal["arrays"]


class HubSource(Strict):
    """A dataset of the Hugging Face Hub (or a local folder of data files), read by `datasets`; never by a script."""

    format: Literal["hub"]
    id: str = Field(min_length=1, description="Dataset id, as `paws`.")
    config: str | None = Field(default=None, description="Configuration, as `labeled_final`.")
    revision: str | None = Field(default=None, description="Commit, tag or branch. Default: the newest.")
    names: dict[str, str] = Field(default={}, description="Split → the hub's name for it. Default: the same name.")


Source = Annotated[JsonLinesSource | CsvSource | ArraySource | HubSource, Field(discriminator="format")]


class SplitRule(Strict):
    """A split cut out of another one, by position. At most one of the four cuts."""

    of: str = Field(min_length=1, description="The split of the source that is cut.")
    first: int | None = Field(default=None, ge=1, description="Its first so many rows.")
    last: int | None = Field(default=None, ge=1, description="Its last so many rows.")
    without_first: int | None = Field(default=None, ge=1, description="All but its first so many rows.")
    without_last: int | None = Field(default=None, ge=1, description="All but its last so many rows.")

    @model_validator(mode="after")
    def _one_cut(self) -> SplitRule:
        given = [name for name in ("first", "last", "without_first", "without_last") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} are given; at most one cut would be right")
        return self


class Columns(Strict):
    """Names of the columns that hold the parts of an example. Columns that the task does not use are not looked at."""

    text: str = Field(default="text", min_length=1, description="Text, where no template is given.")
    text_pair: str | None = Field(default=None, min_length=1, description="Second text of a pair; null: single texts.")
    label: str = Field(default="label", min_length=1, description="Class, or index or name of the right choice.")
    image: str = Field(default="image", min_length=1, description="Image.")


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


class ImageSettings(Strict):
    """How stored pixels become `pixel_values` [B, C, H, W]: (pixel ÷ largest_pixel − mean) ÷ std."""

    size: tuple[int, int] | None = Field(
        default=None, description="Height and width; other images are resampled. Default: as stored."
    )
    channels: Literal[1, 3] = Field(
        default=3, description="Channels of the model's input; one stored channel is repeated."
    )
    channel_axis: Literal["first", "last"] = Field(
        default="last", description="Where stored images [.., .., ..] have their channels."
    )
    largest_pixel: float = Field(default=255.0, gt=0, description="Stored value that becomes 1.")
    mean: tuple[float, ...] = Field(
        default=(0.0,), min_length=1, description="Per channel, or one for all; in units of 0 … 1."
    )
    std: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="Per channel, or one for all; above 0.")

    @field_validator("size", "mean", "std", mode="before")
    @classmethod
    def _number_for_all(cls, value: Any, info: Any) -> Any:
        """A single number where a list is meant."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return [value, value] if info.field_name == "size" else [value]
        return value

    @model_validator(mode="after")
    def _per_channel(self) -> ImageSettings:
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (1, self.channels):
                raise ValueError(
                    f"{name} has {count} values for {self.channels} channels; one, or one per channel, would be right"
                )
        if min(self.std) <= 0 or (self.size is not None and min(self.size) < 1):
            raise ValueError("std and size must be above 0")
        return self


class DatasetSpec(Strict):
    """One dataset and how a model is shown it. Read it with `mats.data.load_spec`; every field is a key of the file."""

    name: str = Field(
        min_length=1, pattern=r"^[^/\\\s]+$", description="How reports and stores call it; no spaces or slashes."
    )
    task: Task = Field(description="text_classification, image_classification, text_to_text or language_modeling.")
    root: Path = Field(
        default=Path(), description="Folder that the source's files are relative to; itself relative to this file."
    )
    source: Source
    splits: dict[str, SplitRule] = Field(default={}, description="Splits cut out of the source's.")
    columns: Columns = Columns()
    labels: int | tuple[str, ...] | None = Field(
        default=None, description="Number of classes, or their names in order."
    )
    template: Template | None = Field(default=None, description="The one template of all examples.")
    templates: tuple[Template, ...] = Field(default=(), description="Several templates, used as `template_rule` says.")
    template_rule: int | Literal["cycle"] = Field(
        default="cycle",
        description="Index of the template for all examples, or cycle: example i takes template i mod n.",
    )
    choices: Choices | None = Field(
        default=None, description="Answer choices (text_to_text): texts with `{column}`, or {column: …}."
    )
    longest_field: int | None = Field(
        default=None, ge=1, description="Cut a template's fields to so many characters (promptsource: 2048)."
    )
    score_prompt: bool = Field(
        default=False, description="language_modeling with a target: whether the prompt's tokens count too."
    )
    max_length: int = Field(default=512, ge=1, description="Most input tokens; longer ones are cut on the right.")
    max_target_length: int | None = Field(default=None, ge=1, description="Most target tokens. Default: max_length.")
    padding_side: Literal["right", "left"] = Field(
        default="right", description="left only for language_modeling, with position ids."
    )
    image: ImageSettings | None = Field(default=None, description="image_classification: size and normalisation.")
    length_normalization: bool = Field(
        default=False, description="Rank choices by their mean token log-probability, not the sum."
    )
    metrics: tuple[MetricName, ...] = Field(
        default=("accuracy",), min_length=1, description="Scores; the first one is the result."
    )

    @property
    def num_labels(self) -> int | None:
        """Number of classes, where it is known."""
        return len(self.labels) if isinstance(self.labels, tuple) else self.labels

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where the file gives a number."""
        return self.labels if isinstance(self.labels, tuple) else ()

    @property
    def split_names(self) -> tuple[str, ...]:
        """Splits known from the file; a hub dataset may have more."""
        own = self.source.names if isinstance(self.source, HubSource) else self.source.files
        return tuple(dict.fromkeys((*own, *self.splits)))

    def template_of(self, row: int) -> Template | None:
        """The template of the split's row `row` (counted from 0)."""
        known = self.templates or ((self.template,) if self.template else ())
        if not known:
            return None
        return known[row % len(known)] if self.template_rule == "cycle" else known[self.template_rule]

    @model_validator(mode="after")
    def _fits_together(self) -> DatasetSpec:
        faults = [*self._template_faults(), *self._task_faults(), *self._split_faults()]
        if faults:
            raise ValueError("\n".join(faults))
        return self

    def _template_faults(self) -> list[str]:
        faults = []
        if self.template and self.templates:
            faults.append("template and templates are both given; one of them would be right")
        count = len(self.templates) or int(self.template is not None)
        if isinstance(self.template_rule, int) and not 0 <= self.template_rule < max(count, 1):
            faults.append(f"template_rule: {self.template_rule}; cycle, or 0 to {max(count, 1) - 1}, would be right")
        for text in self.choices if isinstance(self.choices, tuple) else ():
            try:
                parse_template(text)
            except ValueError as error:
                faults.append(f"choices: {error}")
        return faults

    def _task_faults(self) -> list[str]:
        known = self.templates or ((self.template,) if self.template else ())
        faults = []
        if self.task.endswith("classification") and self.num_labels is None:
            faults.append(f"labels: missing; the number or the names of the classes of this {self.task} would be right")
        if self.num_labels is not None and self.num_labels < 1:
            faults.append(f"labels: {self.num_labels}; 1 or more would be right")
        if len(set(self.label_names)) < len(self.label_names):
            faults.append("labels: a name is given twice")
        if self.task == "text_to_text" and not known:
            faults.append("template: missing; text_to_text needs one, with a target or with choices")
        if self.task == "text_to_text" and any(not (t.target or t.choices or self.choices) for t in known):
            faults.append("template: has neither a target nor choices; one of them would be right")
        if self.task != "text_to_text" and (self.choices is not None or any(t.choices is not None for t in known)):
            faults.append(f"choices: given for {self.task}; they belong to text_to_text")
        if self.padding_side == "left" and self.task != "language_modeling":
            faults.append(f"padding_side: left; only right is defined for {self.task}")
        if self.task == "image_classification" and self.image is None:
            faults.append(
                "image: missing; size and normalisation of the images would be right (image: {} for the defaults)"
            )
        return faults

    def _split_faults(self) -> list[str]:
        if isinstance(self.source, HubSource):
            return []
        known = self.source.files
        return [
            f"splits.{name}.of: '{rule.of}' is no split of the source; {', '.join(known)} would be right"
            for name, rule in self.splits.items()
            if rule.of not in known
        ]
