"""All axes of a sweep together: the settings of its points, in order, the first axis the slowest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mats.errors import RecipeError
from mats.sweeps.axis import MODELS, Setting, plain_values
from mats.sweeps.model_sets import model_settings
from mats.sweeps.normalized import KIND, normalized_settings
from mats.sweeps.ties_strings import FROM_TIES, ties_settings

VARIANT_KEYS = {"name", "set", "axes"}


def expand_axes(
    axes: Mapping[str, Any], zipped: Sequence[Sequence[str]], model_names: Sequence[str], where: str
) -> list[Setting]:
    """The settings of every point; combinations that come twice are kept once.

    Args:
        axes: name → what the sweep file says.
        zipped: groups of axes that advance together instead of being crossed.
        model_names: the recipe's models.
        where: the file, for errors.

    Raises:
        RecipeError: an axis has faults (all axes' faults at once), two axes set one key, zipped axes differ in length.
    """
    faults: list[str] = []
    settings: dict[str, list[Setting]] = {}
    for name, written in axes.items():
        try:
            settings[name] = axis_settings(name, written, model_names, f"{where}: axes.{name}")
        except RecipeError as error:
            faults += error.faults
    faults += _zip_faults(axes, zipped, settings, where)
    if faults:
        raise RecipeError(faults)
    points = [Setting()]
    for group in _groups(settings, zipped):
        rows = [_together(row, where) for row in zip(*(settings[name] for name in group), strict=True)]
        points = [point.joined(row, where) for point in points for row in rows]
    return _distinct(points)


def axis_settings(name: str, written: Any, model_names: Sequence[str], where: str) -> list[Setting]:
    """The settings of one axis: values of the recipe key `name`, named variants, sets of models, or merge strings.

    Raises:
        RecipeError: it has faults.
    """
    if name == MODELS:
        return model_settings(written, model_names, where)
    if name == FROM_TIES:
        return ties_settings(written, where)
    if isinstance(written, Mapping) and KIND in written:
        return normalized_settings(name, written, where)
    if isinstance(written, list) and any(_is_variant(entry) for entry in written):
        return [setting for entry in written for setting in _variant(name, entry, model_names, where)]
    return [Setting({name: value}, {name: value}) for value in plain_values(name, written, where)]


def _is_variant(entry: Any) -> bool:
    """With `name` alone it would be a value, as the solver's `{name: cg}` is."""
    return isinstance(entry, Mapping) and {"name"} < set(entry) <= VARIANT_KEYS


def _variant(name: str, entry: Any, model_names: Sequence[str], where: str) -> list[Setting]:
    """`{name: ties, set: {key: value}, axes: {…}}`: the keys it sets, crossed with axes of its own."""
    if not _is_variant(entry) or not isinstance(entry.get("set", {}), Mapping):
        raise RecipeError(
            [f"{where}: received {entry!r}; among named variants {{name: …, set: {{key: value}}}} would be right"]
        )
    fixed = Setting({name: entry["name"]})
    for key, value in entry.get("set", {}).items():
        fixed = fixed.joined(Setting({}, {key: value}), f"{where}.{entry['name']}")
    inner = expand_axes(entry.get("axes", {}), (), model_names, f"{where}.{entry['name']}")
    return [fixed.joined(setting, f"{where}.{entry['name']}") for setting in inner]


def _zip_faults(
    axes: Mapping[str, Any], zipped: Sequence[Sequence[str]], settings: Mapping[str, list[Setting]], where: str
) -> list[str]:
    """Zipped axes must exist, stand in one group, and be equally long."""
    faults = []
    named = [name for group in zipped for name in group]
    for name in dict.fromkeys(named):
        if name not in axes:
            faults.append(f"{where}: zip: no axis {name!r}; one of {', '.join(axes)} would be right")
        elif named.count(name) > 1:
            faults.append(f"{where}: zip: axis {name!r} is named twice; once would be right")
    for group in zipped:
        lengths = {name: len(settings[name]) for name in group if name in settings}
        if len(set(lengths.values())) > 1:
            listed = ", ".join(f"{name} has {length}" for name, length in lengths.items())
            faults.append(f"{where}: zip: {listed} values; equally many would be right")
    return faults


def _groups(settings: Mapping[str, list[Setting]], zipped: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Axes that advance together, each group where its first member stands."""
    groups: list[tuple[str, ...]] = []
    for name in settings:
        group = next(
            (tuple(other for other in settings if other in names) for names in zipped if name in names), (name,)
        )
        if group not in groups:
            groups.append(group)
    return groups


def _together(row: Sequence[Setting], where: str) -> Setting:
    setting = Setting()
    for other in row:
        setting = setting.joined(other, where)
    return setting


def _distinct(points: Sequence[Setting]) -> list[Setting]:
    """Without repeated combinations (values need not be hashable, so they are compared as they are written)."""
    return list({repr((point.columns, point.overrides, point.models)): point for point in points}.values())
