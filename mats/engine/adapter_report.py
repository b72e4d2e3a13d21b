"""What a merge of adapters by their factors says about itself: the plan in words, and report.json."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

from mats.engine.adapter_inputs import AdapterInputs
from mats.engine.adapter_plan import AdapterPlan
from mats.engine.describing import describe_plan, package_version, recipe_of
from mats.engine.memory import FLOAT
from mats.engine.plan import MergePlan, Streamed
from mats.methods.adapter_settings import AdapterSettings
from mats.reporting.report import SCHEMA_VERSION

COPIES = 6  # fp64 factors of all adapters, their triangles and products, held while one module is merged


def merge_plan(inputs: AdapterInputs, plan: AdapterPlan) -> MergePlan:
    """The plan in the terms of every merge, for --dry-run and `mats check`."""
    streamed = [Streamed(part.weight, plan.combine, None) for part in plan.modules]
    streamed += [Streamed(part.name, "head" if part.head else _method(inputs), None) for part in plan.saved]
    factors = [sum(prod(u.down.shape) + prod(u.up.shape) for u in part.updates) for part in plan.modules]
    whole = [prod(part.placeholder.shape) for part in plan.saved]
    return MergePlan(
        tensors=plan.tensors,
        streamed=tuple(streamed),
        groups=(),
        by_rule=_counts(inputs, plan),
        missing=plan.absent,
        extra={},
        tied=(),
        fallbacks={},
        peak_bytes=FLOAT * max([0, *(2 * COPIES * size for size in factors), *(3 * size for size in whole)]),
        output_bytes=sum(info.nbytes for info in plan.tensors),
        notes=plan.notes,
    )


def describe_sums(inputs: AdapterInputs, plan: AdapterPlan) -> list[str]:
    """The plan, a line per fact."""
    ranks = sorted({part.rank for part in plan.modules})
    told = f"rank {ranks[0]}" if len(ranks) == 1 else f"ranks {ranks[0]} to {ranks[-1]}"
    modules = f"{len(plan.modules)} modules of {len(inputs.adapters)} adapters by {plan.combine}, {told}"
    return [modules, *describe_plan(merge_plan(inputs, plan), inputs.request)]


def sums_report(
    inputs: AdapterInputs, plan: AdapterPlan, settings: AdapterSettings, entries: Mapping[str, dict[str, Any]]
) -> dict[str, Any]:
    """`report.json`: nothing in it differs between two runs of one request."""
    request, counts = inputs.request, _counts(inputs, plan)
    read = plan.combine == "svd" and settings.metric == "curvature"
    return {
        "schema_version": SCHEMA_VERSION,
        "mats_version": package_version("mats"),
        "method": request.method.name,
        "base": request.base,
        "models": [
            {
                "name": model.name,
                "path": model.path,
                "weight": model.weight,
                "fingerprint": None,
                "metadata": str(model.metadata) if read else None,
                "examples": None,
            }
            for model in request.models
        ],
        "settings": request.method.model_dump(mode="json"),
        "recipe": recipe_of(request),
        "dtype": request.dtype,
        "parameters": {"total": sum(counts.values()), "by_rule": counts},
        "layers": [entries[info.name] for info in plan.tensors if info.name in entries],
        "missing": {model: list(names) for model, names in plan.absent.items()},
        "extra": {},
        "tied": [],
        "not_floating": [],
        "notes": list(plan.notes),
        "adapters": settings.model_dump(mode="json") | {"combine": plan.combine},
    }


def _counts(inputs: AdapterInputs, plan: AdapterPlan) -> dict[str, int]:
    """Numbers stored in the output, by what made them."""
    saved = {"head": sum(prod(part.placeholder.shape) for part in plan.saved if part.head)}
    whole = sum(prod(part.placeholder.shape) for part in plan.saved if not part.head)
    total = sum(info.numel for info in plan.tensors)
    counts = {plan.combine: total - saved["head"] - whole, _method(inputs): whole, **saved}
    return {rule: count for rule, count in sorted(counts.items()) if count}


def _method(inputs: AdapterInputs) -> str:
    return inputs.request.method.name
