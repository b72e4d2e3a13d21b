"""The hard cases of the tests (`tests/hard_systems.py`), every solver and precision: what comes out, in numbers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).parents[2] / "tests"))

from hard_systems import HARD_CASES, STRENGTHS, HardCase, hard_settings, solve_hard

TOLERANCE = 1e-5
CHOICES = (
    ("cg", "float32"),
    ("pcg", "float32"),
    ("pcg", "float64"),
    ("pcg", "bfloat16_refined"),
    ("direct", "float32"),
    ("auto", "float32"),
)


def measure() -> list[dict[str, Any]]:
    """A line per case, strength and solver."""
    return [
        _line(name, build(), strength, solver, precision)
        for name, build in HARD_CASES.items()
        for strength in STRENGTHS
        for solver, precision in CHOICES
    ]


def _line(name: str, case: HardCase, strength: str, solver: str, precision: str) -> dict[str, Any]:
    asked = STRENGTHS[strength]
    judged = solve_hard(case, asked, hard_settings(asked, solver, precision, TOLERANCE))
    distances = [distance for distance in judged.distances if distance is not None]
    told = [certificate.null_share for certificate in judged.certificates if certificate.null_share is not None]
    return {
        "case": name,
        "strength": strength,
        "solver": solver,
        "precision": precision,
        "reasons": [certificate.stop_reason.value for certificate in judged.certificates],
        "iterations": [certificate.iterations for certificate in judged.certificates],
        "finite": bool(judged.value.isfinite().all()),
        "residuals": judged.residuals,
        "distance": max(distances) if distances else None,
        "unseen_share": max(judged.hidden),
        "certified_unseen_share": max(told) if told else None,
    }
