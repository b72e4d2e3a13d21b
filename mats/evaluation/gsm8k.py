"""The final number of a worked answer, as GSM8K is scored: after the answer's cue, read with separators and decimals.

Unlike the published regular expression this one reads every thousands separator ("1,234,567" is not 1,234) and does
not round before it compares (3.5 is not 4).
"""

from __future__ import annotations

import re
from fractions import Fraction

CUE = re.compile(r"####|the (?:final )?answer is", re.IGNORECASE)
NUMBER = re.compile(
    r"(?P<sign>[-+−]?)\s?[$€£]?\s?(?P<minus>[-−]?)"
    r"(?P<digits>\d{1,3}(?:,\d{3})+(?:\.\d+)?(?![\d,]*\d)|\d+(?:\.\d+)?|\.\d+)"
    r"(?:\s?/\s?(?P<divisor>\d+))?"
)


def final_number(text: str, *, needs_cue: bool = True) -> Fraction | None:
    """The number on the line that the last cue (`####`, "The answer is") begins; None where there is none.

    Args:
        text: A model's answer, or the gold one.
        needs_cue: Without a cue there is no answer; otherwise the text's first number is taken (gold columns that hold
            the number alone).
    """
    cues = list(CUE.finditer(text))
    if cues:
        text = text[cues[-1].end() :].lstrip(" :\n\t*")
    elif needs_cue:
        return None
    match = NUMBER.search(text.split("\n")[0])
    if match is None:
        return None
    number = Fraction(match["digits"].replace(",", ""))
    if match["divisor"] and int(match["divisor"]):
        number /= int(match["divisor"])
    return -number if any(match[place] in ("-", "−") for place in ("sign", "minus")) else number
