"""How stored pixels become a model's input: the `image` key of a dataset file."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from mats.data.strict import Strict


class ImageSettings(Strict):
    """How stored pixels become `pixel_values` [B, C, H, W]: (pixel ÷ largest_pixel − mean) ÷ std."""

    size: tuple[int, int] | None = Field(
        default=None, description="Height and width; other images are resampled. Default: as stored."
    )
    channels: Literal[1, 3] = Field(
        default=3, description="Channels of the model's input; one stored channel is repeated."
    )
    channel_axis: Literal["first", "last"] = Field(
        default="last", description="Where stored images [.., .., ..] have their channels."
    )
    largest_pixel: float = Field(default=255.0, gt=0, description="Stored value that becomes 1.")
    mean: tuple[float, ...] = Field(
        default=(0.0,), min_length=1, description="Per channel, or one for all; in units of 0 … 1."
    )
    std: tuple[float, ...] = Field(default=(1.0,), min_length=1, description="Per channel, or one for all; above 0.")

    @field_validator("size", "mean", "std", mode="before")
    @classmethod
    def _number_for_all(cls, value: Any, info: Any) -> Any:
        """A single number where a list is meant."""
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return [value, value] if info.field_name == "size" else [value]
        return value

    @model_validator(mode="after")
    def _per_channel(self) -> ImageSettings:
        for name in ("mean", "std"):
            count = len(getattr(self, name))
            if count not in (1, self.channels):
                raise ValueError(
                    f"{name} has {count} values for {self.channels} channels; one, or one per channel, would be right"
                )
        if min(self.std) <= 0 or (self.size is not None and min(self.size) < 1):
            raise ValueError("std and size must be above 0")
        return self
