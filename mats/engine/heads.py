"""Bodies and heads of the models of one merge: what is merged, and whose head the result has.

A head is what its model has beyond the body that all models and the base share: what the recipe's patterns name, or
what transformers calls a head, and what one of the others lacks, since nothing there could be merged. So the merged
body with the head of any model is a complete model of its kind.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from mats.checkpoints import Checkpoint, match_tensors
from mats.checkpoints.heads import is_adapter_vector, is_head, part_of
from mats.checkpoints.matching import correspondence, surplus
from mats.engine.request import Heads
from mats.errors import InputsMismatch, RequestError, ShapeMismatch


@dataclass(frozen=True)
class Separated:
    """The checkpoints of a merge, each taken apart.

    Attributes:
        bodies: each model without its head, under its own names.
        base: the base's body under the names of `owner`; None without a base, and for adapters.
        heads: each model's own head.
        owner: whose names, configuration and head the output has: a model, or the base.
        owner_name: what the request calls it; "base" for the base.
        head: the owner's head.
    """

    bodies: tuple[Checkpoint, ...]
    base: Checkpoint | None
    heads: tuple[Checkpoint, ...]
    owner: Checkpoint
    owner_name: str
    head: Checkpoint


def separate(
    names: Sequence[str], models: Sequence[Checkpoint], base: Checkpoint | None, choice: Heads, kind: str
) -> Separated:
    """Take every checkpoint apart as `choice` says.

    Args:
        names: the models, as the request calls them.
        models: their checkpoints.
        base: the base, or None.
        choice: which parameters are heads, and whose head the output gets.
        kind: of the models: "model" or "ia3".

    Raises:
        RequestError: a pattern that matches nothing; a head asked of a base that is not given, or of adapters' base.
        InputsMismatch: a model has no head, shares a tensor between head and body, or has no body in common.
        ShapeMismatch: heads to be averaged differ.
    """
    _check_patterns([*models, *([base] if base is not None else [])], choice)
    owner, owner_name = _owner(names, models, base, choice, kind)
    if kind == "ia3":
        bodies = [part_of(model, [name for name in model.tensors if is_adapter_vector(name)]) for model in models]
        base_body, owner_body = None, bodies[models.index(owner)]
    else:
        others = [*models, *([base] if base is not None else [])]
        owner_body = part_of(owner, _common_body(owner, others, choice))
        if not owner_body.tensors:
            raise _nothing_in_common(names, models, base, choice)
        bodies = [_body_of(owner_body, model, choice) for model in models]
        base_body = None if base is None else _under_names(owner_body, base)
    heads = tuple(_rest(model, body) for model, body in zip(models, bodies, strict=True))
    head = _rest(owner, owner_body)
    for name, model, own in [*zip(names, models, heads, strict=True), (owner_name, owner, head)]:
        _check(name, model, own, choice)
    if choice.source == "average":
        _check_alike(names, heads)
    return Separated(tuple(bodies), base_body, heads, owner, owner_name, head)


def _check_patterns(checkpoints: Sequence[Checkpoint], choice: Heads) -> None:
    for pattern in choice.parameters:
        if not any(is_head(name, [pattern]) for checkpoint in checkpoints for name in checkpoint.tensors):
            raise RequestError(f"heads.parameters: {pattern!r} is the name of no tensor, in any model or the base")


def _owner(
    names: Sequence[str], models: Sequence[Checkpoint], base: Checkpoint | None, choice: Heads, kind: str
) -> tuple[Checkpoint, str]:
    if choice.source in ("own", "average"):
        return models[0], names[0]
    if choice.source != "base":
        return models[names.index(choice.source)], choice.source
    if base is None or kind == "ia3":
        why = "none is given" if base is None else "adapters carry their heads themselves"
        raise RequestError(f"heads.from: base: the base's head is asked for, and {why}; own would be right")
    return base, "base"


def _common_body(owner: Checkpoint, others: Sequence[Checkpoint], choice: Heads) -> list[str]:
    """The owner's names that are no head's, neither there nor in any of the others, and that all of them have."""
    common = [name for name in owner.tensors if not is_head(name, choice.parameters)]
    for other in others:
        found = correspondence(owner, other)
        common = [name for name in common if name in found and not is_head(found[name], choice.parameters)]
    return common


def _body_of(owner_body: Checkpoint, model: Checkpoint, choice: Heads) -> Checkpoint:
    """The model without its head; second names of the body's tied tensors are part of the body."""
    found = correspondence(owner_body, model)
    beyond = {*surplus(owner_body, model, found), *(name for name in model.tensors if is_head(name, choice.parameters))}
    return part_of(model, [name for name in model.tensors if name not in beyond])


