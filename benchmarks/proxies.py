"""Merging without data: curvature proxies beside merges that use none, and beside measured curvature.

    python benchmarks/proxies.py --data FOLDER [--home exp_out/quality/first] [--examples 150] [--tolerance 1e-2]

The six MiniLM models of the quality benchmark, seed 0. Shares are means over tasks of the accuracy ÷ that of the task's
own model, on the split `tuning` (no test example is looked at). Every row has its method's defaults but for what it
says and the solver's tolerance; nothing is tuned. Proxies and measured stores have sums for the encoder layers
`--layers` alone, so that all rows solve the same weights; the rest is as each method's start.
JSON: benchmarks/results; a stopped run goes on after its last row.
"""

from __future__ import annotations

import argparse
import shutil
import time
from pathlib import Path
from typing import Any

from encoder_merges import EncoderMerges, rows_so_far
from rows import FISHER_CURVATURE

from mats.engine.proxies import write_proxy
from mats.files import write_json_atomically

ROWS: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("average", ("merge.method=average",), None),
    ("task arithmetic, scale 0.3", ("merge.method=task_arithmetic", "merge.scale=0.3"), None),
    ("task arithmetic, scale 0.4", ("merge.method=task_arithmetic", "merge.scale=0.4"), None),
    ("TSV-M", ("merge.method=tsv_m",), None),
    ("fisher, proxy square", ("merge.method=fisher",), "task_vector_square"),
    ("fisher, measured", ("merge.method=fisher",), "measured diagonals"),
    ("regmean, proxy gram", ("merge.method=regmean",), "task_vector_gram"),
    ("regmean, proxy root", ("merge.method=regmean",), "task_vector_root"),
    ("regmean, measured", ("merge.method=regmean",), "measured"),
    ("mats, proxy gram", ("merge.method=mats",), "task_vector_gram"),
    ("mats, proxy root", ("merge.method=mats",), "task_vector_root"),
    ("mats, measured", ("merge.method=mats",), "measured"),
)
"""Name, overrides, and the metadata: none, a kind of proxy, or measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path("exp_out/quality/first"))
    parser.add_argument("--scratch", type=Path, default=Path("exp_out/proxies"))
    parser.add_argument("--examples", type=int, default=150, help="tuning examples of each task")
    parser.add_argument("--layers", type=int, nargs="+", default=list(range(6)), help="encoder layers that are solved")
    parser.add_argument("--tolerance", type=float, default=1e-2, help="relative residual of the iterations of mats")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/proxies.json"))
    chosen = parser.parse_args()
    merges = EncoderMerges(chosen.home, chosen.data, chosen.scratch, 0, chosen.examples)
    setting: dict[str, Any] = {"examples": chosen.examples, "split": "tuning", "layers": chosen.layers, "seed": 0}
    setting["tolerance"] = chosen.tolerance
    rows = rows_so_far(chosen.results, setting)
    done = {row["row"] for row in rows}
    for name, settings, metadata in ROWS:
        if name in done:
            continue
        began = time.process_time()
        stores = {} if metadata is None else stores_of(merges, metadata, chosen.layers)
        overrides = settings if metadata is None else (*settings, f"merge.solver.tolerance={chosen.tolerance:g}")
        share, scores = merges.share(merges.merge("row", overrides, stores))
        rows.append({"row": name, "share": share, "scores": scores})
        print(f"{name:36} {share:.4f}   {time.process_time() - began:5.0f} s of processor time", flush=True)
        write_json_atomically(chosen.results, {"machine": merges.machine(), **setting, "rows": rows})
    shutil.rmtree(chosen.scratch, ignore_errors=True)


def stores_of(merges: EncoderMerges, metadata: str, layers: list[int]) -> dict[str, Path]:
    """The measured stores, or proxies made now (once): their sums of these layers."""
    folders = {task.name: merges.scratch / metadata / task.name for task in merges.tasks}
    if all(folder.exists() for folder in folders.values()):
        return folders
    if metadata.startswith("measured"):
        stores = merges.stores(FISHER_CURVATURE if metadata == "measured diagonals" else ())
        return merges.part_of(stores, layers, metadata)
    whole = {task: merges.scratch / "whole" / task for task in folders}
    for task, folder in whole.items():
        write_proxy(str(merges.base), str(merges.model(task)), folder, metadata, overwrite=True)
    parts = merges.part_of(whole, layers, metadata)
    shutil.rmtree(merges.scratch / "whole")
    return parts


if __name__ == "__main__":
    main()
