"""How LoRA adapters become one adapter: exactly, at a given rank, or as published code adds their factors."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Combine = Literal["auto", "exact", "svd", "factorwise", "analogy", "alpaca", "linear_only_negate_b", "peft_linear"]
"""The words that may stand under `adapters.combine`."""

FACTOR_FORMS = ("factorwise", "analogy", "alpaca", "linear_only_negate_b", "peft_linear")
"""Those of them that add factors, not updates."""


class AdapterSettings(BaseModel):
    """What comes of merging LoRA adapters, and how their updates ΔW_i = s_i B_i A_i are put together."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    output: Literal["adapter", "dense"] = Field(
        default="adapter", description="adapter: a LoRA adapter again; dense: a whole model, the base with the update."
    )
    combine: Combine = Field(
        default="auto",
        description=(
            "exact: ranks one after another, Σ κ_i s_i B_i A_i without loss, for methods that are linear; svd: the "
            "best adapter of rank `rank`, for any method; factorwise, analogy, alpaca, linear_only_negate_b, "
            "peft_linear: published sums of factors, with their cross terms (docs/adapters.md); auto: exact where "
            "the method is linear and no rank is given, else svd."
        ),
    )
    rank: int | None = Field(
        default=None, ge=1, description="Rank of svd, ≥ 1; default: of each module, the largest among the adapters."
    )
    reduce: bool = Field(
        default=False, description="exact: store no more ranks than the sum has; loses nothing; default false."
    )
    negate: Literal["A", "B"] | None = Field(
        default=None, description="factorwise: which factor takes the sign of negative weights; null: none may be."
    )
    metric: Literal["auto", "frobenius", "curvature"] = Field(
        default="auto",
        description=(
            "What svd keeps closest: frobenius (every entry counts alike), curvature (each layer's Grams of the "
            "models' metadata weigh the error), auto: curvature where the method reads metadata; default auto."
        ),
    )
    damping: float = Field(
        default=0.01,
        ge=0,
        description="Share of their mean diagonal added to the Grams of metric: curvature, ≥ 0; default 0.01.",
    )

    @model_validator(mode="after")
    def _fit_each_other(self) -> AdapterSettings:
        """Settings that would have no effect are refused."""
        set_here = self.model_fields_set
        if self.rank is not None and self.combine not in ("auto", "svd"):
            raise ValueError(f"rank: combine: {self.combine} has ranks of its own; combine: svd takes a rank")
        if self.reduce and self.combine not in ("auto", "exact"):
            raise ValueError(f"reduce: combine: {self.combine} does not take it; combine: exact does")
        if self.negate is not None and self.combine != "factorwise":
            raise ValueError(f"negate: combine: {self.combine} does not take it; combine: factorwise does")
        if self.metric == "curvature" and self.combine not in ("auto", "svd"):
            raise ValueError(f"metric: combine: {self.combine} loses nothing by a metric; combine: svd does")
        if self.reduce and self.rank is not None:
            raise ValueError("reduce: a rank makes the best adapter of that rank; one of the two would be right")
        if "damping" in set_here and self.metric == "frobenius":
            raise ValueError("damping: metric: frobenius has no Grams to be damped; metric: curvature does")
        if self.output == "dense" and (set_here & {"rank", "reduce", "metric", "damping"} or self.combine != "auto"):
            raise ValueError("output: dense holds every update whole; leave the other keys of adapters out")
        return self
