"""How long, and in how much memory, does a merge stream checkpoints? Compared with reading and writing the same bytes.

    python benchmarks/executor.py time                       # four BERT-base-sized fp32 models on their base
    python benchmarks/executor.py time --models 8 --cold
    python benchmarks/executor.py memory --gigabytes 2       # peak memory against layers and against models
    python benchmarks/executor.py mergekit --mergekit-python PYTHON       # beside mergekit, on the same files

How it measures. Checkpoints are made first, by a process of their own. Every run is a fresh process that imports
everything, then starts the clock: so times hold no imports, and peak memory (VmHWM) is that of this run alone. The
floor reads the same input files (an average has no base) in 16 MiB pieces into one buffer and writes as many bytes as
the output has, with fsync, which every merge does too. Each merge's floor runs right before it, after another merge: a
floor after a floor finds the disk idle and is twice as fast. Ratios are medians over these pairs. Files are in
the page cache unless `--cold` drops them before each run. Results go to benchmarks/results/executor-<mode>.json with
the environment. Run it on an idle machine: threads that wait for each other suffer most from company.

`mergekit` merges three fp32 Llamas of `--gigabytes` each, and as many of many tiny tensors, by the average, TIES (of
whole models as published, and of each tensor, as mergekit has it) and DARE. Programs and methods take turns; ratios are
medians over the turns. mergekit returns before its files are on the disk, mats after: both of mergekit's times are
given. mergekit's time grows with the square of the number of tensors, so the most tensors are merged by mats alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import against_mergekit

METHODS = ("average", "task_arithmetic", "ties")
FLOORS = {method: f"floor of {method}" for method in METHODS}  # reads and writes the same bytes, right before it
LIMITS = {"average": 1.5, "ties": 4.0}  # times the floor; what the project promises for the default sizes
HIDDEN, VOCABULARY, INTERMEDIATE, POSITIONS = 768, 30522, 3072, 512
LAYER_BYTES = 4 * (4 * (HIDDEN * HIDDEN + HIDDEN) + 2 * HIDDEN * INTERMEDIATE + INTERMEDIATE + 5 * HIDDEN)
BUFFER = 1 << 24
RESULTS = Path(__file__).parent / "results"


def bert_shapes(layers: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a BERT encoder of `layers` layers of base width; 12 layers are BERT-base (109 M)."""
    shapes: dict[str, tuple[int, ...]] = {
        "bert.embeddings.word_embeddings.weight": (VOCABULARY, HIDDEN),
        "bert.embeddings.position_embeddings.weight": (POSITIONS, HIDDEN),
        "bert.embeddings.token_type_embeddings.weight": (2, HIDDEN),
        "bert.embeddings.LayerNorm.weight": (HIDDEN,),
        "bert.embeddings.LayerNorm.bias": (HIDDEN,),
        "bert.pooler.dense.weight": (HIDDEN, HIDDEN),
        "bert.pooler.dense.bias": (HIDDEN,),
    }
    dense = {
        "attention.self.query": (HIDDEN, HIDDEN),
        "attention.self.key": (HIDDEN, HIDDEN),
        "attention.self.value": (HIDDEN, HIDDEN),
        "attention.output.dense": (HIDDEN, HIDDEN),
        "intermediate.dense": (INTERMEDIATE, HIDDEN),
        "output.dense": (HIDDEN, INTERMEDIATE),
    }
    for layer in range(layers):
        prefix = f"bert.encoder.layer.{layer}."
        for name, shape in dense.items():
            shapes |= {f"{prefix}{name}.weight": shape, f"{prefix}{name}.bias": shape[:1]}
        for norm in ("attention.output.LayerNorm", "output.LayerNorm"):
            shapes |= {f"{prefix}{norm}.weight": (HIDDEN,), f"{prefix}{norm}.bias": (HIDDEN,)}
    return shapes


