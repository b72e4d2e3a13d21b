"""One merge by mergekit, timed; run by `benchmarks/executor.py mergekit` with a Python that has mergekit.

    PYTHON mergekit_once.py FOLDER METHOD MODELS OUTPUT

Prints, as JSON: seconds of the merge (imports apart), seconds until its files are on the disk (mergekit leaves them to
the kernel), peak memory, versions.
"""

from __future__ import annotations

import json
import os
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mergekit.config import MergeConfiguration
from mergekit.merge import MergeOptions, run_merge

METHODS: dict[str, tuple[str, dict[str, float]]] = {
    "average": ("linear", {"weight": 1.0}),
    "ties": ("ties", {"weight": 1.0, "density": 0.2}),
    "dare": ("dare_linear", {"weight": 0.3, "density": 0.1}),
}


def configuration(folder: Path, method: str, models: int) -> dict[str, Any]:
    """The merge in mergekit's own words."""
    word, parameters = METHODS[method]
    names = [str(folder / f"model-{number}") for number in range(models)]
    entries = [{"model": name, "parameters": parameters} for name in names]
    content = {"merge_method": word, "models": entries, "dtype": "float32"}
    if method == "dare":
        content["parameters"] = {"rescale": True, "normalize": False}
    return content if method == "average" else {**content, "base_model": str(folder / "base")}


def main() -> None:
    folder, method, models, output = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), Path(sys.argv[4])
    wanted = MergeConfiguration.model_validate(configuration(folder, method, models))
    options = MergeOptions(copy_tokenizer=False, write_model_card=False, quiet=True, random_seed=0)
    started = time.perf_counter()
    run_merge(wanted, str(output), options)
    returned = time.perf_counter() - started
    for path in output.iterdir():
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)
    durable = time.perf_counter() - started
    peak = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
    versions = {name: version(name) for name in ("mergekit", "torch", "transformers", "safetensors")}
    result = {"seconds": returned, "durable_seconds": durable, "peak_bytes": int(peak.split()[1]) * 1024}
    print(json.dumps(result | {"versions": versions}))


if __name__ == "__main__":
    main()
