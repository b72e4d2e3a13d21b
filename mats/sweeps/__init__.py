"""Sweeps: a recipe, keys of it that vary, and what came of every combination (docs/sweeps.md)."""

from mats.sweeps.gathering import gather_merges, gather_sweep
from mats.sweeps.loading import LoadedSweep, load_sweep
from mats.sweeps.running import SweepOutcome, collect_sweep, parse_shard, plan_lines, run_sweep
from mats.sweeps.spec import Sweep

__all__ = [
    "LoadedSweep",
    "Sweep",
    "SweepOutcome",
    "collect_sweep",
    "gather_merges",
    "gather_sweep",
    "load_sweep",
    "parse_shard",
    "plan_lines",
    "run_sweep",
]
