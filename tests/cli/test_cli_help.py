"""The texts of `--help`, held by golden files; `MATS_REWRITE_GOLDEN=1` rewrites them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cli_commands import COMMANDS, COMMANDS_THAT_WORK
from typer.testing import CliRunner

from mats.cli.main import app

GOLDEN = Path(__file__).parent / "golden"


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_as_recorded(command: str) -> None:
    result = CliRunner().invoke(
        app, [*command.split(), "--help"], prog_name="mats", env={"COLUMNS": "100", "NO_COLOR": "1"}
    )
    assert result.exit_code == 0
    path = GOLDEN / f"{(command or 'mats').replace(' ', '-')}.txt"
    if os.environ.get("MATS_REWRITE_GOLDEN"):
        path.parent.mkdir(exist_ok=True)
        path.write_text(result.output)
    assert result.output == path.read_text(), f"{path}: MATS_REWRITE_GOLDEN=1 rewrites it"


@pytest.mark.parametrize("command", COMMANDS_THAT_WORK)
def test_help_shows_two_examples(command: str) -> None:
    text = CliRunner().invoke(app, [*command.split(), "--help"]).output
    examples = text.split("Examples:\n")[1].split("\n\n")[0].splitlines()
    assert len(examples) == 2
    assert all(example.strip().startswith(f"mats {command}".strip()) for example in examples)


def test_every_command_is_covered() -> None:
    text = CliRunner().invoke(app, ["--help"]).output
    listed = [line.split()[0] for line in text.split("Commands:\n")[1].split("\n\n")[0].splitlines()]
    assert set(listed) == {command.split()[0] for command in COMMANDS if command}
