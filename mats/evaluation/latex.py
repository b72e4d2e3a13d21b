"""The final answer of a MATH solution: the last \\boxed{…} with whatever braces it holds, in one way of writing.

The steps of the normalisation are those of the data set's authors (Hendrycks et al. 2021, `is_equiv`), with thousands
separators added. It compares texts; it knows no algebra.
"""

from __future__ import annotations

import re

CUE = re.compile(r"the (?:final )?answer is\s*:?", re.IGNORECASE)
BOX = re.compile(r"\\(?:boxed|fbox)\s*")
DROPPED = (r"\!", r"\left", r"\right", r"^{\circ}", r"^\circ", r"\$", "$", r"\%", "%", r"\,", r"\;", r"\ ")
UNIT = re.compile(r"\\(?:text|mbox|mathrm)\{ .*$")  # a unit is set off by a space: 5\text{ inches}
GROUPED = re.compile(r"-?\d{1,3}(?:\{?,\}?\d{3})+(?:\.\d+)?")
PLAIN_FRACTION = re.compile(r"(-?)(\d+)/(\d+)")
DIGIT = r"(\d|\{[^{}]*\})"


def final_expression(text: str) -> str | None:
    """What a worked answer ends in: the content of its last box, else what follows "The answer is" on its line.

    A box wins over a cue before it; None where there is neither.
    """
    cues = list(CUE.finditer(text))
    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    if not cues:
        return None
    lines = text[cues[-1].end() :].strip().split("\n")
    return lines[0].strip().rstrip(".").strip() or None


def last_boxed(text: str) -> str | None:
    """Content of the last `\\boxed{…}` or `\\fbox{…}`, nested braces included; None where it is absent or not closed.

    `\\boxed 5` holds what follows up to the end of the formula.
    """
    boxes = list(BOX.finditer(text))
    if not boxes:
        return None
    start = boxes[-1].end()
    if text[start : start + 1] != "{":
        return re.split(r"[$\s]", text[start:].strip(), maxsplit=1)[0].rstrip(".") or None
    depth = 0
    for position in range(start, len(text)):
        escaped = position > 0 and text[position - 1] == "\\"
        depth += {"{": 1, "}": -1}.get(text[position], 0) if not escaped else 0
        if depth == 0:
            return text[start + 1 : position].strip() or None
    return None


def normalise_expression(text: str) -> str:
    """One way of writing: no layout, units, signs of currency, percent or degree; fractions and roots with braces."""
    text = text.replace("\n", "").replace("\\\\", "\\")
    text = re.sub(r"\\[dt]frac", r"\\frac", text)
    text = UNIT.sub("", text)
    for piece in DROPPED:
        text = text.replace(piece, "")
    text = text.strip().rstrip(".")
    left, equals, right = text.partition("=")
    if equals and "=" not in right and len(left.strip()) <= 2:  # x = 5
        text = right
    if GROUPED.fullmatch(text.strip()):
        text = re.sub(r"[{},]", "", text)
    text = text.replace(" ", "")
    text = re.sub(r"(^|[^\d])\.(\d)", r"\g<1>0.\g<2>", text)
    text = re.sub(rf"\\sqrt{DIGIT}", lambda found: rf"\sqrt{{{_bare(found[1])}}}", text)
    text = re.sub(rf"\\frac{DIGIT}{DIGIT}", lambda found: rf"\frac{{{_bare(found[1])}}}{{{_bare(found[2])}}}", text)
    if text == "0.5":
        return r"\frac{1}{2}"
    return PLAIN_FRACTION.sub(r"\1\\frac{\2}{\3}", text) if PLAIN_FRACTION.fullmatch(text) else text


def _bare(text: str) -> str:
    return text[1:-1] if text.startswith("{") else text
