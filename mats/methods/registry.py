"""The methods by name, and the one type that any of their settings has."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Annotated, Any, Union, get_args

from pydantic import Field, TypeAdapter, ValidationError

from mats.errors import RequestError
from mats.methods.base import BaseSettings
from mats.methods.fisher import FisherSettings
from mats.methods.mats import MatsSettings
from mats.methods.regmean import RegMeanSettings
from mats.methods.settings import MethodSettingsBase, registered_settings
from mats.methods.start import DataFreeSettings

MethodSettings = Annotated[
    Union[DataFreeSettings, FisherSettings, RegMeanSettings, MatsSettings, BaseSettings],  # noqa: UP007 (read at run time)
    Field(discriminator="method"),
]
"""Settings of any method, told apart by the word under `method`."""

_ADAPTER: TypeAdapter[MethodSettings] = TypeAdapter(MethodSettings)


def method_names() -> tuple[str, ...]:
    """The words that may stand under `method`, in the order of the union."""
    union = get_args(get_args(MethodSettings)[0])
    return tuple(settings.model_fields["method"].default for settings in union)


def settings_class(name: str) -> type[MethodSettingsBase]:
    """The settings class of the method called `name`.

    Raises:
        RequestError: there is none; the nearest name is suggested.
    """
    known = method_names()
    if name not in known:
        near = difflib.get_close_matches(name.replace("-", "_").lower(), known, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise RequestError(f"method {name!r} is not known{hint} (methods: {', '.join(known)})")
    return registered_settings()[name]


def parse_method(value: Mapping[str, Any] | str) -> MethodSettings:
    """Settings from a mapping with the key `method`, or from the bare name of a method.

    Raises:
        RequestError: an unknown method, an unknown key, or a value out of range; all faults, one line each.
    """
    mapping: Mapping[str, Any] = {"method": value} if isinstance(value, str) else value
    settings_class(str(mapping.get("method", "")))
    try:
        return _ADAPTER.validate_python(dict(mapping))
    except ValidationError as error:
        lines = [
            f"method {mapping['method']}: {'.'.join(str(part) for part in fault['loc'][1:])}: {fault['msg']}"
            f" (received {fault['input']!r})"
            for fault in error.errors()
        ]
        raise RequestError("\n".join(lines)) from error
