"""One module of a merged LoRA adapter: the factors that are written, and what the report says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor

from mats.engine.adapter_metric import LayerMetrics
from mats.engine.adapter_plan import ModulePlan, low_rank, total_update
from mats.methods.adapter_settings import AdapterSettings
from mats.methods.lora_forms import FactorForm, factor_sum, factor_weights
from mats.methods.low_rank import LowRank, cosine, reduced, relative_difference, truncated

Entry = dict[str, Any]


@dataclass(frozen=True)
class MergedModule:
    """Factors [r, in] and [out, r] of the rank planned, the bias of B [out] or None, and a report entry."""

    A: Tensor
    B: Tensor
    bias: Tensor | None
    entry: Entry


def merge_module(part: ModulePlan, combine: str, settings: AdapterSettings, metrics: LayerMetrics) -> MergedModule:
    """Read a module's factors, put them together, and say what that lost."""
    entry: Entry = {"name": part.weight, "rule": combine, "shape": list(part.shape), "rank": part.rank}
    total = total_update(part.updates, part.coefficients, part.shape)
    if combine == "exact":
        result = reduced(total) if settings.reduce else total
    elif combine == "svd":
        metric, reason = metrics.of(part.weight, part.shape)
        cut = truncated(total, part.rank, metric)
        entry |= truncation_entry(cut.error, cut.metric_error, curvature=metric is not None)
        entry |= {} if reason is None else {"fallback_reason": reason}
        result = cut.update
    else:
        result = factor_sum(
            cast(FactorForm, combine), [low_rank(update) for update in part.updates], part.coefficients, settings.negate
        )
        entry |= {"difference_from_sum": relative_difference(result, total), "cosine_with_sum": cosine(result, total)}
    result = padded(result, part.rank)
    return MergedModule(result.A, result.B, _bias(part, combine, settings), entry)


def truncation_entry(error: float, metric_error: float | None, *, curvature: bool) -> Entry:
    """What a report entry says about an update cut to a smaller rank."""
    entry: Entry = {"truncation_error": error, "metric": "curvature" if curvature else "frobenius"}
    return entry | ({"truncation_error_in_metric": metric_error} if curvature else {})


def padded(update: LowRank, rank: int) -> LowRank:
    """The same update with `rank` ranks, the last of them zero where it has fewer."""
    lacking = rank - update.rank
    if lacking == 0:
        return update
    A = torch.cat([update.A, update.A.new_zeros(lacking, update.shape[1])])
    return LowRank(A, torch.cat([update.B, update.B.new_zeros(update.shape[0], lacking)], dim=1), update.scaling)


def _bias(part: ModulePlan, combine: str, settings: AdapterSettings) -> Tensor | None:
    """The bias of B, which like B is multiplied by the output's scaling; None where no adapter has one here."""
    factors = [factor * update.scaling for factor, update in zip(part.coefficients, part.updates, strict=True)]
    scaling = part.scaling
    if combine not in ("exact", "svd"):
        scalings = [update.scaling for update in part.updates]
        _, factors = factor_weights(cast(FactorForm, combine), part.coefficients, scalings, settings.negate)
        scaling = 1.0
    total: Tensor | None = None
    for update, factor in zip(part.updates, factors, strict=True):
        if update.bias is not None:
            share = update.bias.read().double() * (factor / scaling)
            total = share if total is None else total + share
    return total