def generate(folder: Path, layers: int, models: int) -> None:
    """Write `base` and `model-0` … into `folder`: changes are Gaussian, smaller in later layers, none in rare rows."""
    import torch
    from safetensors.torch import save_file

    config = {
        "architectures": ["BertModel"],
        "model_type": "bert",
        "hidden_size": HIDDEN,
        "num_hidden_layers": layers,
        "num_attention_heads": HIDDEN // 64,
        "intermediate_size": INTERMEDIATE,
        "vocab_size": VOCABULARY,
        "max_position_embeddings": POSITIONS,
    }
    base = _random_state(bert_shapes(layers), 0.02, seed=0)
    for number in range(-1, models):
        target = folder / ("base" if number < 0 else f"model-{number}")
        target.mkdir(parents=True)
        state = base
        if number >= 0:
            torch.manual_seed(number + 1)
            state = {name: value + 1e-3 * torch.randn_like(value) for name, value in base.items()}
            rows = state["bert.embeddings.word_embeddings.weight"]
            untouched = torch.rand(len(rows)) < 0.3
            rows[untouched] = base["bert.embeddings.word_embeddings.weight"][untouched]
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})
        (target / "config.json").write_text(json.dumps(config))


def _random_state(shapes: dict[str, tuple[int, ...]], scale: float, *, seed: int) -> dict[str, Any]:
    import torch

    generator = torch.Generator().manual_seed(seed)
    return {name: scale * torch.randn(shape, generator=generator) for name, shape in shapes.items()}


def input_files(folder: Path, models: int) -> list[Path]:
    """The weight files of the base and of the models."""
    return [folder / "base" / "model.safetensors"] + [
        folder / f"model-{n}" / "model.safetensors" for n in range(models)
    ]


def read_and_write(files: list[Path], output: Path) -> None:
    """The floor: every byte of the inputs read, as many bytes written as one of them has, durable at the end."""
    buffer = memoryview(bytearray(BUFFER))
    for path in files:
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass
    left = files[0].stat().st_size
    with open(output, "wb", buffering=0) as file:
        while left:
            left -= file.write(buffer[: min(left, BUFFER)])
        os.fsync(file.fileno())


def merge_once(folder: Path, models: int, method: str, output: Path) -> float:
    """Merge through the engine, an average without the base; returns the seconds it took, imports apart."""
    from mats.engine import MergeRequest, ModelInput, merge
    from mats.methods import parse_method

    inputs = tuple(ModelInput(f"model-{n}", str(folder / f"model-{n}")) for n in range(models))
    request = MergeRequest(
        models=inputs,
        method=parse_method(method),
        output=output,
        base=None if method == "average" else str(folder / "base"),
        device="cpu",
    )
    started = time.perf_counter()
    merge(request)
    return time.perf_counter() - started


