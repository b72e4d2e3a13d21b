"""What can be refused before any file is opened is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from mats.engine import MergeRequest, ModelInput
from mats.errors import RequestError
from mats.methods import AverageSettings

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
