"""Which tensors of a base a LoRA adapter changes, and what each of them becomes."""

from __future__ import annotations

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.companions import HEADS
from mats.checkpoints.dense_rows import Dense, LoraBias, LoraWeight, Plain
from mats.checkpoints.lora import LoraAdapter, LoraModule, as_lora
from mats.checkpoints.lora_places import Orientation, Places, orientation
from mats.errors import InputsMismatch, ShapeMismatch


def lora_parts(base: Checkpoint, checkpoint: Checkpoint) -> tuple[Places, dict[str, Dense]]:
    """The base under the adapter's names, and name → what it becomes, for all that the adapter changes.

    Raises:
        RequestError, CheckpointCorrupt, ShapeMismatch: as `open_lora`.
        InputsMismatch: a module that the base lacks, or a bias of B for a layer without bias.
    """
    adapter = as_lora(checkpoint)
    places = Places.of(base, adapter.modules)
    saved, shared = _saved_tensors(places, adapter)
    parts: dict[str, Dense] = dict(saved)
    for module in adapter.modules.values():
        name = f"{module.name}.weight"
        stored = places.weight(module.name, adapter.name)
        shown = name if name in places.untied else places.prefix + stored
        if module.layer == "embedding" or (name in HEADS and shown not in places.untied):
            places.keep_twins(shown, adapter.name, embedding=module.layer == "embedding")
        weight = saved.get(shown) or Plain(base.place(stored))
        parts[shown] = LoraWeight(weight, module, _orientation(base, weight, module))
        if module.bias is not None:
            place = places.stored(f"{module.name}.bias")
            bias = f"{module.name}.bias" if place is None else places.prefix + place
            parts[bias] = LoraBias(_bias(base, adapter, place, saved.get(bias), module), module.bias, module.scaling)
    for name, source in places.untied.items():
        if source in shared and name not in parts:  # the tensor that both were is the one saved with the adapter
            parts[name] = saved[source]
    return places, parts


def _saved_tensors(places: Places, adapter: LoraAdapter) -> tuple[dict[str, Plain], frozenset[str]]:
    """What was saved beside the factors, under the names of the result; and which of it also stands for tied names.

    A module in `modules_to_save` has a copy of its own, so that nothing is tied to it any more. Other saved weights
    are those of the base, saved because its vocabulary was resized.
    """
    listed = tuple(adapter.config.get("modules_to_save") or ())
    saved: dict[str, Plain] = {}
    shared: set[str] = set()
    for name in adapter.other:
        module = name.rpartition(".")[0]
        own = any(f".{entry}." in f".{module}." for entry in listed)
        found = places.stored(name)
        if (
            found is None
            and name in HEADS
            and places.twin(name) is not None
            and not own
            and module not in adapter.modules
        ):
            del places.untied[name]  # the embedding's second name, saved with it
            continue
        shown = places.shown(name)
        saved[shown] = Plain(adapter.checkpoint.place(adapter.stored_name(name)))
        if not own:
            shared.add(shown)
        elif found is not None and _is_vocabulary(places, found):
            places.keep_twins(shown, adapter.name, embedding=name not in HEADS)
    return saved, frozenset(shared)


def _is_vocabulary(places: Places, name: str) -> bool:
    """Whether a tensor of the base has a row for each word, so that others may be tied to it."""
    shape = places.base.tensors[name].shape
    return len(shape) == 2 and shape[0] >= (places.base.config or {}).get("vocab_size", shape[0] + 1)


def _orientation(base: Checkpoint, weight: Plain, module: LoraModule) -> Orientation:
    """How the weight is stored, after a look at all shapes.

    Raises:
        ShapeMismatch: factors or a magnitude of other sizes than the weight.
    """
    out = module.up.shape[0]
    if module.magnitude is not None and sorted(module.magnitude.shape)[-1:] != [out]:
        raise ShapeMismatch(
            f"{module.name}: its magnitude has shape {list(module.magnitude.shape)}; {out} outputs would be right"
        )
    if module.layer == "linear":
        return orientation(base, module.name, weight.shape, (out, module.down.shape[1]), module.fan_in_fan_out)
    if weight.shape != module.shape:
        raise ShapeMismatch(
            f"{base.name}: weight of {module.name} has shape {list(weight.shape)}, its adapter is made for"
            f" {list(module.shape)}"
        )
    return "in_out" if module.layer == "embedding" else "out_in"


def _bias(base: Checkpoint, adapter: LoraAdapter, stored: str | None, saved: Plain | None, module: LoraModule) -> Plain:
    """The bias that a bias of B is added to.

    Raises:
        InputsMismatch: the layer has none, so that no weight file could hold the sum.
    """
    if saved is None and stored is None:
        raise InputsMismatch(
            f"{adapter.name}: lora_bias adds a bias to {module.name}, which has none in the base {base.name}; such an"
            " adapter cannot be laid onto its base"
        )
    return saved or Plain(base.place(str(stored)))
