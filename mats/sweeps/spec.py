"""What a sweep file may say (docs/sweeps.md)."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from mats.recipes.sections import Section

Keep = Literal["best", "all", "none"]


class SelectSection(Section):
    """How the best point is chosen: by a score on a split that is not the one reported."""

    split: str = Field(default="validation", min_length=1, description="Split on which points are compared.")
    metric: Literal["mean_relative", "mean"] = Field(
        default="mean_relative",
        description="Mean over datasets of the score ÷ that of the dataset's own model, or of the score itself.",
    )
    order: Literal["highest", "lowest"] = Field(default="highest", description="Which value is best.")
    per: tuple[str, ...] = Field(
        default=(), description="Axes for each of whose values a point is chosen, as a method for a table of methods."
    )

    @field_validator("per", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """A single axis where a list is meant."""
        return [value] if isinstance(value, str) else value


class ReportSection(Section):
    """What is told about the chosen points."""

    split: str = Field(default="test", min_length=1, description="Split that is reported; never the one of `select`.")
    points: Literal["selected", "all"] = Field(
        default="selected", description="Score the reported split for the selected points alone, or for all."
    )


class Sweep(Section):
    """A recipe, the keys of it that vary, and how results are chosen and told."""

    recipe: str | dict[str, Any] = Field(
        description="The recipe: a file, relative to the sweep file, or a mapping (which may say `extends`)."
    )
    axes: dict[str, Any] = Field(min_length=1, description="Axis → its values; an axis is a key of the recipe.")
    zip: tuple[tuple[str, ...], ...] = Field(
        default=(), description="Groups of axes that advance together instead of being crossed."
    )
    select: SelectSection = Field(default=SelectSection(), description="How the best point is chosen.")
    report: ReportSection | None = Field(
        default=ReportSection(), description="What is reported; null: nothing beyond the split of `select`."
    )
    output: str | None = Field(
        default=None, min_length=1, description="Folder of the sweep. Default: exp_out/sweeps/<name of the file>."
    )
    keep: Keep = Field(
        default="best", description="Merged weights that stay on disk: of the selected points, all, or none."
    )
    launcher: dict[str, Any] = Field(
        default={}, description="Options of `--launcher submitit`: cluster, timeout_min, slurm_partition, …"
    )
