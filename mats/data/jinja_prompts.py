"""Rendering of promptsource's templates: Jinja in a sandbox that can neither change nor reach anything outside a row.

What the words of a template mean is promptsource's (Bach et al. 2022, arXiv 2202.01279; version 0.2.3): `|||` between
prompt and target and between answer choices, inserted texts cut to 2048 characters by Jinja's `truncate` (at a word,
with three dots), white space stripped on both sides, the filters `choice` and `most_frequent`, the functions `zip` and
`enumerate`.
"""

from __future__ import annotations

import functools
import operator
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from mats.data.templates import MissingFieldError, nearest

LONGEST_TEXT = 2048  # characters of one inserted text
SEPARATOR = "|||"
PROTECTED = "3ed2dface8203c4c9dfb1a5dc58e41e0"  # stands for a separator inside the data while a text is split
DRAWS = "mats_draws"  # name under which a template's `choice` finds its generator
GIVEN = {"answer_choices", DRAWS}


@dataclass(frozen=True)
class RenderedPrompt:
    """One row as one template shows it.

    Attributes:
        prompt: What the model reads.
        target: What it should write; None where the template has none.
        choices: Answer choices, uncut; empty where the template has none.
        gold: Index of the choice that the target is (the first of equal ones); None where it is none of them.
    """

    prompt: str
    target: str | None
    choices: tuple[str, ...] = ()
    gold: int | None = None


def render(
    name: str,
    jinja: str,
    answer_choices: str | None,
    row: Mapping[str, Any],
    *,
    seed: str,
    draw: int | None = None,
    longest_text: int = LONGEST_TEXT,
) -> RenderedPrompt:
    """Fill a template from a row.

    Args:
        name: The template's name, for messages.
        jinja: Prompt and target.
        answer_choices: The choices, or None.
        row: Column → value.
        seed: Of the template's draws; the same text draws the same, in every process.
        draw: Take this item wherever the template draws one.
        longest_text: Characters of one inserted text.

    Raises:
        MissingFieldError: the row lacks what the template names, or the template cannot make anything of the row.
    """
    values = {name: _protected(value) if isinstance(value, str) else value for name, value in row.items()}
    values[DRAWS] = random.Random(seed).choice if draw is None else operator.itemgetter(draw)
    choices = _render(name, answer_choices, values) if answer_choices is not None else None
    values["answer_choices"] = choices if choices is None else [_protected(choice) for choice in choices]
    parts = _render(name, _with_cuts(jinja, longest_text), values)
    if not parts[0]:
        raise MissingFieldError(f"template '{name}' makes no prompt of this row; leave it out of this dataset")
    target = (parts[1] or None) if len(parts) > 1 else None
    gold = next((index for index, choice in enumerate(choices or ()) if _cut(choice, longest_text) == target), None)
    return RenderedPrompt(parts[0], target, tuple(choices or ()), gold)


def check_syntax(text: str) -> None:
    """Parse a template.

    Raises:
        ValueError: it is no Jinja.
    """
    import jinja2

    try:
        _environment().parse(text)
    except jinja2.TemplateSyntaxError as error:
        raise ValueError(f"not Jinja: line {error.lineno}: {error.message}") from error


def _protected(text: str) -> str:
    """A text of the data whose separators split nothing (promptsource forgets this for those inside answer choices)."""
    return text.replace(SEPARATOR, PROTECTED)


def _cut(choice: str, longest: int) -> str:
    """A choice as it stands where a template inserts it."""
    text: str = _compiled(_with_cuts("{{ choice }}", longest)).render(choice=choice)
    return text.strip()


def _with_cuts(text: str, longest: int) -> str:
    """Cut every inserted text, as promptsource does: on the level of the template's own words."""
    return text.replace("}}", f" | string | truncate({longest}) }}}}")


def _render(name: str, text: str, values: Mapping[str, Any]) -> list[str]:
    """The parts between separators, stripped.

    Raises:
        MissingFieldError: a name is not among `values`, or rendering fails.
    """
    import jinja2

    for wanted in sorted(_names_in(text) - GIVEN):
        if wanted not in values:
            columns = [column for column in values if column not in GIVEN]
            raise MissingFieldError(f"template '{name}': field '{wanted}' is missing{nearest(wanted, columns)}")
    try:
        rendered = _compiled(text).render(values)
    except (jinja2.TemplateError, TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise MissingFieldError(f"template '{name}' does not fit this row ({reason})") from error
    return [part.strip().replace(PROTECTED, SEPARATOR) for part in rendered.split(SEPARATOR)]


@functools.lru_cache(maxsize=1024)
def _compiled(text: str) -> Any:
    return _environment().from_string(text)


@functools.lru_cache(maxsize=1024)
def _names_in(text: str) -> frozenset[str]:
    """The names that a template takes from outside: columns, and what promptsource adds."""
    from jinja2 import meta

    environment = _environment()
    return frozenset(meta.find_undeclared_variables(environment.parse(text)) - set(environment.globals))


@functools.cache
def _environment() -> Any:
    """Jinja's sandbox with promptsource's filters and functions; unknown names are faults instead of empty texts."""
    import jinja2
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    @jinja2.pass_context
    def choice(context: Any, items: Sequence[Any]) -> Any:
        return context[DRAWS](items)

    environment = ImmutableSandboxedEnvironment(undefined=jinja2.StrictUndefined)
    environment.globals.update(zip=zip, enumerate=enumerate)
    environment.filters.update(choice=choice, most_frequent=_most_frequent)
    return environment


def _most_frequent(items: Sequence[Any]) -> list[Any] | None:
    """All items that occur most often, in the order of their first occurrence."""
    if not items:
        return None
    counted = Counter(items).most_common()
    return [item for item, count in counted if count == counted[0][1]]
