"""RegMean: W = (Σ λ_i W_i A_i)(Σ λ_i A_i)⁻¹, layer outputs matched on every model's inputs (arXiv 2212.09849)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mats.methods.average import AverageSettings
from mats.methods.quadratic import Curvature, QuadraticSettings
from mats.methods.start import StartSettings


class RegMeanSettings(QuadraticSettings):
    """Input Grams alone: the merged layer's outputs are the closest to each model's on its own inputs."""

    statistics: ClassVar[tuple[str, ...]] = ("input_gram",)
    method: Literal["regmean"] = "regmean"
    init: StartSettings = Field(default=AverageSettings(), description="The start x0; default the average.")
    fallback: tuple[Curvature, ...] = Field(default=("input_gram", "init"), description="Default input_gram, init.")
