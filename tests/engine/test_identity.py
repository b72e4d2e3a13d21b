"""Partial work is taken up again only for a request that gives the same bytes."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from mats.checkpoints.vocabulary import VocabularyChoice
from mats.engine import Heads, MergeRequest, ModelInput
from mats.engine.arrangement import Arrangement
from mats.engine.identity import WITHOUT_EFFECT, request_content
from mats.engine.request import Rule
from mats.methods import AverageSettings, TaskArithmeticSettings
from mats.methods.adapter_settings import AdapterSettings
from mats.methods.assigned import AssignedSettings
from mats.methods.sparsify import SparsifySettings

MODEL = ModelInput("a", "a")
REQUEST = MergeRequest((MODEL,), AverageSettings(), Path("out"), base="base")
SCALED = TaskArithmeticSettings(scale=0.5)
OTHER: dict[str, Any] = {
    "models": (MODEL, ModelInput("b", "b")),
    "method": SCALED,
    "output": Path("elsewhere"),
    "base": "another",
    "rules": (Rule("*.bias", SCALED),),
    "missing": "zeros",
    "heads": Heads(source="a"),
    "adapters": AdapterSettings(combine="exact"),
    "dtype": "bfloat16",
    "device": "cpu",
    "memory_budget": 1 << 20,
    "overwrite": True,
    "strict": True,
    "max_shard_bytes": 1 << 20,
    "vocab": "union",
    "tokenizer": VocabularyChoice("base"),
    "chat_template": "chatml",
    "assignments": {"x": AssignedSettings(settings=SCALED, models=(0,), weights=(1.0,))},
    "arrangement": Arrangement(({"x": "y"},)),
    "notes": ("a sentence",),
    "resolved_recipe": {"seed": 1},
}
OTHER_MODEL: dict[str, Any] = {
    "name": "b",
    "path": "b",
    "weight": 2.0,
    "metadata": Path("store"),
    "measured_on": "c",
    "folds": (Path("first"), Path("second")),
    "sparsify": SparsifySettings(drop=0.5),
    "adapter": "d",
}


@pytest.mark.parametrize("name", [field.name for field in fields(MergeRequest)])
def test_every_field_of_a_request_is_in_its_identity_or_told_to_have_no_effect(name: str) -> None:
    changed = replace(REQUEST, **{name: OTHER[name]})
    assert (request_content(changed) == request_content(REQUEST)) == (name in WITHOUT_EFFECT)


@pytest.mark.parametrize("name", [field.name for field in fields(ModelInput)])
def test_every_field_of_a_model_is_in_the_identity(name: str) -> None:
    changed = replace(REQUEST, models=(replace(MODEL, **{name: OTHER_MODEL[name]}),))
    assert request_content(changed) != request_content(REQUEST)


def test_nothing_is_told_of_fields_that_there_are_not() -> None:
    assert WITHOUT_EFFECT.keys() <= {field.name for field in fields(MergeRequest)}
