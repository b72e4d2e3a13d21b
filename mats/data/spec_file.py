"""Reading a dataset file: strict YAML, every fault told at once, the nearest key suggested."""

from __future__ import annotations

import difflib
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from mats.data.prompts import Prompts
from mats.data.promptsource import read_templates
from mats.data.spec import DatasetSpec
from mats.errors import RecipeError, RequestError


def load_spec(path: str | Path, *, root: str | Path | None = None) -> DatasetSpec:
    """Read a dataset file.

    Args:
        path: YAML (or JSON) file; see docs/datasets.md.
        root: Takes the place of the file's `root`, the folder of the data (relative to the working folder).

    Returns:
        The specification, with `root` made absolute. No data file is opened yet.

    Raises:
        RequestError: the file is missing or no text.
        RecipeError: it has faults; all of them, one per line.
    """
    path = Path(path)
    return parse_spec(_read_yaml(path), folder=path.parent, where=str(path), root=root)


def parse_spec(
    content: Mapping[str, Any], *, folder: Path, where: str = "dataset", root: str | Path | None = None
) -> DatasetSpec:
    """A specification from plain values; `folder` is what its `root` is relative to, `where` begins each fault.

    Raises:
        RecipeError: it has faults; all of them, one per line.
    """
    try:
        spec = DatasetSpec.model_validate(_with_templates(content, folder, where))
    except ValidationError as error:
        raise RecipeError(_faults(error, where)) from error
    resolved = (Path(root) if root is not None else folder / spec.root.expanduser()).absolute()
    return spec.model_copy(update={"root": resolved})


def _with_templates(content: Mapping[str, Any], folder: Path, where: str) -> dict[str, Any]:
    """The content with promptsource's templates filled in, so that a specification stands without their files.

    Raises:
        RecipeError: the templates are not there.
    """
    prompts = content.get("prompts")
    if not isinstance(prompts, Mapping) or prompts.get("templates"):
        return dict(content)
    try:
        wanted = Prompts.model_validate(prompts)
        templates = read_templates(wanted, folder)
    except ValidationError:  # told with all the other faults of the file
        return dict(content)
    except RequestError as error:
        raise RecipeError([f"{where}: {error}"]) from error
    return {**content, "prompts": wanted.model_copy(update={"templates": templates, "folder": None}).model_dump()}


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with YAML 1.2 scalars (`No` is a word, `1e-3` a number) and without repeated keys."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, emptied on purpose

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As PyYAML, but a key given twice is a fault instead of the last one winning."""
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"key '{key}' is given twice", key_node.start_mark)
            seen.add(key)
        return super().construct_mapping(node, deep)


for _tag, _pattern, _first in (
    ("bool", r"^(?:true|True|TRUE|false|False|FALSE)$", "tTfF"),
    ("int", r"^[-+]?[0-9]+$", "-+0123456789"),
    ("float", r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$", "-+0123456789."),
    ("null", r"^(?:~|null|Null|NULL|)$", ["~", "n", "N", ""]),
):
    _CoreLoader.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(_pattern), list(_first))


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(encoding="utf-8-sig"), Loader=_CoreLoader)
    except FileNotFoundError:
        siblings = [other.name for other in path.parent.glob("*.y*ml")] if path.parent.is_dir() else []
        near = difflib.get_close_matches(path.name, siblings, n=1)
        hint = f"; nearest: {path.with_name(near[0])}" if near else "; a dataset file (docs/datasets.md) would be right"
        raise RequestError(f"{path}: no such file{hint}") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not UTF-8 text; a dataset file (docs/datasets.md) would be right") from None
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}; a dataset file would be right") from error
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = f"line {mark.line + 1}: " if mark is not None else ""
        raise RecipeError([f"{path}: {line}{getattr(error, 'problem', None) or 'is not YAML'}"]) from error
    if not isinstance(content, dict):
        raise RecipeError([f"{path}: holds {type(content).__name__}; a mapping of keys to values would be right"])
    return content


def _faults(error: ValidationError, where: str) -> list[str]:
    """One line per fault: file, key, the value received, what would be right. Alternatives of one key share a line."""
    faults: dict[str, list[str]] = {}
    for detail in error.errors(include_url=False):
        location = [str(part) for part in detail["loc"] if not _is_variant(part)]
        prefix = f"{where}: {'.'.join(location)}: " if location else f"{where}: "
        if detail["type"] == "extra_forbidden":
            faults[f"{prefix}unknown key{_nearest_key(location)}"] = []
        elif detail["type"] == "missing":
            faults[f"{prefix}missing"] = []
        elif detail["type"] == "value_error":
            faults.update({prefix + line: [] for line in str(detail["ctx"]["error"]).splitlines()})
        else:
            received = repr(detail["input"])
            shown = received if len(received) <= 60 else received[:57] + "…"
            faults.setdefault(f"{prefix}{shown}; ", []).append(_plain_words(detail["msg"]))
    return [fault + " or ".join(dict.fromkeys(alternatives)) for fault, alternatives in faults.items()]


def _is_variant(part: str | int) -> bool:
    """Whether a step of pydantic's location names a member of a union rather than a key of the file."""
    return isinstance(part, str) and (
        part in ("json_lines", "csv", "arrays", "hub", "int", "float", "str", "ColumnChoices")
        or part.startswith(("tuple[", "literal[", "constrained-", "function-"))
    )


def _nearest_key(location: Sequence[str]) -> str:
    """The nearest key allowed beside an unknown one."""
    known = sorted({name for model in _models_at(location[:-1]) for name in model.model_fields})
    near = difflib.get_close_matches(location[-1], known, n=1, cutoff=0.5)
    return f"; nearest: {near[0]}" if near else f"; known here: {', '.join(known)}" if known else ""


def _models_at(location: Sequence[str]) -> list[type[BaseModel]]:
    """The pydantic models that a location may lead to."""
    models: list[type[BaseModel]] = [DatasetSpec]
    for step in location:
        if step.isdecimal():
            continue
        fields = [model.model_fields[step].annotation for model in models if step in model.model_fields]
        models = [found for annotation in fields for found in _models_in(annotation)] or models
    return models


def _models_in(annotation: Any) -> list[type[BaseModel]]:
    """The pydantic models that an annotation mentions."""
    if (
        isinstance(annotation, type)
        and not isinstance(annotation, types.GenericAlias)
        and issubclass(annotation, BaseModel)
    ):
        return [annotation]
    return [model for argument in typing.get_args(annotation) for model in _models_in(argument)]


def _plain_words(message: str) -> str:
    """Pydantic's message in the words of YAML."""
    message = re.sub(r" or instance of \w+|, unable to parse .*", "", message.replace("tuple", "list"))
    return (message[:1].lower() + message[1:]).replace("dictionary", "mapping")
