"""Merging without data: curvature proxies beside merges that use none, and beside measured curvature.

    python benchmarks/proxies.py --data FOLDER [--home exp_out/quality/first] [--examples 100]

The six MiniLM models of the quality benchmark, seed 0. Shares are means over tasks of the accuracy ÷ that of the task's
own model, on the split `tuning` (no test example is looked at). Every row has its method's defaults but for what it
says. JSON: benchmarks/results.
"""

from __future__ import annotations

import argparse
import shutil
from pathlib import Path
from typing import Any

from encoder_merges import EncoderMerges

from mats.engine.proxies import write_proxy
from mats.files import write_json_atomically

AVERAGE = "merge.init=average"
ROWS: tuple[tuple[str, tuple[str, ...], str | None], ...] = (
    ("average", ("merge.method=average",), None),
    ("task arithmetic, scale 0.3", ("merge.method=task_arithmetic", "merge.scale=0.3"), None),
    ("task arithmetic, scale 0.4", ("merge.method=task_arithmetic", "merge.scale=0.4"), None),
    ("TSV-M", ("merge.method=tsv_m",), None),
    ("fisher, proxy square", ("merge.method=fisher",), "task_vector_square"),
    ("regmean, proxy gram", ("merge.method=regmean",), "task_vector_gram"),
    ("regmean, proxy root", ("merge.method=regmean",), "task_vector_root"),
    ("mats from the average, proxy gram", ("merge.method=mats", AVERAGE), "task_vector_gram"),
    ("mats from the average, proxy root", ("merge.method=mats", AVERAGE), "task_vector_root"),
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
    parser.add_argument("--examples", type=int, default=100, help="tuning examples of each task")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/proxies.json"))
    chosen = parser.parse_args()
    merges = EncoderMerges(chosen.home, chosen.data, chosen.scratch, 0, chosen.examples)
    rows: list[dict[str, Any]] = []
    for name, overrides, metadata in ROWS:
        stores = {} if metadata is None else stores_of(merges, metadata)
        share, scores = merges.share(merges.merge("row", overrides, stores))
        rows.append({"row": name, "share": share, "scores": scores})
        print(f"{name:36} {share:.4f}", flush=True)
        what = {"machine": merges.machine(), "examples": chosen.examples, "split": "tuning"}
        write_json_atomically(chosen.results, {**what, "rows": rows})
    shutil.rmtree(chosen.scratch, ignore_errors=True)


def stores_of(merges: EncoderMerges, metadata: str) -> dict[str, Path]:
    """The measured stores, or proxies made now (once)."""
    if metadata == "measured":
        return merges.stores()
    folders = {task.name: merges.scratch / metadata / task.name for task in merges.tasks}
    for task, folder in folders.items():
        if not folder.exists():
            write_proxy(str(merges.base), str(merges.model(task)), folder, metadata)
    return folders


if __name__ == "__main__":
    main()
