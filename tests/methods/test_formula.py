"""The method `formula`: the reduced combination against float64, what is read, and what it says about itself."""

from __future__ import annotations

import copy
import pickle
from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from mats.errors import RequestError
from mats.methods import FormulaSettings, elementwise, parse_method
from mats.methods.formula_parser import reduce_formula

NAMES = ("a", "b", "c")


def tensor(*values, dtype=torch.float32):
    return torch.tensor(values, dtype=dtype)


def merge(formula, models, *, weights=None, base=None, constants=None):
    """Merge named tensors as the engine does: those that the method wants, in its order."""
    settings = FormulaSettings(formula=formula, constants=constants or {})
    names, weights = tuple(models), [(weights or {}).get(name, 1.0) for name in models]
    made = elementwise(settings, weights, names)
    wanted = [names[index] for index in settings.models_read(names, weights)]
    given = base if settings.reads_base(names) else None
    return made.merge("w", None if given is None else given.clone(), (models[name].clone() for name in wanted))


def test_golden_value_of_the_published_example():
    models = {"a": tensor(1.0), "b": tensor(2.0), "c": tensor(4.0)}
    merged = merge("-a + 2/3*(b - c) /2 - c", models, weights={"b": 5.0})
    assert torch.allclose(merged, tensor(-3.0), atol=1e-6)


def test_a_number_minus_a_model_is_not_swapped():
    assert torch.equal(merge("1 - b", {"b": tensor(3.0, 0.5)}), tensor(-2.0, 0.5))
    assert torch.equal(merge("b - 1", {"b": tensor(3.0, 0.5)}), tensor(2.0, -0.5))


def test_half_precision_is_summed_in_fp32():
    models = {name: tensor(value, dtype=torch.bfloat16) for name, value in zip("abc", (1.0, 0.003, 0.003), strict=True)}
    assert (models["a"] + models["b"] + models["c"]).item() == 1.0  # term by term in bf16
    assert merge("a + b + c", models).to(torch.bfloat16).item() == 1.0078125
    assert merge("a + 0.003 + 0.003", {"a": models["a"]}).to(torch.bfloat16).item() == 1.0078125


factors = st.fractions(min_value=-4, max_value=4, max_denominator=50)


@given(st.tuples(factors, factors, factors), st.integers(0, 100), st.permutations(range(4)), st.permutations(NAMES))
def test_every_reordering_gives_the_same_bytes(kappa, seed, terms_order, models_order):
    generator = torch.Generator().manual_seed(seed)
    base, *tensors = (torch.randn(7, generator=generator) for _ in range(4))
    models = dict(zip(NAMES, tensors, strict=True))
    terms = [f"{abs(factor)}*{name}" for factor, name in zip(kappa, NAMES, strict=True)] + ["3/7*base"]
    signs = ["-" if factor < 0 else "+" for factor in kappa] + ["+"]
    plain = merge(" ".join(f"{sign} {term}" for sign, term in zip(signs, terms, strict=True)), models, base=base)
    turned = merge(
        " ".join(f"{signs[i]} {terms[i]}" for i in terms_order),
        {name: models[name] for name in models_order},
        base=base,
    )
    assert torch.equal(plain, turned)
    expected = 3 / 7 * base.double() + sum(float(f) * models[n].double() for f, n in zip(kappa, NAMES, strict=True))
    assert torch.allclose(plain.double(), expected, atol=2e-5)


def test_what_cancels_is_not_read():
    settings = FormulaSettings(formula="base + b - a + c - base + a")
    assert settings.models_read(("c", "x", "b", "a"), [1.0] * 4) == (2, 0)  # by name: b, c
    assert not settings.reads_base(("a", "b", "c"))
    assert settings.models_read(("c", "b", "a"), [0.0, 1.0, 1.0]) == (1,)  # a weight of 0 cancels as well


def test_a_minus_a_is_zero():
    merged = merge("a - a", {"a": tensor(-1.0, 3.0, dtype=torch.bfloat16)})
    assert merged.dtype == torch.float32
    assert merged.numpy().tobytes() == bytes(8)  # +0, not −0
    assert torch.equal(merge("a - a + 2", {"a": tensor(5.0)}), tensor(2.0))


def test_base_is_the_base_unless_a_model_is_called_so():
    base, model = tensor(1.0, 2.0), tensor(3.0, -1.0)
    assert torch.equal(merge("base - 0.5*(a - base)", {"a": model}, base=base), tensor(0.0, 3.5))
    assert torch.equal(merge("base - 0.5*(a - base)", {"a": model, "base": tensor(10.0, 10.0)}), tensor(13.5, 15.5))
    with pytest.raises(RequestError, match="formula: w: task vectors are differences from a base model"):
        merge("a - base", {"a": model})


def test_what_is_not_floating_point_stays():
    ids = torch.arange(4)
    assert torch.equal(merge("0.5*a + 0.5*b", {"a": ids, "b": ids + 1}), ids)
    assert torch.equal(merge("0.5*base + 0.5*b", {"b": ids + 1}, base=ids), ids)


def test_notes_print_the_reduced_formula_with_weights():
    settings = FormulaSettings(formula="-a + 2/3*(b - c) /2 - c")
    assert settings.notes(NAMES, (1.0, 5.0, 1.0)) == ("formula -a + 2/3*(b - c) /2 - c = -a + 5/3*b - 4/3*c",)
    odd = FormulaSettings(formula="a - b + b + 0.5")
    assert odd.notes(NAMES, (1.0, 1.0, 1.0))[1:] == (
        "formula: b: coefficient 0, not read",
        "formula: c: not in the formula, not read",
        "formula: 1/2 is added to every single weight; rarely what is meant",
    )
    shown = odd.notes(NAMES, (1.0, 1.0, 1.0))[0].partition(" = ")[2]
    assert reduce_formula(shown).coefficients == {"a": Fraction(1)}


@pytest.mark.parametrize(
    ("formula", "constants", "names", "message"),
    [
        ("a - d", {}, NAMES, r"formula:5: 'd' is neither a model \(a, b, c, base\) nor a constant"),
        ("a + w*b", {"w": 1, "b": 2}, NAMES, "constant b: a model has this name"),
    ],
)
def test_names_that_are_not_models(formula, constants, names, message):
    settings = FormulaSettings(formula=formula, constants=constants)
    with pytest.raises(RequestError, match=message):
        elementwise(settings, [1.0] * len(names), names)


def test_settings_are_checked_when_made():
    with pytest.raises(ValidationError, match=r"formula:2: a number ÷ a model"):
        FormulaSettings(formula="2/b")
    with pytest.raises(ValidationError, match="constants: 'base' is what a formula calls the base model"):
        FormulaSettings(formula="a + base*b", constants={"base": 2})
    with pytest.raises(RequestError, match=r"method formula: formula: .*Field required"):
        parse_method("formula")
    with pytest.raises(RequestError, match="the coefficient of a is beyond"):
        elementwise(FormulaSettings(formula="1e300*1e300*a"), [1.0])


def test_settings_are_keys_and_read_back():
    settings = FormulaSettings(formula="a + w*b", constants={"w": 0.5})
    assert {settings: 1}[parse_method(settings.model_dump())] == 1
    assert settings != FormulaSettings(formula="a + w*b", constants={"w": 0.25})
    assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == settings
