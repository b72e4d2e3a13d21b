"""Run by test_merge_memory in a process of its own: generate checkpoints (and stores), merge them, print the peak.

Usage: python peak_of_merge.py FOLDER METHOD SIZE LAYERS,MODELS... prints a line for each case: the bytes by which the
peak of resident memory rose over what the imports and the plan took, and the plan's estimate.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from engine_families import RawStore, write_raw
from safetensors.torch import save_file

from mats.engine import MergeRequest, ModelInput, merge, merging, plan_merge
from mats.methods import AverageSettings, MatsSettings, SolverChoice
from mats.store import LayerRecord, SiteRecord, Sums

METHODS = {"average": AverageSettings(), "mats": MatsSettings(solver=SolverChoice(name="cg", max_iterations=2))}


def make(root: Path, layers: int, models: int, size: int, method: str) -> None:
    """A base and models of square layers; for mats, a store for each."""
    generator = torch.Generator().manual_seed(0)
    names = [f"layer.{i}.weight" for i in range(layers)]
    for model in ["base", *[f"model{i}" for i in range(models)]]:
        folder = root / model
        folder.mkdir(parents=True)
        save_file({n: torch.randn(size, size, generator=generator) for n in names}, folder / "model.safetensors")
        if method == "mats" and model != "base":
            _measure(root / f"store-{model}", folder, layers, size)


def _measure(store: Path, model: Path, layers: int, size: int) -> None:
    raw = RawStore(5, Sums())
    gram = torch.eye(size) + 0.01
    for i in range(layers):
        name = f"layer.{i}"
        raw.sites[name] = SiteRecord(name, "gram", size, False)
        raw.layers[name] = LayerRecord(name, "linear", f"{name}.weight", None, name, "out_in", size)
        raw.sums.tensors[f"input_gram/{name}"] = gram
        raw.sums.tensors[f"output_gram/{name}"] = gram
        for kind in ("site", "layer"):
            raw.sums.tokens[f"{kind}:{name}"] = 10.0
            raw.sums.fourth_moments[f"{kind}:{name}"] = 1.0
    raw.sums.example_ids = [str(i) for i in range(5)]
    write_raw(store, raw, model, [])


def request(root: Path, models: int, method: str, output: str, budget: int | None) -> MergeRequest:
    """The merge; `budget` is that of one layer, so that every group is one layer."""
    inputs = tuple(
        ModelInput(f"m{i}", str(root / f"model{i}"), 1.0, root / f"store-model{i}" if method == "mats" else None)
        for i in range(models)
    )
    return MergeRequest(
        inputs, METHODS[method], root / output, base=str(root / "base"), device="cpu", memory_budget=budget
    )


def status(field: str) -> int:
    """Bytes under `VmRSS` (held now) or `VmHWM` (most held since the peak was reset)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{field}:"))


def measure_merge(root: Path, models: int, method: str, small: Path) -> None:
    """Merge, and print by how many bytes the peak rose, and the plan's estimate.

    The small merge comes first: the pages of torch's own code that a merge touches are no part of what it holds.
    """
    merging.write_report = lambda *_, **__: []  # type: ignore[assignment]
    merge(request(small, models, method, f"out-{root.name}", None))
    wanted = request(root, models, method, "out", None)
    plan = plan_merge(wanted)
    if plan.groups:
        wanted = request(root, models, method, "out", plan.groups[0].bytes // len(plan.groups[0].systems))
        plan = plan_merge(wanted)
    Path("/proc/self/clear_refs").write_text("5")  # resets the peak
    before = status("VmRSS")
    merge(wanted)
    print(status("VmHWM") - before, plan.peak_bytes, flush=True)


def in_child(work: Callable[..., None], *arguments: object) -> None:
    """Each step in a process forked after the imports, whose peak is its own."""
    child = os.fork()
    if child == 0:
        try:
            work(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def main() -> None:
    """For each LAYERS,MODELS: make, then merge and measure."""
    root, method, size = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    for case in sys.argv[4:]:
        layers, models = map(int, case.split(","))
        small = root / f"small-{models}"
        if not small.exists():
            in_child(make, small, 2, models, 64, method)
        in_child(make, root / case, layers, models, size, method)
        in_child(measure_merge, root / case, models, method, small)


if __name__ == "__main__":
    main()
