"""The executor beside mergekit's, on the same files: `benchmarks/executor.py mergekit`, which says how it measures."""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

METHODS = ("average", "ties", "ties of each tensor", "dare")
COUNTERPARTS = {method: method.removesuffix(" of each tensor") for method in METHODS}  # mergekit trims each tensor
LIMITS = {"average": 1.0, "ties": 1 / 3, "ties of each tensor": 1 / 3, "dare": 1.0}  # of mergekit's time
FLOOR_LIMIT = 1.5  # times the floor, for the average
FOREIGN = "by mergekit: "
MODELS = 3

Run = dict[str, Any]


def llama_shapes(layers: int, hidden: int, intermediate: int, vocabulary: int) -> dict[str, tuple[int, ...]]:
    """Names and shapes of a Llama of this size: an architecture that both programs know."""
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(layers):
        prefix = f"model.layers.{layer}."
        shapes |= {f"{prefix}self_attn.{part}_proj.weight": (hidden, hidden) for part in "qkvo"}
        shapes |= {f"{prefix}mlp.{part}_proj.weight": (intermediate, hidden) for part in ("gate", "up")}
        shapes[f"{prefix}mlp.down_proj.weight"] = (hidden, intermediate)
        shapes |= {f"{prefix}{norm}_layernorm.weight": (hidden,) for norm in ("input", "post_attention")}
    return shapes | {"model.norm.weight": (hidden,), "lm_head.weight": (vocabulary, hidden)}


