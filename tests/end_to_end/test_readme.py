"""What README says can be done is done here."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import yaml

from mats.recipes import recipe_from

README = Path(__file__).parents[2] / "README.md"


def blocks(language: str) -> list[str]:
    """The fenced blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_the_python_example_prints_what_it_says() -> None:
    (example,) = blocks("python")
    done = subprocess.run([sys.executable, "-c", example], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second = done.stdout.splitlines()
    assert first in example, "the comment beside the print shows another result"
    assert "residual" in second or "tolerance" in second or "closed form" in second


def test_the_recipe_is_one() -> None:
    (recipe,) = blocks("yaml")
    assert [model.name for model in recipe_from(yaml.safe_load(recipe)).models] == ["paws", "quartz"]


def test_every_link_leads_somewhere() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README.read_text())
    assert links
    missing = [link for link in links if not link.startswith("http") and not (README.parent / link).exists()]
    assert missing == []


def test_make_knows_the_two_commands() -> None:
    makefile = (README.parent / "Makefile").read_text()
    for target in re.findall(r"^    make (\w+)", README.read_text(), flags=re.MULTILINE):
        assert f"\n{target}: " in makefile
