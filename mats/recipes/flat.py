"""Sections that carry a method's settings beside keys of their own: `{method: ties, density: 0.1, rules: […]}`.

Users write one flat mapping. In here the method's settings are a model of their own (`settings`), told apart by
`method`, so that each method's keys are checked by that method's schema and by nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import SerializeAsAny, SerializerFunctionWrapHandler, model_serializer, model_validator

from mats.methods.registry import MethodSettings
from mats.methods.settings import MethodSettingsBase, registered_settings
from mats.recipes.layers import METHOD_KEYS
from mats.recipes.sections import Section

DEFAULT_METHOD = "mats"


def _spelt_out(key: str, entry: Any) -> Any:
    """`init: average` → `init: {method: average}`."""
    return {"method": entry} if key in METHOD_KEYS and isinstance(entry, str) else entry


class FlatMethodSection(Section):
    """A section whose keys are its own fields and those of the method it names."""

    settings: SerializeAsAny[MethodSettings]
    default_method: ClassVar[str | None] = None
    """The method meant when none is named; None: naming one is required."""

    @model_validator(mode="before")
    @classmethod
    def _gather_settings(cls, value: Any) -> Any:
        """Move the method's keys below `settings`."""
        if isinstance(value, str):
            value = {"method": value}
        if not isinstance(value, Mapping):
            return value
        own = {key: entry for key, entry in value.items() if key in cls.own_keys()}
        settings = {key: _spelt_out(key, entry) for key, entry in value.items() if key not in own}
        if cls.default_method is not None:
            settings.setdefault("method", cls.default_method)
        return {**own, "settings": settings}

    @model_serializer(mode="wrap")
    def _flatten(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """The flat mapping again, as users write it: the method first."""
        dumped = handler(self)
        return {**dumped.pop("settings"), **dumped}

    @classmethod
    def own_keys(cls) -> tuple[str, ...]:
        """The keys that do not belong to the method."""
        return tuple(name for name in cls.model_fields if name != "settings")

    @classmethod
    def known_fields(cls, data: Any) -> dict[str, Any]:
        """Every key that may stand in this section, given what stands there already, with its annotation."""
        own = {name: cls.model_fields[name].annotation for name in cls.own_keys()}
        named = data.get("method", cls.default_method) if isinstance(data, Mapping) else data or cls.default_method
        settings = registered_settings().get(named) if isinstance(named, str) else None
        fields = MethodSettingsBase.model_fields if settings is None else settings.model_fields
        method: dict[str, Any] = {"method": str}
        return {**method, **own, **{name: field.annotation for name, field in fields.items()}}
