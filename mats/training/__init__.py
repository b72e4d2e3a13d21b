"""Fine-tuning models on datasets: what the merging methods start from."""

from mats.training.fine_tune import fine_tune
from mats.training.plan import plan_training
from mats.training.request import TrainingRequest
from mats.training.settings import TrainingSettings

__all__ = ["TrainingRequest", "TrainingSettings", "fine_tune", "plan_training"]
