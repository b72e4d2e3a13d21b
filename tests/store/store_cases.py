"""A small made-up store whose sums depend on chosen example numbers alone."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from mats.store import DataIdentity, LayerRecord, Manifest, ModelIdentity, SiteRecord, Sums

SITES = (SiteRecord("encoder.q", "gram", 5, True), SiteRecord("embed", "counts", 11, False))
LAYERS = (
    LayerRecord("encoder.q", "linear", "encoder.q.weight", "encoder.q.bias", "encoder.q", "out_in", 3),
    LayerRecord("embed", "embedding", "embed.weight", None, "embed", "in_out", 4),
)
FINGERPRINT = "xxh3_128:0123"


def sums_of(examples: Sequence[int], dtype: torch.dtype = torch.float32) -> Sums:
    """Sums over examples whose rows depend on the example's number alone."""
    grams = torch.zeros(5, 5, dtype=torch.float64)
    outputs, counts = torch.zeros(3, 3, dtype=torch.float64), torch.zeros(11, dtype=torch.float64)
    diagonal, block = torch.zeros(4, dtype=torch.float64), torch.zeros(4, 4, dtype=torch.float64)
    fourth = 0.0
    for example in examples:
        generator = torch.Generator().manual_seed(example)
        rows = torch.randn(6, 5, generator=generator, dtype=torch.float64)
        gradient = torch.randn(4, generator=generator, dtype=torch.float64)
        grams += rows.T @ rows
        outputs += rows[:, :3].T @ rows[:, :3]
        counts += torch.bincount(torch.randint(0, 11, (6,), generator=generator), minlength=11)
        diagonal += gradient**2
        block += gradient.outer(gradient)
        fourth += float((rows**2).sum(1).pow(2).sum())
    tensors = {
        "input_gram/encoder.q": grams.to(dtype),
        "input_gram/embed": counts,
        "output_gram/encoder.q": outputs.to(dtype),
        "diagonal/norm.weight": diagonal.to(dtype),
        "block/norm.weight": block.to(dtype),
    }
    tokens = {"site:encoder.q": 6.0 * len(examples), "layer:encoder.q": 6.0 * len(examples)}
    return Sums(tensors, tokens, {"site:encoder.q": fourth}, [f"e{example}" for example in examples])


def manifest_of(sums: Sums, **changes: object) -> Manifest:
    """The manifest of `sums_of`, with parts replaced."""
    values: dict[str, object] = {
        "model": ModelIdentity("paws", "models/paws", None, FINGERPRINT),
        "data": DataIdentity("paws", "validation", "plain", {"max_length": 32}, None, f"{len(sums.example_ids):032x}"),
        "estimator": {"labels": "empirical", "loss": "mean", "seed": 0},
        "examples": len(sums.example_ids),
        "example_ids": tuple(sums.example_ids),
        "sites": SITES,
        "layers": LAYERS,
        "parameters": ("norm.weight",),
        "uncovered": {"position_bias.weight": "no rule for RelativePositionBias"},
        "tokens": sums.tokens,
        "fourth_moments": sums.fourth_moments,
        **changes,
    }
    return Manifest(**values)  # type: ignore[arg-type]
