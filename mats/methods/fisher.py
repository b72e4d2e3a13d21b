"""Diagonal Fisher merging: W = Σ λ_i F_i∘W_i / Σ λ_i F_i, anchored to the start (arXiv 2111.09832)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mats.methods.average import AverageSettings
from mats.methods.quadratic import Curvature, QuadraticSettings
from mats.methods.start import StartSettings


class FisherSettings(QuadraticSettings):
    """Every parameter weighted, entry by entry, by the mean squared gradient of the log-likelihood."""

    statistics: ClassVar[tuple[str, ...]] = ("diagonal",)
    method: Literal["fisher"] = "fisher"
    init: StartSettings = Field(default=AverageSettings(), description="The start x0; default the average.")
    fallback: tuple[Curvature, ...] = Field(default=("diagonal", "init"), description="Default diagonal, init.")
    anchor: float = Field(
        default=1e-6,
        ge=0,
        description="μ ÷ Σ_i λ_i mean F_i, ≥ 0: a relative floor; entries unseen by all keep the start; default 1e-6.",
    )
