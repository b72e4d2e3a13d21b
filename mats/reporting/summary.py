"""What follows from a report: totals per model, what fell back, what did not converge."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from mats.methods.quadratic import LOSS_RULES
from mats.reporting.report import LayerEntry, Report


@dataclass(frozen=True)
class LossTotal:
    """One model's quadratic, summed over layers, at the start and at the solution."""

    model: str
    before: float
    after: float


def solved_layers(report: Report) -> list[LayerEntry]:
    """The layers that carry a certificate, in the order of the checkpoint."""
    return [layer for layer in report["layers"] if layer.get("loss_after")]


def loss_totals(report: Report, rules: Sequence[str] | None = None) -> list[LossTotal]:
    """Each model's summed quadratic before → after, over layers of the given rules (None: all), models in order."""
    layers = [layer for layer in solved_layers(report) if rules is None or layer["rule"] in rules]
    return totals_of(layers, [entry["name"] for entry in report["models"]])


def totals_of(layers: Sequence[LayerEntry], models: Sequence[str]) -> list[LossTotal]:
    """Each model's quadratic before → after, summed over these layers."""
    totals = []
    for model in models:
        pairs = [
            ((layer.get("loss_before") or {}).get(model), (layer.get("loss_after") or {}).get(model))
            for layer in layers
        ]
        known = [(before, after) for before, after in pairs if before is not None and after is not None]
        if known:
            totals.append(LossTotal(model, sum(b for b, _ in known), sum(a for _, a in known)))
    return totals


def totals_by_meaning(report: Report) -> list[tuple[str, list[LossTotal]]]:
    """The totals that may be added up, under what they mean: predicted losses apart from output errors."""
    others = tuple({layer["rule"] for layer in solved_layers(report)} - set(LOSS_RULES))
    groups = [
        ("Predicted loss increase (second order)", loss_totals(report, LOSS_RULES)),
        ("Predicted output error (not a loss)", loss_totals(report, others)),
    ]
    return [(title, totals) for title, totals in groups if totals]


def covered_share(report: Report) -> float:
    """Share of the parameters whose rule is a curvature."""
    total = report["parameters"]["total"]
    counts = report["parameters"]["by_rule"]
    return sum(counts.get(rule, 0) for rule in (*LOSS_RULES, "input_gram", "identity")) / total if total else 0.0


def fallbacks(report: Report) -> list[LayerEntry]:
    """Layers that did not get the first rule of `fallback`."""
    return [layer for layer in report["layers"] if layer.get("fallback_reason")]


def fallback_reasons(report: Report) -> list[tuple[str, int, str]]:
    """(reason, how many layers, the first of them), the most frequent first."""
    counts = Counter(str(layer.get("fallback_reason")) for layer in fallbacks(report))
    first = {str(layer.get("fallback_reason")): layer["name"] for layer in reversed(fallbacks(report))}
    return [(reason, count, first[reason]) for reason, count in counts.most_common()]


def stop_reasons(report: Report) -> list[tuple[str, int]]:
    """(stop reason, number of layers), the most frequent first."""
    return Counter(str(layer.get("stop_reason")) for layer in solved_layers(report)).most_common()


def unconverged(report: Report) -> list[LayerEntry]:
    """Solved layers that missed their tolerance."""
    return [layer for layer in solved_layers(report) if layer.get("converged") is False]


def worst_residual(report: Report) -> LayerEntry | None:
    """The solved layer with the largest true relative residual."""
    known = [layer for layer in solved_layers(report) if layer.get("relative_residual") is not None]
    return max(known, key=lambda layer: layer.get("relative_residual") or 0.0, default=None)


def least_certain(report: Report) -> LayerEntry | None:
    """The layer of which the largest share of the decrease may be left, if every layer has a proven bound."""
    layers = solved_layers(report)
    if any(layer.get("bound") != "proven" or layer.get("remaining_share") is None for layer in layers):
        return None
    return max(layers, key=lambda layer: layer.get("remaining_share") or 0.0, default=None)


def rounding_total(report: Report) -> float | None:
    """Σ of the layers' rounding losses; None where none was computed."""
    known = [loss for layer in report["layers"] if (loss := layer.get("rounding_loss")) is not None]
    return sum(known) if known else None
