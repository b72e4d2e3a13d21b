"""TIES at work: thresholds from one streamed look at all models, then trim, election and mean, a tensor at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from mats.errors import RequestError
from mats.methods.elementwise import (
    CHUNK,
    BaseReader,
    ModelReader,
    Sampler,
    is_mergeable,
    numbered,
    require_base,
    working_dtype,
)
from mats.methods.thresholds import WholeModels
from mats.methods.ties_election import AggregateWord, AnyElection, ElectWord
from mats.methods.ties_trim import Cut, TrimRule, kept_changes, task_vector, tensor_cut
from mats.progress import Progress


@dataclass(frozen=True)
class TiesChoices:
    """What `TiesSettings` settle, in the terms of the merge."""

    trim: TrimRule
    scope: Literal["global", "tensor"] = "global"
    elect: ElectWord = "mass"
    aggregate: AggregateWord = "disjoint_mean"
    zero_votes: Literal["majority", "zero", "positive"] = "majority"
    scale: float = 1.0
    oracle: str | None = None  # which model elects, so that merges under two of them are not taken for one

    @property
    def uses_norms(self) -> bool:
        """Whether the election weighs votes by the norm of what their model keeps."""
        return self.elect in ("norm_fraction", "norm_mass")


class TiesMerge:
    """One TIES merge; see `mats.methods.ties` for the formulas and `ElementwiseMerge` for its life.

    Zero votes. Where kept changes cancel to exactly 0, the published code gives the entry the sign that is more
    frequent in the whole elected vector. That is known only at the end, so such entries take the majority met so far,
    and `deferred` names the tensors for which the end turned out differently.

    Attributes:
        restarts: whether a tensor's result depends on all others' elected signs.
        oracle: reads the tensors of the multitask model that elects the signs; set before merging, where one does.
    """

    def __init__(self, model_weights: Sequence[float], choices: TiesChoices) -> None:
        if not any(model_weights):
            raise RequestError(f"ties: the models' weights {list(model_weights)} are all 0")
        self.weights = tuple(model_weights)
        self.choices = choices
        self.restarts = choices.elect != "none" and choices.zero_votes == "majority"
        self.oracle: Callable[[str], Tensor] | None = None
        self.cuts: tuple[Cut, ...] | None = None
        self._squared_norms: tuple[float, ...] = ()
        common = (choices.elect, choices.aggregate) == ("mass", "disjoint_mean")
        self._election = Election() if common else AnyElection(choices.elect, choices.aggregate)
        self._votes: dict[str, int] = {}  # tensor → sum of its elected signs
        self._assumed: dict[str, int] = {}  # tensor with zero votes → the majority sign it was merged with
        self._majority: int | None = None  # the sign of the whole, once everything has been seen
        self._leader: TiesMerge | None = None
        self._elected: tuple[str, int | None] | None = None  # the tensor voted on last, and the sign of its zero votes

    def follow(self, leader: TiesMerge) -> bool:
        """Take cuts and votes from `leader`, which merges each tensor of the same models right before this merge.

        Returns:
            Whether that can be: only the scales differ.
        """
        if leader.weights != self.weights or replace(leader.choices, scale=self.choices.scale) != self.choices:
            return False
        self._leader = leader
        return True

    def prepare(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        progress: Progress,
        *,
        sampler: Sampler | None = None,
    ) -> None:
        """Find each model's cut over all `names`: by top_k one pass with a `sampler`, two without."""
        self._votes, self._assumed, self._majority = {}, {}, None
        if self.choices.scope == "global":
            models = WholeModels(reader, base_reader, names, len(self.weights), progress, sampler)
            self.cuts = models.cuts(self.choices.trim)
            if self.choices.uses_norms:
                self._squared_norms = models.squared_norms(self.cuts)

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        base = require_base("ties", name, base)
        if not is_mergeable(base.dtype):
            return base
        base = base.to(working_dtype(base.dtype)).contiguous()
        voted = self if self._leader is None else self._leader
        if voted is self:
            self._vote(name, base, models)
        if voted._elected is None or voted._elected[0] != name:
            raise RuntimeError(f"{name}: a merge that follows came before the one that it follows")
        fresh = base.reshape(-1).clone()  # the base may be a file mapped copy-on-write: page by page, that costs more
        return voted._election.apply_(fresh, self.choices.scale, voted._elected[1]).reshape(base.shape)

    def _vote(self, name: str, base: Tensor, models: Iterable[Tensor]) -> None:
        if self.choices.scope == "global" and self.cuts is None:
            raise RuntimeError("TiesMerge.merge was called before TiesMerge.prepare")
        flat = base.reshape(-1)
        election = self._election
        election.begin(flat.numel(), flat.device)
        self._ask_oracle(name, base)
        for index, tensor in numbered(name, base.shape, models, len(self.weights)):
            cut = self._cut(index, name, tensor, base)
            norm = self._squared_norm(index, tensor, base, cut)
            election.add(kept_changes(tensor.reshape(-1), flat, cut), self.weights[index], norm)
            del tensor
        self._elected = (name, self._zero_sign(name, election))

    def deferred(self) -> tuple[str, ...]:
        """The tensors with zero votes that were merged with another majority sign than the whole has."""
        if self._leader is not None:
            return self._leader.deferred()
        self._majority = _sign(sum(self._votes.values()))
        return tuple(name for name, assumed in self._assumed.items() if assumed != self._majority)

    def _cut(self, index: int, name: str, tensor: Tensor, base: Tensor) -> Cut:
        """What is kept of tensor `name` of model `index`."""
        if self.cuts is not None:
            return self.cuts[index].within(name)
        return tensor_cut(tensor.reshape(-1), base.reshape(-1), self.choices.trim)

    def _squared_norm(self, index: int, tensor: Tensor, base: Tensor, cut: Cut) -> float:
        """Σ τ² of what is kept, of the model or of the tensor alone; 0 where no election asks."""
        if not self.choices.uses_norms:
            return 0.0
        if self._squared_norms:
            return self._squared_norms[index]
        kept = kept_changes(tensor.reshape(-1), base.reshape(-1), cut)
        return sum(float(piece.double().square().sum()) for _, piece, _ in kept)

    def _ask_oracle(self, name: str, base: Tensor) -> None:
        """Signs that a multitask model elects."""
        if self.choices.elect != "oracle":
            return
        if self.oracle is None:
            raise RuntimeError("TiesMerge.merge was called before its oracle was known")
        assert isinstance(self._election, AnyElection)
        ((_, answer),) = numbered(name, base.shape, [self.oracle(name)], 1)
        self._election.give(torch.cat([change for _, change in task_vector(answer.reshape(-1), base.reshape(-1))]))

    def _zero_sign(self, name: str, election: Election | AnyElection) -> int | None:
        """The sign an entry takes for which none is elected; None leaves it unchanged."""
        if self.choices.zero_votes != "majority":
            return 1 if self.choices.zero_votes == "positive" else None
        if self.choices.elect == "none":
            return None
        self._votes[name], undecided = election.tally()
        if not undecided:
            return None
        majority = _sign(sum(self._votes.values())) if self._majority is None else self._majority
        self._assumed[name] = majority
        return majority


