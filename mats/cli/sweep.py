"""`mats sweep`: one recipe at many settings."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mats.cli.arguments import DeviceOption, JsonOption, only_overrides, with_options

if TYPE_CHECKING:
    from mats.sweeps import LoadedSweep, SweepOutcome

SweepArgument = Annotated[
    Path, typer.Argument(metavar="SWEEP", help="Sweep file (YAML or JSON); see docs/sweeps.md.", show_default=False)
]
SweepOverrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="KEY=VALUE",
        help="Values that replace the sweep file's or its recipe's, as axes.merge.scale=[0.1, 0.3] or keep=all.",
        show_default=False,
    ),
]


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("sweep", short_help="Merge and score one recipe at many settings; resumable.")(sweep)


def sweep(
    sweep_file: SweepArgument,
    overrides: SweepOverrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the points and what is left to do.")] = False,
    shard: Annotated[
        str | None,
        typer.Option("--shard", metavar="I/N", help="Work on every N-th point alone, from the I-th; I from 1 to N."),
    ] = None,
    collect: Annotated[
        bool, typer.Option("--collect", help="Merge nothing; select, report and draw what the shards have done.")
    ] = False,
    launcher: Annotated[
        str | None, typer.Option("--launcher", metavar="NAME", help="submitit: run shards as jobs, wait, and collect.")
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", metavar="N", min=1, help="How many jobs --launcher starts.")] = 1,
    keep: Annotated[
        str | None,
        typer.Option(
            "--keep", metavar="WHICH", help="Merged weights to keep: best, all or none. Default: the sweep file's."
        ),
    ] = None,
    device: DeviceOption = None,
    as_json: JsonOption = False,
) -> None:
    """Merge and score a recipe at every point of a sweep; metadata are measured once, finished points are kept.

    A point that fails is recorded and the others go on; the exit status is then 1. The best point is chosen on one
    split and reported on another.

    \b
    Examples:
      mats sweep configs/ablations/digits_anchor.yaml --dry-run
      mats sweep configs/ablations/digits_anchor.yaml evaluate.examples=100 --shard 1/4
    """
    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display
    from mats.errors import RequestError
    from mats.sweeps import collect_sweep, load_sweep, parse_shard, plan_lines, run_sweep

    part = None if shard is None else parse_shard(shard)
    chosen = [name for name, given in (("--shard", shard), ("--collect", collect), ("--launcher", launcher)) if given]
    if len(chosen) > 1:
        raise RequestError(f"{' and '.join(chosen)}: one of them at a time would be right")
    texts = with_options(only_overrides(overrides), device=device, keep=keep)
    loaded = load_sweep(sweep_file, texts)
    if dry_run:
        lines = plan_lines(loaded, part)
        print_json({"points": _points(loaded), "plan": lines}) if as_json else print_lines(lines)
        return
    with progress_display(as_json=as_json) as progress:
        if launcher is not None:
            from mats.sweeps.launching import launch_sweep

            outcome = launch_sweep(loaded, launcher, jobs, texts, progress)
        else:
            outcome = collect_sweep(loaded, progress) if collect else run_sweep(loaded, part, progress)
    if as_json:
        print_json(_as_json(outcome))
    else:
        print_lines(_lines(outcome, sharded=part is not None))
    raise typer.Exit(1 if outcome.failed or outcome.missing else 0)


def _points(loaded: LoadedSweep) -> list[dict[str, Any]]:
    return [{"number": p.number, "digest": p.digest, "columns": dict(p.columns)} for p in loaded.points]


def _as_json(outcome: SweepOutcome) -> dict[str, Any]:
    return {
        "output": str(outcome.output),
        "points": outcome.points,
        "done": outcome.done,
        "failed": [{"point": number, "error": error} for number, error in outcome.failed],
        "missing": outcome.missing,
        "selected": list(outcome.selected),
        "files": list(outcome.files),
    }


def _lines(outcome: SweepOutcome, *, sharded: bool) -> list[str]:
    lines = [f"{outcome.done} of {outcome.points} points done; results in {outcome.output}"]
    lines += [f"point {number} failed: {error}" for number, error in outcome.failed]
    if outcome.missing:
        lines.append(f"{outcome.missing} points are not finished; the same command goes on with them")
    if sharded:
        lines.append("when all shards are done, --collect selects and draws")
    if outcome.selected:
        lines.append(f"selected: {', '.join(f'point {number}' for number in outcome.selected)}")
    if outcome.files:
        lines.append(str(outcome.output / "report.html"))
    return lines
