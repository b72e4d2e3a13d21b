"""Sums of thinned task vectors at work; see `mats.methods.sparse_task_arithmetic` for the formulas."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.sparse_task_arithmetic import SparseTaskArithmeticSettings
from mats.methods.sparsify_kernels import norm_factor
from mats.methods.sparsify_masks import chosen_mask, largest_mask, mask_key, middle_mask, random_mask, rank_chances

SMALLEST_DIVISOR = 1e-8  # sums of weights nearer to 0 divide nothing


class SparseTaskArithmeticMerge(SinglePass):
    """One merge, one model's tensor in memory at a time; models are told apart by their place among the weights."""

    def __init__(self, settings: SparseTaskArithmeticSettings, model_weights: Sequence[float]) -> None:
        self.settings = settings
        self.weights = tuple(model_weights)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        base = require_base(self.settings.name, name, base)
        if not is_mergeable(base.dtype):
            return base
        base = base.to(working_dtype(base.dtype))
        total = _Elected(base) if self.settings.election else _Summed(base)
        for index, tensor in numbered(name, base.shape, models, len(self.weights)):
            change = torch.sub(tensor.to(base.dtype), base)
            del tensor
            total.add(thinned_(change, self.settings, index, name), self.weights[index])
            del change
        return total.result(normalize=self.settings.normalize).mul_(self.settings.scale).add_(base)


def thinned_(change: Tensor, settings: SparseTaskArithmeticSettings, index: int, name: str) -> Tensor:
    """ρ(σ(τ)): `change`, whole and in fp32 or better, with entries dropped and the others scaled, in its own memory."""
    density = settings.share("density", index)
    if settings.sparsify == "none" or density >= 1.0:
        return change
    magnitudes = change.detach().cpu().reshape(-1).abs()
    mask, chances = _mask(magnitudes, change.shape, settings, index, name)
    kept = torch.from_numpy(mask).to(change.dtype)
    if settings.rescale == "inverse":
        kept = torch.from_numpy(np.divide(mask, chances, out=np.zeros(mask.shape), where=mask)).to(change.dtype)
    elif settings.rescale == "norm":
        kept.mul_(norm_factor(magnitudes, kept))
    return change.mul_(kept.to(change.device).reshape(change.shape))


def _mask(
    magnitudes: Tensor, shape: torch.Size, settings: SparseTaskArithmeticSettings, index: int, name: str
) -> tuple[np.ndarray, np.ndarray | float]:
    """Flat flags of the entries that are kept, and the chance that each had.

    Exactly ⌊density · d⌋ of d entries are kept where magnitudes decide. Breadcrumbs drop ⌊gamma · d⌋ at the top, or
    what is to be dropped at all if that is less.
    """
    density, size = settings.share("density", index), magnitudes.numel()
    if settings.sparsify in ("magnitude", "breadcrumbs"):
        kept = int(density * size)
        gamma = settings.share("gamma", index) if settings.sparsify == "breadcrumbs" else 0.0
        top = min(int(gamma * size), size - kept)
        values = magnitudes.numpy()
        mask = middle_mask(values, smallest=size - kept - top, largest=top) if top else largest_mask(values, kept)
        return mask, 1.0
    key = mask_key(settings.seed, str(index), name)
    if settings.sparsify == "random":
        return random_mask(key, 0, size, density), density
    half_width = min(settings.share("epsilon", index), density, 1.0 - density)
    chances = rank_chances(magnitudes.reshape(shape), density, half_width)
    return chosen_mask(key, chances), chances


class _Summed:
    """Σ w v, and Σ w to divide it by."""

    def __init__(self, like: Tensor) -> None:
        self._sum, self._weight = torch.zeros_like(like), 0.0

    def add(self, change: Tensor, weight: float) -> None:
        """One model's change, thinned; it may be overwritten."""
        self._sum.add_(change, alpha=weight)
        self._weight += weight

    def result(self, *, normalize: bool) -> Tensor:
        """The sum, or the mean by the weights."""
        if normalize and abs(self._weight) >= SMALLEST_DIVISOR:
            self._sum.div_(self._weight)
        return self._sum


class _Elected:
    """Sums of the votes of either sign with the weights behind them: the sign of their sum decides which one counts."""

    def __init__(self, like: Tensor) -> None:
        self._for, self._against = torch.zeros_like(like), torch.zeros_like(like)
        self._weight_for, self._weight_against = torch.zeros_like(like), torch.zeros_like(like)

    def add(self, change: Tensor, weight: float) -> None:
        """One model's change, thinned; it is overwritten."""
        votes = change.mul_(weight)
        signs = votes.sign()
        self._weight_for.add_(signs.clamp(min=0), alpha=weight)
        self._weight_against.add_(signs.clamp_(max=0), alpha=-weight)
        self._for.add_(votes.clamp(min=0))
        self._against.add_(votes.clamp_(max=0))

    def result(self, *, normalize: bool) -> Tensor:
        """The sum of the votes that agree with their majority, or their mean by the weights behind them."""
        positive = self._for + self._against >= 0
        elected = torch.where(positive, self._for, self._against)
        if normalize:
            weight = torch.where(positive, self._weight_for, self._weight_against)
            elected.div_(torch.where(weight.abs() < SMALLEST_DIVISOR, torch.ones_like(weight), weight))
        return elected
