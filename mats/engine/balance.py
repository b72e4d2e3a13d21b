"""`scaling: balanced`: every model's curvature multiplied by one number, so that all have the same trace.

The trace of a Fisher information is the expected squared gradient of its task: how steeply the loss answers to a change
of the weights, alike in all directions. Tasks differ in it severalfold, by their numbers of classes and by how sure
their models are, and the system would serve the steep ones first. With λ_i b_i instead of λ_i they count alike:

    b_i = t̄ ÷ t_i        t_i = Σ tr C_i over the systems of the merge,  t̄ = mean of the t_i

Curvatures that measure unlike things (a loss, output errors) are balanced each among themselves. Traces are taken of
the stores' sums as they are, from their diagonals alone; neither shrinkage nor the off-diagonal factor changes them.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from mats.engine.coverage import StoreIndex, Term
from mats.engine.plan import Group, System
from mats.methods.grams import GramSums, kronecker_factors
from mats.methods.quadratic import LOSS_RULES
from mats.quadratics.scaling import example_scale

VANISHING = 1e-30
"""Part of the largest trace below which one counts as zero: there is nothing in it that could be scaled up."""


@dataclass(frozen=True)
class Balance:
    """The factors of one merge.

    Attributes:
        factors: what curvatures measure ("loss", or the rule's own name) → b_i, in the order of the models.
    """

    factors: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def weights(self, system: System, model_weights: Sequence[float]) -> list[float]:
        """λ_i b_i for this system; λ_i where it is not balanced."""
        factors = self.factors.get(_measure(system)) if _is_balanced(system) else None
        if factors is None:
            return list(model_weights)
        return [weight * factor for weight, factor in zip(model_weights, factors, strict=True)]

    def told(self, models: Sequence[str]) -> dict[str, Any]:
        """As plain data, for report.json; empty where nothing was balanced."""
        entry = {what: dict(zip(models, factors, strict=True)) for what, factors in self.factors.items()}
        return {"balance": entry} if entry else {}

    def notes(self, models: Sequence[str]) -> list[str]:
        """The same for people, a line for each kind of curvature."""
        return [
            f"curvature balanced ({what.replace('_', ' ')}), factors: "
            + ", ".join(f"{model} {factor:.3g}" for model, factor in zip(models, factors, strict=True))
            for what, factors in self.factors.items()
        ]


def balance_of(stores: Sequence[StoreIndex], groups: Sequence[Group]) -> Balance:
    """The factors for all systems of a merge; a model whose trace vanishes keeps its weight.

    Raises:
        StoreCorrupt, NonFiniteStatistic: from the stores.
    """
    traces: dict[str, list[float]] = {}
    readers = [_Traces(store) for store in stores]
    for system in _balanced(groups):
        found = traces.setdefault(_measure(system), [0.0] * len(stores))
        for index, reader in enumerate(readers):
            found[index] += reader.of(system)
    return Balance({what: balanced(found) for what, found in traces.items()})


def balanced(traces: Sequence[float]) -> tuple[float, ...]:
    """b_i = t̄ ÷ t_i over the traces that do not vanish beside the largest, and 1 for the others."""
    least = VANISHING * max((trace for trace in traces if trace > 0), default=0.0)
    counted = [trace for trace in traces if trace > least]
    mean = math.fsum(counted) / max(len(counted), 1)  # exact, so that the order of the models has no say
    return tuple(mean / trace if trace > least else 1.0 for trace in traces)


def _balanced(groups: Iterable[Group]) -> Iterable[System]:
    return (system for group in groups for system in group.systems if _is_balanced(system))


def _is_balanced(system: System) -> bool:
    return system.settings.scaling == "balanced" and system.rule != "identity"


def _measure(system: System) -> str:
    return "loss" if system.rule in LOSS_RULES else system.rule


class _Traces:
    """Traces of one model's curvature, each sum read once."""

    def __init__(self, index: StoreIndex) -> None:
        self.index = index
        self._diagonals: dict[str, torch.Tensor] = {}

    def of(self, system: System) -> float:
        """Tr C_i."""
        if system.terms:
            return sum(self._of_layer(system, term) for term in system.terms)
        name = self.index.parameters.get(system.weight, system.weight)
        scale = example_scale(system.settings.scaling, examples=self.index.store.examples)
        return float(self._diagonal(f"{system.rule}/{name}").sum()) * scale

    def _of_layer(self, system: System, term: Term) -> float:
        """Tr A · tr G of one layer, or tr A · out where it has no G: diagonals alone, divided as in the solve."""
        store, site = self.index.store, self.index.site_of[term.layer]
        outs, ins = system.sides_of(term)
        diagonal = self._diagonal(f"input_gram/{site}")
        inputs = GramSums(diagonal if term.counts else diagonal[:ins], store.tokens("site", site))
        outputs = None
        if term.output:
            outputs = GramSums(self._diagonal(f"output_gram/{term.layer}"), store.tokens("layer", term.layer))
        right, left = kronecker_factors(inputs, outputs, store.examples, system.settings)
        return float(right.sum()) * (outs if left is None else float(left.sum()))

    def _diagonal(self, key: str) -> torch.Tensor:
        if key not in self._diagonals:
            self._diagonals[key] = self.index.store.diagonal(key).double()
        return self._diagonals[key]
