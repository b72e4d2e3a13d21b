"""Which parameters are trained: all of them, LoRA factors, or (IA)³ vectors."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field


class Strict(BaseModel):
    """Frozen, strict about keys, no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class FullTuning(Strict):
    """Every parameter."""

    method: Literal["full"] = "full"


class AdapterTuning(Strict):
    """What LoRA and (IA)³ have in common."""

    modules: tuple[str, ...] | None = Field(
        default=None,
        min_length=1,
        description="Name endings of the modules that are adapted, as `k`. Default: by what the model has.",
    )
    adapter_initialisation: int | str | None = Field(
        default=None,
        description="Seed of the adapter's own numbers, or an adapter folder to start from; tasks that share it share "
        "LoRA's A. Default: the run's seed.",
    )


class LoraTuning(AdapterTuning):
    """W + (alpha ÷ rank)·B·A on some linear layers (Hu et al., 2021)."""

    method: Literal["lora"]
    rank: int = Field(default=8, ge=1, description="Rows of A.")
    alpha: float = Field(default=16.0, gt=0, description="The update is scaled by alpha ÷ rank.")
    dropout: float = Field(default=0.0, ge=0, lt=1, description="Of the input of A.")
    rank_stabilised: bool = Field(default=False, description="Scale by alpha ÷ √rank instead.")


class Ia3Tuning(AdapterTuning):
    """A vector that scales the output of some linear layers (Liu et al., 2022)."""

    method: Literal["ia3"]


def _spelt_out(value: Any) -> Any:
    """`lora` → `{method: lora}`."""
    return {"method": value} if isinstance(value, str) else value


Tuning = Annotated[FullTuning | LoraTuning | Ia3Tuning, Field(discriminator="method"), BeforeValidator(_spelt_out)]
