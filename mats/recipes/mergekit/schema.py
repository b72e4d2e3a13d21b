"""Merge files of mergekit as checked data: every key is accounted for, and no checkpoint is opened."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from mats.methods.registry import method_names
from mats.recipes.mergekit.faults import FileFaults
from mats.recipes.mergekit.methods import FORMS, NOT_SUPPORTED, Form
from mats.recipes.mergekit.parameters import Setting, read_setting
from mats.recipes.mergekit.references import ModelReference, read_reference
from mats.yaml_reader import KeyPath, YamlFile

MARKS = ("merge_method", "slices", "modules")
"""Keys by which a file is known for one of mergekit's; a recipe has none of them."""
CONTENT = ("models", "slices", "modules")
TOP_KEYS = (
    "merge_method",
    *CONTENT,
    "base_model",
    "parameters",
    "dtype",
    "out_dtype",
    "tokenizer_source",
    "tokenizer",
    "chat_template",
    "unmatched",
)
TOP_HINTS = {
    "name": "names belong to mergekit-multi's files of several documents; one merge to a file would be right",
    "input_model_parameters": "read by no version of mergekit; models[].parameters would be right",
}
DTYPES = ("float32", "float16", "bfloat16")
NATIVE_MODEL_KEYS = ("name", "metadata", "measured_on", "weight")
SLICE_HINTS = {"residual_weight": "of no effect in mergekit; leave it out"}

Levels = Mapping[str, Setting]


@dataclass(frozen=True)
class Source:
    """One model in one slice, or in the whole: which of its layers (half-open; None: all), and its parameters."""

    at: KeyPath
    model: ModelReference
    layers: tuple[int, int] | None
    parameters: Levels
    native: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Slice:
    """Sources whose layers are merged one by one."""

    at: KeyPath
    sources: tuple[Source, ...]
    parameters: Levels = field(default_factory=dict)

    @property
    def length(self) -> int | None:
        """Number of layers; None: all of the model."""
        layers = self.sources[0].layers
        return None if layers is None else layers[1] - layers[0]


@dataclass(frozen=True)
class Module:
    """The slices of one part of a model (`name` None: of all of it)."""

    name: str | None
    slices: tuple[Slice, ...]
    parameters: Levels = field(default_factory=dict)


@dataclass(frozen=True)
class MergeFile:
    """A merge file.

    Attributes:
        file: as it was read.
        method: the word under merge_method.
        modules: one without a name, or as `modules:` has them.
        base: the base model.
        parameters: of the top level.
        dtype: of the output; None: as inputs have it.
        keep_unmatched: tensors for which a required parameter has no value stay the base's.
        settings: of one of this program's own methods, as plain data; None for mergekit's.
    """

    file: YamlFile
    method: str
    modules: tuple[Module, ...]
    base: ModelReference | None
    parameters: Levels
    dtype: str | None
    keep_unmatched: bool
    settings: Mapping[str, Any] | None

    @property
    def written_parameters(self) -> frozenset[str]:
        """The parameters that stand anywhere in the file."""
        levels: list[Levels] = [self.parameters]
        for module in self.modules:
            levels.append(module.parameters)
            for part in module.slices:
                levels += [part.parameters, *(source.parameters for source in part.sources)]
        return frozenset(key for level in levels for key in level)

    @property
    def form(self) -> Form:
        """What the method takes."""
        return FORMS[self.method]


def is_merge_file(data: Mapping[str, Any]) -> bool:
    """Whether a file's keys are those of mergekit's."""
    return any(mark in data for mark in MARKS)


def read_merge_file(file: YamlFile) -> MergeFile:
    """Check a file and turn it into data.

    Raises:
        RecipeError: unknown keys, wrong values, what is not supported; all of it, a line each.
    """
    faults = FileFaults(file.path, file.lines)
    faults.check_keys(file.data, (), TOP_KEYS, TOP_HINTS)
    method = _method(file.data, faults)
    if method is None:
        faults.raise_any()  # without a method nothing below can be judged
    assert method is not None
    reader = _Reader(faults, FORMS.get(method), method)
    base = read_reference(file.data["base_model"], ("base_model",), faults) if file.data.get("base_model") else None
    modules = reader.modules(file.data)
    native = reader.form is None
    parameters: Levels = {} if native else reader.parameters(file.data.get("parameters"), ("parameters",), own=False)
    if native and not isinstance(file.data.get("parameters") or {}, dict):
        faults.add(("parameters",), "a mapping of the method's settings would be right")
    reader.check_bases(base, modules, file.data)
    dtype = _dtype(file.data, faults)
    unmatched = file.data.get("unmatched", "error")
    if unmatched not in ("error", "base"):
        faults.add(("unmatched",), f"received {unmatched!r}; error or base would be right")
    if native and "unmatched" in file.data:
        faults.add(("unmatched",), f"merge_method {method} has one value of each setting for all tensors; leave it out")
    if file.data.get("tokenizer_source") is not None and file.data.get("tokenizer") is not None:
        faults.add(("tokenizer_source",), "stands beside tokenizer; one of the two would be right")
    faults.raise_any()
    settings = {"method": method, **(file.data.get("parameters") or {})} if native else None
    return MergeFile(file, method, modules, base, parameters, dtype, unmatched == "base", settings)