def _under_names(owner_body: Checkpoint, base: Checkpoint) -> Checkpoint:
    found = correspondence(owner_body, base)
    stored = {name: base.place(own) for name, own in found.items()}
    return Checkpoint(base.name, base.path, base.kind, stored, base.config)


def _rest(model: Checkpoint, body: Checkpoint) -> Checkpoint:
    return part_of(model, [name for name in model.tensors if name not in body.tensors])


def _check(name: str, model: Checkpoint, head: Checkpoint, choice: Heads) -> None:
    if not head.tensors:
        looked_for = ", ".join(choice.parameters) or "classifier, score, qa_outputs and the like"
        raise InputsMismatch(
            f"model {name}: no head: none of its {len(model.tensors)} tensors is one of {looked_for}, and none is "
            "beyond the base; patterns that name it under heads.parameters would be right"
        )
    for group in model.tied:
        above = [tensor for tensor in group if tensor in head.tensors]
        below = [tensor for tensor in group if tensor not in head.tensors]
        if above and below:
            raise InputsMismatch(
                f"model {name}: {above[0]} of its head and {below[0]} of its body are one tensor, which cannot be kept "
                "and merged; patterns under heads.parameters that leave it out would be right"
            )


def _check_alike(names: Sequence[str], heads: Sequence[Checkpoint]) -> None:
    first = {name: info.shape for name, info in heads[0].tensors.items()}
    for name, head in zip(names, heads, strict=True):
        shapes = {parameter: info.shape for parameter, info in head.tensors.items()}
        if shapes != first:
            odd = sorted(set(shapes.items()) ^ set(first.items()))[0][0]
            raise ShapeMismatch(
                f"heads.from: average: {odd} is {_shown(shapes.get(odd))} in {name} and {_shown(first.get(odd))} in "
                f"{names[0]}; heads: {{from: own}} keeps each"
            )


def _shown(shape: tuple[int, ...] | None) -> str:
    return "absent" if shape is None else str(list(shape))


def _nothing_in_common(
    names: Sequence[str], models: Sequence[Checkpoint], base: Checkpoint | None, choice: Heads
) -> Exception:
    """The matching's own error where there is one: another architecture, other names."""
    try:
        match_tensors(base or models[0], models, strict=False)
    except InputsMismatch as error:
        return error
    what = ", ".join(choice.parameters) or "the names of heads"
    return InputsMismatch(
        f"models {', '.join(names)}: no body to merge: outside {what} they have no tensor in common; narrower patterns "
        "under heads.parameters would be right"
    )


def under_head(body: Checkpoint, head: Checkpoint) -> Checkpoint:
    """The body with a head on it, as one checkpoint."""
    stored = {name: part.place(name) for part in (body, head) for name in part.tensors}
    return Checkpoint(body.name, body.path, body.kind, stored, body.config)


def head_summary(separated: Separated, names: Sequence[str]) -> dict[str, list[str]]:
    """Model → the parameters of its own head, for the report."""
    return {name: list(head.tensors) for name, head in zip(names, separated.heads, strict=True)}


def head_lines(summary: Mapping[str, Sequence[str]], choice: Heads) -> Iterator[str]:
    """The heads in words, for the plan: a line for models whose heads have the same parameters."""
    alike: dict[tuple[str, ...], list[str]] = {}
    for name, parameters in summary.items():
        alike.setdefault(tuple(parameters), []).append(name)
    for parameters, models in alike.items():
        more = f" and {len(parameters) - 3} more" if len(parameters) > 3 else ""
        yield f"head of {', '.join(models)} (from: {choice.source}): {', '.join(parameters[:3])}{more}"
