"""The exact k-th smallest magnitude of a long vector that is seen in pieces, without sorting and without holding it.

One pass when a sample has bracketed the answer: entries below the bracket are counted, the few inside are kept. If the
answer proves to lie outside, or there was no sample, two passes of a radix selection on the bits of the magnitudes find
it whatever the values are: fp32 magnitudes order as their 31-bit patterns do, 15 high bits first, then 16 low ones.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

HIGH_BITS, LOW_BITS = 15, 16
LARGEST_HELD = 1 << 22  # entries of one tensor that are selected from at once: 16 MiB, twice
LARGEST = 1 << 25  # entries kept inside a bracket: 128 MiB
SAMPLE_BLOCK = 1024  # neighbouring entries read together in a sample
STANDARD_ERRORS = 6.0  # half-width of a bracket; a miss costs two passes, never exactness


def kept_rank(total: int, density: float) -> int:
    """k of the published trim: entries at least as large as the k-th smallest magnitude are kept; 0 keeps everything.

    That is int(total · density) + 1 entries, more where magnitudes tie.
    """
    return total - int(total * density)


class Selected(NamedTuple):
    """A magnitude found by rank: its value, and which of the `equal` ones of that value it is (`place`, from 1)."""

    value: float
    place: int
    equal: int


def select(magnitudes: Tensor, rank: int) -> Selected:
    """The `rank`-th smallest (1-based) of a flat fp32 tensor that is held whole, in linear time."""
    values = magnitudes.cpu().numpy()
    found = np.partition(values, rank - 1)[rank - 1]
    return Selected(float(found), rank - int(np.count_nonzero(values < found)), int(np.count_nonzero(values == found)))


class BracketSelection:
    """Selects the k-th smallest of the magnitudes shown to `add`, if it lies in the closed interval [lower, upper].

    Memory: the entries strictly inside the bracket, `LARGEST` at most; with more, there is no result. Many equal values
    cost nothing, since a bracket taken from ranks of a sample has them at its ends, where they are counted, not kept.
    """

    def __init__(self, lower: float, upper: float) -> None:
        self.lower, self.upper = lower, upper
        self._below = 0
        self._at_lower = 0
        self._at_upper = 0
        self._kept = 0
        self._inside: list[npt.NDArray[np.float32]] = []

    @classmethod
    def from_sample(cls, magnitudes: Tensor, density: float) -> BracketSelection:
        """The bracket in which the threshold for `density` lies almost surely, judged by a sample of the magnitudes.

        Args:
            magnitudes: flat fp32, in the order of storage, in blocks of about `SAMPLE_BLOCK` neighbours.
            density: the share to keep; the threshold is near the (1 − density) quantile.
        """
        values = magnitudes.cpu().numpy()
        size, share = values.size, 1.0 - density
        if size == 0:
            return cls(0.0, float("inf"))
        middle = min(int(share * size), size - 1)
        margin = STANDARD_ERRORS * _share_error(values >= np.partition(values, middle)[middle])
        low, high = int((share - margin) * size) - 2, int((share + margin) * size) + 3
        places = (max(low, 0), min(high, size - 1))
        ordered = np.partition(values, places)
        # beyond the ends of the sample lies whatever it did not meet
        return cls(float(ordered[low]) if low >= 0 else 0.0, float(ordered[high]) if high < size else float("inf"))

    def add(self, magnitudes: Tensor) -> None:
        """Take in a piece, flat, fp32, at least 0. (NumPy's masks cost a tenth of torch's on a CPU.)"""
        values = magnitudes.cpu().numpy()
        self._below += int(np.count_nonzero(values < self.lower))
        candidates = values[(values >= self.lower) & (values <= self.upper)]
        inside = candidates[(candidates > self.lower) & (candidates < self.upper)]
        at_upper = int(np.count_nonzero(candidates == self.upper)) if self.upper > self.lower else 0
        self._at_upper += at_upper
        self._at_lower += candidates.size - inside.size - at_upper
        self._kept += inside.size
        if self._kept <= LARGEST:
            self._inside.append(inside)
        else:
            self._inside.clear()

    def result(self, rank: int) -> Selected | None:
        """The `rank`-th smallest (1-based) of everything added; None if it cannot be told."""
        place = rank - self._below
        if place <= 0 or self._kept > LARGEST:
            return None
        if place <= self._at_lower:
            return Selected(self.lower, place, self._at_lower)
        place -= self._at_lower
        inside = np.concatenate([np.empty(0, np.float32), *self._inside])
        if place <= inside.size:
            value = np.partition(inside, place - 1)[place - 1]
            smaller = int(np.count_nonzero(inside < value))
            return Selected(float(value), place - smaller, int(np.count_nonzero(inside == value)))
        place -= inside.size
        return Selected(self.upper, place, self._at_upper) if place <= self._at_upper else None


class RadixSelection:
    """The same for any values, in two passes of `add` with `next_pass` in between; memory: 64 Ki counters."""

    def __init__(self) -> None:
        self._place = 0
        self._high: int | None = None
        self._counts = torch.zeros(1 << HIGH_BITS, dtype=torch.int64)

    def add(self, magnitudes: Tensor) -> None:
        """Take in a piece, flat, fp32, at least 0; in the second pass the same pieces again, in any order."""
        bits = magnitudes.contiguous().view(torch.int32)
        if self._high is None:
            self._counts += torch.bincount(bits >> LOW_BITS, minlength=self._counts.numel()).cpu()
        else:
            of_interest = bits[(bits >> LOW_BITS) == self._high]
            low = of_interest & ((1 << LOW_BITS) - 1)
            self._counts += torch.bincount(low, minlength=self._counts.numel()).cpu()

    def next_pass(self, rank: int) -> None:
        """Between the two passes: look for the `rank`-th smallest (1-based), and settle its high bits."""
        self._place = rank
        self._high = self._settle()
        self._counts = torch.zeros(1 << LOW_BITS, dtype=torch.int64)

    def result(self) -> Selected:
        """After the second pass: the value, and its place among its equals."""
        assert self._high is not None
        low = self._settle()
        return Selected(_value(self._high, low), self._place, int(self._counts[low]))

    def _settle(self) -> int:
        """The digit whose counter holds the place sought; the place is then counted within it."""
        cumulative = self._counts.cumsum(0)
        digit = int(torch.searchsorted(cumulative, self._place))
        self._place -= int(cumulative[digit] - self._counts[digit])
        return digit


class EnergySelection:
    """The magnitude from which on the entries hold a `share` of all squares, in two passes as `RadixSelection`.

    Squares are summed in fp64, by bit pattern and so from the smallest magnitude to the largest.
    """

    def __init__(self, share: float) -> None:
        self.share = share
        self._high: int | None = None
        self._wanted = 0.0  # of the squares, at the value sought and above
        self._sums = torch.zeros(1 << HIGH_BITS, dtype=torch.float64)
        self._counts = torch.zeros(1 << LOW_BITS, dtype=torch.int64)

    def add(self, magnitudes: Tensor) -> None:
        """Take in a piece, flat, fp32, at least 0; in the second pass the same pieces again."""
        magnitudes = magnitudes.cpu().contiguous()  # sums by digit come in no fixed order on a GPU
        bits = magnitudes.view(torch.int32)
        digits = bits >> LOW_BITS
        if self._high is not None:
            of_interest = digits == self._high
            digits, magnitudes = bits[of_interest] & ((1 << LOW_BITS) - 1), magnitudes[of_interest]
            self._counts += torch.bincount(digits, minlength=self._counts.numel())
        self._sums += torch.bincount(digits, weights=magnitudes.double().square(), minlength=self._sums.numel())

    def next_pass(self) -> None:
        """Between the two passes: settle the high bits."""
        self._wanted = self.share * float(self._sums.sum())
        self._high = self._settle()
        self._sums = torch.zeros(1 << LOW_BITS, dtype=torch.float64)

    def result(self) -> Selected:
        """After the second pass: the smallest magnitude needed; with all its equals but `place` − 1 it is enough."""
        assert self._high is not None
        low = self._settle()
        value, equal = _value(self._high, low), int(self._counts[low])
        needed = min(max(math.ceil(self._wanted / value**2), 1), equal) if value > 0 else equal
        return Selected(value, equal - needed + 1, equal)

    def _settle(self) -> int:
        """The largest digit that with all larger ones has the squares wanted; they are then counted within it."""
        if self._wanted <= 0:
            return 0  # nothing but zeros
        from_here = torch.cat([self._sums.flip(0).cumsum(0).flip(0), torch.zeros(1, dtype=torch.float64)])
        # what rounding leaves wanting is not there: the smallest digit that has anything is the end
        enough = max(int((from_here >= self._wanted).sum()) - 1, int((self._sums > 0).byte().argmax()))
        self._wanted -= float(from_here[enough + 1])
        return enough


def _value(high: int, low: int) -> float:
    """The fp32 number of these bits."""
    return float(torch.tensor([(high << LOW_BITS) | low], dtype=torch.int32).view(torch.float32))


def _share_error(above: npt.NDArray[np.bool_]) -> float:
    """Standard error of the share of True in a sample of blocks that are spread evenly.

    Neighbours are alike (rows of an embedding that no task used), so blocks count, not entries; and successive blocks
    are compared, so that layers of different size do not count as noise: Σ (f_j − f_{j+1})² / 2 = n² · error².
    """
    share = float(above.mean())
    independent = (share * (1.0 - share) / above.size) ** 0.5
    blocks = above[: above.size - above.size % SAMPLE_BLOCK].reshape(-1, SAMPLE_BLOCK).mean(axis=1)
    if blocks.size < 2:
        return independent
    clustered = (float(np.square(np.diff(blocks)).sum()) / 2.0) ** 0.5 / blocks.size
    return max(independent, clustered)
