"""Prompt templates: `{field}` filled from a row, with a parser of our own, so that nothing in a file is ever evaluated.

A field is a column name, followed by `.key` or `.0` steps into a nested value: `{answers.text.0}`. A literal brace is
doubled: `{{`, `}}`.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any


class MissingFieldError(LookupError):
    """A template names a field that the row does not have; the message says which, and what the row has."""


@dataclass(frozen=True)
class TemplateText:
    """A parsed template: literal texts and fields in turn.

    Attributes:
        parts: (is a field, text) pairs in order.
    """

    parts: tuple[tuple[bool, str], ...]

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields it names, in order, repeats included."""
        return tuple(text for is_field, text in self.parts if is_field)

    def render(self, row: Mapping[str, Any], *, longest_field: int | None = None) -> str:
        """The text for one row; a field is cut to `longest_field` characters (promptsource: 2048).

        Raises:
            MissingFieldError: the row lacks a field, or the field is null.
        """
        return "".join(look_up(row, text)[:longest_field] if is_field else text for is_field, text in self.parts)


def parse_template(text: str) -> TemplateText:
    """Parse a template.

    Raises:
        ValueError: a brace is left open or closed without one, or a field has no name.
    """
    parts: list[tuple[bool, str]] = []
    literal, position = "", 0
    while position < len(text):
        character = text[position]
        if text[position : position + 2] in ("{{", "}}"):
            literal += character
            position += 2
        elif character == "{":
            end = text.find("}", position)
            if end < 0:
                raise ValueError(f"'{{' at character {position + 1} is never closed; write '{{{{' for a literal brace")
            field = text[position + 1 : end].strip()
            if not all(field.split(".")) or "{" in field:
                raise ValueError(f"field '{{{field}}}' at character {position + 1}: a column name would be right")
            parts += [(False, literal)] if literal else []
            parts.append((True, field))
            literal, position = "", end + 1
        elif character == "}":
            raise ValueError(f"'}}' at character {position + 1} closes nothing; write '}}}}' for a literal brace")
        else:
            literal += character
            position += 1
    parts += [(False, literal)] if literal else []
    return TemplateText(tuple(parts))


def look_up(row: Mapping[str, Any], field: str) -> str:
    """The text of one field of a row.

    Raises:
        MissingFieldError: there is no such field, it is null, or it is a list or mapping rather than a text or number.
    """
    value = find_value(row, field)
    if isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(value, str)):
        raise MissingFieldError(f"field '{field}' is a {type(value).__name__}; step into it, as in '{field}.0'")
    return str(value)


def find_value(row: Mapping[str, Any], field: str) -> Any:
    """The value of one field of a row: the column of that whole name, else the steps between dots one by one.

    Raises:
        MissingFieldError: there is no such field, or it is null.
    """
    if field in row:
        value: Any = row[field]
    else:
        value = row
        for step in field.split("."):
            value = _step(value, step, field, row)
    if value is None:
        raise MissingFieldError(f"field '{field}' is null")
    return value


def _step(value: Any, step: str, field: str, row: Mapping[str, Any]) -> Any:
    """`value[step]` for a mapping, `value[int(step)]` for a list."""
    if isinstance(value, Mapping) and step in value:
        return value[step]
    is_list = hasattr(value, "__getitem__") and not isinstance(value, (str, Mapping))
    if is_list and step.isdecimal() and int(step) < len(value):
        return value[int(step)]
    known = value if isinstance(value, Mapping) else row
    raise MissingFieldError(f"field '{field}' is missing{nearest(field if value is row else step, known)}")


def nearest(name: str, known: Iterable[str]) -> str:
    """`; nearest: …`, or `; there are: …` when nothing is near (at most a dozen names)."""
    names = sorted(str(other) for other in known)
    close = difflib.get_close_matches(name, names, n=1)
    if close:
        return f"; nearest: '{close[0]}'"
    shown = ", ".join(names[:12]) + (", …" if len(names) > 12 else "")
    return f"; there are: {shown}" if names else ""
