"""What the user should know about a merge before it is done: the notes of its plan, a sentence each."""

from __future__ import annotations

from collections.abc import Sequence

from mats.checkpoints.heads import is_head
from mats.engine.belonging import notes_on_bases
from mats.engine.coverage import StoreIndex
from mats.engine.filled import filled_notes
from mats.engine.inputs import MergeInputs
from mats.engine.request import MergeRequest
from mats.engine.sparsified import sparsify_notes
from mats.store.compression import compression_line


def plan_notes(inputs: MergeInputs, stores: Sequence[StoreIndex]) -> tuple[str, ...]:
    """Every note on the merge of open `inputs`.

    Args:
        inputs: of the merge.
        stores: that it reads; none where no method needs any.
    """
    request = inputs.request
    return (
        *request.notes,
        *method_notes(request),
        *filled_notes(inputs.missing, inputs.reference, request.missing),
        *inputs.vocabulary.notes,
        *_estimator_notes(stores),
        *_proxy_notes(stores),
        *_measured_notes(inputs),
        *notes_on_bases(inputs),
        *_head_notes(inputs),
        *sparsify_notes(request.models, measured=bool(stores)),
    )


def method_notes(request: MergeRequest) -> tuple[str, ...]:
    """What the methods say of themselves, each once: a formula, as it was reduced."""
    methods = dict.fromkeys(request.methods)
    return tuple(
        dict.fromkeys(note for method in methods for note in method.notes(request.model_names, request.weights))
    )


def _estimator_notes(stores: Sequence[StoreIndex]) -> list[str]:
    """Stores that were measured differently can be merged, but the user should know."""
    notes = []
    measured = [index for index in stores if index.store.proxy is None]
    for key, default in (("labels", None), ("loss", None), ("position", 1.0)):
        values = {index.model: index.store.manifest.estimator.get(key, default) for index in measured}
        if len(set(map(str, values.values()))) > 1:
            notes.append(
                f"the stores were measured with different {key}: {values}; their curvatures differ in scale or kind"
            )
    return notes


def _proxy_notes(stores: Sequence[StoreIndex]) -> list[str]:
    """Curvature that was not measured, and sums that are not exactly those that were."""
    proxies = {index.model: index.store.proxy for index in stores if index.store.proxy is not None}
    notes = [f"the metadata of {model} are a proxy ({kind}), not measured on data" for model, kind in proxies.items()]
    if proxies and len(proxies) < len(stores):
        notes.append("proxies and measured metadata differ in scale: they weigh models by more than their weights say")
    for index in stores:
        lost = index.store.manifest.compression
        if lost is not None:
            notes.append(f"the metadata of {index.model} are compressed ({compression_line(lost)})")
    return notes


def _measured_notes(inputs: MergeInputs) -> list[str]:
    """Statistics that are not those of the models themselves."""
    used = [inputs.request.models[index] for index in inputs.opened_stores]
    elsewhere = [model for model in used if model.measured_on is not None]
    return [f"the metadata of {model.name} were measured on {model.measured_on}" for model in elsewhere]


def _head_notes(inputs: MergeInputs) -> list[str]:
    """Heads that a base without one would let fall silently."""
    losing = [model for model, names in inputs.extra.items() if any(map(is_head, names))]
    if inputs.separated is not None or inputs.kind != "model" or not losing:
        return []
    return [f"the heads of {', '.join(losing)} are not in the base and are left out; heads: auto would keep them"]
