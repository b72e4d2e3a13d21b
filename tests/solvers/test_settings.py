"""Settings are checked when made, with the value and the range."""

from __future__ import annotations

from typing import Any

import pytest

from mats.errors import RequestError
from mats.solvers import SolverSettings


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": "gmres"}, r"solver name 'gmres'; expected one of pcg, cg, direct, auto"),
        ({"precision": "float16"}, r"solver precision 'float16'; expected one of float32, float64"),
        ({"reference": "b"}, r"solver reference 'b'; expected one of correction, weights"),
        ({"anchor": -0.1}, r"solver anchor is -0\.1; expected a number at least 0"),
        ({"anchor": float("nan")}, r"solver anchor is nan"),
        ({"anchor": float("inf")}, r"solver anchor is inf"),
        ({"radius": 0.0}, r"solver radius is 0\.0; expected a number greater than 0"),
        ({"tolerance": 1.0}, r"solver tolerance is 1\.0; expected a number in \[0, 1\)"),
        ({"cutoff": -1.0}, r"solver cutoff is -1\.0; expected a number in \[0, 1\)"),
        ({"max_iterations": 0}, r"solver max_iterations is 0; expected a number at least 1"),
        ({"check_every": 0}, r"solver check_every is 0"),
        ({"refinements": -1}, r"solver refinements is -1; expected a number at least 0"),
        ({"snapshots": (0,)}, r"solver snapshot is 0; expected a number in \[1, 300\]"),
        ({"snapshots": (40,), "max_iterations": 30}, r"solver snapshot is 40; expected a number in \[1, 30\]"),
        ({"snapshots": (3,), "name": "direct"}, r"snapshots follow one iteration at one anchor"),
        ({"snapshots": (3,), "radius": 1.0}, r"snapshots follow one iteration at one anchor"),
        ({"snapshots": (3,), "precision": "bfloat16_refined"}, r"and precision bfloat16_refined restarts it"),
    ],
)
def test_out_of_range(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        SolverSettings(**wrong)


def test_defaults_survive_both_regimes() -> None:
    """The design's choice: preconditioned, anchored at a tenth of the mean curvature."""
    settings = SolverSettings()
    assert (settings.name, settings.anchor, settings.radius, settings.tolerance) == ("pcg", 0.1, None, 1e-4)
