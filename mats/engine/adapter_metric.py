"""The metric in which an update is cut to a smaller rank: the curvature of a layer, as one Kronecker term.

With C_i = G_i ⊗ A_i of every model, G = Σ w_i G_i / tr G_i and A = Σ w_i A_i / tr A_i, w_i = √(λ_i tr G_i tr A_i): each
model counts as much as its curvature does. Without output Grams G is the identity and A = Σ λ_i A_i.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.engine.adapter_inputs import AdapterInputs
from mats.engine.coverage import StoreIndex, Term, cover
from mats.errors import RequestError
from mats.methods.grams import GramSums, kronecker_factors, leading_block
from mats.methods.low_rank import Metric
from mats.methods.mats import MatsSettings
from mats.store import open_store

AS_MEASURED = MatsSettings(
    fallback=("kfac", "input_gram", "init"), scaling="examples", shrinkage=None, off_diagonal=1.0
)
"""Under which Grams are read: neither shrunk nor damped."""


class LayerMetrics:
    """Curvatures by the weight's name in the base.

    Args:
        stores: of the models, in their order; empty: everything is measured in the Frobenius norm.
        weights: λ_i ≥ 0.
        damping: see `Metric`.
    """

    def __init__(self, stores: Sequence[StoreIndex], weights: Sequence[float], damping: float) -> None:
        self._stores = stores
        self._weights = weights
        self._damping = damping

    @property
    def fingerprints(self) -> list[str]:
        """Of the stores."""
        return [index.store.fingerprint for index in self._stores]

    def of(self, weight: str, shape: tuple[int, int]) -> tuple[Metric | None, str | None]:
        """The metric of a weight's update [out, in], or None and, where stores are read, the reason.

        Raises:
            StoreCorrupt, NonFiniteStatistic: from the stores.
        """
        if not self._stores:
            return None, None
        found = cover(weight, AS_MEASURED, self._stores)
        if len(found.terms) != 1:
            return None, found.reason or "the weight is used by several layers"
        term = found.terms[0]
        factors = [self._factors(store, term, shape) for store in self._stores]
        inputs, outputs = [right for right, _ in factors], [left for _, left in factors if left is not None]
        if inputs[0].shape[-1] != shape[1] or (outputs and outputs[0].shape[-1] != shape[0]):
            return None, f"its Grams are of another size than the update {list(shape)}"
        if not outputs:
            return Metric(None, _weighted(inputs, self._weights), self._damping), None
        traces = [(_trace(left), _trace(right)) for left, right in zip(outputs, inputs, strict=True)]
        shares = [(weight * left * right) ** 0.5 for weight, (left, right) in zip(self._weights, traces, strict=True)]
        G = _weighted(
            outputs, [share / left if left > 0 else 0.0 for share, (left, _) in zip(shares, traces, strict=True)]
        )
        A = _weighted(
            inputs, [share / right if right > 0 else 0.0 for share, (_, right) in zip(shares, traces, strict=True)]
        )
        return Metric(G, A, self._damping), None

    def _factors(self, index: StoreIndex, term: Term, shape: tuple[int, int]) -> tuple[Tensor, Tensor | None]:
        store = index.store
        site = index.site_of[term.layer]
        total = GramSums(store.sum(f"input_gram/{site}"), store.tokens("site", site))
        outputs = None
        if term.output:
            outputs = GramSums(store.sum(f"output_gram/{term.layer}"), store.tokens("layer", term.layer))
        return kronecker_factors(leading_block(total, shape[1]), outputs, store.examples, AS_MEASURED)


def open_metrics(inputs: AdapterInputs, damping: float) -> LayerMetrics:
    """The metrics of models that are LoRA adapters, from the stores that the request names.

    Raises:
        RequestError: a model names no store.
        FingerprintMismatch: a store was measured on another adapter.
    """
    stores = []
    for model, adapter in zip(inputs.request.models, inputs.adapters, strict=True):
        if model.metadata is None:
            raise RequestError(
                f"model {model.name}: adapters.metric: curvature reads metadata and none is given; make it with "
                "`mats save-metadata RECIPE`, or metric: frobenius would be right"
            )
        store = open_store(model.metadata)
        if model.measured_on is None:
            store.check_model(adapter.checkpoint.fingerprint(), model.name)
        else:
            with open_checkpoint(model.measured_on) as measured:
                store.check_model(measured.fingerprint(), f"{model.name} measured_on {model.measured_on}")
        stores.append(StoreIndex(model.name, store, str))  # an adapter's store has the names of the adapter's model
    return LayerMetrics(stores, [abs(model.weight) for model in inputs.request.models], damping)


def _trace(gram: Tensor) -> float:
    return float((gram if gram.dim() == 1 else gram.diagonal()).sum(dtype=torch.float64))


def _weighted(grams: Sequence[Tensor], weights: Sequence[float]) -> Tensor:
    total = torch.zeros_like(grams[0], dtype=torch.float64)
    for gram, weight in zip(grams, weights, strict=True):
        total.add_(gram, alpha=weight)
    return total
