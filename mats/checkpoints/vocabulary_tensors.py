"""Which tensors of a checkpoint have an axis of tokens: input embeddings, output heads and their biases.

A tensor counts when its name is one that architectures give to such a tensor *and* its axis of tokens (the first of a
weight, the last of a bias) has as many entries as the input embedding has rows.
"""

from __future__ import annotations

from math import prod

from mats.checkpoints.checkpoint import Checkpoint
from mats.checkpoints.tensors import TensorInfo

EMBEDDINGS = (
    "shared",  # T5, BART
    "embed_tokens",  # Llama and most decoders; T5's second names
    "wte",  # GPT-2
    "word_embeddings",  # BERT and its relatives, BLOOM, Falcon
    "word_embedding",  # XLNet
    "embed_in",  # GPT-NeoX
    "tok_embeddings",  # ModernBERT, Llama as released
    "token_embedding",  # CLIP
    "embeddings",  # Mamba
    "embed",
    "embedding",
)
"""Last part but one of the names of input embeddings; the first of these that a checkpoint has is its embedding."""
HEADS = frozenset({"lm_head", "embed_out", "proj_out", "vocab_projector", "lm_loss", "generator_lm_head"})
"""Last part but one of the names of output heads."""
INPUTS_BESIDE = frozenset({"embed_tokens_per_layer"})
"""The same of further input tables, beside the embedding."""
HEADS_INSIDE = frozenset({("predictions", "decoder"), ("lm_head", "decoder"), ("lm_predictions", "lm_head")})
"""Heads within a module of their own (BERT, RoBERTa, DeBERTa): last parts but one."""
HEAD_BIASES = (("predictions", "bias"), ("final_logits_bias",))


def embedding_of(checkpoint: Checkpoint) -> TensorInfo | None:
    """The input embedding, [rows, width]; None where no tensor is called like one (vision models, adapters)."""
    named: dict[str, TensorInfo] = {}
    for name, info in checkpoint.tensors.items():
        parts = name.split(".")
        module = parts[-2] if len(parts) > 1 else ""
        if parts[-1] == "weight" and len(info.shape) == 2 and info.dtype.is_floating_point and module in EMBEDDINGS:
            named.setdefault(module, info)
    return next((named[module] for module in EMBEDDINGS if module in named), None)


def vocabulary_tensors(checkpoint: Checkpoint) -> tuple[str, ...]:
    """Names of the tensors with one entry, or one row, for each token; none without an input embedding."""
    embedding = embedding_of(checkpoint)
    if embedding is None:
        return ()
    rows = embedding.shape[0]
    return tuple(
        name
        for name, info in checkpoint.tensors.items()
        if info.dtype.is_floating_point
        and _has_rows(name, info.shape, rows)
        and (is_output_head(name) or _is_input(name))
    )


def width_of(name: str, shape: tuple[int, ...]) -> int:
    """Numbers per token of a vocabulary tensor: 1 for a bias [rows] or [1, rows]."""
    return 1 if _is_bias(name) else prod(shape[1:])


def with_rows(name: str, shape: tuple[int, ...], rows: int) -> tuple[int, ...]:
    """The shape of a vocabulary tensor with another number of tokens."""
    return (*shape[:-1], rows) if _is_bias(name) else (rows, *shape[1:])


def is_output_head(name: str) -> bool:
    """Whether a name is that of an output head's weight or bias.

    >>> [is_output_head(name) for name in ("lm_head.weight", "cls.predictions.bias", "decoder.block.0.layer.0.weight")]
    [True, True, False]
    """
    parts = tuple(name.split("."))
    if any(parts[-len(ending) :] == ending for ending in HEAD_BIASES) or name == "output.weight":
        return True
    return len(parts) > 1 and parts[-1] in ("weight", "bias") and (parts[-2] in HEADS or parts[-3:-1] in HEADS_INSIDE)


def counterpart(name: str, checkpoint: Checkpoint) -> str | None:
    """The vocabulary tensor of `checkpoint` that stands for another's tensor `name`; None where it has none.

    The same name, or one that differs by a prefix (a body saved alone); else, for a weight, what the name is tied to:
    an output head that is not stored is the input embedding, and so is a second name of it.
    """
    own = vocabulary_tensors(checkpoint)
    if name in own:
        return name
    for other in own:
        if other.endswith(f".{name}") or name.endswith(f".{other}"):
            return other
    embedding = embedding_of(checkpoint)
    return embedding.name if embedding is not None and name.endswith(".weight") else None


def _is_input(name: str) -> bool:
    parts = name.split(".")
    return len(parts) > 1 and parts[-1] == "weight" and (parts[-2] in EMBEDDINGS or parts[-2] in INPUTS_BESIDE)


def _is_bias(name: str) -> bool:
    return name.endswith("bias")


def _has_rows(name: str, shape: tuple[int, ...], rows: int) -> bool:
    """Whether the axis of tokens has so many entries, and a bias no other axis."""
    if _is_bias(name):
        return prod(shape) == rows and shape[-1:] == (rows,)
    return len(shape) > 1 and shape[0] == rows
