"""A formula over named models, `base + 0.7*(a - base)`: Σ κ_j θ_j + constant, with exact κ_j (DEM, arXiv 2406.15570).

The formula is reduced before any tensor is read. A model's weight multiplies its κ. Models are read once each, in the
order of their names, so that neither the order of the models nor that of the terms changes a byte; one whose κ is 0 is
not read.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fractions import Fraction
from functools import lru_cache
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field, model_validator

from mats.errors import RequestError
from mats.methods.elementwise import SinglePass, is_mergeable, numbered, require_base, working_dtype
from mats.methods.formula_parser import Combination, check_names, exact, reduce_formula
from mats.methods.linear import add_multiple
from mats.methods.settings import AllowedWeights, ElementwiseSettings

if TYPE_CHECKING:
    from torch import Tensor

BASE = "base"
"""What a formula calls the base model, unless a model has this name."""


class FormulaSettings(ElementwiseSettings):
    """Models combined by a formula of names, numbers, + - * / and parentheses, reduced to one coefficient per model."""

    needs_base: ClassVar[bool] = False  # the formula decides: `reads_base`
    allowed_weights: ClassVar[AllowedWeights] = "any"
    method: Literal["formula"] = "formula"
    formula: str = Field(
        min_length=1,
        description="As `base + w*(a - base)`: names of models (quoted if they hold other signs), `base`, constants.",
    )
    constants: dict[str, float] = Field(
        default={}, description="Values of names in the formula that are no models; default none."
    )

    def __hash__(self) -> int:
        return hash((self.formula, *sorted(self.constants.items())))

    @model_validator(mode="after")
    def _is_a_formula(self) -> FormulaSettings:
        """Everything that the text alone can get wrong."""
        if BASE in self.constants:
            raise ValueError(f"constants: {BASE!r} is what a formula calls the base model; another name would be right")
        self.reduced()
        return self

    def reduced(self) -> Combination:
        """The formula as one coefficient per name, weights not yet counted.

        Raises:
            RequestError: `formula:column: message`.
        """
        return _reduced(self.formula, tuple(self.constants.items()))

    def weighted(self, model_names: Sequence[str], model_weights: Sequence[float]) -> Combination:
        """The formula with every model's weight in its coefficient.

        Raises:
            RequestError: a name that is no model, or a model that is called like a constant.
        """
        if fault := self.models_fault(model_names):
            raise RequestError(fault)
        weights = {name: exact(weight) for name, weight in zip(model_names, model_weights, strict=True)}
        found = self.reduced()
        factors = {name: factor * weights.get(name, Fraction(1)) for name, factor in found.coefficients.items()}
        return Combination(factors, found.constant, found.columns)

    def models_fault(self, model_names: Sequence[str]) -> str | None:
        """What is wrong with merging these models; None where nothing is."""
        for name in self.constants:
            if name in model_names:
                return f"constant {name}: a model has this name; another one would be right"
        try:
            check_names(self.reduced(), list(dict.fromkeys((*model_names, BASE))))
        except RequestError as error:
            return str(error)
        return None

    def reads_base(self, model_names: Sequence[str]) -> bool:
        """Whether the base counts in the formula."""
        return BASE not in model_names and self.reduced().coefficients.get(BASE, 0) != 0

    def models_read(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[int, ...]:
        """Those whose coefficient is not 0, by name; the first of all, for its shapes, where nothing else is read."""
        factors = self.weighted(model_names, model_weights).coefficients
        read = sorted((name, index) for index, name in enumerate(model_names) if factors.get(name, 0))
        if not read and not self.reads_base(model_names):
            return (0,)
        return tuple(index for _, index in read)

    def notes(self, model_names: Sequence[str], model_weights: Sequence[float]) -> tuple[str, ...]:
        """The formula as reduced, and what of it may not be meant."""
        combination = self.weighted(model_names, model_weights)
        told = [f"formula {self.formula} = {combination}"]
        cancelled = [name for name, factor in combination.coefficients.items() if not factor]
        unnamed = [name for name in model_names if name not in combination.coefficients]
        if cancelled:
            told.append(f"formula: {', '.join(cancelled)}: coefficient 0, not read")
        if unnamed:
            told.append(f"formula: {', '.join(unnamed)}: not in the formula, not read")
        if combination.constant:
            told.append(f"formula: {combination.constant} is added to every single weight; rarely what is meant")
        return tuple(told)

    def build(self, model_weights: Sequence[float]) -> FormulaMerge:
        """The merge of models given in the order in which they first stand in the formula."""
        names = [name for name in self.reduced().coefficients if name != BASE]
        return self.build_for(names, model_weights)

    def build_for(self, model_names: Sequence[str], model_weights: Sequence[float]) -> FormulaMerge:
        """The merge of the models that `models_read` lists, in its order."""
        combination = self.weighted(model_names, model_weights)
        factors = [_as_float(combination, model_names[index]) for index in self.models_read(model_names, model_weights)]
        base = _as_float(combination, BASE) if BASE not in model_names else 0.0
        return FormulaMerge(factors, base, float(combination.constant))


@lru_cache(maxsize=256)
def _reduced(formula: str, constants: tuple[tuple[str, float], ...]) -> Combination:
    return reduce_formula(formula, dict(constants))


def _as_float(combination: Combination, name: str) -> float:
    try:
        return float(combination.coefficients.get(name, Fraction(0)))
    except OverflowError as error:
        raise RequestError(f"formula: the coefficient of {name} is beyond ±1.8e308") from error


class FormulaMerge(SinglePass):
    """κ_0 θ_0 + Σ κ_j θ_j + constant, one model at a time.

    Attributes:
        factors: κ_j, one for each model that is given.
        base: κ_0; the base is not needed where it is 0.
        constant: what is added to every weight.
    """

    def __init__(self, factors: Sequence[float], base: float, constant: float) -> None:
        self.factors, self.base, self.constant = tuple(factors), base, constant

    def merge(self, name: str, base: Tensor | None, models: Iterable[Tensor]) -> Tensor:
        """See `ElementwiseMerge.merge`."""
        import torch

        if base is not None and not is_mergeable(base.dtype):
            return base
        total: Tensor | None = None
        shape = None if base is None else base.shape
        if self.base:
            total = add_multiple(None, require_base("formula", name, base), self.base)
        del base
        for index, tensor in numbered(name, shape, models, len(self.factors)):
            if not is_mergeable(tensor.dtype):
                return tensor
            if self.factors[index]:
                total = add_multiple(total, tensor, self.factors[index])
            elif total is None:
                total = torch.zeros_like(tensor, dtype=working_dtype(tensor.dtype))
            del tensor
        assert total is not None  # something is always read
        return total.add_(self.constant) if self.constant else total
