"""Whether metadata and models belong together: every store against the weights that it was measured on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mats.engine.inputs import MergeInputs
from mats.errors import FingerprintMismatch
from mats.progress import Progress


def check_fingerprints(inputs: MergeInputs, progress: Progress) -> dict[str, str]:
    """Every store that the plan opened was measured on the very weights being merged, or on what `measured_on` names.

    Returns:
        Model name → fingerprint of the weights that its store was measured on; empty where no store is read, since a
        fingerprint costs a read of the whole model.

    Raises:
        FingerprintMismatch: naming both.
    """
    found = {}
    progress.start("checking that metadata and models belong together", len(inputs.opened_stores))
    for index in inputs.opened_stores:
        name = inputs.request.models[index].name
        measured = inputs.measured(index)
        found[name] = measured.fingerprint()
        also = (
            "" if measured is inputs.checkpoints[index] else f" measured_on {inputs.request.models[index].measured_on}"
        )
        inputs.store(index).check_model(found[name], f"{name}{also}")
        if note := _on_another_line(inputs, index):
            progress.note(note)
        progress.advance()
    adapters = [index for index in inputs.opened_stores if inputs.measured(index).kind != "model"]
    if adapters:
        _check_adapters_base(inputs, adapters)
    return found


def _on_another_line(inputs: MergeInputs, index: int) -> str | None:
    """That a model was measured between itself and another base than the merge's: still its curvature, elsewhere."""
    store, base = inputs.store(index), inputs.given_base
    identity = store.manifest.model
    if store.position == 1 or base is None or inputs.measured(index).kind != "model":
        return None
    if identity.base_fingerprint == base.fingerprint():
        return None
    return (
        f"{store.path}: {inputs.request.models[index].name} was measured {store.position:g} of the way from the base "
        f"{identity.base} ({identity.base_fingerprint}), not from {base.path} ({base.fingerprint()})"
    )


def _check_adapters_base(inputs: MergeInputs, adapters: Sequence[int]) -> None:
    """An adapter's curvature is that of the model under it too: one base for all stores, and the one that was given."""
    agreed: tuple[str, str] | None = None
    for index in adapters:
        name, measured = inputs.request.models[index].name, inputs.store(index).manifest.model
        if measured.base_fingerprint is None:
            continue
        under = inputs.under(index)
        if under is None:
            agreed = agreed or (measured.base_fingerprint, f"the base under {name}, {measured.base}")
            expected, source = agreed
        else:
            expected, source = under.fingerprint(), f"{'the base ' if under is inputs.given_base else ''}{under.path}"
        if measured.base_fingerprint != expected:
            raise FingerprintMismatch(
                f"{inputs.store(index).path}: {name} was measured on the base {measured.base} "
                f"({measured.base_fingerprint}), not on {source} ({expected}); run save-metadata on that base"
            )


def notes_on_bases(inputs: MergeInputs) -> list[str]:
    """Adapters that name another base than the one on which they are merged; a copy of one name counts as the same."""
    notes = []
    for index, (name, checkpoint) in enumerate(zip(inputs.model_names, inputs.checkpoints, strict=True)):
        named = (checkpoint.config or {}).get("base_model_name_or_path") if checkpoint.kind != "model" else None
        model = inputs.request.models[index]
        given = inputs.request.base if model.adapter is None else model.path
        if named and given is not None and Path(str(named)).name != Path(given).name:
            notes.append(f"the adapter {name} was made for {named} and is merged on {given}")
    return notes
