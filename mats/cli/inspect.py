"""`mats inspect`: what a checkpoint, a metadata store or a result contains."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from mats.cli.arguments import JsonOption


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("inspect", short_help="What a checkpoint, a store or a result contains.")(inspect)


def inspect(
    path: Annotated[
        str, typer.Argument(metavar="PATH", help="Checkpoint or metadata store (each may be a hub id), or result.")
    ],
    tensors: Annotated[bool, typer.Option("--tensors", help="List every tensor, or every sum of a store.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Show what a checkpoint, a metadata store or a merged result contains; no tensor is read.

    \b
    Examples:
      mats inspect exp_out/merged
      mats inspect metadata/paws/paws-validation-empirical-mean-1f2e3d4c --tensors
    """
    from mats.cli.descriptions import describe_checkpoint, describe_report, describe_store
    from mats.cli.printing import print_json, print_lines, print_table
    from mats.store.hub import find_store

    store = find_store(path)
    if store is not None:
        facts, rows, columns = describe_store(store)
    else:
        folder = Path(path)
        facts, rows, columns = describe_checkpoint(path)
        if (folder / "report.json").is_file():
            facts = {**facts, "kind": f"result ({facts['kind']})", **describe_report(folder / "report.json")}
    if as_json:
        print_json({**facts, "tensors": [dict(zip(columns, row, strict=True)) for row in rows]})
        return
    if "uncovered" in facts:
        facts = {**facts, "uncovered": _by_reason(facts["uncovered"])}
    print_lines(f"{key.replace('_', ' ')}: {_text(value)}" for key, value in facts.items())
    if tensors:
        print_table("", columns, rows)


def _by_reason(uncovered: Mapping[str, str]) -> str:
    """How many parameters share each reason, with the first of them; --json has them all."""
    named: dict[str, list[str]] = {}
    for name, reason in uncovered.items():
        named.setdefault(reason, []).append(name)
    first = (f"{names[0]}{f' and {len(names) - 1} more' * (len(names) > 1)} ({why})" for why, names in named.items())
    return "; ".join(first) or "none"


def _text(value: Any) -> str:
    """A fact on one line."""
    if isinstance(value, dict):
        return ", ".join(f"{key} {_text(entry)}" for key, entry in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(str(entry) for entry in value) or "none"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return "none" if value is None else str(value)
