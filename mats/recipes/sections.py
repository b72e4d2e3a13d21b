"""The sections of a recipe that name inputs: models, what to measure on them, what to score."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

Statistic = Literal["input_gram", "output_gram", "diagonal", "block"]
DEVICE_PATTERN = r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$"
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps", "xpu")
FloatName = Literal["float32", "float16", "bfloat16", "float64"]


class Section(BaseModel):
    """A part of a recipe: frozen, strict about keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ModelEntry(Section):
    """One fine-tuned model. A bare path stands for `{path: …}`; the name is then the path's last part."""

    name: str = Field(min_length=1, description="How reports call the model; unique. Default: the last part of `path`.")
    path: str = Field(min_length=1, description="Folder or file of the checkpoint or adapter, or a hub id.")
    data: str | None = Field(
        default=None, min_length=1, description="Dataset file (docs/datasets.md) to measure and score the model on."
    )
    weight: float = Field(
        default=1.0, description="Weight λ among the others; above 0, but task arithmetic subtracts a task below 0."
    )
    metadata: str | None = Field(
        default=None,
        min_length=1,
        description="Folder of the model's metadata store. Default: where `mats save-metadata` puts it.",
    )

    @field_validator("weight")
    @classmethod
    def _not_nothing(cls, weight: float) -> float:
        """A weight of 0 would leave the model out silently."""
        if weight == 0:
            raise ValueError("a number other than 0 would be right; leave the model out if it should not count")
        return weight

    @model_validator(mode="before")
    @classmethod
    def _named_by_path(cls, value: Any) -> Any:
        """`exp_out/train/paws` → `{name: paws, path: exp_out/train/paws}`."""
        if isinstance(value, str):
            value = {"path": value}
        if isinstance(value, dict) and "name" not in value and isinstance(value.get("path"), str):
            return {"name": PurePosixPath(value["path"]).name or value["path"], **value}
        return value


class CurvatureSection(Section):
    """What `mats save-metadata` measures, the same for every model of the recipe."""

    statistics: tuple[Statistic, ...] = Field(
        default=("input_gram", "output_gram"),
        min_length=1,
        description="What to sum up: any of input_gram, output_gram, diagonal, block.",
    )
    split: str = Field(default="validation", min_length=1, description="Split of each dataset that is measured.")
    examples: int | None = Field(
        default=1000, ge=1, description="At most so many examples of each split, in file order; null: all."
    )
    labels: Literal["empirical", "sampled", "exact"] = Field(
        default="empirical",
        description="Labels the gradients are taken for: the gold ones, ones drawn from the model, or the expectation.",
    )
    loss: Literal["mean", "sum"] = Field(default="mean", description="An example's loss over its target tokens.")
    batch_size: int = Field(
        default=8, ge=1, description="Examples per forward pass; changes speed and memory, not the result."
    )
    homogeneous: bool = Field(
        default=True, description="Measure inputs as [a; 1] where a layer has a bias, so that it is solved along."
    )
    accumulate_dtype: Literal["float32", "float64"] = Field(default="float32", description="Precision of the sums.")
    output_gram_limit: int = Field(
        default=8192, ge=1, description="No output_gram for layers with more outputs than this."
    )
    block_limit: int = Field(default=4096, ge=1, description="No block for vectors longer than this.")
    exact_limit: int = Field(
        default=64, ge=1, description="`labels: exact` is refused above so many classes or choices; each costs a pass."
    )
    parameters: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="Names of the parameters to measure, as patterns with * and ?."
    )
    dtype: FloatName = Field(default="float32", description="Number format in which the model runs.")
    fold: tuple[int, int] | None = Field(
        default=None, description="[k, n]: only examples whose id falls into hash class k of n; the n stores add up."
    )
    store: str = Field(
        default="metadata", min_length=1, description="Folder under which the stores are written and looked for."
    )

    @model_validator(mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """A single word where a list is meant."""
        if isinstance(value, dict):
            return {k: [v] if k in ("statistics", "parameters") and isinstance(v, str) else v for k, v in value.items()}
        return value


class EvaluateSection(Section):
    """What `mats evaluate RECIPE` scores: each model and the merged result on the models' datasets."""

    split: str = Field(default="test", min_length=1, description="Split that is scored.")
    examples: int | None = Field(default=None, ge=1, description="At most so many examples of each split; null: all.")
    batch_size: int = Field(default=32, ge=1, description="Examples per forward pass.")
    individual: bool = Field(
        default=True, description="Score each model on its own data too, to show what merging costs."
    )
    base: bool = Field(default=False, description="Score the base model too.")
    output: str | None = Field(
        default=None,
        min_length=1,
        description="JSON file for the scores. Default: scores-<split>.json beside the result.",
    )
