"""What a dataset file may say (docs/datasets.md): where the rows are, what they mean, and how they become batches."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from mats.data.batch import Task
from mats.data.generation import GenerationSettings, PerplexitySettings
from mats.data.image_settings import ImageSettings
from mats.data.metric_names import MetricName, metrics_for
from mats.data.prompts import AnyTemplate, Choices, JinjaTemplate, Prompts, Template
from mats.data.sources import HubSource, Source
from mats.data.spec_faults import faults_of
from mats.data.split_rules import SplitRule
from mats.data.strict import Strict
from mats.errors import RequestError


class Columns(Strict):
    """Names of the columns that hold the parts of an example. Columns that the task does not use are not looked at."""

    text: str = Field(default="text", min_length=1, description="Text, where no template is given.")
    text_pair: str | None = Field(default=None, min_length=1, description="Second text of a pair; null: single texts.")
    label: str = Field(
        default="label", min_length=1, description="Class, number, or index or name of the right choice."
    )
    image: str = Field(default="image", min_length=1, description="Image.")
    keep: tuple[str, ...] = Field(default=(), description="Carried along unchanged, for files of predictions.")


class DatasetSpec(Strict):
    """One dataset and how a model is shown it. Read it with `mats.data.load_spec`; every field is a key of the file."""

    name: str = Field(
        min_length=1, pattern=r"^[^/\\\s]+$", description="How reports and stores call it; no spaces or slashes."
    )
    task: Task = Field(
        description="text_classification, text_regression, image_classification, text_to_text or language_modeling."
    )
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
    prompts: Prompts | None = Field(default=None, description="Templates of promptsource instead.")
    template_rule: int | Literal["cycle", "all"] = Field(
        default="cycle",
        description="Index of the template for all examples; cycle: example i takes template i mod n; all: every "
        "example with every template, ids `<split>:<row>:<template>`.",
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
    generation: GenerationSettings | None = Field(
        default=None, description="How the model writes its answers, where it is scored on what it writes."
    )
    perplexity: PerplexitySettings | None = Field(
        default=None, description="language_modeling: read all texts as one, in overlapping windows."
    )
    metrics: tuple[MetricName, ...] = Field(
        default=(),
        description="Scores; the first one is the result. Default: what suits the task (accuracy for classes). "
        "An empty list: predictions are written but not scored.",
    )

    @property
    def num_labels(self) -> int | None:
        """Number of classes (outputs of the head), where it is known."""
        if self.task == "text_regression":
            return 1
        return len(self.labels) if isinstance(self.labels, tuple) else self.labels

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes; empty where the file gives a number."""
        return self.labels if isinstance(self.labels, tuple) else ()

    @property
    def split_names(self) -> tuple[str, ...]:
        """Splits known from the file; a hub dataset may have more."""
        own = (*self.source.names, *self.source.files) if isinstance(self.source, HubSource) else self.source.files
        return tuple(dict.fromkeys((*own, *self.splits)))

    @property
    def known_templates(self) -> tuple[AnyTemplate, ...]:
        """The templates in their order, wherever the file has them from; empty where columns are texts."""
        if self.prompts is not None:
            return self.prompts.templates
        return self.templates or ((self.template,) if self.template else ())

    @property
    def template_names(self) -> tuple[str, ...]:
        """A name per template, in their order; the index stands for a missing one."""
        return tuple(template.name or str(index) for index, template in enumerate(self.known_templates))

    @property
    def has_choices(self) -> bool:
        """Whether some template has answer choices to rank."""
        return any(offers_choices(template, self.choices) for template in self.known_templates)

    def template_of(self, row: int) -> AnyTemplate | None:
        """The template of the split's row `row` (counted from 0); where the rule is `all`, the first."""
        known = self.known_templates
        if not known:
            return None
        if self.template_rule == "all":
            return known[0]
        return known[row % len(known)] if self.template_rule == "cycle" else known[self.template_rule]

    def with_template(self, rule: int | Literal["cycle", "all"]) -> DatasetSpec:
        """The same dataset by another `template_rule`; with an index every example is shown by that one template.

        Ids of examples stay `<split>:<row>` (but for `all`), so scores by different templates can be compared.

        Raises:
            RequestError: there is no template of that index.
        """
        count = len(self.known_templates)
        if count == 0 or (isinstance(rule, int) and not 0 <= rule < count):
            known = f"0 to {count - 1} would be right" if count else "it has none"
            raise RequestError(f"dataset {self.name}: no template {rule}; {known}")
        return self.model_copy(update={"template_rule": rule})

    @model_validator(mode="before")
    @classmethod
    def _metrics_by_task(cls, content: Any) -> Any:
        """The default metric of the task, where none are given."""
        if not isinstance(content, dict) or "metrics" in content:
            return content
        task = content.get("task")
        allowed = metrics_for(task, has_choices=_raw_choices(content)) if isinstance(task, str) else ("accuracy",)
        return {**content, "metrics": allowed[:1]}

    @model_validator(mode="after")
    def _fits_together(self) -> DatasetSpec:
        faults = faults_of(self)
        if faults:
            raise ValueError("\n".join(faults))
        return self


def offers_choices(template: AnyTemplate, shared: Choices | None) -> bool:
    """Whether `template` offers choices of its own, or leaves them to the dataset's (`shared`)."""
    if isinstance(template, JinjaTemplate):
        return template.answer_choices is not None
    return template.choices is not None or (template.target is None and shared is not None)


def _raw_choices(content: dict[str, Any]) -> bool:
    """Whether choices are mentioned anywhere in unchecked content."""
    places = [content.get("template"), *_as_list(content.get("templates"))]
    prompts = content.get("prompts")
    own = _as_list(prompts.get("templates")) if isinstance(prompts, dict) else []
    return (
        content.get("choices") is not None
        or any(isinstance(place, dict) and place.get("choices") is not None for place in places)
        or any(isinstance(place, dict) and place.get("answer_choices") is not None for place in own)
    )


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else []
