"""Shards as jobs of a cluster, by submitit (extra `slurm`): started, waited for, collected."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mats.errors import RequestError, WorkFailed
from mats.progress import Progress
from mats.sweeps.loading import LoadedSweep, load_sweep
from mats.sweeps.running import SweepOutcome, check_inputs, collect_sweep, run_sweep, write_settings

LAUNCHERS = ("submitit",)


def launch_sweep(
    loaded: LoadedSweep, launcher: str, jobs: int, overrides: Sequence[str], progress: Progress
) -> SweepOutcome:
    """Run a sweep as an array of jobs, one shard each, and collect when all have ended.

    The sweep's `launcher` section goes to submitit: `cluster` (slurm, local or debug; default: what submitit finds) and
    the parameters of its executor (`timeout_min`, `slurm_partition`, `gpus_per_node`, …). Logs are in `<output>/jobs`.
    Jobs outlive this process; the same command, or one with --collect, takes their results up.

    Args:
        loaded: the sweep.
        launcher: `submitit`.
        jobs: how many.
        overrides: those `loaded` was made with; jobs read the sweep file again.
        progress: told of jobs that end.

    Raises:
        RequestError: the launcher is not known or not installed, or refuses an option.
        WorkFailed: a job was lost; what it had finished is kept.
    """
    if launcher not in LAUNCHERS:
        raise RequestError(f"--launcher {launcher}: not known; {' or '.join(LAUNCHERS)} would be right")
    check_inputs(loaded)
    write_settings(loaded)
    executor = _executor(loaded)
    shards = range(1, jobs + 1)
    files, texts, counts = [str(loaded.path)] * jobs, [list(overrides)] * jobs, [jobs] * jobs
    started = executor.map_array(run_job, files, texts, shards, counts)
    progress.start(f"waiting for {jobs} jobs", jobs)
    lost = []
    for job in started:
        try:
            job.result()
        except Exception as error:  # whatever a job raised, or submitit about it
            lost.append(f"job {job.job_id}: {(str(error).strip() or type(error).__name__).splitlines()[-1]}")
        progress.advance()
    outcome = collect_sweep(loaded, progress)
    if lost:
        raise WorkFailed("\n".join([*lost, f"logs are in {loaded.output / 'jobs'}; the same command goes on"]))
    return outcome


def run_job(path: str, overrides: list[str], shard: int, shards: int) -> int:
    """One job: a shard of the sweep in the folder that the command ran in; the number of its points that are done."""
    return run_sweep(load_sweep(path, overrides), (shard, shards)).done


def _executor(loaded: LoadedSweep) -> Any:
    try:
        import submitit
    except ImportError as error:
        raise RequestError("--launcher submitit: not installed; pip install 'mats[slurm]' would be right") from error
    options = dict(loaded.sweep.launcher)
    cluster = options.pop("cluster", None)
    folder: Path = loaded.output / "jobs"
    try:
        executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        executor.update_parameters(**options)
    except (NameError, ValueError, TypeError, AssertionError, RuntimeError) as error:
        raise RequestError(f"launcher: submitit refuses {loaded.sweep.launcher!r}: {error}") from error
    return executor
