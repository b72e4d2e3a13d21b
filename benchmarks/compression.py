"""What smaller stores cost: bytes, errors of the sums, change of the merged weights, and scores.

    python benchmarks/compression.py --data FOLDER [--home exp_out/quality/first] [--examples 200] [--quick]

On the six MiniLM models of the quality benchmark (seed 0) and the encoder layers `--layers` (the others keep the
average): each store is compressed, the models are merged
from the copies with the settings of the exact merge, and the results compared. `change` is ‖W' − W‖ ÷ ‖W − x0‖ over
all solved tensors, W the merge of the exact stores and x0 the start of its solve. JSON: benchmarks/results.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from encoder_merges import EncoderMerges, relative_change, solved_names
from rows import FISHER_CURVATURE

from mats.files import write_json_atomically
from mats.store import compress_store, open_store

KRONECKER = ("bfloat16", "float8", "low_rank:16", "low_rank:32", "low_rank:64", "block_diagonal:64", "block_diagonal:1")
ENTRIES = ("bfloat16", "float8")
METHODS = {
    "mats": (("merge.method=mats",), "tsv_m", KRONECKER, ()),
    "mats, damping 0, anchor 1e-3": (
        ("merge.method=mats", "merge.damping=0", "merge.anchor=0.001"),
        "tsv_m",
        ("bfloat16", "float8"),
        (),
    ),
    "regmean": (("merge.method=regmean",), "average", ("bfloat16", "float8", "low_rank:32"), ()),
    "fisher": (("merge.method=fisher",), "average", ENTRIES, FISHER_CURVATURE),
}
"""Name → overrides, the start of its solve, formats, and how its stores were measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path("exp_out/quality/first"))
    parser.add_argument("--scratch", type=Path, default=Path("exp_out/compression"))
    parser.add_argument("--examples", type=int, default=200, help="tuning examples of each task")
    parser.add_argument("--layers", type=int, nargs="+", default=[1, 4], help="encoder layers that are solved")
    parser.add_argument("--methods", nargs="+", help=f"of {', '.join(METHODS)}; default: all")
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/compression.json"))
    parser.add_argument("--quick", action="store_true", help="one format of each method, to see that it runs")
    chosen = parser.parse_args()
    merges = EncoderMerges(chosen.home, chosen.data, chosen.scratch, 0, chosen.examples)
    rows: list[dict[str, Any]] = []
    for method, (overrides, start, formats, measured) in METHODS.items():
        if chosen.methods and method not in chosen.methods:
            continue
        stores = merges.part_of(merges.stores(measured), chosen.layers)
        outside = (*overrides, "merge.outside=average")  # all else is merged fast, and alike
        rows += one_method(merges, method, outside, start, formats[:1] if chosen.quick else formats, stores)
        what = {"examples": chosen.examples, "split": "tuning", "layers": chosen.layers}
        write_json_atomically(chosen.results, {"machine": merges.machine(), **what, "rows": rows})
    shutil.rmtree(chosen.scratch, ignore_errors=True)


def one_method(
    merges: EncoderMerges,
    method: str,
    overrides: tuple[str, ...],
    start: str,
    formats: tuple[str, ...],
    stores: dict[str, Path],
) -> list[dict[str, Any]]:
    """The exact merge, and one for each format."""
    exact = merges.merge("exact", overrides, stores)
    before = merges.merge("start", started(overrides, start), stores)
    names = solved_names(json.loads((exact / "report.json").read_text(encoding="utf-8")))
    share, scores = merges.share(exact)
    size = sum(sum(record.bytes for record in open_store(folder).manifest.files.values()) for folder in stores.values())
    rows = [{"method": method, "format": "exact", "bytes": size, "share": share, "scores": scores}]
    print(f"{method:30} exact               {size:>12,} bytes   share {share:.4f}", flush=True)
    for form in formats:
        began = time.perf_counter()
        copies = {task: merges.scratch / "stores" / task for task in stores}
        losses = {task: compress_store(stores[task], copies[task], form, overwrite=True) for task in stores}
        seconds = time.perf_counter() - began
        merged = merges.merge("compressed", overrides, copies)
        change = relative_change(merged, exact, before, names)
        share, scores = merges.share(merged)
        statistics = [asdict(loss) for done in losses.values() for loss in done.statistics]
        rows.append(
            {
                "method": method,
                "format": form,
                "bytes": sum(done.bytes_after for done in losses.values()),
                "relative_error": max(done.relative_error for done in losses.values()),
                "worst_sum": max(loss["worst"] for loss in statistics),
                "change": change,
                "share": share,
                "scores": scores,
                "seconds_to_compress": seconds,
            }
        )
        told = rows[-1]
        print(
            f"{method:30} {form:18} {told['bytes']:>12,} bytes   error {told['relative_error']:.4f} "
            f"(worst sum {told['worst_sum']:.4f})   change {change:.4f}   share {share:.4f}",
            flush=True,
        )
    return rows


def started(overrides: tuple[str, ...], start: str) -> tuple[str, ...]:
    """A merge whose solve is pulled to its start so hard that it stays there: x0 in the very layers that are solved."""
    return (*overrides, f"merge.init={start}", "merge.anchor=1e9")


if __name__ == "__main__":
    main()
