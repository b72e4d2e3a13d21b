"""Which rows of an activation belong to real tokens.

Every statistic skips padding, and a mask that does not fit is an error: a mask skipped silently, or that of the other
side of an encoder-decoder, gives Grams that look right and are wrong.
"""

from __future__ import annotations

from typing import Literal

from torch import Tensor

from mats.errors import ShapeMismatch

Side = Literal["input", "target"]

_SIDE_NAMES = {
    "input": "the input mask (encoder, decoder-only models, cross-attention keys and values)",
    "target": "the target mask (decoder)",
}


def rows_mask(name: str, leading: tuple[int, ...], examples: int, mask: Tensor | None, side: Side) -> Tensor | None:
    """The mask of a site's rows.

    Args:
        name: Module whose activations these are, for the message.
        leading: Shape of the activations without features: (B,), (B, T), (B·T,), (B, T, …), (B, …, T).
        examples: B.
        mask: bool [B, T], True at real tokens; None where every position counts.
        side: Which mask this is, for the message.

    Returns:
        bool [B, rows] in the order in which the leading dimensions flatten; None when every row counts.

    Raises:
        ShapeMismatch: The mask's positions and the activations' do not correspond.
    """
    if not leading:
        raise ShapeMismatch(f"site {name}: activations without a batch dimension; expected {examples} examples first")
    if mask is None:
        if leading[0] % examples != 0:
            raise ShapeMismatch(f"site {name}: {leading[0]} leading rows for {examples} examples; expected a multiple")
        return None
    tokens = int(mask.shape[1])
    if leading[0] == examples:
        return _mask_of_batched(name, leading, mask, side)
    if leading == (examples * tokens,):
        return mask
    if leading[0] == examples * tokens:
        raise ShapeMismatch(
            f"site {name}: rows of shape {leading}; expected ({examples}·{tokens},) or ({examples}, {tokens})"
        )
    raise ShapeMismatch(
        f"site {name}: {leading[0]} leading rows fit neither {examples} examples nor {examples}·{tokens} tokens"
    )


def _mask_of_batched(name: str, leading: tuple[int, ...], mask: Tensor, side: Side) -> Tensor | None:
    """Masks for activations whose first dimension is the batch."""
    examples, tokens = mask.shape
    if len(leading) == 1 or leading[1:] == (1,):
        # One row per example: a pooler, a classification head. With one token per example the mask says the same.
        return mask if len(leading) == 2 and tokens == 1 else None
    if leading[1] == tokens:
        wide = mask.reshape(examples, tokens, *[1] * (len(leading) - 2)).expand(leading)
        return wide.reshape(examples, -1)
    if leading[-1] == tokens:
        wide = mask.reshape(examples, *[1] * (len(leading) - 2), tokens).expand(leading)
        return wide.reshape(examples, -1)
    other = "target" if side == "input" else "input"
    raise ShapeMismatch(
        f"site {name}: mask has {tokens} tokens, activations {leading[1]}; it was given {_SIDE_NAMES[side]}, "
        f"and may need {_SIDE_NAMES[other]}"
    )
