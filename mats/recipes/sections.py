"""The sections of a recipe that name inputs: models, what to measure on them, what to score."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from mats.recipes.sparsify import SparsifySection

Statistic = Literal["input_gram", "output_gram", "diagonal", "block"]
DEVICE_PATTERN = r"^(auto|cpu|mps|(cuda|xpu)(:[0-9]+)?)$"
DEVICES = ("auto", "cpu", "cuda", "cuda:N", "mps", "xpu")
FloatName = Literal["float32", "float16", "bfloat16", "float64"]
LISTS_OF_WORDS = ("statistics", "parameters", "block_parameters", "diagonal_parameters")


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
        default=1.0,
        description="Weight λ among the others: above 0 where curvature is used, else not 0 (below 0 subtracts a task);"
        " `linear` and `formula` take any number.",
    )
    metadata: str | None = Field(
        default=None,
        min_length=1,
        description="The model's metadata store: a folder, or a hub id, owner/name[@revision][:folder]. Default: where "
        "`mats save-metadata` puts it.",
    )
    measured_on: str | None = Field(
        default=None,
        min_length=1,
        description="Another checkpoint, such as an earlier merge of these models, on whose weights (under this "
        "model's head) the metadata are measured; the model stays what the merge aims at.",
    )
    sparsify: SparsifySection | None = Field(
        default=None, description="Drop part of what this model changed; null: as the recipe's `sparsify` says."
    )

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
    position: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="Where each model stands while it is measured, on the line from the base (0) to its own weights "
        "(1). Default: 0.5; 1 without a base, and with `measured_on`.",
    )
    draws: int = Field(
        default=1, ge=1, description="`labels: sampled`: draws of each example's labels; each costs a backward pass."
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
    block_parameters: tuple[str, ...] = Field(
        default=("*",),
        min_length=1,
        description="Of these, those to measure a block of: `'*LayerNorm*'` for norms alone. Biases have blocks too.",
    )
    diagonal_parameters: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="Of these, those to measure a diagonal of."
    )
    dtype: FloatName = Field(default="float32", description="Number format in which the model runs.")
    accumulators: Literal["auto", "device", "cpu", "disk"] = Field(
        default="auto", description="Where sums accumulate: beside their layers, in host memory, in mapped files."
    )
    device_map: Literal["auto"] | None = Field(
        default=None, description="auto: lay the model over all GPUs of the machine; null: on `device` alone."
    )
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
            return {k: [v] if k in LISTS_OF_WORDS and isinstance(v, str) else v for k, v in value.items()}
        return value


class EvaluateSection(Section):
    """What `mats evaluate RECIPE` scores: each model and the merged result on the models' datasets."""

    split: str = Field(default="test", min_length=1, description="Split that is scored.")
    examples: int | None = Field(default=None, ge=1, description="At most so many examples of each split; null: all.")
    start: int = Field(default=0, ge=0, description="First row of each split, counted from 0.")
    end: int | None = Field(default=None, ge=1, description="One past the last row of each split; null: to its end.")
    templates: str | None = Field(
        default=None,
        description="all, or indices such as `0,2`: each template alone, and their median; cycle: the examples take"
        " them in turn. Default: as each dataset file says.",
    )
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
    predictions: str | None = Field(
        default=None,
        min_length=1,
        description="Folder that keeps each example's prediction; what is there from an identical request is not scored"
        " again.",
    )

    @model_validator(mode="before")
    @classmethod
    def _index_as_text(cls, value: Any) -> Any:
        """`templates: 2` is one index, not a number, and `[0, 2]` are two."""
        if isinstance(value, dict) and isinstance(value.get("templates"), (int, list, tuple)):
            given = value["templates"]
            indices = given if isinstance(given, (list, tuple)) else [given]
            return {**value, "templates": ",".join(str(index) for index in indices)}
        return value

    @field_validator("templates")
    @classmethod
    def _known_templates(cls, value: str | None) -> str | None:
        """`all`, `cycle`, or indices between commas."""
        if value is None or value in ("all", "cycle") or all(part.strip().isdecimal() for part in value.split(",")):
            return value
        raise ValueError("all, cycle, or indices such as 0,2 would be right")

    @model_validator(mode="after")
    def _some_rows(self) -> EvaluateSection:
        """A slice that ends before it begins would be empty."""
        if self.end is not None and self.end <= self.start:
            raise ValueError(f"end: {self.end} with start {self.start}; an end beyond the start would be right")
        return self
