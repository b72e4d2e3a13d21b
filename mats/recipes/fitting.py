"""Whether a recipe's methods take its models: their weights, and the names in formulas. Faults stand at their keys."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from pydantic_core import InitErrorDetails, PydanticCustomError

from mats.methods.formula import FormulaSettings
from mats.methods.quadratic import QuadraticSettings
from mats.methods.settings import MethodSettingsBase
from mats.recipes.flat import FlatMethodSection
from mats.recipes.sections import ModelEntry

Place = tuple[str | int, ...]


def fitting_faults(
    merge: FlatMethodSection, rules: Sequence[FlatMethodSection], models: Sequence[ModelEntry]
) -> list[InitErrorDetails]:
    """Everything that keeps the methods of a recipe from its models, for pydantic to place."""
    methods: list[tuple[Place, MethodSettingsBase]] = [(("merge",), merge.settings)]
    methods += [(("merge", "rules", index), rule.settings) for index, rule in enumerate(rules)]
    names = [model.name for model in models]
    faults = [
        _fault((*place, "formula"), formula.formula, fault)
        for method_place, method in methods
        for place, formula in formulas_in(method, method_place)
        if (fault := formula.models_fault(names))
    ]
    for index, model in enumerate(models):
        for _, method in methods:
            if fault := method.weight_fault(model.weight):
                written = int(model.weight) if model.weight.is_integer() else model.weight
                faults.append(_fault(("models", index, "weight"), written, f"{fault} (method {method.name})"))
                break
    return faults


def formula_lines(
    merge: FlatMethodSection, rules: Sequence[FlatMethodSection], models: Sequence[ModelEntry]
) -> list[str]:
    """Every formula of a recipe as it is reduced, and what of it may not be meant."""
    names, weights = [model.name for model in models], [model.weight for model in models]
    methods = (merge.settings, *(rule.settings for rule in rules))
    found = [formula for method in methods for _, formula in formulas_in(method, ())]
    return list(dict.fromkeys(note for formula in found for note in formula.notes(names, weights)))


def formulas_in(method: MethodSettingsBase, place: Place) -> Iterator[tuple[Place, FormulaSettings]]:
    """The method, if it is a formula, or the formulas that it starts from; with the keys under which they stand."""
    if isinstance(method, FormulaSettings):
        yield place, method
    elif isinstance(method, QuadraticSettings):
        yield from formulas_in(method.init, (*place, "init"))
        if method.outside is not None:
            yield from formulas_in(method.outside, (*place, "outside"))


def _fault(place: Place, value: Any, message: str) -> InitErrorDetails:
    kind = PydanticCustomError("value_error", "{error}", {"error": message})
    return InitErrorDetails(type=kind, loc=place, input=value)
