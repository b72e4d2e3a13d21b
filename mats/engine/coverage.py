"""Which curvature each parameter gets: the first of the fallback chain that the metadata of *all* models allow.

Decided from the manifests alone; no statistic is read. What fell, and why, is kept for the report.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from mats.methods.quadratic import Curvature, QuadraticSettings
from mats.store import LayerRecord, MetadataStore, SiteRecord


@dataclass(frozen=True)
class Term:
    """One layer's part of a parameter's quadratic; a tied weight has one for each layer that holds it.

    Attributes:
        layer: where its output Gram is found in every store; the site of its input Gram each store names itself, since
            layers that share a site in one may have each their own in another (a proxy's).
        layout: how this layer sees the weight on disk.
        counts: the input Gram is diagonal (an embedding's token counts).
        output: an output Gram is used.
    """

    layer: str
    layout: str
    counts: bool
    output: bool


@dataclass(frozen=True)
class Cover:
    """The outcome for one parameter: its curvature, the terms that make it up, and why better ones were not used.

    `bias` is the parameter that rides along as the homogeneous column, or None.
    """

    rule: Curvature
    terms: tuple[Term, ...] = ()
    bias: str | None = None
    reason: str | None = None


class StoreIndex:
    """A store's manifest, looked up by the names of the *merged* checkpoint.

    Args:
        model: the model's name in the request, for messages.
        store: its metadata.
        rename: name in this model's checkpoint → name in the merged checkpoint (tied weights differ).
    """

    def __init__(self, model: str, store: MetadataStore, rename: Callable[[str], str]) -> None:
        self.model = model
        self.store = store
        self.sites: Mapping[str, SiteRecord] = {site.name: site for site in store.manifest.sites}
        self.site_of = {layer.name: layer.site for layer in store.manifest.layers}
        self.layers: dict[str, list[LayerRecord]] = {}
        for layer in store.manifest.layers:
            self.layers.setdefault(rename(layer.weight), []).append(layer)
        self.bias_names = {layer.bias: rename(layer.bias) for layer in store.manifest.layers if layer.bias is not None}
        self.parameters = {rename(name): name for name in store.manifest.parameters}
        self.uncovered = {rename(name): reason for name, reason in store.manifest.uncovered.items()}

    def why_not(self, name: str, what: str) -> str:
        """One clause: this store has no `what` for parameter `name`, and its own reason where it gave one."""
        stated = self.uncovered.get(name)
        return f"{self.model}: no {what}" + (f" ({stated})" if stated else "")


def cover(name: str, settings: QuadraticSettings, stores: Sequence[StoreIndex]) -> Cover:
    """Walk the fallback chain of `settings` for the parameter `name`."""
    fallen: list[tuple[Curvature, str]] = []
    for rule in settings.fallback:
        if rule in ("identity", "init"):
            return Cover(rule, reason=_told(fallen))
        if rule in ("kfac", "input_gram"):
            terms, why = _layer_terms(name, rule, settings, stores)
            if terms:
                return Cover(rule, terms, _riding_bias(name, terms, settings, stores), _told(fallen))
        else:
            missing = _missing_parameter_statistic(name, rule, stores)
            if missing is None:
                return Cover(rule, reason=_told(fallen))
            why = missing
        fallen.append((rule, why))
    return Cover("init", reason=_told(fallen))


def _told(fallen: Sequence[tuple[Curvature, str]]) -> str | None:
    """Why each rule was passed over: rules with one reason together, and what a store states of it said once."""
    together: dict[str, list[Curvature]] = {}
    for rule, why in fallen:
        together.setdefault(why, []).append(rule)
    clauses, stated = [], ""
    for why, rules in together.items():
        clauses.append(f"{', '.join(rules)}: {why.removesuffix(stated) if stated else why}")
        stated = why[why.index(" (") :] if " (" in why else stated
    return "; ".join(clauses) or None


def _missing_parameter_statistic(name: str, rule: str, stores: Sequence[StoreIndex]) -> str | None:
    for index in stores:
        if not index.store.has(f"{rule}/{index.parameters.get(name, name)}"):
            return index.why_not(name, rule)
    return None


def _layer_terms(
    name: str, rule: Curvature, settings: QuadraticSettings, stores: Sequence[StoreIndex]
) -> tuple[tuple[Term, ...], str]:
    """The terms of parameter `name` under `rule`, or none and the reason."""
    first = {layer.name: layer for layer in stores[0].layers.get(name, ())}
    for index in stores:
        layers = index.layers.get(name, [])
        if not layers:
            return (), index.why_not(name, "layer measured")
        if {layer.name for layer in layers} != set(first):
            return (), f"{index.model}: measured under {sorted(x.name for x in layers)}, others under {sorted(first)}"
        for layer in layers:
            if layer.kind not in settings.layer_kinds:
                return (), f"layers of kind {layer.kind} are outside this method's layer_kinds"
            if not index.store.has(f"input_gram/{layer.site}"):
                return (), index.why_not(name, f"input_gram of site {layer.site}")
            if rule == "kfac" and not index.store.has(f"output_gram/{layer.name}"):
                return (), index.why_not(name, f"output_gram of layer {layer.name}")
    terms = tuple(
        Term(layer.name, layer.layout, stores[0].sites[layer.site].kind == "counts", rule == "kfac")
        for layer in first.values()
    )
    return terms, ""


def _riding_bias(
    name: str, terms: Sequence[Term], settings: QuadraticSettings, stores: Sequence[StoreIndex]
) -> str | None:
    """The bias solved together with the weight `name`, if every model measured the homogeneous coordinate."""
    if not settings.fold_bias or len(terms) != 1 or terms[0].counts:
        return None
    biases = set()
    for index in stores:
        layer = index.layers[name][0]
        if layer.bias is None or not index.sites[layer.site].homogeneous:
            return None
        biases.add(index.bias_names[layer.bias])
    return biases.pop() if len(biases) == 1 else None
