"""The election of TIES in any of its published forms: who decides an entry's sign, and what its value becomes.

Both work through flat tensors in pieces, model by model. `ties_merge.Election` is the common form, mass and disjoint
mean, in fewer vectors and steps; this is the rest.

With votes v_i = w_i τ_i of the trimmed changes (0: no vote), norms ‖τ_i‖ of what is kept, and e the elected sign:

    mass            e = sign Σ v_i
    norm_fraction   e = the sign of the vote with the largest |w_i| τ_i² / ‖τ_i‖² (the first model's of equals)
    norm_mass       e = sign Σ sign(v_i) |w_i| τ_i² / ‖τ_i‖²
    oracle          e = sign(θ* − θ0), θ* a multitask model's
    none            no sign is elected

    disjoint_mean   Σ v_i / Σ |w_i| over the votes of sign e          without e: over all votes
    disjoint_sum    Σ v_i over the same
    disjoint_max    the largest |v_i| of the same, with sign e        without e: as magnitude
    mean, sum       Σ v_i / Σ |w_i|, Σ v_i over all models, zeros included
    median          of all models' v_i, zeros included; of two middles the lower
    magnitude       the v_i of largest magnitude (the first model's of equals)

An elected sign takes the place of the sign of a mean, sum, median or magnitude, whatever most models say.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from typing import Literal

import torch
from torch import Tensor

from mats.methods.elementwise import CHUNK

ElectWord = Literal["mass", "norm_fraction", "norm_mass", "oracle", "none"]
AggregateWord = Literal["disjoint_mean", "disjoint_sum", "disjoint_max", "mean", "sum", "median", "magnitude"]


class Votes:
    """Signs by mass: the sign of each entry's sum, in float64, so that only what cancels is 0."""

    def begin(self, length: int, device: torch.device) -> None:
        """Start on a tensor of `length` entries."""
        self.total = torch.zeros(length, dtype=torch.float64, device=device)

    def add(self, piece: slice, vote: Tensor, weight: float, squared_norm: float) -> None:  # noqa: ARG002
        """One model's votes on the entries `piece`."""
        self.total[piece] += vote

    def signs(self, piece: slice) -> Tensor:
        """−1, 0 or 1 for each entry, fp32."""
        return self.total[piece].sign().float()


class NormMassVotes(Votes):
    """Signs by each vote's share of its model's squared norm, summed."""

    def add(self, piece: slice, vote: Tensor, weight: float, squared_norm: float) -> None:
        """See `Votes.add`."""
        if squared_norm > 0:
            self.total[piece] += _share(vote, weight, squared_norm)


class NormFractionVotes(Votes):
    """Signs by the one vote that is the largest share of its model's squared norm."""

    def add(self, piece: slice, vote: Tensor, weight: float, squared_norm: float) -> None:
        """See `Votes.add`."""
        if squared_norm > 0:
            share, best = _share(vote, weight, squared_norm), self.total[piece]
            self.total[piece] = torch.where(share.abs() > best.abs(), share, best)


class GivenVotes(Votes):
    """Signs that somebody else gives, whatever the models vote."""

    def begin(self, length: int, device: torch.device) -> None:
        """Nothing is summed."""

    def set(self, changes: Tensor) -> None:
        """The changes whose signs count, flat."""
        self.total = changes

    def add(self, piece: slice, vote: Tensor, weight: float, squared_norm: float) -> None:
        """The models have no vote."""


def _share(vote: Tensor, weight: float, squared_norm: float) -> Tensor:
    """sign(v) |w| τ² / ‖τ‖² of v = w τ, in float64."""
    wide = vote.double()
    return wide * wide.abs() / (abs(weight) * squared_norm)


class Tally(ABC):
    """What every aggregate keeps: the mass Σ |v_i| of each entry. Sub-classes keep what their value needs."""

    def begin(self, length: int, device: torch.device) -> None:
        """Start on a tensor of `length` entries."""
        self.mass = torch.zeros(length, device=device)
        self.weight = 0.0

    def add(self, piece: slice, vote: Tensor, weight: float) -> None:  # noqa: ARG002
        """One model's votes on the entries `piece`."""
        self.mass[piece] += vote.abs()

    def ended(self, weight: float) -> None:
        """A model's last piece has been added."""
        self.weight += abs(weight)

    @abstractmethod
    def value(self, piece: slice, elected: Tensor | None) -> Tensor:
        """The merged change, before the elected sign takes the place of its own where the aggregate is not disjoint."""


class SumTally(Tally):
    """Sums and means: Σ v, Σ |v|, and of the weights of votes Σ |w| sign v, Σ |w|, from which both signs' follow."""

    def __init__(self, word: AggregateWord) -> None:
        self.word = word

    def begin(self, length: int, device: torch.device) -> None:
        """See `Tally.begin`."""
        super().begin(length, device)
        self.total, self.signs, self.voting = torch.zeros(3, length, device=device).unbind()

    def add(self, piece: slice, vote: Tensor, weight: float) -> None:
        """See `Tally.add`."""
        super().add(piece, vote, weight)
        sign = vote.sign()
        self.total[piece] += vote
        self.signs[piece].add_(sign, alpha=abs(weight))
        self.voting[piece].addcmul_(sign, sign, value=abs(weight))

    def value(self, piece: slice, elected: Tensor | None) -> Tensor:
        """See `Tally.value`."""
        if self.word == "sum":
            return self.total[piece].clone()
        if self.word == "mean":
            return self.total[piece] / self.weight
        total, voting = self.total[piece], self.voting[piece]
        if elected is not None:
            total = (total + self.mass[piece] * elected) / 2
            voting = (voting + self.signs[piece] * elected) / 2
        return total if self.word == "disjoint_sum" else torch.where(voting > 0, total / voting, 0.0)