def sizes_of(arguments: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Each case's architecture: a large one of about `--gigabytes`, and many small tensors (nine in a layer)."""
    large = {"hidden": 2048, "intermediate": 5504, "vocabulary": 4000}
    layer = 4 * (4 * large["hidden"] ** 2 + 3 * large["hidden"] * large["intermediate"] + 2 * large["hidden"])
    embeddings = 2 * 4 * large["vocabulary"] * large["hidden"]
    layers = max(1, -(-int(arguments.gigabytes * 1e9 - embeddings) // layer))
    small = {"hidden": 8, "intermediate": 16, "vocabulary": 16}
    return {
        "large": {"layers": layers, **large},
        "small tensors": {"layers": arguments.small_tensors // 9, **small},
        "many tensors": {"layers": arguments.many_tensors // 9, **small},
    }


def generate_llama(folder: Path, size: dict[str, int]) -> None:
    """Write `base` and three models: the base and Gaussian changes of it."""
    import torch
    from safetensors.torch import save_file

    shapes = llama_shapes(**size)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": size["hidden"],
        "intermediate_size": size["intermediate"],
        "num_hidden_layers": size["layers"],
        "num_attention_heads": max(1, size["hidden"] // 64),
        "vocab_size": size["vocabulary"],
        "tie_word_embeddings": False,
        "dtype": "float32",
    }
    for number in range(-1, MODELS):
        target = folder / ("base" if number < 0 else f"model-{number}")
        target.mkdir(parents=True)
        common, own = torch.Generator().manual_seed(0), torch.Generator().manual_seed(number + 2)
        state = {}
        for name, shape in shapes.items():
            state[name] = 0.02 * torch.randn(shape, generator=common)
            if number >= 0:
                state[name].add_(torch.randn(shape, generator=own), alpha=1e-3)
        save_file(state, target / "model.safetensors", metadata={"format": "pt"})
        (target / "config.json").write_text(json.dumps(config))


def mats_request(folder: Path, method: str, output: Path) -> Any:
    """The same merge as mergekit's, for the engine."""
    from mats.engine import MergeRequest, ModelInput
    from mats.methods import AverageSettings, TaskArithmeticSettings, TiesSettings
    from mats.methods.sparsify import SparsifySettings

    thinned = SparsifySettings(drop=0.9) if method == "dare" else None
    settings = {
        "average": AverageSettings(),
        "ties": TiesSettings(density=0.2),
        "ties of each tensor": TiesSettings(density=0.2, trim_scope="tensor"),
        "dare": TaskArithmeticSettings(scale=0.3),
    }[method]
    inputs = tuple(ModelInput(f"model-{n}", str(folder / f"model-{n}"), sparsify=thinned) for n in range(MODELS))
    base = None if method == "average" else str(folder / "base")
    return MergeRequest(models=inputs, method=settings, output=output, base=base, device="cpu")


def run_mergekit(python: str, folder: Path, method: str) -> Run:
    """One merge by mergekit in a fresh process."""
    output = folder / "out"
    script = str(Path(__file__).with_name("mergekit_once.py"))
    command = [python, script, str(folder), method, str(MODELS), str(output)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-3000:]}")
    shutil.rmtree(output)
    return json.loads(done.stdout.splitlines()[-1])


def measure_against_mergekit(arguments: argparse.Namespace, run_child: Callable[[str, Path], Run]) -> dict[str, Any]:
    """Every program, method and case in turn, `--runs` times; `run_child(what, folder)` runs one of ours."""
    cases = {}
    for case, size in sizes_of(arguments).items():
        folder = arguments.folder / case.replace(" ", "-")
        generate_in_child(folder, size)
        methods = METHODS if case != "many tensors" else ("average",)
        foreign = {COUNTERPARTS[method]: FOREIGN + COUNTERPARTS[method] for method in methods}
        runs: dict[str, list[Run]] = {}
        for _ in range(arguments.runs):
            for method in methods:
                wanted = ["floor of average"] if method == "average" else []
                if case != "many tensors" and method == COUNTERPARTS[method]:
                    wanted.append(foreign[method])
                for what in (*wanted, method):
                    print(f"{case}: {what}", file=sys.stderr, flush=True)
                    theirs = what.startswith(FOREIGN)
                    name = what.removeprefix(FOREIGN)
                    run = run_mergekit(arguments.mergekit_python, folder, name) if theirs else run_child(what, folder)
                    runs.setdefault(what, []).append(run)
        shutil.rmtree(folder)
        cases[case] = {"size": size, "tensors": len(llama_shapes(**size)), "rows": rows_of(runs)}
    return {"models": MODELS, "cases": cases}


def generate_in_child(folder: Path, size: dict[str, int]) -> None:
    """Generated in a process of its own, so that nothing of it stays in this one."""
    command = [sys.executable, "-c", "import sys, json; sys.path.insert(0, sys.argv[1]); import against_mergekit as a;"]
    command[-1] += " from pathlib import Path; a.generate_llama(Path(sys.argv[2]), json.loads(sys.argv[3]))"
    subprocess.run([*command, str(Path(__file__).parent), str(folder), json.dumps(size)], check=True)


def rows_of(runs: dict[str, list[Run]]) -> list[Run]:
    """Medians, and ratios as medians over the runs that were made in turn."""
    rows = []
    for what, results in runs.items():
        seconds = [run["seconds"] for run in results]
        row: Run = {
            "what": what,
            "seconds": seconds,
            "median_seconds": statistics.median(seconds),
            "peak_bytes": max(run["peak_bytes"] for run in results),
        }
        if "durable_seconds" in results[0]:
            row |= {"durable_seconds": [run["durable_seconds"] for run in results], "versions": results[0]["versions"]}
        if "plan_seconds" in results[0]:
            row["plan_seconds"] = statistics.median(run["plan_seconds"] for run in results)
        theirs = runs.get(FOREIGN + COUNTERPARTS.get(what, ""))
        if theirs is not None:
            row["limit"] = LIMITS[what]
            for key in ("seconds", "durable_seconds"):
                pairs = zip(seconds, theirs, strict=True)
                row[f"times_mergekit_{key}"] = statistics.median(own / other[key] for own, other in pairs)
            row["times_mergekit_memory"] = row["peak_bytes"] / max(run["peak_bytes"] for run in theirs)
        if what == "average":
            pairs = zip(seconds, runs["floor of average"], strict=True)
            row["times_floor"] = statistics.median(own / floor["seconds"] for own, floor in pairs)
        rows.append(row)
    return rows


def print_against_mergekit(result: dict[str, Any]) -> None:
    """A table for each case."""
    from rich.console import Console
    from rich.table import Table

    for case, found in result["cases"].items():
        table = Table(
            title=f"{case}: {result['models']} models, {found['tensors']:,} tensors each", title_justify="left"
        )
        headings = (
            "",
            "seconds",
            "× mergekit",
            "× mergekit on disk",
            "promised",
            "× floor",
            "peak memory",
            "× mergekit",
        )
        for heading in headings:
            table.add_column(heading, justify="right" if heading else "left")
        for row in found["rows"]:
            ratio, limit = row.get("times_mergekit_seconds"), row.get("limit")
            good = ratio is None or limit is None or ratio <= limit
            floor = row.get("times_floor")
            table.add_row(
                row["what"],
                f"{row['median_seconds']:.2f}",
                "" if ratio is None else f"[{'green' if good else 'red'}]{ratio:.3f}",
                _shown(row.get("times_mergekit_durable_seconds")),
                "" if limit is None else f"≤ {limit:.2f}",
                "" if floor is None else f"[{'green' if floor <= FLOOR_LIMIT else 'red'}]{floor:.2f}",
                f"{row['peak_bytes'] / 1e6:.0f} MB",
                _shown(row.get("times_mergekit_memory")),
            )
        Console().print(table)
        for row in found["rows"]:
            if "plan_seconds" in row and case == "many tensors":
                each = 1e3 * row["median_seconds"] / found["tensors"]
                print(f"{case}: planned in {row['plan_seconds']:.1f} s, merged at {each:.2f} ms a tensor")


def _shown(ratio: float | None) -> str:
    return "" if ratio is None else f"{ratio:.3f}"
