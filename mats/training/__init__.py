"""Fine-tuning models on datasets: what the merging methods start from."""

from mats.training.fine_tuning import fine_tune, fine_tune_jointly
from mats.training.output import kept_checkpoint, read_report
from mats.training.plan import plan_training
from mats.training.request import TrainingRequest
from mats.training.settings import TrainingSettings

__all__ = [
    "TrainingRequest",
    "TrainingSettings",
    "fine_tune",
    "fine_tune_jointly",
    "kept_checkpoint",
    "plan_training",
    "read_report",
]
