"""How merge files of mergekit name a model: `path`, `repository@revision`, `base+adapter`, or a mapping.

A text that is a path here is that path, whatever signs are in it; only what is no path is taken apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.recipes.mergekit.faults import FileFaults
from mats.yaml_reader import KeyPath


@dataclass(frozen=True)
class PathAndRevision:
    """A checkpoint: folder, file or hub id, and for a hub id a branch, tag or commit."""

    path: str
    revision: str | None = None

    def __str__(self) -> str:
        return self.path if self.revision is None else f"{self.path}@{self.revision}"


@dataclass(frozen=True)
class ModelReference:
    """A model, with an adapter laid onto it or without."""

    model: PathAndRevision
    adapter: PathAndRevision | None = None

    def __str__(self) -> str:
        return str(self.model) if self.adapter is None else f"{self.model}+{self.adapter}"

    @property
    def short_name(self) -> str:
        """The last part of the path that tells it from others: the adapter's, where there is one."""
        own = (self.adapter or self.model).path
        return Path(own).name or own


def read_reference(value: Any, at: KeyPath, faults: FileFaults) -> ModelReference | None:
    """The model that `value` names; None, with a fault noted, where it names none."""
    if isinstance(value, str) and value:
        return parse_reference(value)
    if not isinstance(value, dict):
        faults.add(at, f"received {value!r}; a path, repository@revision, base+adapter or a mapping would be right")
        return None
    if "override_architecture" in value:
        faults.add((*at, "override_architecture"), "architectures are told by the tensors' names here; leave it out")
    faults.check_keys(value, at, ("model", "lora", "override_architecture"))
    model = _part(value.get("model"), (*at, "model"), faults)
    if value.get("lora") is None:
        return None if model is None else ModelReference(model)
    adapter = _part(value["lora"], (*at, "lora"), faults)
    return None if model is None or adapter is None else ModelReference(model, adapter)


def _part(value: Any, at: KeyPath, faults: FileFaults) -> PathAndRevision | None:
    """`{path, revision}`, or a text, of which nothing is taken apart."""
    if isinstance(value, dict):
        faults.check_keys(value, at, ("path", "revision"))
        path, revision = value.get("path"), value.get("revision")
    else:
        path, revision = value, None
    if not isinstance(path, str) or not path or not (revision is None or isinstance(revision, str)):
        faults.add(at, f"received {value!r}; a path, or {{path: …, revision: …}}, would be right")
        return None
    return PathAndRevision(path, revision)


def parse_reference(text: str) -> ModelReference:
    """The model that a text names.

    >>> parse_reference("owner/name@main+adapters/one").adapter
    PathAndRevision(path='adapters/one', revision=None)
    """
    if _is_here(text) or "+" not in text:
        return ModelReference(_at_revision(text))
    places = [index for index, sign in enumerate(text) if sign == "+"]
    place = _best_split(text, places)
    return ModelReference(_at_revision(text[:place]), _at_revision(text[place + 1 :]))


def _best_split(text: str, places: Sequence[int]) -> int:
    """The plus sign that joins two models: one with paths that exist on both sides, or on one, or else the first."""
    return max(places, key=lambda place: (_is_here(text[:place]) + _is_here(text[place + 1 :]), -place))


def _at_revision(text: str) -> PathAndRevision:
    """`owner/name@main` → its parts; a path that is there stays whole."""
    if _is_here(text) or "@" not in text:
        return PathAndRevision(text)
    path, _, revision = text.rpartition("@")
    return PathAndRevision(path, revision)


def _is_here(text: str) -> bool:
    return bool(text) and Path(text).expanduser().exists()
