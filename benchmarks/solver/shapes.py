"""Random systems of real models' shapes: time to two residuals, iterations, share of the GEMM rate, peak memory."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from batch import Batch
from contenders import ours
from machine import Clock, forget_peak, gemm_rates
from records import Records
from torch import Tensor

from mats.quadratics import KroneckerQuadratic, empty_left_factors, empty_right_factors
from mats.solvers import SolverSettings, solve_quadratic

TOLERANCES = (1e-3, 1e-5)
FEW, MANY = 26, 50  # iterations; a run of either, subtracted, leaves iterations alone (25 decide the coordinates)
LEAST_SECONDS = 0.5  # between the two, below which their difference is noise
ROWS = 2  # tokens behind each Gram ÷ the smaller width of the matrix: the wider side is singular


@dataclass(frozen=True)
class Case:
    """A batch of random systems.

    Attributes:
        name: for tables.
        shape: (out, in).
        layers: systems of the batch.
        models: m.
        damping: factored.
    """

    name: str
    shape: tuple[int, int]
    layers: int
    models: int
    damping: float

    @property
    def factor_bytes(self) -> int:
        """Of the statistics, float32."""
        return 4 * self.layers * self.models * sum(size * size for size in self.shape)

    @property
    def flops(self) -> float:
        """Of one application of Σ λ G X A to the batch: all that is counted as work of an iteration.

        What preconditioner, damping and inner products take beside it lowers the share of the GEMM rate.
        """
        out, inner = self.shape
        return self.layers * 2.0 * self.models * (out * out * inner + out * inner * inner)


def cases(t5_scale: int, llama_scale: int, damping: float) -> list[Case]:
    """T5-large (1024, 2816) with eight models, Llama-8B (4096, 14336) with four, and three scalings.

    Widths are divided by the scales. Llama-8B at scale 1 needs 0.5 GB of statistics for one attention matrix, 7 GB for
    one feed-forward matrix, and eigendecompositions of 14336 × 14336 in float64.
    """
    wide, inner = 1024 // t5_scale, 2816 // t5_scale
    hidden, feed = 4096 // llama_scale, 14336 // llama_scale
    t5 = "T5-large" if t5_scale == 1 else f"T5-large ÷ {t5_scale}"
    llama = "Llama-8B" if llama_scale == 1 else f"Llama-8B ÷ {llama_scale}"
    named = [
        Case(f"{t5} attention", (wide, wide), 2, 8, damping),
        Case(f"{t5} feed-forward in", (inner, wide), 1, 8, damping),
        Case(f"{t5} feed-forward out", (wide, inner), 1, 8, damping),
        Case(f"{llama} attention", (hidden, hidden), 1, 4, damping),
        Case(f"{llama} feed-forward", (feed, hidden), 1, 4, damping),
    ]
    widths = [Case("by width", (width, width), 2, 4, damping) for width in (128, 256, 512, 1024)]
    models = [Case("by models", (512, 512), 2, count, damping) for count in (2, 4, 8, 16)]
    layers = [Case("by layers", (256, 256), count, 4, damping) for count in (1, 4, 16, 64)]
    return [*widths, *models, *layers, *named]


def measure(chosen: Sequence[Case], repeats: int, records: Records) -> None:
    """Every case in a process of its own.

    Raises:
        OutOfTime: the minutes of `records` are over.
    """
    for case in chosen:
        key = {name: value for name, value in asdict(case).items() if name != "name"}
        key = {"case": case.name, **key, "shape": list(case.shape)}
        records.measured(key, lambda c=case: _in_own_process(c, repeats))


def _in_own_process(case: Case, repeats: int) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).parent), "one", json.dumps(asdict(case)), str(repeats)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{case.name}: exit status {done.returncode}")
    return json.loads(done.stdout.splitlines()[-1])


def measure_here(given: dict[str, Any], repeats: int) -> dict[str, Any]:
    """One case in this process: memory first, while nothing else has been held, then times."""
    case = Case(**{**given, "shape": tuple(given["shape"])})
    _solve(_small(case), 1e-3, 10)  # what is loaded and started at a first use
    batch = make_batch(case)
    held = forget_peak()
    runs = {f"{tolerance:g}": _median(batch, tolerance, repeats) for tolerance in TOLERANCES}
    rates = gemm_rates(min(2048, 2 * max(case.shape)))
    found: dict[str, Any] = {
        "runs": runs,
        "held_bytes": held,
        "solve_bytes": max(run["peak_growth_bytes"] for run in runs.values()),
        "factor_bytes": case.factor_bytes,
        "gemm": rates,
    }
    few, many = (_times(batch, iterations, repeats) for iterations in (FEW, MANY))
    for clock, name, rate in (
        ("seconds", "share", "torch"),
        ("processor_seconds", "processor_share", "torch_processor"),
    ):
        each = (many[clock] - few[clock]) / (MANY - FEW)
        sure = (MANY - FEW) * each >= LEAST_SECONDS
        found[f"iteration_{clock}"] = each if sure else None
        found[name] = case.flops / each / rates[rate] if sure else None
    return found


def _median(batch: Batch, tolerance: float, repeats: int) -> dict[str, Any]:
    """`ours` with the median of its times."""
    found = [ours(batch, "auto", tolerance, 1000) for _ in range(repeats)]
    return found[-1] | {
        clock: statistics.median(run[clock] for run in found) for clock in ("seconds", "processor_seconds")
    }


def _times(batch: Batch, iterations: int, repeats: int) -> dict[str, float]:
    """Median times of a run of exactly so many iterations."""
    clocks = []
    for _ in range(max(repeats, 2)):
        with Clock() as clock:
            _solve(batch, 0.0, iterations)
        clocks.append(clock.times)
    return {name: statistics.median(times[name] for times in clocks) for name in clocks[0]}


def _solve(batch: Batch, tolerance: float, most: int) -> None:
    settings = SolverSettings(
        "pcg", anchor=0.0, damping=batch.damping, tolerance=tolerance, max_iterations=most, validate=False
    )
    solve_quadratic(batch.quadratic, batch.targets, batch.start, settings)


def _small(case: Case) -> Batch:
    return make_batch(Case(case.name, (32, 24), 2, 2, case.damping))


def make_batch(case: Case, seed: int = 0) -> Batch:
    """K-FAC systems with task vectors a hundred times smaller than the weights, models of unlike weight.

    Input Grams have eigenvalues like k^−1, output Grams like k^−1.5; the wider side is of fewer rows than columns.
    """
    generator = torch.Generator().manual_seed(seed)
    out, inner = case.shape
    left = empty_left_factors(case.models, case.layers, out)
    right = empty_right_factors(case.models, case.layers, inner)
    rows = ROWS * min(case.shape)
    _fill(left, 1.5, rows, generator)
    _fill(right, 1.0, rows, generator)
    left *= 1e-6  # squared gradients are small
    weights = [0.5 + model / case.models for model in range(case.models)]
    base = torch.randn(case.layers, out, inner, generator=generator) * 0.05
    targets = [base + 0.0005 * torch.randn(base.shape, generator=generator) for _ in range(case.models)]
    start = base.clone()
    for target in targets:
        start += (target - base) / case.models
    return Batch(case.name, KroneckerQuadratic(left, right, weights), targets, start, case.damping)


def _fill(stack: Tensor, decay: float, rows: int, generator: torch.Generator) -> None:
    """Grams [m, L, n, n] of rows whose variances fall like k^(−decay) along nearly the same basis for all models."""
    models, systems, size = stack.shape[:3]
    for system in range(systems):
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        for model in range(models):
            spread = torch.arange(1, size + 1) ** -decay * torch.randn(size, generator=generator).exp()
            shift = int(torch.randint(0, max(size // 8, 1), (), generator=generator))
            data = torch.randn(rows, size, generator=generator) * spread.sqrt()
            data = data @ basis.roll(shift, dims=1).T
            stack[model, system] = data.T @ data / rows
