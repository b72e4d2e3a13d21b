"""Tied and untied inputs of one merge: who ties its output head to its embedding has that embedding as its head.

Where one of the inputs holds a head of its own, the others' heads are their embeddings, under the head's name, and the
output has a head of its own. Where none does, nothing is added: tied models stay tied.
"""

from __future__ import annotations

from collections.abc import Sequence

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.vocabulary_tensors import embedding_of, is_output_head

WITH_A_HEAD = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration", "ForMaskedLM", "ForPreTraining")
"""Endings of architectures that have an output head, stored or not."""


def with_heads(checkpoints: Sequence[Checkpoint]) -> tuple[tuple[Checkpoint, ...], dict[str, list[str]]]:
    """The checkpoints, those that tie their head with it under a name, where another has a head of its own.

    Returns:
        The checkpoints in order, and head's name → the inputs that were given it by name.
    """
    shown = list(checkpoints)
    given: dict[str, list[str]] = {}
    names = {name for held in checkpoints for name in held.tensors if is_output_head(name) and name.endswith(".weight")}
    for name in sorted(names):
        tying = [index for index, held in enumerate(checkpoints) if name not in held.tensors and _ties(held)]
        if tying and any(name in held.tensors and _is_own(held, name) for held in checkpoints):
            given[name] = [shown[index].name for index in tying]
            for index in tying:
                shown[index] = _with_head(shown[index], name)
    return tuple(shown), given


def _is_own(checkpoint: Checkpoint, name: str) -> bool:
    """Whether a stored head differs from the embedding that it has the shape of."""
    embedding = embedding_of(checkpoint)
    if embedding is None or checkpoint.tensors[name].shape != embedding.shape:
        return False
    if checkpoint.sample(name) != checkpoint.sample(embedding.name):
        return True
    return checkpoint.digest(name) != checkpoint.digest(embedding.name)


def _ties(checkpoint: Checkpoint) -> bool:
    """Whether a checkpoint that stores no head has one all the same, by its class."""
    config = checkpoint.config or {}
    has_head = any(str(name).endswith(WITH_A_HEAD) for name in config.get("architectures") or ())
    stored = any(is_output_head(name) and name.endswith(".weight") for name in checkpoint.tensors)
    return checkpoint.kind == "model" and has_head and not stored and embedding_of(checkpoint) is not None


def _with_head(checkpoint: Checkpoint, name: str) -> Checkpoint:
    embedding = embedding_of(checkpoint)
    assert embedding is not None
    stored = {each: checkpoint.place(each) for each in checkpoint.tensors}
    stored[name] = checkpoint.place(embedding.name)
    return Checkpoint(checkpoint.name, checkpoint.path, checkpoint.kind, stored, checkpoint.config)
