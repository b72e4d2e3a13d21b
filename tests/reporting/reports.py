"""Small reports for the tests of this room, in the shape that the engine gives them."""

from __future__ import annotations

from typing import Any


def merge_report() -> dict[str, Any]:
    """Two models, three solved layers of which one missed its tolerance, and one that fell back."""

    def solved(name: str, rule: str, **changes: Any) -> dict[str, Any]:
        entry = {
            "name": f"encoder.block.0.{name}.weight",
            "rule": rule,
            "shape": [4, 5],
            "iterations": 12,
            "relative_residual": 3e-5,
            "converged": True,
            "stop_reason": "converged",
            "anchor": 1e-4,
            "movement": 0.4,
            "null_share": 0.01,
            "tolerance": 1e-4,
            "pull_share": 0.3,
            "bound": "proven",
            "eigenvalue_bound": 1e-5,
            "error_bound": 0.02,
            "energy_decrease": 0.01,
            "energy_gap_bound": 1e-6,
            "remaining_share": 1e-4,
            "loss_before": {"paws": 0.02, "quartz": 0.004},
            "loss_after": {"paws": 0.01, "quartz": 0.006},
            "rounding_loss": 2.5e-9,
        }
        return {**entry, **changes}

    layers = [
        solved("q", "kfac"),
        solved("k", "kfac", converged=False, stop_reason="max_iterations", relative_residual=2e-3),
        solved(
            "norm",
            "diagonal",
            iterations=0,
            relative_residual=0.0,
            stop_reason="closed_form",
            null_share=None,
            bound="none",
            remaining_share=None,
        ),
        {
            "name": "shared.weight",
            "rule": "init",
            "shape": [30, 4],
            "fallback_reason": "too wide for an output Gram",
        },
    ]
    return {
        "schema_version": 1,
        "mats_version": "0.1.0",
        "method": "mats",
        "base": "google-t5/t5-small",
        "models": [
            {"name": "paws", "path": "someone/t5-paws", "weight": 1.0, "metadata": "metadata/paws", "examples": 1000},
            {"name": "quartz", "path": "exp_out/train/quartz", "weight": 2.0, "metadata": None, "examples": None},
        ],
        "settings": {"method": "mats", "anchor": 0.1},
        "recipe": {"base": "google-t5/t5-small", "merge": {"method": "mats", "anchor": 0.1}},
        "dtype": None,
        "parameters": {"total": 1000, "by_rule": {"kfac": 800, "init": 120, "diagonal": 80}},
        "layers": layers,
        "missing": {"quartz": ["lm_head.weight"]},
        "extra": {},
        "tied": [],
        "not_floating": ["position_ids"],
        "notes": ["a note"],
    }


def streamed_report() -> dict[str, Any]:
    """A data-free merge: tensors without certificates."""
    report = merge_report()
    report["method"] = "ties"
    report["parameters"] = {"total": 1000, "by_rule": {"ties": 1000}}
    report["layers"] = [{"name": "a.weight", "rule": "ties", "shape": [4, 4], "rounding_loss": None}]
    return report
