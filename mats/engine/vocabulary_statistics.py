"""Statistics measured over a model's own vocabulary, as statistics over the output's: matched by token, like the rows.

A token that a model does not have was never seen by it: its counts, its part of a Gram of output gradients and its
Fisher information are zero, so that the model has no say about that row.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from mats.methods.grams import GramSums


def rearranged(total: Tensor, own: Tensor, axes: Sequence[int]) -> Tensor:
    """A sum over a model's rows as one over the output's.

    Args:
        total: with the model's rows along each of `axes`.
        own: for each row of the output the model's own, or -1.
        axes: which of its axes are rows.
    """
    absent = (own < 0).nonzero().view(-1).to(total.device)
    present = own.clamp(min=0).to(total.device)
    for axis in axes:
        total = total.index_select(axis, present).index_fill_(axis, absent, 0)
    return total


def over_tokens(
    inputs: GramSums, outputs: GramSums | None, own: Tensor, *, lookup: bool
) -> tuple[GramSums, GramSums | None]:
    """The Grams of one layer over the output's tokens.

    Args:
        inputs: of an embedding (`lookup`) the token counts [rows]; of an output head the Gram of its inputs, which has
            no tokens in it.
        outputs: of an output head, over its rows; of an embedding over its width, or None.
        own: for each row of the output the model's own, or -1.
        lookup: the layer is an embedding.

    Σ‖δ‖⁴ of an output head that loses rows is not known; it is taken to shrink like (Σ‖δ‖²)², which is exact where the
    model loses no token.
    """
    if lookup:
        return GramSums(rearranged(inputs.total, own, axes=(0,)), inputs.tokens, inputs.fourth_moment), outputs
    if outputs is None:
        return inputs, None
    total = rearranged(outputs.total, own, axes=(0, 1))
    fourth = outputs.fourth_moment
    if fourth is not None:
        before, after = (float(each.diagonal().sum(dtype=total.dtype)) for each in (outputs.total, total))
        fourth *= (after / before) ** 2 if before > 0 else 1.0
    return inputs, GramSums(total, outputs.tokens, fourth)
