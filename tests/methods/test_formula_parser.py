"""Formulas: reduced to the rationals that Python's own fractions give, or refused at the right column."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.errors import RequestError
from mats.methods.formula_parser import coefficients, exact, reduce_formula

MODELS = ("a", "b", "lambda", "c")
CONSTANTS = {"w": 0.3, "v": -2.0}
LITERALS = {
    "2": Fraction(2),
    "0.1": Fraction(1, 10),
    "3.": Fraction(3),
    ".25": Fraction(1, 4),
    "1.5e-2": Fraction(3, 200),
}

# A tree is (text, kind, value): `value` takes the models' values and computes with Fractions, never reading the text.
numbers = st.one_of(
    st.sampled_from(sorted(LITERALS)).map(lambda text: (text, lambda models: LITERALS[text])),
    st.sampled_from(sorted(CONSTANTS)).map(lambda name: (name, lambda models: exact(CONSTANTS[name]))),
)
models_alone = st.sampled_from(MODELS).map(lambda name: (name, lambda models: models[name]))


def joined(left, sign, right, spaces):
    compute = {
        "+": lambda x, y: x + y,
        "-": lambda x, y: x - y,
        "*": lambda x, y: x * y,
        "/": lambda x, y: x / y,
    }[sign]
    return (
        f"({left[0]}){spaces}{sign}{spaces}({right[0]})",
        lambda models: compute(left[1](models), right[1](models)),
    )


def negated(tree):
    return (f"-({tree[0]})", lambda models: -tree[1](models))


@st.composite
def trees(draw, depth=4):
    """An affine expression with at least one model somewhere."""
    if depth == 0:
        return draw(models_alone)
    kind = draw(st.sampled_from(["model", "sum", "shifted", "scaled", "scaled right", "divided", "negated"]))
    spaces = draw(st.sampled_from(["", " ", "  "]))
    if kind == "model":
        return draw(models_alone)
    inner = draw(trees(depth - 1))
    if kind == "negated":
        return negated(inner)
    if kind == "sum":
        return joined(inner, draw(st.sampled_from("+-")), draw(trees(depth - 1)), spaces)
    number = draw(numbers)
    if kind == "shifted":
        pair = (inner, number) if draw(st.booleans()) else (number, inner)
        return joined(pair[0], draw(st.sampled_from("+-")), pair[1], spaces)
    if kind == "scaled":
        return joined(number, "*", inner, spaces)
    return joined(inner, "*" if kind == "scaled right" else "/", number, spaces)


fractions = st.fractions(min_value=-50, max_value=50, max_denominator=60)


@given(trees(), st.tuples(fractions, fractions, fractions, fractions))
def test_random_trees_against_fractions(tree, values):
    text, compute = tree
    models = dict(zip(MODELS, values, strict=True))
    used = {name: value for name, value in CONSTANTS.items() if name in text.replace("lambda", "")}
    combination = reduce_formula(text, used)
    reduced = sum(factor * models[name] for name, factor in combination.coefficients.items()) + combination.constant
    assert reduced == compute(models)
    again = reduce_formula(str(combination) + " + 0*a")  # what is printed is a formula of the same value
    nonzero = {name: factor for name, factor in combination.coefficients.items() if factor}
    assert {name: factor for name, factor in again.coefficients.items() if factor} == nonzero
    assert again.constant == combination.constant


def test_golden_coefficients_of_the_published_example():
    """The example of DEM's README: κ = (−1, 5/3, −4/3) with weights (1, 5, 1), −3 for models 1, 2, 4."""
    factors = reduce_formula("-a + 2/3*(b - c) /2 - c").coefficients
    weights = {"a": 1, "b": 5, "c": 1}
    weighted = {name: factor * weights[name] for name, factor in factors.items()}
    assert weighted == {"a": Fraction(-1), "b": Fraction(5, 3), "c": Fraction(-4, 3)}
    assert sum(weighted[name] * value for name, value in {"a": 1, "b": 2, "c": 4}.items()) == -3


def test_terms_cancel_exactly():
    assert dict(reduce_formula("a - a").coefficients) == {"a": 0}
    assert dict(reduce_formula("0.1*a + 0.2*a - 0.3*a + b").coefficients) == {"a": 0, "b": 1}
    assert 0.1 + 0.2 - 0.3 != 0  # which floating point does not
    assert str(reduce_formula("a - a")) == "0"