class ExtremeTally(Tally):
    """The highest and the lowest vote, which are the largest of each sign, and the first of largest magnitude."""

    def __init__(self, word: AggregateWord) -> None:
        self.word = word

    def begin(self, length: int, device: torch.device) -> None:
        """See `Tally.begin`."""
        super().begin(length, device)
        self.highest, self.lowest, self.strongest = torch.zeros(3, length, device=device).unbind()

    def add(self, piece: slice, vote: Tensor, weight: float) -> None:
        """See `Tally.add`."""
        super().add(piece, vote, weight)
        torch.maximum(self.highest[piece], vote, out=self.highest[piece])
        torch.minimum(self.lowest[piece], vote, out=self.lowest[piece])
        strongest = self.strongest[piece]
        self.strongest[piece] = torch.where(vote.abs() > strongest.abs(), vote, strongest)

    def value(self, piece: slice, elected: Tensor | None) -> Tensor:
        """See `Tally.value`."""
        if self.word == "magnitude" or elected is None:
            return self.strongest[piece].clone()
        return torch.where(elected > 0, self.highest[piece], self.lowest[piece])


class MedianTally(Tally):
    """The lower median of all votes: the one aggregate that has to hold all models' changes of a tensor at once."""

    def begin(self, length: int, device: torch.device) -> None:
        """See `Tally.begin`."""
        super().begin(length, device)
        self.rows: list[Tensor] = []

    def add(self, piece: slice, vote: Tensor, weight: float) -> None:
        """See `Tally.add`."""
        super().add(piece, vote, weight)
        if piece.start == 0:
            self.rows.append(torch.empty_like(self.mass))
        self.rows[-1][piece] = vote

    def value(self, piece: slice, elected: Tensor | None) -> Tensor:  # noqa: ARG002
        """See `Tally.value`."""
        return torch.stack([row[piece] for row in self.rows]).median(dim=0).values


_VOTES: dict[str, type[Votes]] = {
    "mass": Votes,
    "norm_mass": NormMassVotes,
    "norm_fraction": NormFractionVotes,
    "oracle": GivenVotes,
}


class AnyElection:
    """An election of any kind with any aggregate, on the tensors of a merge one after another."""

    def __init__(self, elect: ElectWord, aggregate: AggregateWord) -> None:
        self.elect, self.aggregate = elect, aggregate
        self.votes = None if elect == "none" else _VOTES[elect]()
        self.disjoint = aggregate.startswith("disjoint")
        self.tally_of: Tally = (
            MedianTally()
            if aggregate == "median"
            else ExtremeTally(aggregate)
            if aggregate in ("disjoint_max", "magnitude")
            else SumTally(aggregate)
        )

    def begin(self, length: int, device: torch.device) -> None:
        """Start the votes on a tensor of `length` entries."""
        self._length = length
        self.tally_of.begin(length, device)
        if self.votes is not None:
            self.votes.begin(length, device)

    def give(self, changes: Tensor) -> None:
        """The changes, flat, whose signs an `oracle` election takes."""
        assert isinstance(self.votes, GivenVotes)
        self.votes.set(changes)

    def add(self, kept: Iterator[tuple[slice, Tensor, Tensor]], weight: float, squared_norm: float = 0.0) -> None:
        """One model's votes: w · its kept changes, in pieces."""
        for piece, vote, _ in kept:
            vote.mul_(weight)
            self.tally_of.add(piece, vote, weight)
            if self.votes is not None and weight != 0:
                self.votes.add(piece, vote, weight, squared_norm)
        self.tally_of.ended(weight)

    def tally(self) -> tuple[int, bool]:
        """(sum of the elected signs, whether there are entries with votes and no elected sign)."""
        votes, undecided = 0, False
        for piece in self._pieces():
            signs = self._signs(piece)
            votes += int(signs.sum())
            undecided |= bool(((signs == 0) & (self.tally_of.mass[piece] > 0)).any())
        return votes, undecided

    def apply_(self, base: Tensor, scale: float, zero_sign: int | None) -> Tensor:
        """base + scale · merged change, in place; `zero_sign` stands in where no sign is elected (None: no change)."""
        for piece in self._pieces():
            base[piece].add_(self._merged(piece, zero_sign), alpha=scale)
        return base

    def _merged(self, piece: slice, zero_sign: int | None) -> Tensor:
        if self.votes is None:
            return self.tally_of.value(piece, None)
        elected = self._signs(piece)
        undecided = elected == 0
        if zero_sign is not None:
            elected[undecided] = zero_sign
        if not self.disjoint:
            return self.tally_of.value(piece, elected).abs_().mul_(elected)
        # with no majority either, a disjoint mean or sum takes what is negative, as the published code does
        selected = torch.where(elected == 0, -1.0, elected)
        merged = self.tally_of.value(piece, selected)
        if zero_sign is None or (zero_sign == 0 and self.aggregate == "disjoint_max"):
            merged[undecided] = 0.0
        return merged

    def _signs(self, piece: slice) -> Tensor:
        assert self.votes is not None
        return self.votes.signs(piece)

    def _pieces(self) -> Iterator[slice]:
        return (slice(start, min(start + CHUNK, self._length)) for start in range(0, self._length, CHUNK))
