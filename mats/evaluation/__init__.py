"""Scoring models: classes, ranked choices, numbers, written texts, perplexity; with intervals and kept predictions."""

from mats.evaluation.dataset import evaluate_dataset
from mats.evaluation.evaluate import evaluate
from mats.evaluation.generation import Written, generate_texts, write_rows
from mats.evaluation.intervals import Difference, Interval, bootstrap_interval, paired_difference
from mats.evaluation.jobs import evaluate_jobs
from mats.evaluation.metrics import METRICS, compute_metrics
from mats.evaluation.models import evaluate_models, evaluate_with
from mats.evaluation.prepared import PreparedData, prepare_data
from mats.evaluation.result import EvaluationResult, result_of, write_predictions
from mats.evaluation.scoring import answer_scores, choice_scores, evaluating, sequence_log_probability
from mats.evaluation.settings import EvaluationJob, EvaluationSettings
from mats.evaluation.texts import text_scores

__all__ = [
    "METRICS",
    "Difference",
    "EvaluationJob",
    "EvaluationResult",
    "EvaluationSettings",
    "Interval",
    "PreparedData",
    "Written",
    "answer_scores",
    "bootstrap_interval",
    "choice_scores",
    "compute_metrics",
    "evaluate",
    "evaluate_dataset",
    "evaluate_jobs",
    "evaluate_models",
    "evaluate_with",
    "evaluating",
    "generate_texts",
    "paired_difference",
    "prepare_data",
    "result_of",
    "sequence_log_probability",
    "text_scores",
    "write_predictions",
    "write_rows",
]
