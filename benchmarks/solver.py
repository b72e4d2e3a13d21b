"""How long does it take to solve K-FAC systems to a true residual: ours against SciPy's CG, layer by layer?

    python benchmarks/solver.py                      # T5-large's shapes at an eighth of the width, 8 models: minutes
    python benchmarks/solver.py --anchors 0.1 0.001  # a harder system too
    python benchmarks/solver.py --full --layers 2    # full width (1024, 2816): hours on a few cores, most for plain CG
    python benchmarks/solver.py --device cuda --full --layers 24

How it measures. Each shape of a T5-large block is a batch of `--layers` systems of `--models` K-FAC models whose input
Grams have eigenvalues like k^−1 and output Grams like k^−1.5, from fewer rows than columns in the widest case (so some
are singular), models of unlike weight. All contenders solve for the correction Δ, with the same anchor, in float32, to
the same relative residual:

    scipy              SciPy's cg, one layer after the other, products made model by model (as the published code does)
    scipy, our product SciPy's cg on our operator (two GEMMs for all models), one layer after the other
    cg                 our plain conjugate gradients, all layers in one batch
    pcg                ours, preconditioned in the joint eigenbasis; the eigendecompositions count

Contenders take turns; times are medians over `--repeats` rounds after a first that does not count. Beside the time on
the wall stands the time of the processor, which a busy machine does not inflate; ratios are of the latter (on a GPU,
where the processor only waits, of the former). Ours include the right-hand side, both float64 residuals, and
every model's loss before and after, SciPy's nothing but its iteration. The residual in the table is recomputed in
float64 for all. Results go to benchmarks/results/solver.json with the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch
from rich.console import Console
from rich.table import Table
from scipy.sparse.linalg import LinearOperator, cg
from torch import Tensor

from mats.quadratics import KroneckerQuadratic, empty_left_factors, empty_right_factors
from mats.scipy_view import linear_operator
from mats.solvers import SolverSettings, solve_quadratic

SHAPES = {"attention": (8, 8), "feed-forward in": (22, 8), "feed-forward out": (8, 22)}  # × width ÷ 8; T5-large: 1024
ROWS = 2  # tokens behind each Gram ÷ width
RESULTS = Path(__file__).parent / "results"

Run = tuple[Tensor, list[int]]  # corrections [L, out, in], iterations of each system


def fill_grams(stack: Tensor, decay: float, rows: int, generator: torch.Generator) -> None:
    """Grams [m, L, n, n] of rows whose variances fall like k^(−decay) along nearly the same basis for all models."""
    models, systems, size = stack.shape[:3]
    for system in range(systems):
        basis = torch.linalg.qr(torch.randn(size, size, generator=generator))[0]
        for model in range(models):
            spread = torch.arange(1, size + 1) ** -decay * torch.randn(size, generator=generator).exp()
            data = torch.randn(rows, size, generator=generator) * spread.sqrt()
            shift = torch.randint(0, size // 8, (), generator=generator).item()
            data = data @ basis.roll(int(shift), dims=1).T
            stack[model, system] = (data.T @ data / rows).to(stack.device)


def make_systems(
    shape: tuple[int, int], layers: int, models: int, rows: int, device: str, seed: int
) -> tuple[KroneckerQuadratic, list[Tensor], Tensor]:
    """A batch of K-FAC systems with task vectors a hundred times smaller than the weights."""
    generator = torch.Generator().manual_seed(seed)
    out, inner = shape
    left = empty_left_factors(models, layers, out, device=device)
    right = empty_right_factors(models, layers, inner, device=device)
    fill_grams(left, 1.5, rows, generator)
    fill_grams(right, 1.0, rows, generator)
    left *= 1e-6  # squared gradients are small
    weights = [0.5 + model / models for model in range(models)]
    base = torch.randn(layers, out, inner, generator=generator) * 0.05
    targets = [base + 0.0005 * torch.randn(layers, out, inner, generator=generator) for _ in range(models)]
    start = torch.stack(targets).mean(dim=0)
    return KroneckerQuadratic(left, right, weights), [t.to(device) for t in targets], start.to(device)


def published_product(quadratic: KroneckerQuadratic, system: int, mu: float) -> LinearOperator:
    """Σ λ G X A + μX with NumPy, model by model."""
    assert quadratic.left is not None
    assert quadratic.right is not None
    left = [w * G.cpu().numpy() for w, G in zip(quadratic.weights, quadratic.left[:, system], strict=True)]
    right = [A.cpu().numpy() for A in quadratic.right[:, system]]
    _, out, inner = quadratic.shape

    def product(vector: np.ndarray) -> np.ndarray:
        X = vector.reshape(out, inner)
        return (sum(G @ X @ A for G, A in zip(left, right, strict=True)) + np.float32(mu) * X).ravel()

    return LinearOperator((out * inner, out * inner), matvec=product, dtype=np.float32)


def scipy_run(operators: list[LinearOperator], rhs: Tensor, tolerance: float, most: int) -> Run:
    """SciPy's conjugate gradients on one layer after the other."""
    corrections, iterations = [], []
    for operator, b in zip(operators, rhs.float().cpu().numpy(), strict=True):
        count = [0]

        def step(_: np.ndarray, count: list[int] = count) -> None:
            count[0] += 1

        scale = float(np.linalg.norm(b))  # SciPy works in the unit of b; ours chooses its own
        delta, _ = cg(operator, b.ravel() / scale, rtol=tolerance, atol=0.0, maxiter=most, callback=step)
        corrections.append(torch.from_numpy(delta.reshape(b.shape)).double() * scale)
        iterations.append(count[0])
    return torch.stack(corrections), iterations


