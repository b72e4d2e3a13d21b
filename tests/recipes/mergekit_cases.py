"""Merge files for comparison: every deterministic method, in both forms, with filters and gradients."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

RAMP = [0.2, 0.9, 0.4]


def _models(*entries: tuple[str, dict[str, Any]]) -> list[dict[str, Any]]:
    return [
        {"model": name, "parameters": parameters} if parameters else {"model": name} for name, parameters in entries
    ]


def _slice(*entries: tuple[str, list[int], dict[str, Any]]) -> dict[str, Any]:
    return {
        "sources": [
            {"model": name, "layer_range": layers, **({"parameters": parameters} if parameters else {})}
            for name, layers, parameters in entries
        ]
    }


def _vectors(method: str, one: dict[str, Any], two: dict[str, Any], **parameters: Any) -> dict[str, Any]:
    file = {"merge_method": method, "base_model": "base", "models": _models(("m1", one), ("m2", two))}
    return {**file, "parameters": parameters} if parameters else file


FILTERED = [{"filter": "self_attn", "value": RAMP}, {"filter": "mlp", "value": 0.7}, {"value": 0.3}]

CASES: dict[str, dict[str, Any]] = {
    "linear": {"merge_method": "linear", "models": _models(("m1", {"weight": 0.3}), ("m2", {"weight": 0.9}))},
    "linear_negative": {
        "merge_method": "linear",
        "models": _models(("base", {"weight": 1.0}), ("m1", {"weight": -0.5}), ("m2", {"weight": 0})),
        "parameters": {"normalize": False},
    },
    "linear_filters": {
        "merge_method": "linear",
        "models": _models(("m1", {"weight": FILTERED}), ("m2", {"weight": {"filter": "mlp", "value": 0.4}})),
        "parameters": {"weight": [0.6, 0.1]},
    },
    "linear_slices": {
        "merge_method": "linear",
        "slices": [
            _slice(("m1", [0, 3], {"weight": RAMP}), ("m2", [1, 4], {"weight": 0.3})),
            {
                **_slice(("m2", [3, 4], {"weight": [0.2, 0.9]}), ("m1", [3, 4], {})),
                "parameters": {"weight": [0.8, 0.1]},
            },
        ],
    },
    "task_arithmetic": _vectors("task_arithmetic", {"weight": 0.4}, {"weight": -0.6}, **{"lambda": 0.7}),
    "task_arithmetic_slices": {
        "merge_method": "task_arithmetic",
        "base_model": "base",
        "slices": [
            _slice(("m1", [0, 2], {"weight": 0.4}), ("m2", [1, 3], {"weight": RAMP}), ("base", [0, 2], {})),
            _slice(("m1", [2, 4], {"weight": 0.7}), ("base", [2, 4], {})),
        ],
        "parameters": {"lambda": [0.5, 1.0], "normalize": [True, False]},
    },
    "ties": _vectors("ties", {"weight": 0.5, "density": 0.37}, {"weight": 1.0, "density": 0.6}),
    "ties_three": {
        "merge_method": "ties",
        "base_model": "base",
        "models": _models(
            ("m1", {"weight": 1.0, "density": 0.6}),
            ("m2", {"weight": -0.5, "density": [0.2, 1.0]}),
            ("m3", {"weight": FILTERED, "density": 0.45}),
        ),
        "parameters": {"normalize": False, "rescale": True, "lambda": 0.8, "int8_mask": True},
    },
    "dare_ties_all_kept": _vectors("dare_ties", {"weight": 0.5, "density": 1.0}, {"weight": 0.8, "density": 1}),
    "dare_linear_all_kept": _vectors("dare_linear", {"weight": 0.5}, {"weight": 0.8}, normalize=True),
    "della_all_kept": _vectors("della", {"weight": 0.5}, {"weight": 0.8}, epsilon=0.0),
    "della_linear_all_kept": _vectors("della_linear", {"weight": 0.5}, {"weight": 0.8}, epsilon=0.0),
    "breadcrumbs": _vectors(
        "breadcrumbs",
        {"weight": 0.5, "density": 0.6, "gamma": 0.1},
        {"weight": 0.8, "density": 0.95, "gamma": 0.2},
    ),
    "breadcrumbs_ties": _vectors(
        "breadcrumbs_ties", {"weight": 0.5, "density": 0.3}, {"weight": 0.8, "density": 0.7}, gamma=0.07
    ),
    "slerp": {
        "merge_method": "slerp",
        "base_model": "base",
        "models": _models(("base", {}), ("m1", {})),
        "parameters": {"t": FILTERED},
    },
    "slerp_slices": {
        "merge_method": "slerp",
        "base_model": "m2",
        "slices": [_slice(("m1", [0, 4], {}), ("m2", [0, 4], {}))],
        "parameters": {"t": [{"filter": "mlp", "value": [0, 1]}, {"value": 0.4}]},
    },
    "nuslerp": {"merge_method": "nuslerp", "models": _models(("m1", {"weight": 0.3}), ("m2", {"weight": RAMP}))},
    "nuslerp_rows": _vectors("nuslerp", {"weight": 0.3}, {"weight": 0.9}, nuslerp_flatten=False),
    "nuslerp_columns": _vectors(
        "nuslerp", {"weight": 0.3}, {"weight": 0.9}, nuslerp_flatten=False, nuslerp_row_wise=True
    ),
    "passthrough": {
        "merge_method": "passthrough",
        "slices": [_slice(("m1", [0, 3], {})), _slice(("m2", [1, 4], {})), _slice(("m3", [4, 4], {}))],
    },
    "passthrough_scaled": {
        "merge_method": "passthrough",
        "slices": [
            _slice(("m1", [0, 2], {"scale": [{"filter": "o_proj", "value": 0.0}, {"value": 2.0}]})),
            _slice(("m1", [1, 4], {})),
        ],
        "parameters": {"scale": [1.0, 3.0]},
    },
    "model_stock": {
        "merge_method": "model_stock",
        "base_model": "base",
        "models": _models(("m1", {}), ("m2", {}), ("m3", {})),
    },
    "model_stock_rows": {
        "merge_method": "model_stock",
        "base_model": "base",
        "models": _models(("m1", {}), ("m2", {}), ("m3", {})),
        "parameters": {"filter_wise": True},
    },
    "sce": {
        "merge_method": "sce",
        "base_model": "base",
        "models": _models(("m1", {}), ("m2", {}), ("m3", {})),
        "parameters": {"select_topk": 0.4},
    },
    "sce_all": {"merge_method": "sce", "base_model": "base", "models": _models(("m1", {}), ("m2", {}), ("m3", {}))},
}
"""Files by name; models are called base, m1, m2 and m3."""


def with_paths(value: Any, paths: Mapping[str, Path]) -> Any:
    """A file with the models' paths in it."""
    if isinstance(value, list):
        return [with_paths(entry, paths) for entry in value]
    if not isinstance(value, dict):
        return value
    return {
        key: str(paths[entry])
        if key in ("model", "base_model") and isinstance(entry, str)
        else with_paths(entry, paths)
        for key, entry in value.items()
    }