class Election:
    """The votes on the entries of one tensor after another, in sums from which both signs' means follow:

        S = Σ v    A = Σ |v|    over votes v = w τ,        s = Σ |w| sign v    a = Σ |w|,        e = sign S elected:
        mean of the elected sign's votes = ((S + e A) / 2) / ((a + e s) / 2)

    Works through flat tensors in pieces that stay in cache; holds four vectors of the largest tensor's length, taken
    once (fresh memory costs as much as the arithmetic), and no model. Written as float arithmetic: on a CPU, torch's
    boolean masks take three to thirty times as long.
    """

    def __init__(self) -> None:
        self._memory = torch.empty(0)

    def begin(self, length: int, device: torch.device) -> None:
        """Start the votes on a tensor of `length` entries."""
        if self._memory.numel() < 4 * length or self._memory.device != device:
            self._memory = torch.empty(0)  # gives the old memory back before more is asked for
            self._memory = torch.empty(4 * length, device=device)
        self.total, self.mass, self.signs, self.weight = self._memory[: 4 * length].view(4, length).unbind()
        self._lightest = float("inf")  # the smallest |w_i| that voted

    def add(
        self,
        kept: Iterator[tuple[slice, Tensor, Tensor]],
        weight: float,
        squared_norm: float = 0.0,  # noqa: ARG002 (of other elections)
    ) -> None:
        """One model's votes: w · its kept changes, in pieces."""
        first = self._lightest == float("inf")
        if weight == 0 and not first:
            return
        self._lightest = min(self._lightest, abs(weight) or 1.0)
        for piece, vote, change in kept:
            if weight != 1:
                vote.mul_(weight)
            sign = torch.sign(vote, out=change)
            if first:  # the first model writes, so that nothing need be zeroed before
                self.total[piece] = vote
                torch.mul(vote, sign, out=self.mass[piece])
                torch.mul(sign, abs(weight), out=self.signs[piece])
                torch.mul(sign, self.signs[piece], out=self.weight[piece])
            else:
                self.total[piece].add_(vote)
                self.mass[piece].addcmul_(vote, sign)
                self.signs[piece].add_(sign, alpha=abs(weight))
                self.weight[piece].addcmul_(sign, sign, value=abs(weight))

    def tally(self) -> tuple[int, bool]:
        """(sum of the elected signs, whether there are entries whose votes cancel)."""
        votes, cancelled = 0, 0
        for total, mass in zip(self.total.split(CHUNK), self.mass.split(CHUNK), strict=True):
            elected = total.sign()
            votes += int(elected.sum())  # exact: fewer than 2²⁴ addends of −1, 0, 1
            tied = elected.abs_().neg_().add_(1).mul_(mass)  # > 0 where votes sum to 0
            cancelled += int(tied.count_nonzero())
        return votes, cancelled > 0

    def apply_(self, base: Tensor, scale: float, zero_sign: int | None) -> Tensor:
        """base + scale · mean of the votes of the elected sign, in place; `zero_sign` decides where votes cancel.

        None leaves them out; 0, the sign of a whole without a majority, takes what is negative, as published.
        """
        if zero_sign == 0:
            zero_sign = -1
        for start in range(0, base.numel(), CHUNK):
            piece = slice(start, start + CHUNK)
            elected = self.total[piece].sign()
            if zero_sign is not None:
                elected += elected.abs().neg_().add_(1).mul_(zero_sign)  # 0 becomes the sign, ±1 stays
            mass = torch.addcmul(self.total[piece], self.mass[piece], elected)
            weight = torch.addcmul(self.weight[piece], self.signs[piece], elected)
            # where nobody voted the mass is 0, and the lightest vote stands in for a divisor
            base[piece].add_(mass.div_(weight.clamp_(min=self._lightest)), alpha=scale)
        return base


def _sign(value: float) -> int:
    return (value > 0) - (value < 0)