def our_run(quadratic: KroneckerQuadratic, targets: list[Tensor], start: Tensor, settings: SolverSettings) -> Run:
    """One of our solvers on the whole batch."""
    solution = solve_quadratic(quadratic, targets, start, settings)
    return solution.value.double() - start.double(), [c.iterations for c in solution.certificates]


def in_turns(
    contenders: dict[str, Callable[[], Run]], repeats: int, device: str
) -> tuple[dict[str, dict[str, float]], dict[str, Run]]:
    """Median times of the contenders, which run one after the other in every round; and their last results."""
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contenders}
    results = {}
    for _ in range(1 + repeats):
        for name, run in contenders.items():
            begin, processor = time.perf_counter(), time.process_time()
            results[name] = run()
            if device == "cuda":
                torch.cuda.synchronize()
            seconds[name].append((time.perf_counter() - begin, time.process_time() - processor))
    medians = {}
    for name, pairs in seconds.items():
        wall, processor = (statistics.median(column) for column in zip(*pairs[1:], strict=True))
        medians[name] = {"seconds": wall, "processor_seconds": processor}
    return medians, results


def compare(name: str, shape: tuple[int, int], anchor: float, options: argparse.Namespace) -> list[dict[str, Any]]:
    """All contenders on one shape."""
    rows = ROWS * options.width
    quadratic, targets, start = make_systems(shape, options.layers, options.models, rows, options.device, options.seed)
    mu = (anchor * quadratic.mean_diagonal()).tolist()
    rhs = quadratic.rhs(targets, start.double())
    settings = {"anchor": anchor, "tolerance": options.tolerance, "max_iterations": options.max_iterations}
    ours = {solver: SolverSettings(name=solver, validate=False, **settings) for solver in ("cg", "pcg")}  # type: ignore[arg-type]
    systems = range(options.layers)
    published = [published_product(quadratic, system, mu[system]) for system in systems]
    viewed = [linear_operator(quadratic, system=system, shift=mu[system]) for system in systems]
    limits = (options.tolerance, options.max_iterations)
    contenders: dict[str, Callable[[], Run]] = {
        "scipy": lambda: scipy_run(published, rhs, *limits),
        "scipy, our product": lambda: scipy_run(viewed, rhs, *limits),
        "cg": lambda: our_run(quadratic, targets, start, ours["cg"]),
        "pcg": lambda: our_run(quadratic, targets, start, ours["pcg"]),
    }
    times, results = in_turns(contenders, options.repeats, options.device)
    which = "seconds" if options.device == "cuda" else "processor_seconds"
    lines = []
    for contender, (correction, iterations) in results.items():
        line: dict[str, Any] = {"shape": name, "size": list(shape), "anchor": anchor, "solver": contender}
        line |= times[contender]
        line["times_faster_than_scipy"] = times["scipy"][which] / times[contender][which]
        line["iterations"] = [min(iterations), max(iterations)]
        line["worst_relative_residual"] = worst_residual(quadratic, correction.to(rhs), rhs, mu)
        lines.append(line)
    return lines


