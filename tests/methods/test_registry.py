"""Methods by name: what is registered is in the union, and settings say what is wrong with them."""

from __future__ import annotations

import copy
import pickle

import pytest
from pydantic import ValidationError

from mats.errors import RequestError
from mats.methods import TiesSettings, method_names, parse_method, settings_class
from mats.methods.settings import MethodSettingsBase, registered_settings

REQUIRED = {"formula": {"formula": "a - b"}}
"""Keys without which a method means nothing."""


def test_every_registered_method_is_in_the_union():
    assert set(method_names()) == set(registered_settings())
    assert set(method_names()) == {
        "average",
        "linear",
        "formula",
        "task_arithmetic",
        "ties",
        "tsv_m",
        "iso_c",
        "iso_cts",
        "wudi",
        "knots",
        "breadcrumbs",
        "pointwise",
        "model_stock",
        "nuslerp",
        "passthrough",
        "sce",
        "slerp",
        "sparse_task_arithmetic",
        "fisher",
        "regmean",
        "mats",
        "base",
    }


@pytest.mark.parametrize("name", method_names())
def test_every_method_has_defaults_and_explains_its_fields(name):
    settings = parse_method({"method": name, **REQUIRED.get(name, {})})
    assert isinstance(settings, settings_class(name))
    assert settings.name == name
    assert parse_method(settings.model_dump()) == settings
    assert pickle.loads(pickle.dumps(settings)) == copy.deepcopy(settings) == settings
    assert type(settings).__doc__
    for field, info in type(settings).model_fields.items():
        assert field == "method" or info.description, f"{name}.{field} has no description"


@pytest.mark.parametrize("name", method_names())
def test_settings_are_frozen_and_strict(name):
    with pytest.raises(ValidationError, match="frozen"):
        parse_method({"method": name, **REQUIRED.get(name, {})}).method = "other"
    with pytest.raises(
        RequestError, match=rf"method {name}: \S*no_such_key: Extra inputs are not permitted \(received 1\)"
    ):
        parse_method({"method": name, "no_such_key": 1})


def test_faults_are_told_together_with_what_was_received():
    with pytest.raises(RequestError, match=r"(?s)density: .*received 1.5.*zero_votes: .*received 'none'"):
        parse_method({"method": "ties", "density": 1.5, "zero_votes": "none"})
    for density in (0.0, -0.1, 1.01, float("nan")):
        with pytest.raises(ValidationError, match="density"):
            TiesSettings(density=density)


def test_unknown_methods_suggest_the_nearest():
    with pytest.raises(RequestError, match="'task-arithmetic' is not known; did you mean 'task_arithmetic'"):
        parse_method("task-arithmetic")
    with pytest.raises(RequestError, match="method '' is not known"):
        parse_method({"density": 0.2})


def test_a_word_belongs_to_one_class():
    from typing import Literal

    with pytest.raises(TypeError, match="'ties' is registered by TiesSettings already"):

        class OtherTies(MethodSettingsBase):
            method: Literal["ties"] = "ties"
