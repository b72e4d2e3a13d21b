"""One linear layer fitted by least squares to several tasks: there the loss is its quadratic, exactly.

−log p(y | x) = ½‖y − W [x; 1]‖² + constant, so E δδᵀ = I under the model's own labels, and the curvature around the
least-squares solution W_i is I ⊗ Σ [x; 1][x; 1]ᵀ / N.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from engine_families import RawStore, write_raw
from safetensors.torch import save_file

from mats.engine import ModelInput
from mats.store import LayerRecord, SiteRecord, Sums

INPUTS, OUTPUTS = 4, 3
Task = tuple[np.ndarray, np.ndarray]


def draw_task(seed: int, rows: int) -> Task:
    """Inputs [rows, 5] of unequal sizes, other ones in every task, the last 1; noisy linear outputs [rows, 3]."""
    generator = np.random.default_rng(seed)
    sizes = np.roll([1.0, 2.0, 0.2, 3.0], seed)
    inputs = np.concatenate([generator.standard_normal((rows, INPUTS)) * sizes, np.ones((rows, 1))], axis=1)
    outputs = inputs @ generator.standard_normal((INPUTS + 1, OUTPUTS))
    return inputs, outputs + 0.3 * generator.standard_normal((rows, OUTPUTS))


def solution(inputs: np.ndarray, outputs: np.ndarray) -> np.ndarray:
    """The least-squares weights [3, 5], the bias last."""
    return np.linalg.lstsq(inputs, outputs, rcond=None)[0].T


def write_linear(folder: Path, matrix: np.ndarray) -> Path:
    """[W | b] as a checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    weight, bias = (torch.from_numpy(part.copy()) for part in (matrix[:, :INPUTS], matrix[:, INPUTS]))
    save_file({"layer.weight": weight, "layer.bias": bias}, folder / "model.safetensors", {"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "nothing", "architectures": ["Nothing"]}))
    return folder


def write_linear_store(folder: Path, model: Path, inputs: np.ndarray) -> Path:
    """The store that exact labels on these inputs would give."""
    rows = len(inputs)
    raw = RawStore(rows, Sums())
    raw.sites["layer"] = SiteRecord("layer", "gram", INPUTS + 1, True)
    raw.layers["layer"] = LayerRecord("layer", "linear", "layer.weight", "layer.bias", "layer", "out_in", OUTPUTS)
    raw.sums.tensors = {
        "input_gram/layer": torch.from_numpy(inputs.T @ inputs),
        "output_gram/layer": rows * torch.eye(OUTPUTS, dtype=torch.float64),
    }
    raw.sums.tokens = {"site:layer": float(rows), "layer:layer": float(rows)}
    raw.sums.example_ids = [f"{folder.name}-{row}" for row in range(rows)]
    write_raw(folder, raw, model, [])
    return folder


def linear_gaussian(root: Path, rows: tuple[int, ...] = (40, 25)) -> tuple[list[ModelInput], list[Task]]:
    """Two solutions with the stores of their data, whole and in halves."""
    models, data = [], []
    for index, count in enumerate(rows):
        inputs, outputs = draw_task(index, count)
        folder = write_linear(root / f"model{index}", solution(inputs, outputs))
        half = count // 2
        parts = {"whole": inputs, "half0": inputs[:half], "half1": inputs[half:]}
        whole, *folds = (write_linear_store(root / f"{name}-{index}", folder, part) for name, part in parts.items())
        models.append(ModelInput(f"task{index}", str(folder), 1.0, whole, folds=tuple(folds)))
        data.append((inputs, outputs))
    return models, data