def _method(data: Mapping[str, Any], faults: FileFaults) -> str | None:
    """The word under merge_method; None, with a fault noted, where it means nothing here."""
    method = data.get("merge_method")
    own = [name for name in method_names() if name not in FORMS]
    if isinstance(method, str) and (method in FORMS or method in own):
        return method
    if method in NOT_SUPPORTED:
        faults.add(("merge_method",), f"{method!r} is not supported; one of {', '.join(FORMS)} would be right")
        return None
    near = difflib.get_close_matches(str(method).replace("-", "_").lower(), [*FORMS, *own], n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"one of {', '.join([*FORMS, *own])} would be right"
    faults.add(("merge_method",), f"received {method!r}; {hint}")
    return None


def _dtype(data: Mapping[str, Any], faults: FileFaults) -> str | None:
    """The output's number format: out_dtype, else dtype. Sums are kept in float32 in any case."""
    chosen: dict[str, str] = {}
    for key in ("dtype", "out_dtype"):
        value = data.get(key)
        name = value.removeprefix("torch.") if isinstance(value, str) else value
        if name in DTYPES:
            chosen[key] = str(name)
        elif name is not None:
            faults.add((key,), f"received {value!r}; one of {', '.join(DTYPES)} would be right")
    return chosen.get("out_dtype", chosen.get("dtype"))


class _Reader:
    """Reads the parts of a file, noting faults; `form` is None for one of this program's own methods."""

    def __init__(self, faults: FileFaults, form: Form | None, method: str) -> None:
        self.faults, self.form, self.method = faults, form, method

    def modules(self, data: Mapping[str, Any]) -> tuple[Module, ...]:
        """The file's parts: exactly one of models, slices and modules must be there."""
        given = [key for key in CONTENT if data.get(key) is not None]
        if len(given) != 1:
            found = " and ".join(given) if given else "none of them"
            self.faults.add(
                (given[1],) if given else (), f"exactly one of {', '.join(CONTENT)} must be given, not {found}"
            )
            return ()
        if given[0] != "modules":
            return (Module(None, self.slices(data, ())),)
        if self.form is None:
            self.faults.add(("modules",), f"merge_method {self.method} merges whole models; models would be right")
            return ()
        if not isinstance(data["modules"], dict) or not data["modules"]:
            self.faults.add(("modules",), "a mapping of names to models or slices would be right")
            return ()
        return tuple(self._module(name, value) for name, value in data["modules"].items())

    def _module(self, name: str, value: Any) -> Module:
        at: KeyPath = ("modules", name)
        if not isinstance(value, dict) or ("models" in value) == ("slices" in value):
            self.faults.add(at, "a mapping with either models or slices would be right")
            return Module(name, ())
        self.faults.check_keys(value, at, ("models", "slices", "parameters"))
        return Module(
            name, self.slices(value, at), self.parameters(value.get("parameters"), (*at, "parameters"), own=False)
        )

    def slices(self, data: Mapping[str, Any], above: KeyPath) -> tuple[Slice, ...]:
        """`models` as one slice over all layers, or `slices`."""
        key = "models" if data.get("models") is not None else "slices"
        at = (*above, key)
        entries = data[key]
        if not isinstance(entries, list) or not entries:
            self.faults.add(at, f"received {entries!r}; a list would be right")
            return ()
        if key == "models":
            found = [self._source(entry, (*at, index), ranged=False) for index, entry in enumerate(entries)]
            sources = tuple(source for source in found if source is not None)
            return (Slice(at, sources),) if sources else ()
        if self.form is None:
            self.faults.add(at, f"merge_method {self.method} merges whole models; models would be right")
            return ()
        read = [self._slice(entry, (*at, index)) for index, entry in enumerate(entries)]
        return tuple(part for part in read if part is not None)

    def _slice(self, value: Any, at: KeyPath) -> Slice | None:
        if not isinstance(value, dict) or not isinstance(value.get("sources"), list) or not value["sources"]:
            self.faults.add(at, "a mapping with a list under sources would be right")
            return None
        self.faults.check_keys(value, at, ("sources", "parameters", "base_model"), SLICE_HINTS)
        found = [
            self._source(entry, (*at, "sources", index), ranged=True) for index, entry in enumerate(value["sources"])
        ]
        sources = tuple(source for source in found if source is not None)
        lengths = [source.layers[1] - source.layers[0] for source in sources if source.layers is not None]
        if len(set(lengths)) > 1:
            self.faults.add((*at, "sources"), f"layer ranges of lengths {lengths}; one length would be right")
        parameters = self.parameters(value.get("parameters"), (*at, "parameters"), own=False)
        return Slice(at, sources, parameters) if sources else None

    def _source(self, value: Any, at: KeyPath, *, ranged: bool) -> Source | None:
        if not isinstance(value, dict) or "model" not in value:
            self.faults.add(at, f"received {value!r}; a mapping with the key model would be right")
            return None
        keys = ["model", "parameters", *(["layer_range"] if ranged else [])]
        hints = {}
        if self.form is None:
            keys += NATIVE_MODEL_KEYS
        else:
            misplaced = [key for key in value if key in self.form.parameters]
            hints = {
                key: f"stands beside parameters; below them (parameters: {{{key}: …}}) would be right"
                for key in misplaced
            }
        self.faults.check_keys(value, at, keys, hints)
        model = read_reference(value["model"], (*at, "model"), self.faults)
        layers = self._layers(value.get("layer_range"), (*at, "layer_range")) if ranged else None
        native = {key: value[key] for key in NATIVE_MODEL_KEYS if key in value}
        if self.form is None:
            native |= self._native_parameters(value.get("parameters"), (*at, "parameters"))
        own = {} if self.form is None else self.parameters(value.get("parameters"), (*at, "parameters"), own=True)
        if model is None or (ranged and layers is None):
            return None
        return Source(at, model, layers, own, native)

    def _native_parameters(self, value: Any, at: KeyPath) -> dict[str, Any]:
        """`parameters: {weight: 0.5}` of a model under one of this program's own methods."""
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.faults.add(at, f"received {value!r}; a mapping would be right")
            return {}
        self.faults.check_keys(value, at, ("weight",))
        return {"weight": value["weight"]} if "weight" in value else {}

    def _layers(self, value: Any, at: KeyPath) -> tuple[int, int] | None:
        """`[first, end]`, the end not included; the two may be equal."""
        right = isinstance(value, list) and len(value) == 2 and all(type(entry) is int for entry in value)
        if not right or not 0 <= value[0] <= value[1]:
            self.faults.add(at, f"received {value!r}; [first layer, one past the last] would be right")
            return None
        return (value[0], value[1])

    def parameters(self, value: Any, at: KeyPath, *, own: bool) -> Levels:
        """A mapping of parameters; `own`: of one model, where those that all models share mean nothing."""
        if value is None or self.form is None:
            return {}
        if not isinstance(value, dict):
            self.faults.add(at, f"received {value!r}; a mapping would be right")
            return {}
        known = {key: each for key, each in self.form.parameters.items() if each.by_model or each.idle or not own}
        shared = [key for key in value if own and key in self.form.parameters and key not in known]
        hints = dict.fromkeys(shared, "is one for all models; below the file's or a slice's parameters would be right")
        self.faults.check_keys(value, at, known, hints)
        read = {
            key: read_setting(entry, (*at, key), known[key], self.faults)
            for key, entry in value.items()
            if key in known
        }
        return {key: setting for key, setting in read.items() if setting is not None}

    def check_bases(self, base: ModelReference | None, modules: tuple[Module, ...], data: Mapping[str, Any]) -> None:
        """A base where the method needs one, and no other for a slice."""
        needed = self.form is not None and (self.form.base == "required" or self.method == "slerp")
        if needed and base is None and "base_model" not in data:
            self.faults.add((), f"merge_method {self.method} needs a base_model, and the file names none")
        if base is not None and base.adapter is not None:
            adapted = "an adapter on the base itself is not supported; write the adapted base to a folder first"
            self.faults.add(("base_model",), f"received {base}; {adapted} (a merge of it alone, by passthrough)")
        for part in (part for module in modules for part in module.slices):
            written: Any = data
            for key in part.at:
                written = written[key]
            if not isinstance(written, dict) or written.get("base_model") is None:
                continue
            at = (*part.at, "base_model")
            if read_reference(written["base_model"], at, self.faults) != base:
                self.faults.add(at, "another base than the file's is not supported; leave it out")