def peak_memory() -> int:
    """VmHWM in bytes: the most this process held since it was started (not its parent, as ru_maxrss would)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("/proc/self/status has no VmHWM: this benchmark needs Linux")


def child(arguments: argparse.Namespace) -> None:
    """One run in this process; prints its result as JSON."""
    output = arguments.folder / "out"
    if arguments.mode == "child-mergekit":
        child_beside_mergekit(arguments, output)
        return
    if arguments.what == "generate":
        generate(arguments.folder, arguments.layers, arguments.models)
        return
    if arguments.what in FLOORS.values():
        files = input_files(arguments.folder, arguments.models)
        started = time.perf_counter()
        read_and_write(files[1:] if arguments.what == FLOORS["average"] else files, output)
        seconds = time.perf_counter() - started
    elif arguments.what == "imports":
        import mats.engine  # noqa: F401

        seconds = 0.0
    else:
        seconds = merge_once(arguments.folder, arguments.models, arguments.what, output)
    print(json.dumps({"seconds": seconds, "peak_bytes": peak_memory()}))


def child_beside_mergekit(arguments: argparse.Namespace, output: Path) -> None:
    """As `child`, on the checkpoints that mergekit merges too; with the time that planning alone takes."""
    if arguments.what in FLOORS.values():
        started = time.perf_counter()
        read_and_write(input_files(arguments.folder, against_mergekit.MODELS)[1:], output)
        print(json.dumps({"seconds": time.perf_counter() - started, "peak_bytes": peak_memory()}))
        return
    from mats.engine import merge, plan_merge

    request = against_mergekit.mats_request(arguments.folder, arguments.what, output)
    started = time.perf_counter()
    plan_merge(request)
    planned = time.perf_counter()
    merge(request)
    seconds = time.perf_counter() - planned
    print(json.dumps({"seconds": seconds, "plan_seconds": planned - started, "peak_bytes": peak_memory()}))


def measure_mergekit(arguments: argparse.Namespace) -> dict[str, Any]:
    """See `against_mergekit`."""
    if arguments.mergekit_python is None:
        raise SystemExit("mergekit: --mergekit-python is needed: a Python that has mergekit installed")

    def run_child(what: str, folder: Path) -> dict[str, Any]:
        return in_fresh_process(what, folder, 0, against_mergekit.MODELS, cold=arguments.cold, mode="child-mergekit")

    return against_mergekit.measure_against_mergekit(arguments, run_child)


def in_fresh_process(
    what: str, folder: Path, layers: int, models: int, *, cold: bool = False, mode: str = "child"
) -> dict[str, Any]:
    """Run `child` and return what it printed; its output is removed, and with `cold` its inputs leave the cache."""
    if cold:
        for path in input_files(folder, models):
            descriptor = os.open(path, os.O_RDONLY)
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            os.close(descriptor)
    command = [sys.executable, __file__, mode, "--what", what, "--folder", str(folder)]
    command += ["--layers", str(layers), "--models", str(models)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr}")
    output = folder / "out"
    if output.is_dir():
        shutil.rmtree(output)
    else:
        output.unlink(missing_ok=True)
    return json.loads(done.stdout.splitlines()[-1]) if done.stdout.strip() else {}


def measure_time(arguments: argparse.Namespace) -> dict[str, Any]:
    """Medians of floor and merges, run in turn."""
    folder = arguments.folder / "time"
    in_fresh_process("generate", folder, arguments.layers, arguments.models)
    runs: dict[str, list[dict[str, Any]]] = {what: [] for method in METHODS for what in (FLOORS[method], method)}
    for _ in range(arguments.runs):
        for what, results in runs.items():
            results.append(in_fresh_process(what, folder, arguments.layers, arguments.models, cold=arguments.cold))
    size = sum(path.stat().st_size for path in input_files(folder, arguments.models))
    shutil.rmtree(folder)
    rows = [
        {
            "what": what,
            "seconds": [result["seconds"] for result in results],
            "median_seconds": statistics.median(result["seconds"] for result in results),
            "peak_bytes": max(result["peak_bytes"] for result in results),
            "limit": LIMITS.get(what),
        }
        for what, results in runs.items()
    ]
    for row in rows:
        floor = runs[FLOORS.get(row["what"], row["what"])]
        pairs = zip(row["seconds"], floor, strict=True)
        row["times_floor"] = statistics.median(seconds / paired["seconds"] for seconds, paired in pairs)
    return {"input_bytes": size, "models": arguments.models, "layers": arguments.layers, "rows": rows}


def measure_memory(arguments: argparse.Namespace) -> dict[str, Any]:
    """Peak memory of each method as layers grow at a fixed number of models, and as models grow at fixed layers."""
    largest = max(8, round(arguments.gigabytes * 1e9 / LAYER_BYTES))
    sizes = [(largest // 4, 2), (largest // 2, 2), (largest, 2), (largest // 4, 4), (largest // 4, 8)]
    rows = []
    for layers, models in sizes:
        folder = arguments.folder / f"memory-{layers}-{models}"
        in_fresh_process("generate", folder, layers, models)
        size = input_files(folder, models)[0].stat().st_size
        for what in ("imports", *METHODS):
            result = in_fresh_process(what, folder, layers, models)
            rows.append({"what": what, "layers": layers, "models": models, "checkpoint_bytes": size, **result})
        shutil.rmtree(folder)
    return {"rows": rows}


def print_time(result: dict[str, Any]) -> None:
    """The table of `time`."""
    from rich.console import Console
    from rich.table import Table

    title = f"{result['models']} models and their base, {result['input_bytes'] / 1e9:.2f} GB to read"
    table = Table(title=title, title_justify="left")
    for heading in ("", "seconds (median)", "all runs", "× floor", "promised", "peak memory"):
        table.add_column(heading, justify="right" if heading else "left")
    for row in result["rows"]:
        limit = row["limit"]
        times = f"{row['times_floor']:.2f}"
        table.add_row(
            row["what"],
            f"{row['median_seconds']:.2f}",
            " ".join(f"{value:.2f}" for value in row["seconds"]),
            f"[{'green' if limit is None or row['times_floor'] <= limit else 'red'}]{times}",
            "" if limit is None else f"≤ {limit}",
            f"{row['peak_bytes'] / 1e6:.0f} MB",
        )
    Console().print(table)


def print_memory(result: dict[str, Any]) -> None:
    """The table of `memory`: a column for each method, imports apart in the first."""
    from rich.console import Console
    from rich.table import Table

    table = Table(title="Peak memory of a fresh process", title_justify="left")
    columns = ("imports", *METHODS)
    for heading in ("layers", "models", "one checkpoint", *columns):
        table.add_column(heading, justify="right")
    keys = dict.fromkeys((row["layers"], row["models"], row["checkpoint_bytes"]) for row in result["rows"])
    for layers, models, size in keys:
        peaks = {r["what"]: r["peak_bytes"] for r in result["rows"] if (r["layers"], r["models"]) == (layers, models)}
        cells = [f"{peaks[what] / 1e6:.0f} MB" for what in columns]
        table.add_row(str(layers), str(models), f"{size / 1e9:.2f} GB", *cells)
    Console().print(table)


def environment() -> dict[str, Any]:
    """What a number depends on."""
    from importlib.metadata import version

    return {
        "python": platform.python_version(),
        "torch": version("torch"),
        "cpus": len(os.sched_getaffinity(0)),
        "machine": platform.machine(),
        "threads": os.environ.get("OMP_NUM_THREADS"),
    }


MODES = {
    "time": (measure_time, print_time),
    "memory": (measure_memory, print_memory),
    "mergekit": (measure_mergekit, against_mergekit.print_against_mergekit),
}


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("mode", choices=("time", "memory", "mergekit", "child", "child-mergekit"))
    parser.add_argument("--what", default="floor", help=argparse.SUPPRESS)
    parser.add_argument(
        "--folder", type=Path, default=Path(__file__).parent / "scratch", help="where checkpoints are made and removed"
    )
    parser.add_argument("--layers", type=int, default=12, help="encoder layers of 28 MB each (default 12: BERT-base)")
    parser.add_argument("--models", type=int, default=4, help="models to merge (default 4)")
    parser.add_argument("--runs", type=int, default=5, help="runs of which the median is shown (default 5)")
    parser.add_argument(
        "--gigabytes", type=float, default=None, help="size of the largest checkpoint (memory: 2; mergekit: 1)"
    )
    parser.add_argument("--mergekit-python", help="mergekit mode: a Python that has mergekit installed")
    parser.add_argument("--small-tensors", type=int, default=2000, help="mergekit mode: tiny tensors for both (2000)")
    parser.add_argument("--many-tensors", type=int, default=50000, help="mergekit mode: for mats alone (50000)")
    parser.add_argument("--cold", action="store_true", help="drop inputs from the page cache before each run")
    return parser.parse_args()


def main() -> None:
    arguments = parse()
    if arguments.gigabytes is None:
        arguments.gigabytes = 1.0 if arguments.mode == "mergekit" else 2.0
    if arguments.mode.startswith("child"):
        child(arguments)
        return
    if arguments.folder.exists():
        raise SystemExit(f"{arguments.folder}: exists already; remove it, or choose another --folder")
    try:
        measure, show = MODES[arguments.mode]
        result = measure(arguments) | {"environment": environment(), "cold": arguments.cold}
    finally:
        shutil.rmtree(arguments.folder, ignore_errors=True)
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"executor-{arguments.mode}.json"
    path.write_text(json.dumps(result, indent=2) + "\n")
    show(result)
    print(f"written to {path}")


if __name__ == "__main__":
    main()
