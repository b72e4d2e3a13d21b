"""What the demo leaves to read: the table, the plot, and where each merge's own report lies."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mats.files import write_bytes_atomically
from mats.reporting import as_png, plot_scores, scores_markdown

if TYPE_CHECKING:
    from mats.demo.story import DemoResult


def write_page(output: Path, result: DemoResult) -> None:
    """Write `README.md` and `scores.png` into the demo's folder."""
    write_bytes_atomically(output / "scores.png", as_png(plot_scores(result.scores)))
    write_bytes_atomically(output / "README.md", page(result).encode())


def page(result: DemoResult) -> str:
    """The demo in Markdown."""
    rows = [
        f"| {method} | {describe(candidate.settings)} | [report](seed-0/merged/{candidate.folder_name}/report.html) |"
        for method, candidate in result.chosen.items()
    ]
    return f"""# {len(result.chosen)} ways to merge {len(result.scores.tasks)} specialists

Test accuracy in per cent, mean over {result.scores.seeds} seed(s). Each specialist is scored on its own domain,
every other model on all of them; the last column is the mean share of the specialists' accuracy that one model keeps.

{scores_markdown(result.scores)}

![Scores](scores.png)

The settings of each method were chosen by validation accuracy, the same for all seeds; the test split was read once.

| method | chosen setting | how it was solved |
|---|---|---|
{chr(10).join(rows)}

`seed-*/recipe.yaml` drives both steps of every merge here. To repeat one:

    mats merge {result.output}/seed-0/recipe.yaml {" ".join(result.chosen["mats"].overrides)}
"""


def describe(settings: Mapping[str, Any]) -> str:
    """`anchor 0.3`, or a dash where a method has nothing to choose."""
    return ", ".join(f"{key} {value}" for key, value in settings.items()) or "–"
