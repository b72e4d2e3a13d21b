"""Every command line that the documentation and the help show is one that the program understands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
from cli_commands import COMMANDS, COMMANDS_THAT_WORK
from typer.testing import CliRunner

from mats.cli.main import app

DOCS = Path(__file__).parents[2] / "docs"


def shown_in_pages() -> list[str]:
    """Lines of shell blocks that start with `mats`, comments taken off."""
    found = []
    for page in (
        "adapters.md",
        "commands.md",
        "evaluation.md",
        "mergekit.md",
        "metadata.md",
        "recipes.md",
        "sparsify.md",
        "sweeps.md",
        "training.md",
    ):
        for block in re.findall(r"```sh\n(.*?)```", (DOCS / page).read_text(), re.DOTALL):
            found += [line.split("  #")[0].strip() for line in block.splitlines() if line.startswith("mats ")]
    return found


def shown_in_help() -> list[str]:
    """The example lines of every command's help."""
    found = []
    for command in COMMANDS_THAT_WORK:
        text = CliRunner().invoke(app, [*command.split(), "--help"]).output
        found += [line.strip() for line in text.split("Examples:\n")[1].split("\n\n")[0].splitlines()]
    return found


def parse(arguments: list[str]) -> dict[str, Any]:
    """What typer reads from a command line, without doing anything."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("mats", list(arguments))
    while hasattr(command, "resolve_command"):
        _, command, arguments = command.resolve_command(context, context._protected_args + context.args)
        context = command.make_context(command.name, list(arguments), parent=context)
    return dict(context.params)


@pytest.mark.parametrize("line", [*shown_in_pages(), *shown_in_help()])
def test_a_shown_command_line_is_understood(line: str) -> None:
    assert parse(shlex.split(line)[1:])


def test_the_parser_used_here_refuses_what_does_not_exist() -> None:
    for wrong in (["merge"], ["merge", "r.yaml", "--nope"], ["mrge"]):
        with pytest.raises(Exception, match=r"(?i)missing|no such"):
            parse(wrong)


def test_every_command_has_its_heading() -> None:
    page = (DOCS / "commands.md").read_text()
    for command in {command.split()[0] for command in COMMANDS if command}:
        assert re.search(rf"^## `mats {command}\b", page, re.MULTILINE), command


def test_recipes_shown_exist() -> None:
    shown = {word for line in shown_in_pages() for word in line.split() if word.startswith("configs/")}
    assert shown
    assert all((DOCS.parent / path).is_file() for path in shown)
