"""The merge strings of the published TIES code, as settings of ours: `topk20_mass_dis-mean_linear+0.8+2.51+0.1`.

    basic_<aggregate>                                 mean | sum | median | magnitude, of the weights themselves
    task-vector_<scale>
    oracle_<trim>_<aggregate>_<scale>                 signs of a multitask model: merge.oracle=PATH beside it
    <trim>_<elect>_<aggregate>_<scale>

    trim        topkN (N > 1 in percent, else a share) | stdX | nfX | none
    elect       mass | normfrac | normmass | none
    aggregate   dis-mean | dis-sum | dis-max | mean | sum | median | magnitude
    scale       linear+START+STOP+STEP (STOP is left out) | mergelist+A,B,C      each scale is a merge of its own

What the published parser let pass is refused: a misspelt trim (which meant none), a word too many, an empty range.
Scales are exact decimals, where the published ones were rounded to one digit.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any

from mats.errors import RequestError

ELECTIONS = {"mass": "mass", "normfrac": "norm_fraction", "normmass": "norm_mass", "none": "none"}
AGGREGATES = {
    "dis-mean": "disjoint_mean",
    "dis-sum": "disjoint_sum",
    "dis-max": "disjoint_max",
    "mean": "mean",
    "sum": "sum",
    "median": "median",
    "magnitude": "magnitude",
}
BASIC = ("mean", "sum", "median", "magnitude")
TRIMS = "topkN, stdX, nfX or none"
SCALES = "linear+START+STOP+STEP or mergelist+A,B,C"
FORMS = "trim_elect_aggregate_scale, oracle_trim_aggregate_scale, task-vector_scale or basic_aggregate"
MOST_SCALES = 10_000


@dataclass(frozen=True)
class TiesString:
    """A merge string, read.

    Attributes:
        text: as it was written.
        settings: keys of the recipe's `merge` section, `method` first; without the scale.
        scales: each is a merge of its own; empty where the method takes none.
    """

    text: str
    settings: Mapping[str, Any]
    scales: tuple[float, ...]

    @property
    def without_scales(self) -> str:
        """The part that all its merges share."""
        return self.text.rpartition("_")[0] if self.scales else self.text

    def overrides(self, scale: float | None) -> dict[str, Any]:
        """Recipe key → value, for the merge with this scale."""
        keys = {f"merge.{key}": value for key, value in self.settings.items()}
        return keys if scale is None else {**keys, "merge.scale": scale}

    @property
    def variants(self) -> tuple[float | None, ...]:
        """One entry for each merge: its scale, or None where the method takes none."""
        return self.scales or (None,)


def parse_ties_string(text: str) -> TiesString:
    """Read a merge string of the published TIES code.

    Raises:
        RequestError: a part is not of the grammar; the message says which part, and what would be right.

    >>> parse_ties_string("topk20_mass_dis-mean_mergelist+1").settings["density"]
    0.2
    >>> parse_ties_string("task-vector_linear+0.1+1.01+0.1").scales[2]
    0.3
    """
    parts = text.strip().split("_")
    first = parts[0]
    if first == "basic" and len(parts) == 2:
        word = _word(text, "aggregate", parts[1], {name: name for name in BASIC})
        return TiesString(text, {"method": "pointwise", "aggregate": word}, ())
    if first == "task-vector" and len(parts) == 2:
        return TiesString(text, {"method": "task_arithmetic"}, _scales(text, parts[1]))
    if len(parts) != 4:
        raise RequestError(f"TIES string {text!r}: {len(parts)} parts between underscores; {FORMS} would be right")
    if first == "oracle":
        elect, trim = "oracle", _trim(text, parts[1])
    else:
        trim, elect = _trim(text, first), _word(text, "election", parts[1], ELECTIONS)
    aggregate = _word(text, "aggregate", parts[2], AGGREGATES)
    settings = {"method": "ties", **trim, "elect": elect, "aggregate": aggregate, "trim_scope": "global"}
    if elect != "none":
        settings["zero_votes"] = "majority"
    return TiesString(text, settings, _scales(text, parts[3]))


def _trim(text: str, word: str) -> dict[str, Any]:
    """Settings of a trim word."""
    if word == "none":
        return {"trim": "none"}
    for prefix, (trim, key) in {
        "topk": ("top_k", "density"),
        "std": ("std", "deviations"),
        "nf": ("norm_fraction", "norm_share"),
    }.items():
        if word.startswith(prefix):
            amount = _number(text, f"trim {word!r}", word.removeprefix(prefix))
            if trim == "top_k":
                amount = amount / 100 if amount > 1 else amount
            if not (amount >= 0 if trim == "std" else 0 < amount <= 1):
                right = "a number of at least 0" if trim == "std" else "more than nothing and at most all"
                raise RequestError(f"TIES string {text!r}: trim {word!r}: {right} would be right")
            return {"trim": trim, key: float(amount), **({"kept_count": "published"} if trim != "std" else {})}
    near = difflib.get_close_matches(word.rstrip("0123456789."), ("topk", "std", "nf", "none"), n=1, cutoff=0.5)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise RequestError(f"TIES string {text!r}: trim {word!r}: {TRIMS} would be right{hint}")


def _scales(text: str, part: str) -> tuple[float, ...]:
    """The scales of a scale word, in order."""
    kind, *numbers = part.split("+")
    if kind == "linear" and len(numbers) == 3:
        start, stop, step = (_number(text, f"scale {part!r}", number) for number in numbers)
        if not step > 0 or not start < stop:
            raise RequestError(f"TIES string {text!r}: scale {part!r}: a step above 0 from START below STOP is needed")
        if (stop - start) / step > MOST_SCALES:
            raise RequestError(f"TIES string {text!r}: scale {part!r}: more than {MOST_SCALES} scales; a longer step?")
        whole, rest = divmod(stop - start, step)
        return tuple(float(start + place * step) for place in range(int(whole) + (1 if rest else 0)))
    if kind == "mergelist" and len(numbers) == 1:
        scales = [float(_number(text, f"scale {part!r}", number)) for number in numbers[0].split(",")]
        twice = [scale for scale in scales if scales.count(scale) > 1]
        if twice:
            raise RequestError(f"TIES string {text!r}: scale {part!r}: {twice[0]:g} comes twice; once would be right")
        return tuple(scales)
    near = difflib.get_close_matches(kind, ("linear", "mergelist"), n=1)
    hint = f"; did you mean {near[0]!r}?" if near and near[0] != kind else ""
    raise RequestError(f"TIES string {text!r}: scale {part!r}: {SCALES} would be right{hint}")


def _word(text: str, what: str, word: str, known: Mapping[str, str]) -> str:
    """Our word for one of theirs."""
    if word not in known:
        near = difflib.get_close_matches(word, known, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RequestError(f"TIES string {text!r}: {what} {word!r}: one of {', '.join(known)} would be right{hint}")
    return known[word]


def _number(text: str, what: str, written: str) -> Decimal:
    """A finite decimal number, exact."""
    try:
        number = Decimal(written)
    except InvalidOperation:
        number = Decimal("nan")
    if not number.is_finite():
        raise RequestError(f"TIES string {text!r}: {what}: {written!r} is no number; a decimal number would be right")
    return number


def ties_overrides(string: TiesString, scale: float | None, overrides: Sequence[str]) -> list[str]:
    """The overrides of one merge of `string`, and those given beside it, which it must not contradict.

    Raises:
        RequestError: an override sets what the string has settled.
    """
    settled = string.overrides(scale)
    for override in overrides:
        key = override.partition("=")[0].strip()
        if key in settled and key in ("merge.method", "merge.scale"):
            raise RequestError(f"{override}: TIES string {string.text!r} settles {key}; one of the two would be right")
    return [*(f"{key}={value}" for key, value in settled.items()), *overrides]
