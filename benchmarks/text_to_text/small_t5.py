"""The text-to-text model before any training: a small T5 in the form of version 1.1 (gated GELU, untied output)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import torch
from pieces import Pieces, projected_embeddings
from torch import nn
from transformers import T5Config, T5ForConditionalGeneration


@dataclass(frozen=True)
class Shape:
    """Sizes; half as many decoder layers as encoder layers, since answers are a few words of fixed lists."""

    pieces: int
    width: int
    inner: int
    layers: int
    heads: int


def save_untrained(folder: Path, shape: Shape, pieces: Pieces, pretrained: Path) -> None:
    """Write the model with its tokenizer: random, but for embeddings from the encoder in `pretrained`."""
    config = T5Config(
        vocab_size=len(pieces.sources),
        d_model=shape.width,
        d_kv=shape.width // shape.heads,
        d_ff=shape.inner,
        num_layers=shape.layers,
        num_decoder_layers=shape.layers // 2,
        num_heads=shape.heads,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.1,
        pad_token_id=pieces.tokenizer.pad_token_id,
        eos_token_id=pieces.tokenizer.eos_token_id,
        decoder_start_token_id=pieces.tokenizer.pad_token_id,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = T5ForConditionalGeneration(config)
        # transformers 5 ties a new T5's output to its embeddings whatever the configuration says, and at a scale that
        # is wrong without tying; it keeps them apart once it reads two different tensors.
        model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight) * shape.width**-0.5)
    model.config.tie_word_embeddings = False
    with torch.no_grad():
        model.shared.weight.copy_(projected_embeddings(pretrained, pieces.sources, shape.width))
    model.save_pretrained(folder)
    pieces.tokenizer.save_pretrained(folder)
