"""Seeds side by side: one process each, one thread each.

The models are so small that a second thread within one hardly helps (100 steps: 3.0 s with one thread, 2.7 s with
two, on two idle cores), and makes it many times slower where the cores are shared.
"""

from __future__ import annotations

import os
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

from mats.demo.seed_run import SeedRun, measure, merge_candidates, prepare, validation_shares
from mats.engine.threads import one_thread
from mats.progress import Progress, Silent


@dataclass(frozen=True)
class Told:
    """One seed's files, and the share of the specialists' validation accuracy that each candidate keeps, by label."""

    run: SeedRun
    validation: dict[str, float]


def tell(folder: Path, seed: int, progress: Progress | None = None) -> Told:
    """Train, measure, merge and validate for one seed."""
    progress = progress or Silent()
    with one_thread():
        run = prepare(folder, seed, progress)
        measure(run, progress)
        merge_candidates(run, progress)
        return Told(run, validation_shares(run, progress))


def tell_all(output: Path, seeds: int, progress: Progress) -> list[Told]:
    """Every seed, as many at a time as there are cores. A single seed runs here and shows its stages."""
    if seeds == 1:
        return [tell(output / "seed-0", 0, progress)]
    workers = min(seeds, os.cpu_count() or 1)
    progress.start(f"{seeds} seeds, {workers} at a time: train, measure, merge", seeds)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        jobs = {pool.submit(tell, output / f"seed-{seed}", seed): seed for seed in range(seeds)}
        try:
            for job in as_completed(jobs):
                job.result()
                progress.advance()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [job.result() for job in sorted(jobs, key=jobs.__getitem__)]
