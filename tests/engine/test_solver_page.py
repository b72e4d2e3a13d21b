"""docs/solver.md is true: its blocks run in order in one namespace, and its pictures are theirs."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from engine_families import Family
from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "solver.md"
LARGEST = 60_000  # bytes of a picture kept with the project
REWRITE = os.environ.get("MATS_REWRITE_FIGURES") == "1"


def blocks() -> list[str]:
    """The Python of the page."""
    return re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def test_every_block_runs_and_draws_the_pictures(
    bert: Family, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = []

    def save(figure: Figure, name: str) -> None:
        """What the page's blocks call for their pictures."""
        folder = ROOT / "docs" / "figures" if REWRITE else tmp_path
        figure.savefig(folder / name, dpi=64, metadata={"Software": None})
        drawn.append(name)

    namespace = {"family": bert, "save": save, "__name__": "solver_page"}
    for number, block in enumerate(blocks()):
        exec(compile(block, f"docs/solver.md, block {number}", "exec"), namespace)
    assert "left at most" in capsys.readouterr().out
    shown = re.findall(r"\]\(figures/([\w-]+\.png)\)", PAGE.read_text(encoding="utf-8"))
    assert sorted(drawn) == sorted(shown)
    for name in shown:
        kept = ROOT / "docs" / "figures" / name
        assert kept.read_bytes()[:4] == b"\x89PNG", name
        assert kept.stat().st_size < LARGEST, name


def test_every_block_of_the_page_is_python_or_a_command() -> None:
    kinds = re.findall(r"^```(\w*)\n", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert set(kinds) - {""} == {"python", "bash"}
    assert len(blocks()) >= 8
