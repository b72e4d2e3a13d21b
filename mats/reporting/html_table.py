"""A table as HTML: escaped, with the values a script sorts by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from mats.reporting.numbers import short


@dataclass(frozen=True)
class Column:
    """A heading; `text` columns are aligned left and sorted as words."""

    title: str
    text: bool = False


@dataclass(frozen=True)
class Cell:
    """What a cell shows, what it is sorted by (None: what it shows), and its class; `raw` content is HTML already."""

    shown: str
    value: str | None = None
    style: str = ""
    text: bool = False
    raw: bool = False


def text_cell(text: str, style: str = "") -> Cell:
    """A cell of words."""
    return Cell(text, style=style, text=True)


def number_cell(value: float | None, style: str = "") -> Cell:
    """A cell with three significant digits, sorted by the exact value."""
    return Cell(short(value), value="" if value is None else repr(value), style=style)


def html_table(columns: Sequence[Column], rows: Sequence[Sequence[Cell]], *, name: str = "", tall: bool = False) -> str:
    """The table in a frame that scrolls sideways (and down, if `tall`)."""
    heads = "".join(f"<th{' class=text' if c.text else ' data-numeric'}>{escape(c.title)}</th>" for c in columns)
    body = "\n".join("<tr>" + "".join(map(_cell, row)) + "</tr>" for row in rows)
    identity = f' id="{escape(name)}"' if name else ""
    frame = "scroll tall" if tall else "scroll"
    return (
        f'<div class="{frame}"><table class=sortable{identity}><thead><tr>{heads}</tr></thead>\n'
        f"<tbody>\n{body}\n</tbody></table></div>"
    )


def _cell(cell: Cell) -> str:
    classes = " ".join(filter(None, ("text" if cell.text else "", cell.style)))
    attributes = f' class="{escape(classes)}"' if classes else ""
    if cell.value is not None:
        attributes += f' data-value="{escape(cell.value)}"'
    return f"<td{attributes}>{cell.shown if cell.raw else escape(cell.shown)}</td>"
