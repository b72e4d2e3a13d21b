"""What a merge file means, worked out tensor by tensor in float64 from the definitions, with nothing of the program.

Models are dictionaries of arrays; layers are those of `model.layers.N.`. Selections are by full stable sorts.
"""

from __future__ import annotations

import re
from typing import Any

import numpy as np

GLOBAL_DEFAULTS: dict[str, dict[str, Any]] = {
    "linear": {"normalize": True},
    "slerp": {},
    "nuslerp": {"nuslerp_flatten": True, "nuslerp_row_wise": False},
    "passthrough": {},
    "task_arithmetic": {"lambda": 1.0, "normalize": False},
    "ties": {"lambda": 1.0, "normalize": True, "rescale": False},
    "dare_ties": {"lambda": 1.0, "normalize": False},
    "dare_linear": {"lambda": 1.0, "normalize": False},
    "della": {"lambda": 1.0, "normalize": True},
    "della_linear": {"lambda": 1.0, "normalize": False},
    "breadcrumbs": {"lambda": 1.0, "normalize": False},
    "breadcrumbs_ties": {"lambda": 1.0, "normalize": False},
    "model_stock": {"filter_wise": False},
    "sce": {"select_topk": 1.0},
}
BASED = ("task_arithmetic", "ties", "dare_", "della", "breadcrumbs", "model_stock", "sce")


def setting(value: Any, name: str, t: float) -> Any:
    """One parameter for one tensor; None where no filter fits."""
    if isinstance(value, dict):
        value = [value]
    if isinstance(value, list) and value and isinstance(value[0], dict):
        for entry in value:
            if entry.get("filter") in (None, "*") or entry["filter"] in name:
                return setting(entry["value"], name, t)
        return None
    if isinstance(value, list):
        if isinstance(value[0], bool):
            return value[int(t * (len(value) - 1))]
        return float(np.interp(t, np.linspace(0, 1, len(value)), value)) if len(value) > 1 else value[0]
    return value


def first(levels: list[dict[str, Any]], key: str, name: str, t: float, default: Any) -> Any:
    """The first level's value."""
    for level in levels:
        found = setting(level[key], name, t) if key in level else None
        if found is not None:
            return found
    return default


