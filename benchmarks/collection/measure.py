"""Time and memory of contenders that take turns."""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import torch
from arithmetic import needed
from contenders import contenders
from shapes import SHAPES, batches_of
from torch import nn

PEAK_SIZE = 2048


def measure_model(name: str, examples: int, repeats: int, chosen: Sequence[str]) -> dict[str, Any]:
    """One model's row for each contender; medians over `repeats` rounds after one that does not count."""
    torch.manual_seed(0)
    shape = SHAPES[name]
    model = shape.build()
    racing = {key: contender for key, contender in contenders(examples).items() if key in chosen}
    batches = {key: batches_of(shape, examples, contender.batch_size) for key, contender in racing.items()}
    operations = needed(model, batches_of(shape, examples, examples))
    times: dict[str, list[tuple[float, float]]] = {key: [] for key in racing}
    peaks = []
    for turn in range(repeats + 1):
        peaks.append(product_rate())
        for key, contender in racing.items():
            with contender.prepare(model, batches[key][0]) as step:
                wall, processor = time.perf_counter(), time.process_time()
                for batch in batches[key]:
                    step(batch)
                spent = time.process_time() - processor, time.perf_counter() - wall
            if turn > 0:
                times[key].append(spent)
    tokens = sum(int(batch.inputs["attention_mask"].sum()) for batch in next(iter(batches.values())))
    tokens += sum(int(batch.target_mask.sum()) for batch in batches["step"] if batch.target_mask is not None)
    rows = [
        {"key": key, "contender": racing[key].label, **_row(key, times, operations, max(peaks), tokens)}
        for key in racing
    ]
    for row in rows:
        row["peak_bytes"] = peak_memory_in_a_fresh_process(name, row["key"], examples)
    return {
        "model": name,
        "scale": shape.scale,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "examples": examples,
        "tokens": tokens,
        "peak_operations_per_second": max(peaks),
        "rows": rows,
    }


def _row(
    key: str, times: dict[str, list[tuple[float, float]]], operations: dict[str, float], peak: float, tokens: int
) -> dict[str, Any]:
    """Ratios are medians over the turns, each to the training step of the same turn."""
    needs = operations[key.removesuffix("-1").replace("published", "grams")]
    processor = statistics.median(spent[0] for spent in times[key])
    wall = statistics.median(spent[1] for spent in times[key])
    ratio, wall_ratio = (
        statistics.median(spent[kind] / step[kind] for spent, step in zip(times[key], times["step"], strict=True))
        for kind in (0, 1)
    )
    needed_ratio = needs / operations["step"]
    return {
        "processor_seconds": processor,
        "wall_seconds": wall,
        "ratio": ratio,
        "wall_ratio": wall_ratio,
        "needed_operations": needs,
        "needed_ratio": needed_ratio,
        "ratio_to_needed": ratio / needed_ratio,
        "tokens_per_second": tokens / wall,
        "share_of_peak": needs / processor / peak,
    }


def product_rate() -> float:
    """Operations per second and thread of a large square product: what the machine can do at most."""
    left, right = torch.randn(2, PEAK_SIZE, PEAK_SIZE)
    best = 0.0
    for _ in range(3):
        start = time.process_time()
        torch.mm(left, right)
        best = max(best, 2 * PEAK_SIZE**3 / (time.process_time() - start))
    return best


def peak_memory_in_a_fresh_process(model: str, contender: str, examples: int) -> int:
    """Bytes above those of the model at rest."""
    script = Path(__file__).parent / "__main__.py"
    command = [sys.executable, str(script), "--child", contender, "--models", model, "--examples", str(examples)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(json.loads(done.stdout)["peak_bytes"])


def memory_of(name: str, contender: str, examples: int) -> dict[str, int]:
    """What `--child` prints: peak memory of one contender's batches, beyond the model and the imports."""
    shape = SHAPES[name]
    model: nn.Module = shape.build()
    racing = contenders(examples)[contender]
    batches = batches_of(shape, examples, racing.batch_size)[:4]
    with torch.no_grad():  # thread pools and libraries that load at the first product
        torch.mm(torch.randn(64, 64), torch.randn(64, 64))
    before = _restart_peak()
    with ExitStack() as stack:
        step = stack.enter_context(racing.prepare(model, batches[0]))
        for batch in batches:
            step(batch)
    return {"peak_bytes": max(0, _peak_bytes() - before)}


def _restart_peak() -> int:
    """Let the peak of this process start again from what it holds now."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024
