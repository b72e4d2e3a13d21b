"""The solver benchmark: K-FAC systems to a *true* residual, ours against the published way and others.

    python benchmarks/solver real                       # every layer of a real six-model merge (benchmarks/quality)
    python benchmarks/solver real --layers 0            # the published way on every layer too: hours
    python benchmarks/solver shapes                     # random systems of T5-large's and Llama-8B's shapes; scaling
    python benchmarks/solver hard                       # rank-deficient, zero, huge, opposite …: iterations, residuals

All contenders solve for the correction, with the same damping and right-hand side, in float32, to the same relative
residual, which is recomputed in float64 from the answer, model by model, by code that is nobody's operator:

    published             SciPy's cg, a layer after the other, no preconditioner, products made model by model
    scipy, our operator   SciPy's cg on the product's operator
    ours, cg              our plain conjugate gradients
    ours, auto            what `mats merge` does; right-hand side, eigenbases and certificates count
    lineax                lineax's cg (JAX), compiled before its clock starts; with --lineax-python
    dense                 Cholesky of the Kronecker matrix in float64, where it fits

A system that the published way has not finished in 1000 iterations is counted apart; ratios are over those that it has
finished, ours solving exactly the same ones. Every measurement is a line on disk as soon as it is made: a run that was
killed, or has used up --minutes, goes on where it stopped. Times are of the wall (take an idle machine) or, with
--clock processor, of the processor, which a busy machine does not inflate (take OMP_NUM_THREADS=1).
"""

from __future__ import annotations

import os

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from machine import environment, gemm_rates, words
from records import OutOfTime, Records
from rich.console import Console

from mats.files import write_json_atomically

RESULTS = Path(__file__).parents[1] / "results"
CLOCKS = {"wall": "seconds", "processor": "processor_seconds"}

app = typer.Typer(add_completion=False, no_args_is_help=True, help=__doc__.split("\n", maxsplit=1)[0])

MinutesOption = Annotated[float | None, typer.Option("--minutes", min=0, help="Begin nothing new after so many.")]
ClockOption = Annotated[str, typer.Option("--clock", help="wall or processor: what ratios are made of.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Forget what earlier runs have measured.")]
HomeOption = Annotated[Path, typer.Option("--home", help="Where measurements are kept, line by line.")]
ResultsOption = Annotated[Path, typer.Option("--results", help="Folder of JSON and plots.")]
HOME = Path("exp_out/solver")


@app.command()
def real(
    recipe: Annotated[Path, typer.Option("--recipe", exists=True, help="Of a merge whose stores exist.")] = Path(
        "exp_out/quality/first/runs/full/seed-0/recipe.yaml"
    ),
    dampings: Annotated[str, typer.Option("--dampings", help="0 is μ = 0; 0.1 is the default of mats.")] = "0.1,0",
    tolerance: Annotated[float, typer.Option("--tolerance", help="True relative residual.")] = 1e-4,
    layers: Annotated[int, typer.Option("--layers", min=0, help="Of each shape, for the published way; 0: all.")] = 2,
    second_layers: Annotated[
        int, typer.Option("--second-layers", min=0, help="Of these, for the others; 0: none.")
    ] = 1,
    most: Annotated[int, typer.Option("--most", min=1, help="Iterations that ours may take.")] = 1000,
    lineax_python: Annotated[str | None, typer.Option("--lineax-python", help="Interpreter with lineax.")] = None,
    minutes: MinutesOption = None,
    clock: ClockOption = "wall",
    fresh: FreshOption = False,
    home: HomeOption = HOME,
    results: ResultsOption = RESULTS,
) -> None:
    """Every layer of a real merge, at the product's damping and without any."""
    from plots import plot_real
    from real import Choice, measure
    from real_summary import summary
    from tables import real_table

    choice = Choice(
        recipe,
        tuple(float(part) for part in dampings.split(",")),
        tolerance,
        layers,
        second_layers,
        most,
        lineax_python,
    )
    records = Records(home / "real.jsonl", minutes, fresh=fresh)
    machine = records.measured({"machine": "real"}, lambda: {"environment": environment(), "gemm": gemm_rates()})
    complete = _until_out_of_time(lambda: measure(choice, records))
    own = [record for record in records.lines.values() if "machine" not in record["key"]]
    lines = {f"{damping:g}": summary(own, damping, tolerance, CLOCKS[clock]) for damping in choice.dampings}
    Console(width=120).print(words(machine["environment"]))
    for damping, of_damping in lines.items():
        Console(width=120).print(real_table(of_damping, damping, tolerance, clock))
    settings = {"recipe": recipe.as_posix(), "tolerance": tolerance, "layers": layers, "clock": clock}
    _write(results / "solver-real.json", machine, settings, {"summary": lines, "records": own, "complete": complete})
    plot_real(lines, results / "solver-real.png", clock)


