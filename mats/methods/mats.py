"""MaTS: Σ λ_i G_i (W − W_i) A_i = 0, models matched in their task subspaces (arXiv 2312.04339)."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from mats.methods.quadratic import DAMPING, SCALING, Curvature, QuadraticSettings, Scaling
from mats.methods.start import StartSettings
from mats.methods.tsv_m import TsvMSettings


class MatsSettings(QuadraticSettings):
    """K-FAC curvature where the metadata hold it, then what they do hold, then the start."""

    statistics: ClassVar[tuple[str, ...]] = ("input_gram", "output_gram", "block", "diagonal")
    method: Literal["mats"] = "mats"
    init: StartSettings = Field(default=TsvMSettings(), description="The start x0; default tsv_m, scale 1.")
    damping: float = Field(
        default=0.1,
        ge=0,
        description=f"{DAMPING}; default 0.1.",
    )
    anchor: float = Field(
        default=0.0,
        ge=0,
        description="μ ÷ Σ_i λ_i mean diagonal of C_i: a pull toward the start, alike in all directions; default 0.",
    )
    scaling: Scaling = Field(default="balanced", description=f"{SCALING}; default balanced.")
    fallback: tuple[Curvature, ...] = Field(
        default=("kfac", "input_gram", "block", "diagonal", "init"),
        description="Default kfac, input_gram, block, diagonal, init.",
    )
