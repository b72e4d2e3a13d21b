"""Measurements as plots."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from real_summary import ratio

Line = dict[str, Any]

OURS, PUBLISHED = "#1b6ca8", "#c0504d"


def plot_real(lines: dict[str, list[Line]], path: Path, clock: str) -> None:
    """Left: time per layer of every shape; right: iterations of each system; a row per damping."""
    lines = {damping: of_damping for damping, of_damping in lines.items() if of_damping}
    if not lines:
        return
    figure, axes = plt.subplots(len(lines), 2, figsize=(11, 3.4 * len(lines)), squeeze=False)
    for (times, iterations), (damping, of_damping) in zip(axes, lines.items(), strict=True):
        _bars(times, of_damping)
        _iterations(iterations, [line for line in of_damping if line["shape"][0].isdigit()])
        times.set_ylabel(("μ = 0" if float(damping) == 0 else f"damping {damping}") + f"\nseconds of the {clock}")
    figure.tight_layout()
    _save(figure, path)


def _bars(axis: Any, lines: Sequence[Line]) -> None:
    for offset, name, colour in ((-0.2, "published", PUBLISHED), (0.2, "ours", OURS)):
        heights = [line[f"{name}_time_for_all"] for line in lines]
        axis.bar([position + offset for position in range(len(lines))], heights, 0.4, label=name, color=colour)
    axis.set_yscale("log")
    labels = []
    for line in lines:
        finished = ratio(line, "finished")
        labels.append(line["shape"] + ("" if finished is None else f"\n{finished:.1f} ×"))
    axis.set_xticks(range(len(lines)), labels, fontsize=8)
    axis.set_title("all layers (published: by the mean of its sample);\n× on the systems it finished", fontsize=9)
    axis.legend(fontsize=8)


def _iterations(axis: Any, lines: Sequence[Line]) -> None:
    for position, line in enumerate(lines):
        for name, colour in (("published", PUBLISHED), ("ours", OURS)):
            counts = [max(count, 0.8) for count in line[f"{name}_iterations"]]  # a closed form has none
            axis.plot([position] * len(counts), counts, "o", color=colour, alpha=0.6, markersize=5)
    axis.set_yscale("log")
    axis.set_xticks(range(len(lines)), [line["shape"] for line in lines], fontsize=8)
    axis.set_title("iterations, a dot per system (a closed form at the bottom)", fontsize=9)


def plot_shapes(lines: Sequence[Line], path: Path, clock: str) -> None:
    """Time to 1e-3 and 1e-5 against width, models and layers; the share of the GEMM rate."""
    which = "seconds" if clock == "wall" else "processor_seconds"
    share = "share" if clock == "wall" else "processor_share"
    axes_of = {"by width": lambda key: key["shape"][0], "by models": lambda key: key["models"]}
    axes_of["by layers"] = lambda key: key["layers"]
    figure, axes = plt.subplots(1, 4, figsize=(15, 3.6))
    for axis, (name, place) in zip(axes, axes_of.items(), strict=False):
        own = sorted((line for line in lines if line["key"]["case"] == name), key=lambda line: place(line["key"]))
        axis.set(title=name, ylabel=f"seconds of the {clock}")
        if not own:
            continue  # left out by --only, or not measured yet
        places = [place(line["key"]) for line in own]
        for tolerance, marker in (("0.001", "o-"), ("1e-05", "s-")):
            axis.plot(places, [line["runs"][tolerance][which] for line in own], marker, label=f"to {tolerance}")
        axis.set(xscale="log", yscale="log")
        axis.set_xticks(places, [str(place) for place in places])
        axis.minorticks_off()
        axis.legend(fontsize=8)
    lines = [line for line in lines if line[share] is not None]
    names = [f"{line['key']['case']} {line['key']['shape'][0]}×{line['key']['shape'][1]}" for line in lines]
    axes[3].barh(range(len(lines)), [100 * line[share] for line in lines], color=OURS)
    axes[3].set_yticks(range(len(lines)), names, fontsize=6)
    axes[3].set(title="% of the GEMM rate", xlim=(0, 110))
    axes[3].axvline(50, color="grey", linewidth=0.8)
    figure.tight_layout()
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
