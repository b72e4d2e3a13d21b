"""What collection covers of one architecture, and whether what its hooks see is autograd's gradient."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from torch import nn

from benchmarks.architectures.families import Family
from mats.curvature import CollectionPlan, CollectionSettings
from mats.curvature.coverage import examine
from mats.curvature.experts import unfused_experts
from mats.curvature.names import ParameterNames
from mats.curvature.plan import plan_collection
from mats.curvature.settings import GRAM_STATISTICS, STATISTICS
from mats.curvature.taps import tap_of
from mats.data.batch import Batch

EXAMPLES = 6


@dataclass(frozen=True)
class Row:
    """One row of the table; shares are of the model's parameters, tied ones counted once.

    Attributes:
        family, model, remark: As in `Family`.
        parameters: Their number, in this smallest configuration.
        shares: Statistic → share of the parameters that have it; `none`: without any.
        one_by_one: Share whose `diagonal` and `block` take one forward and backward per example.
        worst_error: Largest relative error of Σ δ aᵀ against autograd's gradient, over what hooks read, in float64.
        without_grams: What has no Grams → its share, and why.
        partly: What a layer's Grams leave out → why.
    """

    family: str
    model: str
    remark: str
    parameters: int
    shares: dict[str, float]
    one_by_one: float
    worst_error: float
    without_grams: dict[str, tuple[float, str]]
    partly: dict[str, str]

    def as_json(self) -> dict[str, object]:
        """JSON values."""
        return asdict(self)


def measure(family: Family) -> Row:
    """Plan everything for one family, and run the check of coverage."""
    model, batch = family.build(), family.batch(EXAMPLES)
    with unfused_experts(model, None) as names:
        everything = plan_collection(model, batch, CollectionSettings(statistics=STATISTICS), names)
        grams = plan_collection(model, batch, CollectionSettings(statistics=GRAM_STATISTICS), names)
        sizes = {name: p.numel() for name, p in ParameterNames(model, names).by_name.items()}
        worst = worst_error(model, batch, names)
    total = sum(sizes.values())
    under = {statistic: _names_under(everything, statistic) for statistic in STATISTICS}
    shares = {statistic: sum(sizes[name] for name in found) / total for statistic, found in under.items()}
    shares["none"] = (
        sum(size for name, size in sizes.items() if not any(name in found for found in under.values())) / total
    )
    single = set(everything.parameters) - everything.tapped
    return Row(
        family=family.name,
        model=family.model,
        remark=family.remark,
        parameters=total,
        shares=shares,
        one_by_one=sum(sizes[name] for name in single) / total,
        worst_error=worst,
        without_grams=_without_grams(grams, sizes, total),
        partly={_general(name): reason for name, reason in grams.notes.items()},
    )


def worst_error(model: nn.Module, batch: Batch, names: Mapping[str, str] | None) -> float:
    """The largest relative error that the coverage check finds, wrong parameters included."""
    taps = {name: tap for name, module in model.named_modules() if (tap := tap_of(module)) is not None}
    parameters = ParameterNames(model, names).by_name
    seen = examine(model, taps, parameters, batch, CollectionSettings(statistics=STATISTICS))
    read = {id(p) for tap in taps.values() for p in tap.parameters.values()}
    wrong = {identity: error for identity, error in seen.wrong_sum.items() if identity in read and error < 1}
    return max((seen.errors | wrong).values())


def _names_under(plan: CollectionPlan, statistic: str) -> set[str]:
    keys = {item.key for item in plan.items}
    if statistic not in GRAM_STATISTICS:
        return {name for name in plan.parameters if f"{statistic}/{name}" in keys}
    sites = {site.name: site for site in plan.sites}
    found = set()
    for layer in plan.layers:
        place = layer.site if statistic == "input_gram" else layer.name
        if f"{statistic}/{place}" in keys:
            found.add(layer.weight)
            if layer.bias is not None and sites[layer.site].homogeneous:
                found.add(layer.bias)
    return found


def _without_grams(plan: CollectionPlan, sizes: Mapping[str, int], total: int) -> dict[str, tuple[float, str]]:
    found: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for name, reason in plan.uncovered.items():
        if name in sizes:
            found[_what(name, reason)].append((sizes[name], reason))
    rows = {what: (sum(size for size, _ in entries) / total, entries[0][1]) for what, entries in found.items()}
    return dict(sorted(rows.items(), key=lambda row: -row[1][0]))


def _what(name: str, reason: str) -> str:
    """One word or two for what has no Grams: its module's class, or what it is called."""
    holder = reason.removeprefix("held by ").split(":")[0]
    if holder != reason.split(":")[0] and ("Norm" in holder or "Router" in holder):
        return holder
    parts = [part for part in name.split(".") if not part.isdigit()]
    return ".".join(parts[-2:])


def _general(name: str) -> str:
    return ".".join(part for part in name.split(".")[-2:] if not part.isdigit())
