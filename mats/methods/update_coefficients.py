"""Methods that are linear combinations, as coefficients of the models' updates: the base stays, θ0 + Σ κ_i (θ_i − θ0).

A method over models θ_i = θ0 + ΔW_i is one of their updates alone where the base's own coefficient comes out as 1; an
adapter holds nothing of the base.
"""

from __future__ import annotations

from collections.abc import Sequence

from mats.errors import RequestError
from mats.methods.average import AverageSettings
from mats.methods.formula import FormulaSettings
from mats.methods.linear import LinearSettings
from mats.methods.settings import MethodSettingsBase
from mats.methods.task_arithmetic import TaskArithmeticSettings

ROUNDING = 1e-9  # what sums of decimal weights may miss 1 by


def update_coefficients(
    settings: MethodSettingsBase, names: Sequence[str], weights: Sequence[float]
) -> tuple[float, ...] | None:
    """κ_i, one per model; None where the method is not linear, or its coefficients come from metadata.

    Args:
        settings: of the method.
        names: of the models, as a formula names them.
        weights: of the models.

    Raises:
        RequestError: the method is linear, and part of the base is left over or missing.
    """
    if isinstance(settings, AverageSettings):
        return settings.build(weights).shares
    if isinstance(settings, TaskArithmeticSettings) and settings.scale != "auto":
        return tuple(settings.scale * weight for weight in weights)
    if isinstance(settings, LinearSettings):
        coefficients = settings.build(weights).coefficients
        _check_base(f"method {settings.name}", sum(coefficients))
        return coefficients
    if isinstance(settings, FormulaSettings):
        combination = settings.weighted(names, weights)
        if combination.constant:
            raise RequestError(
                f"formula {settings.formula}: {combination.constant} is added to every weight, which an adapter cannot "
                "hold; a formula of models alone would be right"
            )
        _check_base(f"formula {settings.formula}", float(sum(combination.coefficients.values())))
        return tuple(float(combination.coefficients.get(name, 0)) for name in names)
    return None


def _check_base(what: str, total: float) -> None:
    if abs(total - 1) > ROUNDING:
        raise RequestError(
            f"{what}: every model stands for the base with its update, and {total:g} times the base would be "
            "left, which an adapter cannot hold; coefficients that sum to 1 (with that of base), or "
            "task_arithmetic (a sum of updates), would be right"
        )
