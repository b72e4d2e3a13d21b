"""Adding stores over disjoint examples: sums add, so the result is the store of the union."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from mats.errors import InputsMismatch, RequestError
from mats.files import refuse_existing, refuse_replacing_inputs
from mats.progress import Progress
from mats.store.manifest import DataIdentity, Manifest, differences
from mats.store.reading import MetadataStore, open_store
from mats.store.sources import Added, Decoded
from mats.store.writing import MAX_SHARD_BYTES, write_store

FINGERPRINT_MODULUS = 1 << 128


def add_stores(
    folders: Sequence[str | Path],
    output: str | Path,
    *,
    overwrite: bool = False,
    accept_loss: bool = False,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    progress: Progress | None = None,
) -> Path:
    """Write the store of the union of the examples of `folders`.

    One sum at a time is in memory (in float64, rounded once at the end). The order of `folders` does not matter, to
    the bit: they are added in the order of their example ids.

    Args:
        folders: Two or more stores of one model, measured alike on disjoint examples.
        output: Where the result goes.
        overwrite: Replace an existing `output`.
        accept_loss: Add compressed stores too: what they keep is added and written in float32, and the result is
            marked as one that holds their errors.
        max_shard_bytes: As `write_store`.
        progress: As `write_store`.

    Returns:
        `output`.

    Raises:
        RequestError: fewer than two stores, or a compressed one without `accept_loss`.
        InputsMismatch: they differ in weights, data, estimator or sites, or share an example; or they are proxies.
        OutputExists: `output` exists and `overwrite` is false.
    """
    if len(folders) < 2:
        raise RequestError(f"metadata add: {len(folders)} store given; name two or more to add")
    refuse_existing(Path(output), overwrite=overwrite)
    refuse_replacing_inputs(Path(output), folders)
    stores = sorted((open_store(folder) for folder in folders), key=lambda store: store.manifest.example_ids)
    for store in stores:
        _check_exact(store, accept_loss)
    for other in stores[1:]:
        check_addable(stores[0], other)
    _check_disjoint(stores)
    manifest = _combined([store.manifest for store in stores])
    run_info = {"added": [{"examples": store.examples, "fingerprint": store.fingerprint} for store in stores]}
    write_store(
        Path(output),
        manifest,
        Added([store if store.manifest.compression is None else Decoded(store) for store in stores]),
        run_info,
        overwrite=overwrite,
        max_shard_bytes=max_shard_bytes,
        progress=progress,
    )
    return Path(output)


def check_addable(first: MetadataStore, other: MetadataStore) -> None:
    """Refuse two stores whose sums are not of one kind.

    Split, fold and the examples seen may differ; everything else must agree. Splits that the dataset file cuts out of
    one another may show one row under two ids, so stores of different splits are added only where nothing is cut.

    Raises:
        InputsMismatch: with both folders and each difference.
    """
    ours, theirs = first.manifest, other.manifest
    faults = [f"model {fault}" for fault in differences(_weights(ours), _weights(theirs))]
    faults += [f"data {fault}" for fault in differences(_shown(ours.data), _shown(theirs.data))]
    if ours.data.split != theirs.data.split and ours.data.settings.get("splits"):
        faults.append(
            f"data split: {ours.data.split!r} and {theirs.data.split!r}, which the dataset cuts and may overlap"
        )
    faults += [f"estimator {fault}" for fault in differences(ours.estimator, theirs.estimator)]
    for what in ("sites", "layers", "parameters"):
        odd = set(getattr(ours, what)) ^ set(getattr(theirs, what))
        if odd:
            names = sorted(str(getattr(item, "name", item)) for item in odd)
            faults.append(f"{what} differ at {names[0]} ({len(odd)} in all)")
    if faults:
        raise InputsMismatch(f"{first.path} and {other.path} cannot be added: {'; '.join(faults)}")


def _check_exact(store: MetadataStore, accept_loss: bool) -> None:
    """Refuse what is no sum over examples, and, unless that is accepted, what is not exactly one."""
    if store.proxy is not None:
        raise InputsMismatch(f"{store.path}: a proxy ({store.proxy}), no sum over examples; only measured stores add")
    compression = store.manifest.compression
    if compression is not None and not accept_loss:
        raise RequestError(
            f"{store.path}: compressed ({compression.get('format', 'added from such')}), so its errors would add too; "
            "the exact store would be right, or --accept-loss"
        )


def _weights(manifest: Manifest) -> dict[str, Any]:
    model = manifest.model
    return {"fingerprint": model.fingerprint, "base fingerprint": model.base_fingerprint}


def _shown(data: DataIdentity) -> dict[str, Any]:
    return {"name": data.name, "template": data.template, **{f"setting {k}": v for k, v in data.settings.items()}}


def _check_disjoint(stores: Sequence[MetadataStore]) -> None:
    """Refuse stores that share an example: it would count double."""
    counts = Counter(name for store in stores for name in store.manifest.example_ids)
    shared = sorted(name for name, count in counts.items() if count > 1)
    if shared:
        paths = " and ".join(str(store.path) for store in stores)
        raise InputsMismatch(
            f"{paths}: {len(shared)} examples are in more than one (first {shared[0]!r}) and would count double; "
            "add stores over disjoint examples, such as folds"
        )


def _combined(manifests: Sequence[Manifest]) -> Manifest:
    first = manifests[0]
    fingerprint = sum(int(manifest.data.fingerprint, 16) for manifest in manifests) % FINGERPRINT_MODULUS
    data = replace(
        first.data,
        split="+".join(sorted({part for manifest in manifests for part in manifest.data.split.split("+")})),
        fold=_joined_folds([manifest.data.fold for manifest in manifests]),
        fingerprint=f"{fingerprint:032x}",
    )
    return replace(
        first,
        model=min((manifest.model for manifest in manifests), key=lambda model: (model.name, model.source)),
        data=data,
        examples=sum(manifest.examples for manifest in manifests),
        example_ids=tuple(name for manifest in manifests for name in manifest.example_ids),
        tokens=_added([manifest.tokens for manifest in manifests]),
        fourth_moments=_added([manifest.fourth_moments for manifest in manifests]),
        tensors={},
        files={},
        compression=_joined_losses([manifest.compression for manifest in manifests]),
    )


def _joined_losses(losses: Sequence[dict[str, Any] | None]) -> dict[str, Any] | None:
    """That a sum holds the errors of its terms, and of which formats; None where all terms are exact."""
    formats = sorted({str(loss.get("format")) for loss in losses if loss is not None})
    return {"format": f"added from {', '.join(formats)}"} if formats else None


def _added(terms: Sequence[dict[str, float]]) -> dict[str, float]:
    return {key: sum(term.get(key, 0.0) for term in terms) for key in sorted({key for term in terms for key in term})}


def _joined_folds(folds: Sequence[str | None]) -> str | None:
    """`0/2` and `1/2` make the whole (None); an incomplete set is joined by `+`."""
    if None in folds:
        return None
    parts = {part for fold in folds if fold is not None for part in fold.split("+")}
    counts = {part.split("/")[1] for part in parts}
    if len(counts) == 1 and len(parts) == int(next(iter(counts))):
        return None
    return "+".join(sorted(parts))