@pytest.mark.parametrize(
    ("formula", "shown"),
    [
        ("1 - b", "-b + 1"),  # not swapped into b − 1
        ("a/2*3", "3/2*a"),
        ("a - b - c", "a - b - c"),
        ("a - (b - c)", "a - b + c"),
        ("2*-a", "-2*a"),
        ("--+a", "a"),
        ("lambda + if*2", "lambda + 2*if"),
        ("'t5-base' + \"it's\"", "'t5-base' + \"it's\""),
        ("roberta.base - é", "roberta.base - é"),
        ("1e-3*a\n + .5*b", "1/1000*a + 1/2*b"),
        ("a + 1 - 1", "a"),
    ],
)
def test_precedence_names_and_numbers(formula, shown):
    assert str(reduce_formula(formula)) == shown


@pytest.mark.parametrize(
    ("formula", "message"),
    [
        ("2/b", r"formula:2: a number ÷ a model \(b\) is no merge; a number after / would be right"),
        ("1 + a/b", r"formula:6: a model ÷ a model \(b\) is no merge"),
        ("a + 2*(a - b)*c", r"formula:14: a model × a model \(a, b × c\) is no merge; a number on one side"),
        ("(a - a)*b", r"formula:8: a model × a model"),
        ("a**2", r"formula:3: '\*' here; a name, a number or \( would be right"),
        ("a // 2", r"formula:4: '/' here"),
        ("a/(1 - 1)", "formula:2: a division by 0"),
        ("a b", "formula:3: 'b' here; an operator"),
        ("2a", "formula:2: 'a' here"),
        ("f(a)", r"formula:2: '\(' here; an operator"),
        ("(a + b", r"formula:7: the end here; a \) for the \( at column 1"),
        ("a + b)", r"formula:6: '\)' here"),
        ("a +", r"formula:4: the end here; a name, a number or \( would be right"),
        ("", "formula:1: the end here"),
        ("a % b", "formula:3: '%' is not understood"),
        ("a = b", "formula:3: '=' is not understood"),
        ("'a", 'formula:1: "\'" is not understood'),
        ("2 + 3", r"formula:1: '2 \+ 3' names no model"),
        ("1e400*a", "formula:1: the exponent of 1e400 is beyond ±300"),
        ("1e99999999999*a", "formula:1: the exponent"),
        ("(" * 101 + "a" + ")" * 101, "formula:101: more than 100 parentheses"),
        ("__import__('os')", r"formula:11: '\(' here"),
    ],
)
def test_refused_at_its_column(formula, message):
    with pytest.raises(RequestError, match=message) as caught:
        reduce_formula(formula)
    assert caught.value.exit_status == 2
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)  # DEM's error could not be unpickled


def test_constants():
    assert dict(reduce_formula("c + w*(a - c)", {"w": 0.1}).coefficients) == {
        "c": Fraction(9, 10),
        "a": Fraction(1, 10),
    }
    with pytest.raises(RequestError, match="constant v: not in the formula 'w\\*a'; leave it out"):
        reduce_formula("w*a", {"w": 1, "v": 2})
    with pytest.raises(RequestError, match="formula:2: a division by 0"):
        reduce_formula("a/w", {"w": 0})


def test_coefficients_of_named_models():
    """What merging of adapters takes: one rational per name, 0 where the formula does not name it."""
    found = coefficients("base + w*(a - base)", {"w": 0.9}, ["a", "b", "base"])
    assert found == {"a": Fraction(9, 10), "b": 0, "base": Fraction(1, 10)}
    with pytest.raises(
        RequestError, match=r"formula:5: 'aa' is neither a model \(a, b\) nor a constant; did you mean 'a'"
    ):
        coefficients("b - aa", None, ["a", "b"])
    with pytest.raises(RequestError, match="adds 1/2 to every weight"):
        coefficients("a + 0.5", None, ["a"])


def test_deeply_chained_formulas_do_not_exhaust_the_stack():
    assert reduce_formula("-" * 5000 + "a").coefficients == {"a": 1}
    assert reduce_formula("+".join(["a"] * 2000)).coefficients == {"a": 2000}
    combination = reduce_formula("a - b")
    assert copy.deepcopy(combination) == pickle.loads(pickle.dumps(combination)) == combination
