"""Fine-tuning models on datasets: what the merging methods start from.

The names are imported when they are first used: a recipe's faults are found without torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mats.training.fine_tuning import fine_tune, fine_tune_jointly, run
    from mats.training.output import finished, kept_checkpoint, read_report
    from mats.training.plan import TrainingPlan, plan_training
    from mats.training.request import TrainingRequest
    from mats.training.settings import TrainingSettings

_HOMES = {
    "TrainingPlan": "plan",
    "TrainingRequest": "request",
    "TrainingSettings": "settings",
    "fine_tune": "fine_tuning",
    "fine_tune_jointly": "fine_tuning",
    "finished": "output",
    "kept_checkpoint": "output",
    "plan_training": "plan",
    "read_report": "output",
    "run": "fine_tuning",
}
"""Public name → the module that defines it."""

__all__ = [
    "TrainingPlan",
    "TrainingRequest",
    "TrainingSettings",
    "fine_tune",
    "fine_tune_jointly",
    "finished",
    "kept_checkpoint",
    "plan_training",
    "read_report",
    "run",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use."""
    if name not in _HOMES:
        raise AttributeError(f"module 'mats.training' has no attribute {name!r}")
    return getattr(importlib.import_module(f"mats.training.{_HOMES[name]}"), name)
