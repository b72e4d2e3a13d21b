"""Sparsification at work on one tensor: a change in, the factor of each of its entries out. Pure functions."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mats.methods.elementwise import CHUNK
from mats.methods.sparsify import SparsifySettings, share_of
from mats.methods.sparsify_masks import Flags, chosen_mask, middle_mask, random_mask, rank_chances


def sparsified(change: Tensor, settings: SparsifySettings, key: int) -> Tensor:
    """s · m · δ: a model's change of one tensor with entries dropped and the others scaled.

    Args:
        change: δ, any shape, floating point, finite; left as it is.
        settings: strategy, share and factor (`of` does not matter here: δ is what is given).
        key: `mask_key` of the seed, the model and the tensor.

    Returns:
        A fresh tensor of the same shape and device, in fp32 or better.
    """
    working = change.to(torch.promote_types(change.dtype, torch.float32))
    if settings.changes_nothing:
        return working.clone()
    return working * factors(working.cpu(), settings, key).to(working)


def factors(change: Tensor, settings: SparsifySettings, key: int) -> Tensor:
    """s · m: what every entry of `change` (whole, CPU, fp32 or fp64) is multiplied by, in its shape and dtype."""
    if settings.by_place:
        flat = random_factors(settings, key, 0, change.numel(), change.dtype)
        return flat.reshape(change.shape)
    magnitudes = change.detach().reshape(-1).abs()
    if settings.strategy == "della":
        chances = rank_chances(magnitudes.reshape(change.shape), settings.density, settings.half_width)
        mask = chosen_mask(key, chances)
        if settings.rescale == "inverse":
            kept = np.divide(mask, chances, out=np.zeros_like(chances), where=mask)
            return torch.from_numpy(kept).to(change.dtype).reshape(change.shape)
    else:
        mask = _mask_by_size(magnitudes, settings, key)
    kept_entries = torch.from_numpy(mask).to(change.dtype)
    factor = norm_factor(magnitudes, kept_entries) if settings.rescale == "norm" else settings.factor
    return kept_entries.mul_(factor).reshape(change.shape)


def random_factors(settings: SparsifySettings, key: int, start: int, count: int, dtype: torch.dtype) -> Tensor:
    """s · m for entries `start` … `start + count` of a tensor, where places alone decide (`by_place`); flat."""
    mask = random_mask(key, start, count, settings.density)
    return torch.from_numpy(mask).to(dtype).mul_(settings.factor)


def norm_factor(magnitudes: Tensor, mask: Tensor) -> float:
    """Σ|δ| / Σ m|δ|, so that what is kept has the L1 norm of the whole (mergekit's rescaling); 1 if nothing is."""
    whole = kept = 0.0
    for size, flag in zip(magnitudes.split(CHUNK), mask.split(CHUNK), strict=True):  # no fp64 copy of a whole tensor
        whole += float(size.sum(dtype=torch.float64))
        kept += float((size * flag).sum(dtype=torch.float64))
    return whole / kept if kept > 0 else 1.0


def _mask_by_size(magnitudes: Tensor, settings: SparsifySettings, key: int) -> Flags:
    """The mask of a whole tensor, flat, for the strategies that keep a number or a share of it.

    magnitude drops ⌊drop · d⌋ of d entries. breadcrumbs drop as many, ⌊gamma · d⌋ of them (at most all) at the top.
    """
    size = magnitudes.numel()
    if settings.strategy == "random":
        return random_mask(key, 0, size, settings.density)
    dropped = share_of(settings.drop, size)
    top = min(share_of(settings.outliers, size), dropped) if settings.strategy == "breadcrumbs" else 0
    return middle_mask(magnitudes.numpy(), smallest=dropped - top, largest=top)