def worst_residual(quadratic: KroneckerQuadratic, correction: Tensor, rhs: Tensor, mu: list[float]) -> float:
    """max over systems of ‖b − (Σ λ C + μI) Δ‖ ÷ ‖b‖, float64."""
    shift = torch.tensor(mu, dtype=torch.float64, device=rhs.device)[:, None, None]
    residual = rhs - quadratic.apply(correction) - shift * correction
    return float((residual.flatten(1).norm(dim=1) / rhs.flatten(1).norm(dim=1)).max())


def environment(options: argparse.Namespace) -> dict[str, Any]:
    """Where the numbers come from."""
    device = torch.cuda.get_device_name() if options.device == "cuda" else platform.processor() or platform.machine()
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "scipy": scipy.__version__,
        "device": device,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "options": {key: value for key, value in vars(options).items() if key != "output"},
    }


def show(lines: list[dict[str, Any]], options: argparse.Namespace) -> None:
    """The table for people."""
    table = Table(title=f"{options.layers} layers × {options.models} models, tolerance {options.tolerance:g}")
    for heading in ("layer", "anchor", "solver", "seconds", "processor", "× scipy", "iterations", "true residual"):
        table.add_column(heading, justify="left" if heading in ("layer", "solver") else "right")
    for line in lines:
        low, high = line["iterations"]
        table.add_row(
            f"{line['shape']} {line['size'][0]}×{line['size'][1]}",
            f"{line['anchor']:g}",
            line["solver"],
            f"{line['seconds']:.2f}",
            f"{line['processor_seconds']:.2f}",
            f"{line['times_faster_than_scipy']:.1f}",
            f"{low}–{high}" if low != high else str(low),
            f"{line['worst_relative_residual']:.1e}",
            end_section=line["solver"] == "pcg",
        )
    Console(width=110).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="of the model, a multiple of 8 (default 128)")
    parser.add_argument("--full", action="store_true", help="T5-large's own width, 1024")
    parser.add_argument("--layers", type=int, default=3, help="systems in a batch (default 3)")
    parser.add_argument("--models", type=int, default=8, help="models merged (default 8)")
    parser.add_argument("--anchors", type=float, nargs="+", default=[0.1], help="default 0.1")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="relative residual (default 1e-4)")
    parser.add_argument("--max-iterations", type=int, default=2000, help="of one system (default 2000)")
    parser.add_argument("--repeats", type=int, default=2, help="timed runs of each (default 2)")
    parser.add_argument("--device", default="cpu", help="cpu or cuda, for ours (default cpu)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, default=RESULTS / "solver.json")
    options = parser.parse_args()
    options.width = 1024 if options.full else options.width
    lines = []
    for name, (out, inner) in SHAPES.items():
        shape = (out * options.width // 8, inner * options.width // 8)
        for anchor in options.anchors:
            lines += compare(name, shape, anchor, options)
    show(lines, options)
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps({"environment": environment(options), "results": lines}, indent=2) + "\n")


if __name__ == "__main__":
    main()
