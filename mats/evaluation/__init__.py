"""Scoring models: classification accuracy and rank classification of answer choices."""

from mats.evaluation.evaluate import evaluate
from mats.evaluation.metrics import METRICS, compute_metrics
from mats.evaluation.models import EvaluationSettings, evaluate_models, evaluate_with
from mats.evaluation.result import EvaluationResult, write_predictions
from mats.evaluation.scoring import answer_scores, choice_scores, evaluating, sequence_log_probability

__all__ = [
    "METRICS",
    "EvaluationResult",
    "EvaluationSettings",
    "answer_scores",
    "choice_scores",
    "compute_metrics",
    "evaluate",
    "evaluate_models",
    "evaluate_with",
    "evaluating",
    "sequence_log_probability",
    "write_predictions",
]
