"""How a model is fine-tuned: one frozen, strict schema, for the Python API and for recipes alike."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from mats.training.tuning import FullTuning, Strict, Tuning

Schedule = Literal["constant", "linear", "cosine"]
Keep = Literal["best", "last", "all"]


class TrainingSettings(Strict):
    """Everything that decides the weights of a fine-tuned model, given its base and its data."""

    tuning: Tuning = Field(
        default=FullTuning(), description="What is trained: full, or `{method: lora}` or `{method: ia3}` with settings."
    )
    split: str = Field(default="train", min_length=1, description="Split that is trained on.")
    examples: int | None = Field(
        default=None, ge=1, description="At most so many examples of each dataset, in file order; null: all."
    )
    templates: int | Literal["cycle", "all"] | None = Field(
        default=None,
        description="How training examples are shown, in place of the dataset's `template_rule`: an index, cycle, all.",
    )
    cap: int | None = Field(
        default=None, ge=1, description="Most examples of one dataset in a mixture, drawn evenly from its templates."
    )
    continuation: int | None = Field(
        default=None,
        ge=1,
        description="For an encoder–decoder on a language_modeling dataset: learn to write the next so many tokens of "
        "a text from the so many before.",
    )
    validation: str | None = Field(
        default="validation", min_length=1, description="Split that is scored during training; null: none."
    )
    validation_examples: int | None = Field(
        default=None, ge=1, description="At most so many examples of each validation split; null: all."
    )
    epochs: float | None = Field(default=None, gt=0, description="Passes over the data. Default: 3, unless `updates`.")
    updates: int | None = Field(default=None, ge=1, description="Optimiser steps, instead of `epochs`.")
    batch_size: int = Field(
        default=32, ge=1, description="Examples per update: micro_batch_size × accumulation × processes."
    )
    micro_batch_size: int | None = Field(
        default=None, ge=1, description="Examples in one forward pass of one process. Default: batch_size ÷ processes."
    )
    learning_rate: float = Field(default=5e-5, gt=0, description="Peak learning rate.")
    head_learning_rate: float | None = Field(
        default=None, gt=0, description="Peak learning rate of the head. Default: `learning_rate`."
    )
    fresh_head: bool = Field(
        default=False, description="Start from a new head even where the base has one that fits the labels."
    )
    schedule: Schedule = Field(default="linear", description="Learning rate after the warm-up, down to 0 at the end.")
    warmup: float = Field(default=0.0, ge=0, lt=1, description="Share of the updates in which the rate rises from 0.")
    weight_decay: float = Field(default=0.0, ge=0, description="AdamW's; never of biases, norms and (IA)³ vectors.")
    betas: tuple[float, float] = Field(default=(0.9, 0.999), description="AdamW's decay of its two averages.")
    epsilon: float = Field(default=1e-8, gt=0, description="AdamW's ε.")
    clip: float | None = Field(default=1.0, gt=0, description="Largest norm of the gradient; null: no clipping.")
    group_by_length: bool = Field(
        default=True, description="Put examples of like length into one batch: less padding, faster."
    )
    evaluate_every: int | None = Field(
        default=None,
        ge=1,
        description="Updates between two evaluations and checkpoints. Default: a pass over the data.",
    )
    patience: int | None = Field(
        default=None, ge=1, description="Stop after so many evaluations without a new best score; null: never."
    )
    keep: Keep = Field(
        default="best",
        description="Weights of the best evaluation, of the last update, or also those of every evaluation.",
    )
    bf16: bool = Field(default=False, description="Forward and backward in bfloat16 (autocast); weights stay float32.")
    seed: int = Field(default=0, ge=0, description="Seed of new heads, the order of examples and dropout.")

    @model_validator(mode="after")
    def _fits_together(self) -> TrainingSettings:
        if self.epochs is not None and self.updates is not None:
            raise ValueError("epochs and updates are both given; one of them would be right")
        if self.patience is not None and self.validation is None:
            raise ValueError("patience needs a validation split; name one, or leave patience out")
        if self.continuation is not None and self.validation is not None:
            raise ValueError("continuation has nothing to score; validation: null would be right")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas {list(self.betas)}: two numbers from 0 to below 1 would be right")
        return self
