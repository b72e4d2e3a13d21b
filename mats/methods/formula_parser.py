"""Formulas over models, `c + 2/3*(a - c)`, reduced to one exact rational coefficient per name. Nothing is evaluated.

    sum     = product { ("+" | "-") product }
    product = factor { ("*" | "/") factor }
    factor  = { "+" | "-" } ( number | name | "(" sum ")" )

A number is an integer or a decimal, with an exponent if need be. A name is a letter or underscore, then letters,
digits, underscores and dots (keywords of other languages too), or anything in quotes: `'t5-base'`. Every name that is
not a constant is a model, and a formula must be affine in its models: model × model and anything ÷ model are refused.
Every error names the column, counted from 1. The idea of models combined by formulas: DEM (arXiv 2406.15570).
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction

from mats.errors import RequestError

DEEPEST = 100  # parentheses within each other
LARGEST_EXPONENT = 300  # a number beyond it means nothing to a weight, and 1e999999999 would fill the memory
_TOKEN = re.compile(
    r"\s*(?:(?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)"
    r"|(?P<name>[^\W\d][\w.]*)|(?P<quoted>'[^']+'|\"[^\"]+\")|(?P<sign>[-+*/()])|(?P<end>$))"
)
_PLAIN_NAME = re.compile(r"[^\W\d][\w.]*")


@dataclass(frozen=True)
class Combination:
    """Σ κ_j θ_j + constant.

    Attributes:
        coefficients: name → κ_j, in the order in which the names first stand in the formula; 0 where terms cancel.
        constant: what is added to every weight.
        columns: name → the column at which it first stands.
    """

    coefficients: Mapping[str, Fraction] = field(default_factory=dict)
    constant: Fraction = Fraction(0)
    columns: Mapping[str, int] = field(default_factory=dict)

    def __str__(self) -> str:
        """The same as a formula: `-a + 5/3*b - 4/3*c`; what has the coefficient 0 is left out."""
        parts = [(factor, name) for name, factor in self.coefficients.items() if factor]
        terms = [_signed(factor, name) for factor, name in parts]
        if self.constant or not terms:
            terms.append(_signed(self.constant, None))
        text = " ".join(terms)
        return text[2:] if text.startswith("+ ") else f"-{text[2:]}"

    def plus(self, other: Combination, factor: int) -> Combination:
        """self + factor · other."""
        sums = dict(self.coefficients)
        for name, value in other.coefficients.items():
            sums[name] = sums.get(name, Fraction(0)) + factor * value
        return Combination(
            sums, self.constant + factor * other.constant, {**self.columns, **other.columns, **self.columns}
        )

    def times(self, factor: Fraction) -> Combination:
        """factor · self."""
        products = {name: factor * value for name, value in self.coefficients.items()}
        return Combination(products, factor * self.constant, self.columns)


def _signed(factor: Fraction, name: str | None) -> str:
    """`+ 5/3*b`, `- a`, `+ 2`."""
    size = str(abs(factor))
    if name is not None:
        shown = name if _PLAIN_NAME.fullmatch(name) else f"'{name}'" if "'" not in name else f'"{name}"'
        size = shown if abs(factor) == 1 else f"{size}*{shown}"
    return f"{'-' if factor < 0 else '+'} {size}"


def exact(number: float) -> Fraction:
    """The rational that a person wrote: 0.1 is 1/10, not the binary fraction next to it."""
    return Fraction(number) if isinstance(number, int) else Fraction(repr(float(number)))


def reduce_formula(formula: str, constants: Mapping[str, float] | None = None) -> Combination:
    """The formula as one coefficient per model.

    Args:
        formula: the text.
        constants: values of names that are no models.

    Raises:
        RequestError: `formula:column: message`; the text is no formula, is not affine in its models, divides by 0 or
            names no model; or a constant is not in it.

    >>> str(reduce_formula("-a + 2/3*(b - c)/2 - c"))
    '-a + 1/3*b - 4/3*c'
    """
    values = {name: exact(value) for name, value in (constants or {}).items()}
    parser = _Parser(formula, values)
    combination = parser.whole()
    if not combination.coefficients:
        raise fault(1, f"{formula!r} names no model; a name for each model that it is over would be right")
    if unused := [name for name in values if name not in parser.used]:
        raise RequestError(f"constant {unused[0]}: not in the formula {formula!r}; leave it out, or name it there")
    return combination


def coefficients(formula: str, constants: Mapping[str, float] | None, names: Sequence[str]) -> Mapping[str, Fraction]:
    """κ by name, for every one of `names`: 0 for those that the formula does not name.

    Args:
        formula: the text.
        constants: values of names that are no models.
        names: what the formula may name: the models, and "base" where there is one.

    Raises:
        RequestError: as `reduce_formula`; a name that is not among `names`; or a constant is added to the models.
    """
    combination = reduce_formula(formula, constants)
    check_names(combination, names)
    if combination.constant:
        raise RequestError(
            f"formula: {formula!r} adds {combination.constant} to every weight; models alone can be added here"
        )
    return {name: combination.coefficients.get(name, Fraction(0)) for name in names}


def check_names(combination: Combination, names: Sequence[str]) -> None:
    """Every name of the formula must be known.

    Raises:
        RequestError: `formula:column: message` for the first that is not.
    """
    for name, column in combination.columns.items():
        if name not in names:
            near = difflib.get_close_matches(name, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            raise fault(column, f"{name!r} is neither a model ({', '.join(names)}) nor a constant{hint}")


def fault(column: int, message: str) -> RequestError:
    """An error at a place of the formula."""
    return RequestError(f"formula:{column}: {message}")


@dataclass(frozen=True)
class _Token:
    kind: str
    text: str
    column: int


def _tokens(formula: str) -> list[_Token]:
    found: list[_Token] = []
    at = 0
    while not found or found[-1].kind != "end":
        match = _TOKEN.match(formula, at)
        if match is None:
            at += len(formula[at:]) - len(formula[at:].lstrip())
            raise fault(at + 1, f"{formula[at]!r} is not understood; names, numbers, + - * / ( ) would be right")
        kind = str(match.lastgroup)
        found.append(_Token(kind, match[kind], match.start(kind) + 1))
        at = match.end()
    return found


class _Parser:
    """Recursive descent; every method reads one production and returns what it amounts to.

    Attributes:
        used: the constants that were met.
    """

    def __init__(self, formula: str, constants: Mapping[str, Fraction]) -> None:
        self._tokens = _tokens(formula)
        self._at = 0
        self._depth = 0
        self._constants = constants
        self.used: set[str] = set()

    @property
    def _next(self) -> _Token:
        return self._tokens[self._at]

    def _take(self, signs: str) -> _Token | None:
        """The next token, if it is one of these signs."""
        token = self._next
        if token.kind != "sign" or token.text not in signs:
            return None
        self._at += 1
        return token

    def whole(self) -> Combination:
        result = self._sum()
        if self._next.kind != "end":
            raise fault(self._next.column, f"{self._next.text!r} here; an operator + - * / or the end would be right")
        return result

    def _sum(self) -> Combination:
        result = self._product()
        while sign := self._take("+-"):
            result = result.plus(self._product(), 1 if sign.text == "+" else -1)
        return result

    def _product(self) -> Combination:
        result = self._factor()
        while sign := self._take("*/"):
            result = _combined(result, sign, self._factor())
        return result

    def _factor(self) -> Combination:
        factor = 1
        while sign := self._take("+-"):
            factor = -factor if sign.text == "-" else factor
        return self._primary().times(Fraction(factor))

    def _primary(self) -> Combination:
        token = self._next
        if opening := self._take("("):
            return self._inside(opening)
        if token.kind in ("end", "sign"):
            received = "the end" if token.kind == "end" else repr(token.text)
            raise fault(token.column, f"{received} here; a name, a number or ( would be right")
        self._at += 1
        if token.kind == "number":
            return Combination(constant=_number(token))
        name = token.text[1:-1] if token.kind == "quoted" else token.text
        if name in self._constants:
            self.used.add(name)
            return Combination(constant=self._constants[name])
        return Combination({name: Fraction(1)}, columns={name: token.column})

    def _inside(self, opening: _Token) -> Combination:
        self._depth += 1
        if self._depth > DEEPEST:
            raise fault(opening.column, f"more than {DEEPEST} parentheses within each other; fewer would be right")
        result = self._sum()
        if not self._take(")"):
            wanted = f"a ) for the ( at column {opening.column}, or an operator, would be right"
            received = "the end" if self._next.kind == "end" else repr(self._next.text)
            raise fault(self._next.column, f"{received} here; {wanted}")
        self._depth -= 1
        return result


def _number(token: _Token) -> Fraction:
    exponent = token.text.lower().partition("e")[2]
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > LARGEST_EXPONENT):
        raise fault(
            token.column, f"the exponent of {token.text} is beyond ±{LARGEST_EXPONENT}; a smaller one would be right"
        )
    return Fraction(token.text)


def _combined(left: Combination, sign: _Token, right: Combination) -> Combination:
    """left × right, left ÷ right."""
    if right.coefficients and sign.text == "/":
        what = "a model ÷ a model" if left.coefficients else "a number ÷ a model"
        raise fault(sign.column, f"{what} ({_names(right)}) is no merge; a number after / would be right")
    if right.coefficients and left.coefficients:
        both = f"{_names(left)} × {_names(right)}"
        raise fault(sign.column, f"a model × a model ({both}) is no merge; a number on one side of * would be right")
    if sign.text == "/":
        if not right.constant:
            raise fault(sign.column, "a division by 0; another number after / would be right")
        return left.times(1 / right.constant)
    return left.times(right.constant) if not right.coefficients else right.times(left.constant)


def _names(combination: Combination) -> str:
    return ", ".join(combination.coefficients)
