"""TIES at work: thresholds from one streamed look at all models, then trim, election and mean, a tensor at a time."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor
from torch.nn.functional import hardshrink

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
from mats.methods.thresholds import global_thresholds, task_vector, tensor_threshold
from mats.progress import Progress


class TiesMerge:
    """One TIES merge; see `mats.methods.ties` for the formulas and `ElementwiseMerge` for its life.

    Zero votes. Where kept changes cancel to exactly 0, the published code gives the entry the sign that is more
    frequent in the whole elected vector. That is known only at the end, so such entries take the majority met so far,
    and `deferred` names the tensors for which the end turned out differently.
    """

    restarts = True

    def __init__(
        self, model_weights: Sequence[float], *, density: float, scale: float, zero_votes: str, trim_scope: str
    ) -> None:
        if not any(model_weights):
            raise RequestError(f"ties: the models' weights {list(model_weights)} are all 0")
        self.weights = tuple(model_weights)
        self.density, self.scale = density, scale
        self.zero_votes, self.trim_scope = zero_votes, trim_scope
        self.thresholds: tuple[float, ...] | None = None
        self._election = Election()
        self._votes: dict[str, int] = {}  # tensor → sum of its elected signs
        self._assumed: dict[str, int] = {}  # tensor with zero votes → the majority sign it was merged with
        self._majority: int | None = None  # the sign of the whole, once everything has been seen

    def prepare(
        self,
        reader: ModelReader,
        base_reader: BaseReader,
        names: Sequence[str],
        progress: Progress,
        *,
        sampler: Sampler | None = None,
    ) -> None:
        """Find each model's threshold over all `names`: one pass with a `sampler`, two without."""
        self._votes, self._assumed, self._majority = {}, {}, None
        if self.trim_scope == "global":
            count = len(self.weights)
            self.thresholds = global_thresholds(
                reader, base_reader, names, count, self.density, progress, sampler=sampler
            )

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        base = require_base("ties", name, base)
        if not is_mergeable(base.dtype):
            return base
        if self.trim_scope == "global" and self.thresholds is None:
            raise RuntimeError("TiesMerge.merge was called before TiesMerge.prepare")
        base = base.to(working_dtype(base.dtype)).contiguous()
        election = self._election
        election.begin(base.numel(), base.device)
        for index, tensor in numbered(name, base.shape, models, len(self.weights)):
            threshold = self._threshold(index, tensor, base)
            election.add(tensor.reshape(-1), base.reshape(-1), threshold, self.weights[index])
            del tensor
        zero_sign = self._zero_sign(name, election)
        return election.apply_(base.reshape(-1), self.scale, zero_sign).reshape(base.shape)

    def deferred(self) -> tuple[str, ...]:
        """The tensors with zero votes that were merged with another majority sign than the whole has."""
        self._majority = _sign(sum(self._votes.values()))
        return tuple(name for name, assumed in self._assumed.items() if assumed != self._majority)

    def _threshold(self, index: int, tensor: Tensor, base: Tensor) -> float:
        """The smallest magnitude that is kept of model `index`."""
        if self.thresholds is not None:
            return self.thresholds[index]
        return tensor_threshold(tensor.reshape(-1), base.reshape(-1), self.density)

    def _zero_sign(self, name: str, election: Election) -> int | None:
        """The sign an entry whose votes cancel takes; None leaves it unchanged."""
        if self.zero_votes != "majority":
            return 1 if self.zero_votes == "positive" else None
        self._votes[name], cancelled = election.tally()
        if not cancelled:
            return None
        majority = _sign(sum(self._votes.values())) if self._majority is None else self._majority
        self._assumed[name] = majority
        return majority if majority != 0 else -1  # without a majority the published code takes what is negative


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

    def add(self, tensor: Tensor, base: Tensor, threshold: float, weight: float) -> None:
        """One model's votes: w · (θ − θ0) where |θ − θ0| ≥ threshold."""
        first = self._lightest == float("inf")
        if weight == 0 and not first:
            return
        self._lightest = min(self._lightest, abs(weight) or 1.0)
        # hardshrink keeps |x| > limit; the float just below the threshold makes that |x| ≥ threshold
        limit = float(torch.nextafter(torch.tensor(threshold), torch.tensor(0.0))) if threshold > 0 else 0.0
        for piece, change in task_vector(tensor, base):
            vote = hardshrink(change, limit)
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
        """base + scale · mean of the votes of the elected sign, in place; `zero_sign` decides where votes cancel."""
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
