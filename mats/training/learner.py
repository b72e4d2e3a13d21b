"""The module that is trained: one model, or several that share a body, with the loss of a micro-batch as its forward.

One forward for a whole micro-batch, whatever datasets it holds, is what data-parallel wrappers need.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as functional
from torch import Tensor, nn

from mats.curvature.losses import model_logits, scored_positions, token_losses
from mats.data import Batch
from mats.training.examples import Part


def loss_sum(model: nn.Module, batch: Batch) -> Tensor:
    """Sum of the losses of a batch in float32, a number: −log p of each class or target token, or squared errors."""
    logits = model_logits(model, batch.inputs)
    if batch.task == "text_regression":
        return functional.mse_loss(logits.float().squeeze(-1), batch.labels.float(), reduction="sum")
    return token_losses(*scored_positions(batch, logits)).sum()


class Learner(nn.Module):
    """Models of the datasets; several datasets may have the same model, and several models may share parameters.

    Args:
        models: One for each dataset, in the order of the request.
    """

    def __init__(self, models: Sequence[nn.Module]) -> None:
        super().__init__()
        self.models = nn.ModuleList(models)

    def forward(self, parts: Sequence[Part]) -> Tensor:
        """The summed loss of a micro-batch, over all of its datasets."""
        losses = [loss_sum(self.models[position], batch) for position, batch in parts]
        total = losses[0]
        for loss in losses[1:]:
            total = total + loss
        return total
