"""Scoring models, with intervals and kept predictions; answers for other tools; lm-evaluation-harness; toxicity."""

from mats.evaluation.continuations import ContinuationRequest, sample_continuations
from mats.evaluation.dataset import evaluate_dataset
from mats.evaluation.evaluate import evaluate
from mats.evaluation.exports import ExportRequest, export_answers
from mats.evaluation.exports_run import Writer
from mats.evaluation.generation import Written, generate_texts, write_rows
from mats.evaluation.harness import HarnessRequest, run_harness
from mats.evaluation.intervals import Difference, Interval, bootstrap_interval, paired_difference
from mats.evaluation.jobs import evaluate_jobs
from mats.evaluation.metrics import METRICS, compute_metrics
from mats.evaluation.models import evaluate_models, evaluate_with
from mats.evaluation.prepared import PreparedData, prepare_data
from mats.evaluation.result import EvaluationResult, result_of, write_predictions
from mats.evaluation.scoring import answer_scores, choice_scores, evaluating, sequence_log_probability
from mats.evaluation.settings import EvaluationJob, EvaluationSettings
from mats.evaluation.texts import text_scores
from mats.evaluation.toxicity import ToxicityResult, load_detoxify, read_texts, score_toxicity

__all__ = [
    "METRICS",
    "ContinuationRequest",
    "Difference",
    "EvaluationJob",
    "EvaluationResult",
    "EvaluationSettings",
    "ExportRequest",
    "HarnessRequest",
    "Interval",
    "PreparedData",
    "ToxicityResult",
    "Writer",
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
    "export_answers",
    "generate_texts",
    "load_detoxify",
    "paired_difference",
    "prepare_data",
    "read_texts",
    "result_of",
    "run_harness",
    "sample_continuations",
    "score_toxicity",
    "sequence_log_probability",
    "text_scores",
    "write_predictions",
    "write_rows",
]
