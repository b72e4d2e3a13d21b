"""Which tensor of a model belongs to which of the base, and what the merged checkpoint contains."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from mats.checkpoints.adapters import merge_base
from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.heads import is_head
from mats.checkpoints.tensors import TensorInfo
from mats.errors import InputsMismatch, ShapeMismatch

SIZES = ("hidden_size", "d_model", "num_hidden_layers", "num_layers", "num_decoder_layers", "n_layer", "n_embd")
"""Config keys in which two models of one architecture cannot differ and still be merged."""


@dataclass(frozen=True)
class TensorMatch:
    """How the names of several models relate to those of the base. Models are keyed by `labels`.

    Attributes:
        common: the base's names that every model has, itself or under a name tied to it.
        missing: model → names of the base that it has under no name.
        extra: model → its names that stand for no tensor of the base.
        shape_mismatch: model → name → (shape in the base, shape in the model); empty unless `strict=False`.
        aliases: model → name in the base → name in the model, where the two differ (tied weights, a body's prefix).
    """

    common: tuple[str, ...]
    missing: Mapping[str, tuple[str, ...]]
    extra: Mapping[str, tuple[str, ...]]
    shape_mismatch: Mapping[str, Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]]
    aliases: Mapping[str, Mapping[str, str]]


def match_tensors(base: Checkpoint, models: Sequence[Checkpoint], *, strict: bool = True) -> TensorMatch:
    """Match by name; a name that one side lacks is looked for among the names tied to it, judged by content.

    Headers decide; content is sampled only where names are missing. A model that has no name of the base at all is
    tried with a prefix more or less (a body saved alone, and within a class). For (IA)³ adapters on a full base the
    match is with the neutral adapter (see `merge_base`).

    Args:
        base: whose names are meant.
        models: what is matched to it.
        strict: raise on a difference of shape; otherwise it is listed.

    Raises:
        InputsMismatch: another architecture, a quantised model, no name in common, another vocabulary.
        ShapeMismatch: any other difference of shape.
    """
    named = dict(zip(labels(models), models, strict=True))
    for label, model in named.items():
        _check_architecture(base, label, model)
    reference = merge_base(base, models)
    aliases = {label: _aliases(reference, model) for label, model in named.items()}
    found = {label: _found(reference, model, aliases[label]) for label, model in named.items()}
    for label, model in named.items():
        if not found[label]:
            raise InputsMismatch(
                f"model {label}: none of its {len(model.tensors)} tensors is named as in the base {base.name}; its"
                f" first is {next(iter(model.tensors))}, the base's is {next(iter(reference.tensors))}"
            )
    differing = {label: dict(_shape_differences(reference, model, found[label])) for label, model in named.items()}
    if strict:
        _refuse_differences(base, named, differing)
    return TensorMatch(
        common=tuple(name for name in reference.tensors if all(name in names for names in found.values())),
        missing={
            label: tuple(name for name in reference.tensors if name not in names) for label, names in found.items()
        },
        extra={label: _extra(reference, model, found[label]) for label, model in named.items()},
        shape_mismatch=differing,
        aliases=aliases,
    )


def correspondence(base: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """Name in `base` → name in `model` of the same tensor, for all that `model` has; shapes are not looked at."""
    return _found(base, model, _aliases(base, model))


def surplus(base: Checkpoint, model: Checkpoint, found: Mapping[str, str]) -> tuple[str, ...]:
    """The names of `model` that stand for none of `found` (as `correspondence` gives it), nor are tied to one."""
    return _extra(base, model, found)


def output_tensors(
    base: Checkpoint, models: Sequence[Checkpoint], *, dtype: torch.dtype | None = None
) -> list[TensorInfo]:
    """What the merged checkpoint contains: the base's tensors, in its order, tied ones stored as the base stores them.

    Args:
        base: the base (for (IA)³ adapters: the model under them; the result then lists the adapters' tensors).
        models: the models to be merged.
        dtype: what floating-point tensors are written as (None: as in the base). Others keep their dtype.
    """
    reference = merge_base(base, models)
    return [
        TensorInfo(info.name, dtype if dtype is not None and info.dtype.is_floating_point else info.dtype, info.shape)
        for info in reference.tensors.values()
    ]


def labels(models: Sequence[Checkpoint]) -> tuple[str, ...]:
    """One distinct name per model: its own, after as many parent folders as it takes (`paws/best`, `qasc/best`)."""
    depth = 0
    result = [model.name for model in models]
    while len(set(result)) < len(result) and depth < max(len(model.path.resolve().parts) for model in models):
        depth += 1
        twice = {name for name in result if result.count(name) > 1}
        result = [
            str(Path(*model.path.resolve().parent.parts[-depth:], model.name)) if label in twice else label
            for label, model in zip(result, models, strict=True)
        ]
    if len(set(result)) < len(result):
        result = [f"{label} #{position + 1}" for position, label in enumerate(result)]
    return tuple(result)


def _check_architecture(base: Checkpoint, label: str, model: Checkpoint) -> None:
    config, base_config = model.config or {}, base.config or {}
    for name, checked in ((base.name, base_config), (label, config)):
        if checked.get("quantization_config"):
            raise InputsMismatch(f"{name}: its weights are quantised; merge from weights in floating point")
    if model.kind != "model" or base.kind != "model":
        return
    types = (base_config.get("model_type"), config.get("model_type"))
    if None not in types and types[0] != types[1] and base.tensors.keys().isdisjoint(model.tensors):
        raise InputsMismatch(
            f"model {label} is a {config.get('model_type')}, the base {base.name} a {base_config.get('model_type')};"
            " only models of one architecture can be merged"
        )
    for key in SIZES:
        if key in config and key in base_config and config[key] != base_config[key]:
            raise InputsMismatch(
                f"model {label} has {key} {config[key]}, the base {base.name} has {base_config[key]}; only models of"
                " one size can be merged"
            )


def _aliases(base: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """Name in the base → name in the model, where the model lacks the name and holds the tensor under another."""
    absent = [name for name in base.tensors if name not in model.tensors]
    if len(absent) == len(base.tensors):
        return _prefix_aliases(base, model)
    result = {}
    for group in base.tied if absent else ():
        twin = next((other for other in group if other in model.tensors), None)
        if twin is not None:
            result.update({name: twin for name in group if name not in model.tensors})
    return result


def _prefix_aliases(base: Checkpoint, model: Checkpoint) -> dict[str, str]:
    """Names that agree but for a first part: a body saved alone (`encoder.…`) and within a class (`bert.encoder.…`)."""
    candidates: list[dict[str, str]] = [{}]
    for prefix in dict.fromkeys(f"{name.split('.')[0]}." for name in model.tensors):
        candidates.append({name: prefix + name for name in base.tensors if prefix + name in model.tensors})
    for prefix in dict.fromkeys(f"{name.split('.')[0]}." for name in base.tensors):
        inside = {name: name.removeprefix(prefix) for name in base.tensors if name.startswith(prefix)}
        candidates.append({name: bare for name, bare in inside.items() if bare in model.tensors})
    return max(candidates, key=len)


def _found(base: Checkpoint, model: Checkpoint, aliases: Mapping[str, str]) -> dict[str, str]:
    """Name in the base → name in the model, for all that the model has."""
    names = {name: aliases.get(name, name) for name in base.tensors}
    return {name: own for name, own in names.items() if own in model.tensors}


def _extra(base: Checkpoint, model: Checkpoint, found: Mapping[str, str]) -> tuple[str, ...]:
    """The model's names without a counterpart; a second name of a tensor that has one is no extra."""
    used = set(found.values())
    unknown = [name for name in model.tensors if name not in used]
    if not unknown:
        return ()
    matched = used | found.keys()
    groups = (*model.tied, *base.tied)
    return tuple(name for name in unknown if not any(name in group and matched & set(group) for group in groups))


def _shape_differences(
    base: Checkpoint, model: Checkpoint, found: Mapping[str, str]
) -> Iterator[tuple[str, tuple[tuple[int, ...], tuple[int, ...]]]]:
    for name, own in found.items():
        if base.tensors[name].shape != model.tensors[own].shape:
            yield name, (base.tensors[name].shape, model.tensors[own].shape)


def _refuse_differences(
    base: Checkpoint,
    models: Mapping[str, Checkpoint],
    differing: Mapping[str, Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]],
) -> None:
    for label in models:
        if differing[label] and all(map(is_head, differing[label])):
            raise _heads_differ(base, label, differing[label])
        for name, (expected, actual) in differing[label].items():
            if _is_vocabulary(name, expected, actual, base):
                raise InputsMismatch(
                    f"model {label}: {name} has {actual[0]} rows, the base {base.name} has {expected[0]}: their"
                    " vocabularies differ; `vocab: base` (--vocab base) keeps the base's tokens, `vocab: union`"
                    " (--vocab union) all of them"
                )
            more = len(differing[label]) - 1
            raise ShapeMismatch(
                f"model {label}: {name} has shape {list(actual)}, the base {base.name} has {list(expected)}"
                + (f" ({more} more tensors differ)" if more else "")
            )


def _heads_differ(
    base: Checkpoint, label: str, differing: Mapping[str, tuple[tuple[int, ...], tuple[int, ...]]]
) -> ShapeMismatch:
    name, (expected, actual) = next(iter(differing.items()))
    return ShapeMismatch(
        f"model {label}: its head has another shape than that of {base.name} ({name}: {list(actual)}, not"
        f" {list(expected)}); `heads: auto` in the recipe merges the bodies and keeps each model's own head"
    )


def _is_vocabulary(name: str, expected: tuple[int, ...], actual: tuple[int, ...], base: Checkpoint) -> bool:
    """Whether two shapes differ in rows alone, and these are the words of a vocabulary."""
    if len(expected) != 2 or len(actual) != 2 or expected[1:] != actual[1:]:
        return False
    words = (base.config or {}).get("vocab_size")
    embedding = any(part in name for part in ("embed", "shared", "wte", "lm_head"))
    positions = any(part in name for part in ("position", "wpe", "type"))
    return embedding and not positions and (words is None or words <= expected[0])
