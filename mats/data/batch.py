"""One batch of examples, as every model family of `mats` takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

Task = Literal["text_classification", "text_regression", "image_classification", "text_to_text", "language_modeling"]


@dataclass(frozen=True)
class Batch:
    """Tensors of B examples with what is needed to score them and to tell padding from data.

    Attributes:
        inputs: Keyword arguments of the model's forward, without labels (for text_to_text with `decoder_input_ids`).
        example_ids: One stable id per example; sampling and stores rely on them.
        task: What the model is asked to do.
        input_mask: bool [B, T_in], True at real tokens; None where every position counts (images).
        target_mask: bool [B, T_out], True at real target tokens (text_to_text); None otherwise.
        labels: int64 [B] classes; float32 [B] numbers (text_regression); [B, T_out] target ids with -100 at padding
            (text_to_text); [B, T] aligned with `input_ids` (not shifted), -100 where not scored (language_modeling).
        choices: int64 [B, K, T_c] answer choices with -100 at padding, for rank classification; None otherwise.
        gold: int64 [B], index of the right choice; None otherwise.
        answers: Per example the texts that would be right, where models write text; None otherwise.
    """

    inputs: dict[str, Tensor]
    example_ids: tuple[str, ...]
    task: Task
    input_mask: Tensor | None
    target_mask: Tensor | None
    labels: Tensor
    choices: Tensor | None = None
    gold: Tensor | None = None
    answers: tuple[tuple[str, ...], ...] | None = None

    @property
    def size(self) -> int:
        """Number of examples."""
        return len(self.example_ids)

    def select(self, examples: Sequence[int]) -> Batch:
        """The batch of the examples at these positions, in this order (a position may repeat)."""
        index = torch.tensor(list(examples), dtype=torch.int64)

        def chosen(tensor: Tensor) -> Tensor:
            return tensor.index_select(0, index.to(tensor.device))

        return replace(
            self,
            # What is shared by all examples (a single row of position ids) stays as it is.
            inputs={
                name: chosen(tensor) if tensor.dim() > 0 and tensor.shape[0] == self.size else tensor
                for name, tensor in self.inputs.items()
            },
            example_ids=tuple(self.example_ids[position] for position in examples),
            input_mask=None if self.input_mask is None else chosen(self.input_mask),
            target_mask=None if self.target_mask is None else chosen(self.target_mask),
            labels=chosen(self.labels),
            choices=None if self.choices is None else chosen(self.choices),
            gold=None if self.gold is None else chosen(self.gold),
            answers=None if self.answers is None else tuple(self.answers[position] for position in examples),
        )

    def to(self, device: str | torch.device) -> Batch:
        """The same batch with all of its tensors on `device`."""

        def moved(tensor: Tensor | None) -> Tensor | None:
            return None if tensor is None else tensor.to(device)

        return replace(
            self,
            inputs={name: tensor.to(device) for name, tensor in self.inputs.items()},
            input_mask=moved(self.input_mask),
            target_mask=moved(self.target_mask),
            labels=self.labels.to(device),
            choices=moved(self.choices),
            gold=moved(self.gold),
        )
