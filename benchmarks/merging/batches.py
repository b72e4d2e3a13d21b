"""How many layers of one shape should be solved together?

    python benchmarks/merging/batches.py
    python benchmarks/merging/batches.py --widths 16 64 256 --layers 32

How it measures. K-FAC systems of six models, square, are solved by preconditioned conjugate gradients to 1e-4, all of
them, in batches of 1, 2, 4 … layers; the table shows milliseconds of the processor for each layer (on a GPU of the
wall), the median of `--rounds` in which the sizes take turns. The number of operations of one application of a batch
from which on nothing is gained is what `mats.engine.group_plan.FULL_BATCH` is about. Results go to
benchmarks/results/merging-batches.json with the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table

from mats.quadratics import KroneckerQuadratic, empty_left_factors, empty_right_factors
from mats.solvers import SolverSettings, solve_quadratic

MODELS = 6
RESULTS = Path(__file__).parent.parent / "results"


def systems(width: int, layers: int, device: str) -> tuple[KroneckerQuadratic, torch.Tensor]:
    """Random K-FAC curvature whose eigenvalues span four decades, and targets."""
    generator = torch.Generator().manual_seed(0)
    left = empty_left_factors(MODELS, layers, width, device=device)
    right = empty_right_factors(MODELS, layers, width, device=device)
    for stack in (left, right):
        for model in range(MODELS):
            for layer in range(layers):
                rows = torch.randn(2 * width, width, generator=generator) * torch.logspace(0, -2, width)
                stack[model, layer] = (rows.T @ rows / width).to(device)
    return KroneckerQuadratic(left, right), torch.randn(MODELS, layers, width, width, generator=generator).to(device)


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--widths", type=int, nargs="+", default=[16, 32, 64, 128, 256])
    parser.add_argument("--layers", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--output", type=Path, default=RESULTS / "merging-batches.json")
    arguments = parser.parse_args()
    sizes = [2**power for power in range(arguments.layers.bit_length()) if 2**power <= arguments.layers]
    clock = time.perf_counter if arguments.device.startswith("cuda") else time.process_time
    settings = SolverSettings(name="pcg", anchor=0.1, tolerance=1e-4)
    table = Table("width", "operations a layer", *(f"{size} together" for size in sizes), title="ms a layer")
    rows = []
    for width in arguments.widths:
        quadratic, targets = systems(width, arguments.layers, arguments.device)
        times: dict[int, list[float]] = {size: [] for size in sizes}
        for _ in range(arguments.rounds):
            for size, taken in times.items():
                begun = clock()
                for first in range(0, arguments.layers, size):
                    part = slice(first, first + size)
                    solve_quadratic(quadratic.select(part), targets[:, part], targets[:, part].mean(dim=0), settings)
                taken.append(1e3 * (clock() - begun) / arguments.layers)
        each = {size: statistics.median(taken) for size, taken in times.items()}
        work = 2.0 * MODELS * 2 * width**3
        table.add_row(str(width), f"{work:.2g}", *(f"{value:.2f}" for value in each.values()))
        rows.append({"width": width, "operations_per_layer": work, "milliseconds_per_layer": each})
    Console().print(table)
    environment = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "device": arguments.device,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "models": MODELS,
        "layers": arguments.layers,
    }
    arguments.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
