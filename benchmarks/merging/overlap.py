"""What does it bring to read the next group of layers, and write the last, while one is solved?

    python benchmarks/merging/overlap.py RECIPE                # disks: as it is, and one that gives 100 MB/s
    python benchmarks/merging/overlap.py RECIPE --rate 50e6 --rounds 5 merge.solver.max_iterations=20

How it measures. The recipe's groups of layers are solved and written as `mats merge` does it, in three ways that take
turns in one process: all layers of a shape in one batch and one thing after another, batches of the planned size one
after another, and these overlapped. The slow disk is the real one whose every read of a
tensor also sleeps as long as that many bytes take at `--rate`. Medians over `--rounds`; beside the time on the wall
stands that of the processor, which a busy machine does not inflate, and which overlapping must not raise. What is
merged without a solve is left out. Results go to benchmarks/results/merging-overlap.json with the environment.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from mats.checkpoints import Checkpoint
from mats.engine import Group, MergeRequest, group_plan, merging, solving
from mats.engine.inputs import MergeInputs
from mats.engine.loading import GroupLoader
from mats.engine.plan import make_plan, store_indexes
from mats.engine.streaming import ElementwisePool
from mats.progress import Silent
from mats.recipes import load_recipe
from mats.recipes.requests import merge_request
from mats.store import MetadataStore

RESULTS = Path(__file__).parent.parent / "results"


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """`owner.name` is `value` for a while."""
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


@contextmanager
def slow_disk(rate: float | None) -> Iterator[None]:
    """Reading a tensor takes at least its bytes ÷ `rate` seconds; None: as long as it takes."""
    if rate is None:
        yield
        return

    def slowed(read: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        def wait(self: Any, key: str, *args: Any, **kwargs: Any) -> torch.Tensor:
            stored = read(self, key, *args, **kwargs)
            time.sleep(stored.numel() * stored.element_size() / rate)
            return stored

        return wait

    with (
        replaced(MetadataStore, "read", slowed(MetadataStore.read)),
        replaced(Checkpoint, "read", slowed(Checkpoint.read)),
    ):
        yield


def alone(groups: Sequence[Group], request: MergeRequest) -> list[Group]:
    """Nothing is read or written beside a solve."""
    return [replace(group, overlaps=False) for group in group_plan.overlapped(groups, request)]


@contextmanager
def in_the_way(name: str) -> Iterator[None]:
    """Groups planned and solved in one of the three ways."""
    with ExitStack() as changed:
        if name != "overlapped":
            changed.enter_context(replaced(solving, "overlapped", alone))
        if name == "one batch":
            changed.enter_context(replaced(group_plan, "FULL_BATCH", {"cpu": 1e18}))
        yield


def solve(inputs: MergeInputs, folder: Path) -> tuple[float, float]:
    """Seconds on the wall and of the processor for all groups."""
    plan = make_plan(inputs)
    pool = ElementwisePool(inputs, plan, Silent())
    loader = GroupLoader(inputs, store_indexes(inputs), pool.for_start, torch.device("cpu"))
    with merging.open_writer(inputs, plan, None) as writer, merging.Snapshots(inputs, plan, writer, "x") as snapshots:
        wall, processor = time.perf_counter(), time.process_time()
        solving.solve_groups(inputs, plan.groups, loader, writer, snapshots, Silent())
        taken = time.perf_counter() - wall, time.process_time() - processor
    shutil.rmtree(folder, ignore_errors=True)
    return taken


def measure(request: Any, rate: float | None, rounds: int) -> dict[str, list[tuple[float, float]]]:
    """Way → (wall, processor) of each round."""
    found: dict[str, list[tuple[float, float]]] = {"one batch": [], "one after another": [], "overlapped": []}
    for _ in range(rounds):
        for way, times in found.items():
            folder = Path(tempfile.mkdtemp(prefix="overlap-"))
            with MergeInputs(replace(request, output=folder / "out")) as inputs, slow_disk(rate), in_the_way(way):
                times.append(solve(inputs, folder))
    return found


def main() -> None:
    """Print the table and write the JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path)
    parser.add_argument("overrides", nargs="*")
    parser.add_argument("--rate", type=float, default=100e6, help="bytes per second of the slow disk")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--output", type=Path, default=RESULTS / "merging-overlap.json")
    arguments = parser.parse_intermixed_args()
    recipe = load_recipe(arguments.recipe, tuple(arguments.overrides))
    request = replace(merge_request(recipe, "nowhere"), device="cpu")
    with MergeInputs(request) as inputs:
        plan = make_plan(inputs)
    table = Table("disk", "way", "wall s", "processor s", title=f"{len(plan.groups)} groups of layers")
    rows = []
    for disk, rate in (("as it is", None), (f"{arguments.rate / 1e6:g} MB/s", arguments.rate)):
        found = measure(request, rate, arguments.rounds)
        for way, times in found.items():
            wall, processor = (statistics.median(column) for column in zip(*times, strict=True))
            table.add_row(disk, way, f"{wall:.2f}", f"{processor:.2f}")
            rows.append({"disk": disk, "way": way, "wall_seconds": wall, "processor_seconds": processor})
    Console().print(table)
    environment = {
        "machine": f"{os.cpu_count()} cores, {platform.machine()}",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "groups": [{"systems": len(g.systems), "shape": list(g.systems[0].shape)} for g in plan.groups],
        "models": len(request.models),
        "overrides": arguments.overrides,
    }
    arguments.output.write_text(json.dumps({"environment": environment, "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
