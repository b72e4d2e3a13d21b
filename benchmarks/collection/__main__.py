"""What does it cost to measure curvature, beside a training step on the same batch?

    python benchmarks/collection                              # all models: some minutes on a quiet machine
    python benchmarks/collection --models bert --repeats 3
    python benchmarks/collection --models minilm --only step grams

How it measures. Models have the shapes of real ones (scaled as the table says) and random weights; 16 examples of
unequal length (75 to 100 % of the longest, as in batches planned by length) are gone through by

    training step   forward and backward with the gradients of all weights, no update
    ours            `Collector.add`: both Grams of all linear layers (but for the output Gram of a vocabulary head); or
                    the diagonal of all parameters
    published way   hooks and full backward passes at batch 1, full products, each layer by itself

Contenders take turns in one process, on models and batches that are the same; every ratio is the median over the turns
of the time against the training step's in the same turn. Ratios are of processor time, which a busy machine does not
inflate; those of the time on the wall stand in the JSON too. "needs" is the arithmetic of the same comparison, counted
from the shapes: forward, backward to the activations, symmetric products of the real tokens (`arithmetic.py`). The
share of the peak is needed operations per second of the processor against those of a large square product. Memory is
that of a fresh process beyond the model itself. Results go to benchmarks/results/collection.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch
from contenders import contenders
from measure import measure_model, memory_of
from rich.console import Console
from rich.table import Table
from shapes import SHAPES

RESULTS = Path(__file__).parents[1] / "results"
TARGETS = {"grams": 1.35, "diagonal": 2.5}  # times a training step
NEEDED_TARGET = 1.15  # times the arithmetic needed, of both Grams


def environment() -> dict[str, Any]:
    """What a number depends on, in words."""
    cpu = next(
        (line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line),
        platform.machine(),
    )
    return {
        "machine": f"{len(os.sched_getaffinity(0))} cores of {cpu}, CPU only",
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        **{name: version(name) for name in ("torch", "scipy", "transformers")},
    }


def show(results: list[dict[str, Any]]) -> None:
    """A table for each model."""
    for result in results:
        title = f"{result['model']}: {result['scale']}; {result['examples']} examples, {result['tokens']} tokens"
        table = Table(title=title, title_justify="left")
        table.add_column("")
        headings = ("seconds", "× step", "on the wall", "needs ×", "÷ needs", "tokens/s", "of peak", "memory")
        for heading in headings:
            table.add_column(heading, justify="right")
        for row in result["rows"]:
            table.add_row(
                row["contender"],
                f"{row['processor_seconds']:.2f}",
                _judged(row["ratio"], TARGETS.get(row["key"])),
                f"{row['wall_ratio']:.2f}",
                f"{row['needed_ratio']:.2f}",
                _judged(row["ratio_to_needed"], NEEDED_TARGET if row["key"] == "grams" else None),
                f"{row['tokens_per_second']:.0f}",
                f"{row['share_of_peak']:.0%}",
                f"{row['peak_bytes'] / 1e6:.0f} MB",
            )
        Console(width=130).print(table)


def _judged(value: float, target: float | None) -> str:
    return f"{value:.2f}" if target is None else f"[{'green' if value <= target else 'red'}]{value:.2f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--only", nargs="+", choices=list(contenders(1)), default=list(contenders(1)))
    parser.add_argument("--examples", type=int, default=16, help="examples, and size of the large batch (default 16)")
    parser.add_argument("--repeats", type=int, default=5, help="rounds that count (default 5)")
    parser.add_argument("--results", type=Path, default=RESULTS / "collection.json")
    parser.add_argument("--child", choices=list(contenders(1)), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child is not None:
        print(json.dumps(memory_of(arguments.models[0], arguments.child, arguments.examples)))
        return
    chosen = [key for key in contenders(1) if key in {"step", *arguments.only}]
    results = []
    for name in arguments.models:
        results.append(measure_model(name, arguments.examples, arguments.repeats, chosen))
        show(results[-1:])
    arguments.results.write_text(json.dumps({"environment": environment(), "models": results}, indent=2) + "\n")
    print(f"written to {arguments.results}")


if __name__ == "__main__":
    main()
