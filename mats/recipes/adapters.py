"""The section of a recipe about merging LoRA adapters into one adapter (docs/adapters.md)."""

from __future__ import annotations

from mats.methods.adapter_settings import AdapterSettings


class AdaptersSection(AdapterSettings):
    """LoRA adapters in: whether an adapter comes out, of which rank, and how the updates are put together."""


def adapters_of(section: AdaptersSection | None) -> AdapterSettings | None:
    """The section as the engine takes it."""
    return None if section is None else AdapterSettings.model_validate(section.model_dump(exclude_unset=True))
