"""What becomes of every module when LoRA adapters are added up: who takes part, with which coefficient, at what rank.

Made from headers; factors are read only where `reduce` asks how many ranks a sum really has.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import cast

import torch

from mats.checkpoints.lora import Lazy, LoraModule
from mats.checkpoints.lora_writing import lora_tensors
from mats.checkpoints.tensors import TensorInfo
from mats.engine.adapter_inputs import AdapterInputs, canonical_shape
from mats.engine.adapter_saved import SavedPlan, plan_kept, plan_saved
from mats.engine.devices import resolve_dtype
from mats.engine.plan_notes import method_notes
from mats.engine.request import MergeRequest
from mats.errors import InputsMismatch, RequestError
from mats.methods.adapter_settings import FACTOR_FORMS, AdapterSettings
from mats.methods.lora_forms import FactorForm, check_factors, factor_weights
from mats.methods.low_rank import LowRank, exact_sum, reduced
from mats.methods.update_coefficients import update_coefficients


@dataclass(frozen=True)
class ModulePlan:
    """One module of the output.

    Attributes:
        name: of the module, as the adapters call it.
        weight: what it changes, as the merge calls it.
        updates: of the adapters that have it and whose coefficient is not 0.
        coefficients: κ_i of these.
        shape: (out, in) of B A.
        rank, scaling: of the output.
    """

    name: str
    weight: str
    updates: tuple[LoraModule, ...]
    coefficients: tuple[float, ...]
    shape: tuple[int, int]
    rank: int
    scaling: float


@dataclass(frozen=True)
class AdapterPlan:
    """What a merge of adapters will do, before it does it.

    Attributes:
        combine: exact, svd or the published form: `auto` decided.
        modules: in natural order.
        saved: what is stored beside the factors, whole.
        skeleton: the output's modules by name, shapes and dtypes alone.
        tensors: of the output's file.
        absent: model → weights that others adapt and it does not; they count as unchanged there.
        notes: what the user should know, a sentence each.
    """

    combine: str
    modules: tuple[ModulePlan, ...]
    saved: tuple[SavedPlan, ...]
    skeleton: dict[str, LoraModule]
    tensors: tuple[TensorInfo, ...]
    absent: dict[str, tuple[str, ...]]
    notes: tuple[str, ...]


def coefficients_by_name(request: MergeRequest, names: Iterable[str]) -> dict[str, tuple[float, ...]] | None:
    """Parameter → κ of every model; None where a method of the request is no linear combination of updates.

    Raises:
        RequestError: a linear method that leaves part of the base over.
    """
    known = {method: update_coefficients(method, request.model_names, request.weights) for method in request.methods}
    if any(found is None for found in known.values()):
        return None
    result = {}
    for name in names:
        found = known[request.method_for(name)]
        assert found is not None
        result[name] = found
    return result


def plan_sums(
    inputs: AdapterInputs, settings: AdapterSettings, by_name: Mapping[str, tuple[float, ...]]
) -> AdapterPlan:
    """Plan a merge that is a linear combination of updates.

    Args:
        inputs: the adapters.
        settings: how updates are put together.
        by_name: κ of every model for every weight, and for everything saved whole.

    Raises:
        RequestError: what the adapters hold cannot be added up as asked.
        InputsMismatch: a published form with adapters of different ranks, scalings or modules.
    """
    combine = settings.combine if settings.combine != "auto" else ("svd" if settings.rank else "exact")
    if combine != "svd" and settings.metric == "curvature":
        raise RequestError(
            f"adapters.metric: curvature: the method is linear, and {combine} loses nothing by a metric; a rank, or "
            "combine: svd, would be right"
        )
    dtype = resolve_dtype(inputs.request.dtype)
    modules = tuple(
        _module_plan(inputs, name, row, by_name[inputs.shown(f"{name}.weight")], combine, settings)
        for name, row in inputs.modules.items()
    )
    biased = any(update.bias is not None for part in modules for update in part.updates)
    skeleton = {part.name: _skeleton(inputs, part, dtype, biased) for part in modules}
    saved = plan_saved(inputs, by_name, dtype)
    tensors = lora_tensors(skeleton, {part.name: part.placeholder for part in saved})
    infos = tuple(TensorInfo(name, lazy.dtype, lazy.shape) for name, lazy in tensors.items())
    return AdapterPlan(combine, modules, saved, skeleton, infos, _absent(inputs), _notes(inputs))


def plan_cuts(inputs: AdapterInputs, settings: AdapterSettings, dense: Mapping[str, str]) -> AdapterPlan:
    """Plan an adapter that dense merged weights are cut to.

    Args:
        inputs: the adapters, whose modules and ranks decide those of the output.
        settings: the rank.
        dense: of the adapters' names for weights and saved tensors, those that are merged densely.

    Raises:
        RequestError: settings that make no sense here, or several heads and no word about them.
    """
    if settings.reduce:
        raise RequestError("adapters.reduce: a merge of dense updates has all ranks; rank: N would be right")
    dtype = resolve_dtype(inputs.request.dtype)
    modules = []
    for name, row in inputs.modules.items():
        present = [update for update in row if update is not None]
        shape = canonical_shape(present[0])
        rank = min(settings.rank or max(update.rank for update in present), *shape)
        modules.append(ModulePlan(name, inputs.shown(f"{name}.weight"), (), (), shape, rank, 1.0))
    biased = any(update is not None and update.bias is not None for row in inputs.modules.values() for update in row)
    skeleton = {part.name: _skeleton(inputs, part, dtype, biased) for part in modules}
    saved = plan_kept(inputs, dense, dtype)
    tensors = lora_tensors(skeleton, {part.name: part.placeholder for part in saved})
    infos = tuple(TensorInfo(name, lazy.dtype, lazy.shape) for name, lazy in tensors.items())
    return AdapterPlan("svd", tuple(modules), saved, skeleton, infos, _absent(inputs), ())


def _module_plan(
    inputs: AdapterInputs,
    name: str,
    row: Sequence[LoraModule | None],
    coefficients: Sequence[float],
    combine: str,
    settings: AdapterSettings,
) -> ModulePlan:
    by_factors = combine in FACTOR_FORMS
    if by_factors and None in row:
        lacking = inputs.names[row.index(None)]
        raise InputsMismatch(
            f"model {lacking}: does not adapt {name}, which others do, and adapters.combine: {combine} adds factors of "
            "all; exact or svd would be right"
        )
    taking_part = [
        (update, factor)
        for update, factor in zip(row, coefficients, strict=True)
        if update is not None and (factor != 0 or by_factors)
    ]
    updates, factors = tuple(update for update, _ in taking_part), tuple(factor for _, factor in taking_part)
    shape = next(canonical_shape(update) for update in row if update is not None)
    planned = partial(ModulePlan, name, inputs.shown(f"{name}.weight"), updates, factors, shape)
    if by_factors:
        form = cast(FactorForm, combine)
        check_factors(form, [(update.rank, update.scaling) for update in updates])
        factor_weights(form, factors, [update.scaling for update in updates], settings.negate)
        scaling = 1.0 if form == "peft_linear" else updates[0].scaling
        return planned(updates[0].rank, scaling)
    if combine == "svd":
        wanted = settings.rank or max(update.rank for update in row if update is not None)
        rank = max(1, min(wanted, sum(update.rank for update in updates), *shape))
        return planned(rank, 1.0)
    if settings.reduce:
        return planned(reduced(total_update(updates, factors, shape)).rank, 1.0)
    scaling = factors[0] * updates[0].scaling if len(updates) == 1 else 1.0
    return planned(sum(update.rank for update in updates) or 1, scaling)


def total_update(updates: Sequence[LoraModule], coefficients: Sequence[float], shape: tuple[int, int]) -> LowRank:
    """Σ κ_i ΔW_i with all ranks; reads the factors."""
    return exact_sum([low_rank(update) for update in updates], coefficients, shape)


def low_rank(update: LoraModule) -> LowRank:
    """An adapter's update of one module, its factors read, in canonical shape."""
    return LowRank(update.A.flatten(1), update.B.flatten(1), update.scaling)


