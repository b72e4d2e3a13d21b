"""What smaller stores cost: bytes, errors of the sums, change of the merged weights, and scores.

    python benchmarks/compression.py --data FOLDER [--home exp_out/quality/first] [--layers 4] [--examples 150]

On the six MiniLM models of the quality benchmark (seed 0) and the encoder layers `--layers` (all else is averaged):
each store is compressed, the models are merged from the copies with the settings of the exact merge, and the results
compared. `change` is ‖W' − W‖ ÷ ‖W − x0‖ over all solved tensors, W the merge of the exact stores and x0 the start of
its solve. An iteration that stops at a tolerance has an error of its own: the row `solved to 1e-5` is the exact stores
merged to a tenth of the default tolerance, and tells how much change means nothing. JSON:
benchmarks/results; a stopped run goes on after its last row.
"""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from statistics import median
from typing import Any

from encoder_merges import EncoderMerges, relative_change, rows_so_far, solved_names
from rows import FISHER_CURVATURE

from mats.files import write_json_atomically
from mats.store import compress_store, open_store

GRAMS = ("bfloat16", "float8", "low_rank:32", "low_rank:64", "block_diagonal:64")
FINER = "solved to 1e-5"
METHODS = {
    "mats": (("merge.method=mats",), "tsv_m", (FINER, *GRAMS), ()),
    "regmean": (("merge.method=regmean",), "average", GRAMS, ()),
    "fisher": (("merge.method=fisher",), "average", ("bfloat16", "float8"), FISHER_CURVATURE),
}
"""Name → overrides, the start of its solve, rows, and how its stores were measured."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--home", type=Path, default=Path("exp_out/quality/first"))
    parser.add_argument("--scratch", type=Path, default=Path("exp_out/compression"))
    parser.add_argument("--examples", type=int, default=150, help="tuning examples of each task")
    parser.add_argument("--layers", type=int, nargs="+", default=[4], help="encoder layers that are solved")
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--results", type=Path, default=Path("benchmarks/results/compression.json"))
    chosen = parser.parse_args()
    merges = EncoderMerges(chosen.home, chosen.data, chosen.scratch, 0, chosen.examples)
    setting = {"examples": chosen.examples, "split": "tuning", "layers": chosen.layers, "seed": 0}
    rows = rows_so_far(chosen.results, setting)
    done = {(row["method"], row["format"]) for row in rows}
    for method in chosen.methods:
        overrides, start, formats, measured = METHODS[method]
        missing = [form for form in ("exact", *formats) if (method, form) not in done]
        if not missing:
            continue
        kind = "entries" if measured else "grams"
        stores = merges.part_of(merges.stores(measured), chosen.layers, kind)
        settings = (*overrides, "merge.outside=average")  # all else is merged fast, and alike
        comparison = Comparison(merges, method, settings, start, stores, merges.scratch / "copies" / kind)
        for form in missing:
            rows.append(comparison.row(form))
            write_json_atomically(chosen.results, {"machine": merges.machine(), **setting, "rows": rows})
    shutil.rmtree(chosen.scratch, ignore_errors=True)


class Comparison:
    """The merges of one method: from exact stores, and from compressed ones."""

    def __init__(
        self,
        merges: EncoderMerges,
        method: str,
        settings: tuple[str, ...],
        start: str,
        stores: dict[str, Path],
        copies: Path,
    ) -> None:
        self._merges, self._method, self._settings, self._stores = merges, method, settings, stores
        self._copies = copies
        self._exact = merges.merge("exact", settings, stores)
        self._start = merges.merge("start", started(settings, start), stores)
        self._solved = solved_names(json.loads((self._exact / "report.json").read_text(encoding="utf-8")))

    def row(self, form: str) -> dict[str, Any]:
        """One line of the table, printed too."""
        losses: dict[str, Any] = {}
        if form == "exact":
            merged, stores = self._exact, self._stores
        elif form == FINER:
            finer = (*self._settings, "merge.solver.tolerance=1e-5")
            merged, stores = self._merges.merge("compressed", finer, self._stores), self._stores
        else:
            stores = self._compressed(form)
            merged = self._merges.merge("compressed", self._settings, stores)
            losses = _losses(stores)
        change = relative_change(merged, self._exact, self._start, self._solved)
        share, scores = self._merges.share(merged)
        size = sum(_bytes(folder) for folder in stores.values())
        row = {"method": self._method, "format": form, "bytes": size, **losses, "change": change, "share": share}
        told = f"   error {losses['median_error']:.4f} (worst {losses['worst_error']:.4f})" if losses else ""
        print(
            f"{self._method:8} {form:18} {size:>11,} bytes   change {change:.4f}   share {share:.4f}{told}", flush=True
        )
        return {**row, "scores": scores}

    def _compressed(self, form: str) -> dict[str, Path]:
        """The stores in one format; made once, however many methods read them."""
        copies = {task: self._copies / form.replace(":", "-") / task for task in self._stores}
        for task, copy in copies.items():
            if not copy.exists():
                compress_store(self._stores[task], copy, form)
        return copies


def started(settings: tuple[str, ...], start: str) -> tuple[str, ...]:
    """A merge whose solve is pulled to its start so hard that it stays there: x0 in the very layers that are solved."""
    return (*settings, f"merge.init={start}", "merge.anchor=1e9")


def _losses(stores: dict[str, Path]) -> dict[str, float]:
    """Relative Frobenius errors of single sums, over all stores."""
    told = [open_store(folder).manifest.compression or {} for folder in stores.values()]
    errors = [error for one in told for error in one["relative_error"].values()]
    return {"median_error": median(errors), "worst_error": max(errors)}


def _bytes(folder: Path) -> int:
    return sum(record.bytes for record in open_store(folder).manifest.files.values())


if __name__ == "__main__":
    main()
