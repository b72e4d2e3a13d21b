"""What can be refused before any file is opened is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.engine import MergeRequest, ModelInput
from mats.errors import RequestError
from mats.methods import AverageSettings
from mats.methods.model_stock import ModelStockSettings
from mats.methods.sce import SceSettings
from mats.methods.settings import MethodSettingsBase
from mats.methods.slerp import SlerpSettings

ONE = ModelInput("a", "a")


@pytest.mark.parametrize(
    ("models", "options", "message"),
    [
        ((), {}, "the list is empty"),
        ((ONE, ONE), {}, "'a' is given 2 times"),
        ((ModelInput("a", "a", float("nan")),), {}, "weight nan"),
        ((ModelInput("a", "a", 0.0),), {}, "weight 0"),
        ((ONE,), {"dtype": "int8"}, "'int8' is not one of"),
        ((ONE,), {"memory_budget": 0}, "memory_budget: 0 bytes"),
    ],
)
def test_refused(models: tuple[ModelInput, ...], options: dict[str, object], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        MergeRequest(models=models, method=AverageSettings(), output=Path("out"), **options)


@pytest.mark.parametrize("method", [SlerpSettings(), ModelStockSettings(), SceSettings()])
def test_weights_that_a_method_would_ignore_are_refused(method: MethodSettingsBase) -> None:
    models = (ONE, ModelInput("b", "b", 0.5))
    with pytest.raises(
        RequestError, match=rf"model b: weight 0.5 .* method {method.name} has no weights; leave it out"
    ):
        MergeRequest(models=models, method=method, output=Path("out"))  # type: ignore[arg-type]