@app.command()
def shapes(
    llama_scale: Annotated[int, typer.Option("--llama-scale", min=1, help="Llama-8B's widths are divided by it.")] = 4,
    t5_scale: Annotated[int, typer.Option("--t5-scale", min=1, help="T5-large's likewise.")] = 1,
    damping: Annotated[float, typer.Option("--damping", help="As of mats by default.")] = 0.1,
    only: Annotated[str, typer.Option("--only", help="Cases whose name has this in it.")] = "",
    repeats: Annotated[int, typer.Option("--repeats", min=1, help="Timed runs of each; medians count.")] = 1,
    minutes: MinutesOption = None,
    clock: ClockOption = "wall",
    fresh: FreshOption = False,
    home: HomeOption = HOME,
    results: ResultsOption = RESULTS,
) -> None:
    """Random systems of T5-large's and Llama-8B's shapes, and how time grows with width, models and layers."""
    from plots import plot_shapes
    from shapes import cases, measure
    from tables import shapes_table

    records = Records(home / "shapes.jsonl", minutes, fresh=fresh)
    machine = records.measured({"machine": "shapes"}, lambda: {"environment": environment(), "gemm": gemm_rates()})
    chosen = [case for case in cases(t5_scale, llama_scale, damping) if only in case.name]
    complete = _until_out_of_time(lambda: measure(chosen, repeats, records))
    names = {(case.name, case.shape) for case in chosen}
    measured = (record for record in records.lines.values() if "case" in record["key"])
    lines = [line for line in measured if (line["key"]["case"], tuple(line["key"]["shape"])) in names]
    Console(width=120).print(words(machine["environment"]))
    Console(width=120).print(shapes_table(lines, clock))
    _write(
        results / "solver-shapes.json",
        machine,
        {"damping": damping, "clock": clock},
        {"records": lines, "complete": complete},
    )
    plot_shapes(lines, results / "solver-shapes.png", clock)


@app.command(hidden=True)
def one(case: str, repeats: int) -> None:
    """One case of `shapes` in this process, so that its memory is its own; prints JSON."""
    from shapes import measure_here

    typer.echo(json.dumps(measure_here(json.loads(case), repeats)))


@app.command()
def hard(results: ResultsOption = RESULTS) -> None:
    """The hard cases of the tests, with every solver and precision: iterations, true residuals, distance from dense."""
    from hard import measure
    from tables import hard_table

    lines = measure()
    Console(width=140).print(hard_table(lines))
    _write(results / "solver-hard.json", {"environment": environment()}, {}, {"records": lines})


def _until_out_of_time(measure: Any) -> bool:
    """Whether everything is measured; says so where the minutes were over first."""
    try:
        measure()
    except OutOfTime:
        typer.echo("the minutes are over; the same command goes on from here", err=True)
        return False
    return True


def _write(path: Path, machine: dict[str, Any], settings: dict[str, Any], content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    told = {name: value for name, value in machine.items() if name != "key"}
    write_json_atomically(path, {**told, "settings": settings, **content})


if __name__ == "__main__":
    app()
