"""The records that collection and the store share: where statistics are measured, and the sums themselves.

A *site* is one place where inputs are measured; a *layer* is a module with a weight. Several layers may read one site
(q, k, v), and two layers may hold one weight (a tied embedding and output head): then both of their terms add.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from torch import Tensor

SiteKind = Literal["gram", "counts"]
Layout = Literal["out_in", "in_out", "conv"]


@dataclass(frozen=True)
class SiteRecord:
    """One place where the inputs of one or more layers are measured.

    Attributes:
        name: The module whose input it is (the first that the model runs).
        kind: `gram` for a dense matrix Σ a aᵀ, `counts` for how often each row of an embedding was looked up.
        size: Input dimension, the homogeneous 1 included; the vocabulary size for `counts`.
        homogeneous: Whether rows are [a; 1]: at least one layer of the site has a bias.
    """

    name: str
    kind: SiteKind
    size: int
    homogeneous: bool


@dataclass(frozen=True)
class LayerRecord:
    """A module with a weight, and where its statistics are found.

    Attributes:
        name: Module name in the model.
        kind: `linear`, `conv1d`, `conv2d` or `embedding`.
        weight: Checkpoint name of the weight. Two records may name the same weight.
        bias: Checkpoint name of the bias, or None.
        site: Name of the `SiteRecord` with the layer's inputs.
        layout: How the weight lies on disk: `out_in` (Linear), `in_out` (Conv1D, Embedding), `conv` (Conv2d).
        out_size: Output dimension (rows of the canonical [out, in] matrix).
    """

    name: str
    kind: str
    weight: str
    bias: str | None
    site: str
    layout: Layout
    out_size: int


@dataclass
class Sums:
    """What collection produces: sums over examples, never means, so that disjoint examples add.

    Attributes:
        tensors: `"<statistic>/<name>"` to tensor: `input_gram/<site>` [d, d] symmetric (or [vocab] counts),
            `output_gram/<layer>` [out, out] symmetric, `diagonal/<parameter>` of the parameter's shape,
            `block/<parameter>` [n, n] symmetric.
        tokens: Rows summed, under `"site:<name>"` and `"layer:<name>"`.
        fourth_moments: Σ‖x‖⁴ over the rows, under the same keys (for Ledoit–Wolf shrinkage).
        example_ids: The examples seen, in order.
    """

    tensors: dict[str, Tensor] = field(default_factory=dict)
    tokens: dict[str, float] = field(default_factory=dict)
    fourth_moments: dict[str, float] = field(default_factory=dict)
    example_ids: list[str] = field(default_factory=list)