def merged(file: dict[str, Any], models: dict[str, dict[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The output's tensors."""
    slices = file.get("slices")
    if slices is None:
        count = 1 + max(int(name.split(".")[2]) for name in next(iter(models.values())) if ".layers." in name)
        sources = [{**entry, "layer_range": [0, count]} for entry in file["models"]]
        base = file.get("base_model")
        if base is not None and base not in [source["model"] for source in sources]:
            sources.append({"model": base, "layer_range": [0, count]})
        slices = [{"sources": sources}]
    result = {}
    number = 0
    for part in slices:
        start, end = part["sources"][0]["layer_range"]
        for step in range(end - start):
            t = 1.0 if end - start == 1 else step / (end - start - 1)
            lead = part["sources"][0]
            prefix = f"model.layers.{lead['layer_range'][0] + step}."
            for rest in [name[len(prefix) :] for name in models[lead["model"]] if name.startswith(prefix)]:
                own = [f"model.layers.{source['layer_range'][0] + step}.{rest}" for source in part["sources"]]
                out = f"model.layers.{number}.{rest}"
                result[out] = _tensor(file, part, out, t, own, models)
            number += 1
    for name in [name for name in next(iter(models.values())) if not re.match(r"model\.layers\.\d", name)]:
        part = slices[0] if name == "model.embed_tokens.weight" else slices[-1]
        result[name] = _tensor(file, part, name, 0.0, [name] * len(part["sources"]), models)
    return result


def _tensor(file: Any, part: Any, out: str, t: float, own: list[str], models: Any) -> np.ndarray:
    above = [part.get("parameters", {}), file.get("parameters", {})]
    method = file["merge_method"]
    values = {key: first(above, key, out, t, default) for key, default in GLOBAL_DEFAULTS[method].items()}
    values["t"] = first(above, "t", out, t, None)
    arrays, parameters, base = [], [], None
    for source, name in zip(part["sources"], own, strict=True):
        array = models[source["model"]][name].astype(np.float64)
        if source["model"] == file.get("base_model") and (
            method == "slerp" or method.startswith(BASED) or method == "nuslerp"
        ):
            base = array
            continue
        levels = [source.get("parameters", {}), *above]
        defaults = {"weight": None, "density": 1.0, "gamma": 0.01, "scale": 1.0}
        parameters.append({key: first(levels, key, out, t, default) for key, default in defaults.items()})
        arrays.append(array)
    return combine(method, values, arrays, parameters, base)


def combine(method: str, values: Any, arrays: list[np.ndarray], parameters: Any, base: np.ndarray | None) -> np.ndarray:
    """One tensor by one method."""
    weights = [each["weight"] for each in parameters]
    if method == "linear":
        total = sum(weight * array for weight, array in zip(weights, arrays, strict=True))
        return total / sum(weights) if values["normalize"] else total
    if method == "passthrough":
        return arrays[0] * parameters[0]["scale"]
    if method == "slerp":
        return arc(base, arrays[0], values["t"], 0.9995)
    if method == "nuslerp":
        return nuslerp(arrays, weights, base, values)
    changes = [array - base for array in arrays]
    if method == "model_stock":
        return base + stock(changes, by_row=values["filter_wise"])
    if method == "sce":
        return base + sce(changes, values["select_topk"])
    if method == "ties" or method.startswith("breadcrumbs"):
        changes = [
            trim(change, each, method, values.get("rescale")) for change, each in zip(changes, parameters, strict=True)
        ]
    votes = [weight * change for weight, change in zip(weights, changes, strict=True)]
    agree = [np.ones(base.shape)] * len(votes)
    if "ties" in method or method == "della":
        sign = np.where(sum(votes) >= 0, 1.0, -1.0)
        agree = [(np.sign(vote) == sign).astype(float) for vote in votes]
    total = sum(vote * kept for vote, kept in zip(votes, agree, strict=True))
    if values["normalize"]:
        below = sum(weight * kept for weight, kept in zip(weights, agree, strict=True))
        total = total / np.where(np.abs(below) < 1e-8, 1.0, below)
    return base + values["lambda"] * total


def trim(change: np.ndarray, each: Any, method: str, rescale: Any) -> np.ndarray:
    """The largest entries, or for breadcrumbs those below the very largest."""
    flat = change.astype(np.float32).ravel()
    count = int(each["density"] * flat.size)
    top = min(int(each["gamma"] * flat.size), flat.size - count) if method != "ties" else 0
    order = np.argsort(-np.abs(flat), kind="stable")
    mask = np.zeros(flat.size)
    mask[order[top : top + count]] = 1
    kept = change * mask.reshape(change.shape)
    return kept * (np.abs(change).sum() / np.abs(kept).sum()) if rescale else kept


def arc(one: np.ndarray, two: np.ndarray, t: float, parallel: float) -> np.ndarray:
    """Along the great circle; along the chord where the two are nearly parallel."""
    cosine = (one * two).sum() / (np.linalg.norm(one) * np.linalg.norm(two))
    if abs(cosine) > parallel:
        return (1 - t) * one + t * two
    angle = np.arccos(cosine)
    return (np.sin((1 - t) * angle) * one + np.sin(t * angle) * two) / np.sin(angle)


def nuslerp(arrays: list[np.ndarray], weights: list[float], base: np.ndarray | None, values: Any) -> np.ndarray:
    """By tensor, row or column; of task vectors where there is a base."""
    t = weights[1] / sum(weights)
    zero = np.zeros_like(arrays[0]) if base is None else base
    one, two = arrays[0] - zero, arrays[1] - zero
    if values["nuslerp_flatten"] or one.ndim < 2:
        return zero + arc(one, two, t, 2.0)
    if values["nuslerp_row_wise"]:
        return zero + np.stack([arc(a, b, t, 2.0) for a, b in zip(one.T, two.T, strict=True)], axis=1)
    return zero + np.stack([arc(a, b, t, 2.0) for a, b in zip(one, two, strict=True)])


def stock(changes: list[np.ndarray], *, by_row: bool) -> np.ndarray:
    """t · mean, with t from the mean of the cosines of all pairs."""
    if by_row and changes[0].ndim > 1:
        return np.stack([stock([change[row] for change in changes], by_row=False) for row in range(len(changes[0]))])
    count = len(changes)
    cosines = [
        (changes[i] * changes[j]).sum() / (np.linalg.norm(changes[i]) * np.linalg.norm(changes[j]))
        for i in range(count)
        for j in range(i)
    ]
    cosine = np.mean(cosines)
    return count * cosine / (1 + (count - 1) * cosine) * sum(changes) / count


def sce(changes: list[np.ndarray], top: float) -> np.ndarray:
    """Select by variance, weigh by energy, erase the minority's signs."""
    stacked = np.stack(changes)
    variance = stacked.var(axis=0).ravel()
    mask = np.zeros(variance.size)
    mask[np.argsort(-variance, kind="stable")[: int(top * variance.size)]] = 1
    stacked = stacked * mask.reshape(stacked.shape[1:])
    energy = (stacked**2).reshape(len(changes), -1).mean(axis=1)
    weights = (energy / energy.sum()).reshape(-1, *[1] * (stacked.ndim - 1))
    sign = np.where(stacked.sum(axis=0) >= 0, 1.0, -1.0)
    agree = (np.sign(stacked) == sign) * weights
    below = agree.sum(axis=0)
    return (stacked * agree).sum(axis=0) / np.where(below > 0, below, 1.0)
