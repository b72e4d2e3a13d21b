"""From a merge file and the names of its models' tensors to what is done to each tensor of the output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from mats.errors import InputsMismatch, RecipeError
from mats.methods.assigned import AssignedSettings
from mats.methods.base import BaseSettings
from mats.methods.settings import ElementwiseSettings
from mats.recipes.mergekit.parameters import Parameter, Scalar, Setting, resolve
from mats.recipes.mergekit.schema import MergeFile, Module, Slice, Source
from mats.yaml_reader import dotted

if TYPE_CHECKING:
    from mats.recipes.mergekit.references import ModelReference


@dataclass(frozen=True)
class Part:
    """One tensor of the output: in which slice, where between its first (0) and last layer (1), and of what.

    Attributes:
        name: in the output.
        module, slice: where its parameters stand.
        position: t of gradients.
        names: for each source of the slice: the tensor's name in that model; None where it has none.
    """

    name: str
    module: Module
    slice: Slice
    position: float
    names: tuple[str | None, ...]


@dataclass
class Inputs:
    """The models of the output, each once for every time that it occurs within one slice.

    Attributes:
        references: of each.
        names: of each: tensor of the output → its own.
        base_names: the same for the base.
    """

    references: list[ModelReference] = field(default_factory=list)
    names: list[dict[str, str]] = field(default_factory=list)
    base_names: dict[str, str] = field(default_factory=dict)
    _places: dict[tuple[ModelReference, int], int] = field(default_factory=dict)

    def place(self, reference: ModelReference, occurrence: int) -> int:
        """The index of a model at its first, second, … occurrence."""
        key = (reference, occurrence)
        if key not in self._places:
            self._places[key] = len(self.references)
            self.references.append(reference)
            self.names.append({})
        return self._places[key]


class Assigner:
    """Resolves every tensor's parameters; settings that are equal are one object.

    Args:
        file: the merge file.
        seed: of random methods.
    """

    def __init__(self, file: MergeFile, seed: int) -> None:
        self.file, self.form, self.seed = file, file.form, seed
        self.inputs = Inputs()
        self._made: dict[tuple[Any, ...], AssignedSettings] = {}
        self._levels: dict[int, _Levels] = {}

    def assign(self, parts: Iterator[Part]) -> dict[str, AssignedSettings]:
        """What is done to each part, by name; `inputs` then says which models that takes.

        Raises:
            RecipeError: a required parameter has no value for a tensor.
            InputsMismatch: a method does not take the number of models that have a tensor, or lacks the base's.
        """
        return {part.name: self._assign(part) for part in parts}

    def _assign(self, part: Part) -> AssignedSettings:
        levels = self._levels.get(id(part.slice))
        if levels is None:
            levels = self._levels[id(part.slice)] = _Levels(self.file, part.module, part.slice, self.inputs)
        chosen = [entry for entry, name in zip(levels.entries, part.names, strict=True) if name is not None]
        has_base = self._note_names(part, levels)
        values = {key: self._value(levels.shared[key], key, part, None) for key in levels.shared}
        by_model = {
            key: tuple(self._value(entry.levels[key], key, part, entry.source) for entry in chosen if not entry.is_base)
            for key in levels.by_model
        }
        models = tuple(entry.index for entry in chosen if not entry.is_base)
        self._check(part, len(models), has_base)
        if None in values.values() or any(None in each for each in by_model.values()):
            return AssignedSettings(settings=BaseSettings(), models=(), weights=())
        key = (tuple(values.values()), tuple(by_model.values()), models, has_base)
        if key not in self._made:
            settings = self._settings(values, by_model, has_base)
            weights = tuple(float(weight or 0.0) for weight in by_model.get("weight", (1.0,) * len(models)))
            self._made[key] = AssignedSettings(settings=settings, models=models, weights=weights)
        return self._made[key]

    def _note_names(self, part: Part, levels: _Levels) -> bool:
        """Record each source's name for the tensor; whether the base is one of them, or stands behind all."""
        has_base = levels.base_is_apart
        for entry, name in zip(levels.entries, part.names, strict=True):
            if name is None:
                continue
            if entry.is_base:
                has_base = True
                self.inputs.base_names[part.name] = name
            else:
                self.inputs.names[entry.index][part.name] = name
        return has_base

    def _settings(self, values: Mapping[str, Any], by_model: Mapping[str, Any], has_base: bool) -> ElementwiseSettings:
        return self.form.make(values, by_model, self.seed, has_base)

    def _value(self, levels: Sequence[Setting], key: str, part: Part, source: Source | None) -> Scalar | None:
        """A parameter's value for a tensor; None where it has none and the file keeps such tensors.

        Raises:
            RecipeError: it has none, and must.
        """
        parameter: Parameter = self.form.parameters[key]
        value = resolve(levels, part.name, part.position)
        if value is not None or parameter.default is not None:
            return parameter.default if value is None else value
        if self.file.keep_unmatched:
            return None
        where = f"{dotted(source.at)} ({source.model})" if source is not None else "parameters"
        raise RecipeError(
            [
                f"{self.file.file.path}: {where}: {key}: no value for {part.name}; a value without a filter, or "
                "unmatched: base at the top of the file, would be right"
            ]
        )

    def _check(self, part: Part, count: int, has_base: bool) -> None:
        least, most = self.form.models
        expected = self.form.base == "required" or (self.form.base == "optional" and self.file.base is not None)
        if expected and not has_base:
            raise InputsMismatch(
                f"{dotted(part.slice.at)}: {part.name}: merge_method {self.file.method} needs the base's layers; the "
                "base_model among the sources would be right"
            )
        if count < least or (most is not None and count > most):
            wanted = str(least) if most == least else f"at least {least}"
            beside = " beside the base" if has_base else ""
            raise InputsMismatch(
                f"{dotted(part.slice.at)}: {part.name}: merge_method {self.file.method} takes {wanted} models{beside}, "
                f"and {count} have this tensor"
            )


@dataclass(frozen=True)
class _Entry:
    """One source of a slice: its index among the inputs (of the base: -1), and its parameters' levels."""

    source: Source
    index: int
    is_base: bool
    levels: Mapping[str, tuple[Setting, ...]]


class _Levels:
    """The parameters of one slice: for each name the settings in the order in which they are asked."""

    def __init__(self, file: MergeFile, module: Module, part: Slice, inputs: Inputs) -> None:
        form = file.form
        above = (part.parameters, module.parameters, file.parameters)
        used = {key: each for key, each in form.parameters.items() if not each.idle}
        self.shared = {
            key: tuple(level[key] for level in above if key in level) for key, each in used.items() if not each.by_model
        }
        self.by_model = [key for key, each in used.items() if each.by_model]
        apart = form.base in ("required", "optional") and file.base is not None
        self.base_is_apart = apart and part.length is None
        seen: dict[ModelReference, int] = {}
        self.entries = []
        for source in part.sources:
            occurrence = seen[source.model] = seen.get(source.model, -1) + 1
            is_base = apart and source.model == file.base and occurrence == 0
            levels = {
                key: tuple(level[key] for level in (source.parameters, *above) if key in level) for key in self.by_model
            }
            index = -1 if is_base else inputs.place(source.model, occurrence)
            self.entries.append(_Entry(source, index, is_base, levels))