def _skeleton(inputs: AdapterInputs, part: ModulePlan, dtype: torch.dtype | None, biased: bool) -> LoraModule:
    """The output's module without its values: shapes as its layer has them, the dtype asked for or that of the inputs.

    PEFT knows a bias of B in all modules or in none.
    """
    present = [update for update in inputs.modules[part.name] if update is not None]
    first = present[0]
    if dtype is None:
        dtype = first.down.dtype
        for update in present[1:]:
            dtype = torch.promote_types(dtype, update.down.dtype)
    down = _blank((part.rank, *first.down.shape[1:]), dtype)
    up = _blank((first.up.shape[0], part.rank, *first.up.shape[2:]), dtype)
    bias = _blank((first.up.shape[0],), dtype) if biased else None
    return LoraModule(part.name, first.layer, down, up, part.scaling, first.fan_in_fan_out, bias=bias)


def _blank(shape: tuple[int, ...], dtype: torch.dtype) -> Lazy:
    return Lazy(shape, dtype, lambda: torch.zeros(shape, dtype=dtype))


def _absent(inputs: AdapterInputs) -> dict[str, tuple[str, ...]]:
    """Model → weights that others adapt and it does not.

    Raises:
        InputsMismatch: there are some, and the request says `missing: error`.
    """
    lacking = {
        model: tuple(inputs.shown(f"{name}.weight") for name, row in inputs.modules.items() if row[index] is None)
        for index, model in enumerate(inputs.names)
    }
    for model, names in lacking.items():
        if names and inputs.request.missing == "error":
            raise InputsMismatch(
                f"model {model}: does not adapt {len(names)} weights that others do (first: {names[0]}); `missing: "
                "base`, under which they count as unchanged, would be right"
            )
    return {model: names for model, names in lacking.items() if names}


def _notes(inputs: AdapterInputs) -> tuple[str, ...]:
    bases = {
        model: str(adapter.config.get("base_model_name_or_path"))
        for model, adapter in zip(inputs.names, inputs.adapters, strict=True)
    }
    told = method_notes(inputs.request)
    if len(set(bases.values())) <= 1:
        return told
    listed = ", ".join(f"{model}: {base}" for model, base in bases.items())
    return (
        *told,
        f"the adapters name different bases ({listed}); their updates are added as if they were one",
    )
