"""Reading a YAML file strictly: plain data, no duplicate keys, and the line on which each key stands.

Scalars follow the YAML 1.2 core schema, of which JSON is a subset: `1e-4` is a number, `no` and `on` are words, a date
is a string. Tags other than the plain ones are refused, so nothing in a file is ever run or constructed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from mats.errors import RecipeError, RequestError

KeyPath = tuple[str | int, ...]

_FLOAT = re.compile(
    r"^[-+]?(?:[0-9]+\.[0-9]*|\.[0-9]+|[0-9]+)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_INT = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_BOOL = re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$")
_NULL = re.compile(r"^(?:~|null|Null|NULL|)$")


class _CoreLoader(yaml.SafeLoader):
    """PyYAML's safe loader with the scalars of YAML 1.2 instead of 1.1."""

    yaml_implicit_resolvers: dict[Any, Any] = {}  # noqa: RUF012 - PyYAML's own class attribute, emptied on purpose


def _construct_int(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> int:
    """A decimal, `0o…` or `0x…` integer; a leading zero does not make it octal."""
    text = loader.construct_scalar(node)
    if text.startswith(("0o", "0x")):
        return int(text, 0)
    return int(text)


def _construct_text(loader: yaml.SafeLoader, node: yaml.ScalarNode) -> str:
    """A text; JSON writes characters beyond 16 bits as two escapes, which belong together."""
    text = str(loader.construct_scalar(node))
    try:
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le")
    except UnicodeDecodeError as error:
        raise yaml.constructor.ConstructorError(None, None, "half a character", node.start_mark) from error


_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:bool", _BOOL, list("tTfF"))
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:int", _INT, list("-+0123456789"))
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+0123456789."))
_CoreLoader.add_implicit_resolver("tag:yaml.org,2002:null", _NULL, ["~", "n", "N", ""])
_CoreLoader.add_constructor("tag:yaml.org,2002:int", _construct_int)
_CoreLoader.add_constructor("tag:yaml.org,2002:str", _construct_text)


@dataclass(frozen=True)
class YamlFile:
    """What a file holds (`data`) and where each key stands (`lines`, counted from 1)."""

    path: Path
    data: dict[str, Any]
    lines: dict[KeyPath, int] = field(default_factory=dict)


def parse_value(text: str) -> Any:
    """The value of one YAML expression, as after the `=` of an override.

    Raises:
        ValueError: `text` is no YAML, or holds tags, or a key twice.
    """
    faults: list[str] = []
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        if node is None:
            return None
        _walk(node, (), {}, faults, "value", ())
        if faults:
            raise ValueError(faults[0])
        return _construct(text)
    except yaml.YAMLError as error:
        raise ValueError(_explain(error)) from error


def read_yaml(path: Path) -> YamlFile:
    """Read a mapping from a YAML or JSON file.

    Raises:
        RequestError: the file is missing or cannot be read.
        RecipeError: it is no YAML, no mapping, has a tag, or names a key twice; every such fault with its line.
    """
    text = _read_text(path)
    try:
        node = yaml.compose(text, Loader=_CoreLoader)
        faults: list[str] = []
        lines: dict[KeyPath, int] = {}
        if node is not None:
            _walk(node, (), lines, faults, str(path), ())
        if faults:
            raise RecipeError(faults)
        data = {} if node is None else _construct(text)
    except yaml.YAMLError as error:
        raise RecipeError([f"{path}: {_explain(error)}"]) from error
    if not isinstance(data, dict):
        raise RecipeError([f"{path}: holds {_kind(data)}; a mapping of keys to values would be right"])
    return YamlFile(path, data, lines)


def _read_text(path: Path) -> str:
    """The file as text, with the reason in one line where there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise RequestError(f"{path}: no such file{_nearest_file(path)}") from None
    except IsADirectoryError:
        raise RequestError(f"{path}: is a folder; give a YAML file") from None
    except UnicodeDecodeError:
        raise RequestError(f"{path}: is not UTF-8 text; give a YAML file") from None
    except OSError as error:
        raise RequestError(f"{path}: {error.strerror or error}") from error


def _nearest_file(path: Path) -> str:
    """`; did you mean …?` when the folder holds a YAML file of a similar name."""
    import difflib

    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist"
    names = [entry.name for entry in path.parent.iterdir() if entry.suffix in (".yaml", ".yml", ".json")]
    near = difflib.get_close_matches(path.name, names, n=1)
    return f"; did you mean {path.with_name(near[0])}?" if near else ""


def _construct(text: str) -> Any:
    loader = _CoreLoader(text)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


def _walk(
    node: yaml.Node, at: KeyPath, lines: dict[KeyPath, int], faults: list[str], source: str, above: tuple[int, ...]
) -> None:
    """Note the line of every key below `node`; note keys given twice, tags, and structures that hold themselves."""
    line = node.start_mark.line + 1
    lines.setdefault(at, line)
    if id(node) in above:
        faults.append(f"{source}:{line}: an alias that holds itself; write the value out")
        return
    if not node.tag.startswith("tag:yaml.org,2002:") or node.tag.startswith("tag:yaml.org,2002:python"):
        faults.append(f"{source}:{line}: tag '{node.tag}'; files hold plain values alone")
        return
    inside = (*above, id(node))
    if isinstance(node, yaml.SequenceNode):
        for index, child in enumerate(node.value):
            _walk(child, (*at, index), lines, faults, source, inside)
    elif isinstance(node, yaml.MappingNode):
        _walk_mapping(node, at, lines, faults, source, inside)


def _walk_mapping(
    node: yaml.MappingNode,
    at: KeyPath,
    lines: dict[KeyPath, int],
    faults: list[str],
    source: str,
    above: tuple[int, ...],
) -> None:
    seen: dict[str, int] = {}
    for key_node, child in node.value:
        line = key_node.start_mark.line + 1
        if not isinstance(key_node, yaml.ScalarNode) or key_node.tag != "tag:yaml.org,2002:str":
            faults.append(f"{source}:{line}: the key {key_node.value!r} is no word; quote it if it is meant")
            continue
        key = str(key_node.value)
        here = (*at, key)
        if key in seen:
            faults.append(f"{source}:{line}: {dotted(here)}: given twice (first on line {seen[key]}); keep one")
        seen.setdefault(key, line)
        lines[here] = line
        _walk(child, here, lines, faults, source, above)


def dotted(path: KeyPath) -> str:
    """`models.0.weight` for `("models", 0, "weight")`."""
    return ".".join(str(part) for part in path)


def _explain(error: yaml.YAMLError) -> str:
    """PyYAML's many lines in one."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    hint = "; indent with spaces" if "\\t" in problem else ""
    return f"not YAML: {where}{problem}{hint}"


def _kind(data: Any) -> str:
    """What a value is, in a reader's words."""
    names = {
        list: "a list",
        str: "a text",
        int: "a number",
        float: "a number",
        bool: "true or false",
        type(None): "nothing",
    }
    return names.get(type(data), type(data).__name__)
