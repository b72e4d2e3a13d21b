"""Settings of the quadratic methods: ranges, defaults, and what a user may write."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from mats.errors import RequestError
from mats.methods import FisherSettings, MatsSettings, RegMeanSettings, parse_method


def test_defaults() -> None:
    assert MatsSettings().init.method == "tsv_m"
    assert RegMeanSettings().fallback == ("input_gram", "init")
    assert FisherSettings().anchor == 1e-6
    assert MatsSettings().outside_settings == MatsSettings().init


def test_nested_settings_are_parsed() -> None:
    settings = parse_method(
        {"method": "mats", "init": {"method": "ties", "density": 0.1}, "solver": {"name": "pcg"}, "shrinkage": "oas"}
    )
    assert isinstance(settings, MatsSettings)
    assert settings.init.density == 0.1
    assert settings.shrinkage == "oas"


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("anchor", -1),
        ("radius", 0),
        ("off_diagonal", 1.1),
        ("shrinkage", 1.5),
        ("shrinkage", "wolf"),
        ("floor", -1e-8),
        ("scaling", "mean"),
        ("fallback", ["kfak"]),
        ("layer_kinds", ["dense"]),
        ("anchors", 1),
        ("solver", {"name": "gmres"}),
        ("solver", {"tolerance": 1.0}),
        ("solver", {"max_iterations": 0}),
        ("init", {"method": "regmean"}),
    ],
)
def test_out_of_range(key: str, value: object) -> None:
    with pytest.raises(RequestError, match=key):
        parse_method({"method": "mats", key: value})


def test_frozen() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        MatsSettings().anchor = 0.0
