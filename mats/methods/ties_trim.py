"""Trimming of task vectors: which entries of one model count, by a rule that looks at the whole of them.

With the changes τ (all of a model's, or one tensor's) and n of them:

    top_k          |τ| at least the k-th smallest magnitude, k = n − ⌊density · n⌋: ⌊density · n⌋ + 1 entries, more
                   where magnitudes tie; counted `exact`, the ⌊density · n⌋ largest, and of those that tie the first
                   by tensor name, then by flat index
    std            |τ − mean| > deviations · (sample) standard deviation
    norm_fraction  the largest, until their squares make up `norm_share` of Σ τ²; what ties with the last one as above
    none           everything
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

from mats.methods.elementwise import differences
from mats.methods.magnitude import LARGEST_HELD, EnergySelection, RadixSelection, Selected, kept_rank, select

TrimWord = Literal["top_k", "std", "norm_fraction", "none"]


@dataclass(frozen=True)
class TrimRule:
    """How to trim: the word, its number (density, deviations or norm_share), and whether ties are cut to the count."""

    word: TrimWord
    amount: float = 1.0
    exact: bool = False

    def rank(self, total: int) -> int:
        """top_k: the rank (1-based, from the smallest) of the last magnitude that is kept; 0 keeps all."""
        return total - int(total * self.amount) + 1 if self.exact else kept_rank(total, self.amount)


@dataclass(frozen=True)
class Cut:
    """What is kept of one model's changes: those below `low` or above `high`, and `quota` of those of size `tied`.

    Attributes:
        low, high: fp32 numbers.
        tied: the magnitude of which only so many are kept; NaN where the bounds say everything.
        quota: how many of them this tensor keeps, from the first on.
        quotas: tensor → its quota, in a cut of a whole model.
    """

    low: float = 0.0
    high: float = 0.0
    tied: float = math.nan
    quota: int = 0
    quotas: Mapping[str, int] = field(default_factory=dict)

    def within(self, name: str) -> Cut:
        """The cut of a whole model, for its tensor `name`."""
        return replace(self, quota=self.quotas.get(name, 0)) if self.quotas else self


EVERYTHING = Cut()
NOTHING = Cut(-math.inf, math.inf)


def cut_from(found: Selected, *, exact: bool) -> Cut:
    """The cut at a magnitude found by rank: with everything that ties, or (`exact`) with a quota of it.

    Where all that tie are kept, there is no quota to share out.
    """
    if found.value <= 0:
        return EVERYTHING
    needed = found.equal - found.place + 1
    if exact and needed < found.equal:
        return Cut(-found.value, found.value, tied=found.value, quota=needed)
    just_below = float(torch.nextafter(torch.tensor(found.value), torch.tensor(0.0)))
    return Cut(-just_below, just_below)


class Moments:
    """Mean and sample standard deviation of a stream, in float64."""

    def __init__(self) -> None:
        self.count, self.total, self.squares = 0, 0.0, 0.0

    def add(self, values: Tensor) -> None:
        """Take in a piece."""
        wide = values.double()
        self.count += wide.numel()
        self.total += float(wide.sum())
        self.squares += float(wide.square().sum())

    def cut(self, deviations: float) -> Cut:
        """What lies more than so many standard deviations from the mean."""
        if self.count < 2:
            return EVERYTHING
        mean = self.total / self.count
        variance = max(self.squares - self.count * mean * mean, 0.0) / (self.count - 1)
        margin = deviations * math.sqrt(variance)
        return Cut(-_rounded_down(margin - mean), _rounded_down(mean + margin))


def _rounded_down(value: float) -> float:
    """The largest fp32 number up to `value`: an fp32 number is above the one exactly if it is above the other."""
    rounded = torch.tensor(value, dtype=torch.float32)
    if float(rounded) > value:
        rounded = torch.nextafter(rounded, torch.tensor(-math.inf))
    return float(rounded)


def task_vector(tensor: Tensor, base: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """θ − θ0 of flat tensors in fresh fp32 pieces, with their places; taken in fp32 or better whatever is stored."""
    for piece, change in differences(tensor, base):
        yield piece, change.float()


def kept_changes(tensor: Tensor, base: Tensor, cut: Cut) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """(place, changes with 0 where they are trimmed, the changes as they were: free to be overwritten), in pieces."""
    left = cut.quota
    for piece, change in task_vector(tensor, base):
        if cut.low == -cut.high:
            kept = hardshrink(change, cut.high)  # keeps |x| > limit
        else:
            kept = torch.where((change < cut.low) | (change > cut.high), change, 0.0)
        if left > 0:
            ties = (change.abs() == cut.tied).nonzero().flatten()[:left]
            kept[ties] = change[ties]
            left -= len(ties)
        yield piece, kept, change


def tensor_cut(tensor: Tensor, base: Tensor, rule: TrimRule) -> Cut:
    """The cut of one flat tensor on its own."""
    if rule.word == "none":
        return EVERYTHING
    if rule.word == "std":
        moments = Moments()
        for _, change in task_vector(tensor, base):
            moments.add(change)
        return moments.cut(rule.amount)
    return _selected_cut(tensor, base, rule)


def _selected_cut(tensor: Tensor, base: Tensor, rule: TrimRule) -> Cut:
    selection: RadixSelection | EnergySelection
    if rule.word == "top_k":
        rank = rule.rank(tensor.numel())
        if rank <= 0:
            return EVERYTHING
        if rank > tensor.numel():
            return NOTHING
        if tensor.numel() <= LARGEST_HELD:
            sizes = torch.cat([change.abs_() for _, change in task_vector(tensor, base)])
            return cut_from(select(sizes, rank), exact=rule.exact)
        selection = RadixSelection()
        finish = lambda: selection.next_pass(rank)  # noqa: E731
    else:
        selection = EnergySelection(rule.amount)
        finish = selection.next_pass
    for _, change in task_vector(tensor, base):
        selection.add(change.abs_())
    finish()
    for _, change in task_vector(tensor, base):
        selection.add(change.abs_())
    return cut_from(selection.result(), exact=rule.exact)
