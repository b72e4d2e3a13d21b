"""What does sparsification cost beside reading the model?

    python benchmarks/sparsify.py                    # 64 M entries in fp32 and in bf16
    python benchmarks/sparsify.py --entries 268      # millions: 1 GB of fp32

A base and a model of 16 M-entry matrices are written and read once, so their files are in the page cache. Then every
tensor of the model is read as a merge reads it, one at a time, by each strategy and without any; each pass runs
`--repeats` times after one that does not count. Reported is the least processor time on one thread (all system time is
in it), which company on the machine disturbs less than the clock on the wall. Results go to
benchmarks/results/sparsify.json.
"""

from __future__ import annotations

import argparse
import json
import platform
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from mats.engine import MergeRequest, ModelInput
from mats.engine.inputs import MergeInputs
from mats.methods import AverageSettings
from mats.methods.sparsify import SparsifySettings

SIDE = 4096
VARIANTS: dict[str, SparsifySettings | None] = {
    "reading alone": None,
    "random": SparsifySettings(drop=0.9),
    "random, norm": SparsifySettings(drop=0.9, rescale="norm"),
    "magnitude": SparsifySettings(strategy="magnitude", drop=0.9),
    "breadcrumbs": SparsifySettings(strategy="breadcrumbs", drop=0.9),
    "della": SparsifySettings(strategy="della", drop=0.7),
}


def write(folder: Path, tensors: int, dtype: torch.dtype) -> None:
    """A base, and a model that moved a little away from it."""
    generator = torch.Generator().manual_seed(0)
    for name in ("base", "model"):
        (folder / name).mkdir(parents=True)
        state = {f"layer.{i}.weight": torch.randn(SIDE, SIDE, generator=generator).to(dtype) for i in range(tensors)}
        save_file(state, folder / name / "model.safetensors", {"format": "pt"})


def seconds(folder: Path, variant: SparsifySettings | None) -> float:
    """Processor time of reading every tensor of the model once, and looking at each number."""
    models = (ModelInput("model", str(folder / "model"), sparsify=variant),)
    request = MergeRequest(models, AverageSettings(), folder / "out", str(folder / "base"), device="cpu")
    with MergeInputs(request) as inputs:
        started = time.process_time()
        for name in inputs.infos:
            inputs.read(0, name).sum()
        return time.process_time() - started


def measure(tensors: int, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Variant → entries per second and seconds per gigabyte of the model's file."""
    entries = tensors * SIDE * SIDE
    result = {}
    with tempfile.TemporaryDirectory() as root:
        write(Path(root), tensors, dtype)
        for name, variant in VARIANTS.items():
            best = min([seconds(Path(root), variant) for _ in range(repeats + 1)][1:])
            result[name] = {
                "entries_per_second": entries / best,
                "seconds_per_gigabyte": best / (entries * dtype.itemsize / 1e9),
            }
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--entries", type=int, default=64, help="millions in the model; default 64")
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    tensors = max(1, arguments.entries * 1_000_000 // (SIDE * SIDE))
    dtypes = {"float32": torch.float32, "bfloat16": torch.bfloat16}
    found = {name: measure(tensors, dtype, arguments.repeats) for name, dtype in dtypes.items()}
    for name, rows in found.items():
        print(f"{name:12}{'million entries/s':>20}{'s per GB':>12}")
        for variant, row in rows.items():
            print(f"  {variant:16}{row['entries_per_second'] / 1e6:14.0f}{row['seconds_per_gigabyte']:12.2f}")
    environment = {"torch": torch.__version__, "python": platform.python_version(), "machine": platform.machine()}
    path = Path(__file__).parent / "results" / "sparsify.json"
    path.write_text(
        json.dumps({"tensors": tensors, "side": SIDE, "results": found, "environment": environment}, indent=2) + "\n"
    )
    print(f"written to {path}")


if __name__ == "__main__":
    main()
