"""The published presets say what the published code does (reference facts; see the module's docstring)."""

from __future__ import annotations

import pytest

from mats.errors import RequestError
from mats.methods.published import PUBLISHED, published_settings
from mats.methods.quadratic import QuadraticSettings


def test_kfac() -> None:
    settings = published_settings("mats")
    assert settings.init.method == "task_arithmetic"
    assert settings.init.scale == 0.3
    assert settings.outside.method == "average"
    assert settings.fallback == ("kfac", "init")  # lm_head has no G, so it is averaged
    assert (settings.solver.name, settings.solver.max_iterations, settings.solver.tolerance) == ("cg", 100, 1e-5)
    assert (settings.anchor, settings.radius, settings.shrinkage) == (0.0, None, None)
    assert (settings.scaling, settings.off_diagonal, settings.fold_bias) == ("tokens", 1.0, False)
    assert settings.layer_kinds == ("linear",)


def test_the_rest() -> None:
    assert published_settings("regmean").off_diagonal == 0.8
    assert published_settings("regmean_cg").solver.max_iterations == 20
    assert published_settings("fisher").floor == 1e-8
    assert published_settings("fisher_cg").floor == 0.0
    assert published_settings("ties").density == 0.2
    assert published_settings("task_arithmetic", "ia3").scale == 0.2
    assert published_settings("mats", "ia3").solver.max_iterations == 10
    assert published_settings("mats", "ia3").fallback == ("block", "init")


def test_no_preset_has_damping() -> None:
    for methods in PUBLISHED.values():
        for settings in methods.values():
            if isinstance(settings, QuadraticSettings):
                assert settings.anchor == 0.0


def test_an_unknown_method_gets_a_suggestion() -> None:
    with pytest.raises(RequestError, match="did you mean 'regmean'"):
        published_settings("regmaen")
    with pytest.raises(RequestError, match="no method 'regmean' for ia3"):
        published_settings("regmean", "ia3")
