"""Scoring one model on one dataset, in whatever way its metrics ask for."""

from __future__ import annotations

from typing import Any

from torch import nn

from mats.errors import InputsMismatch
from mats.evaluation.causal import score_continuations
from mats.evaluation.evaluate import evaluate
from mats.evaluation.generation import generate_texts, score_texts
from mats.evaluation.perplexity import score_windows
from mats.evaluation.prepared import PreparedData
from mats.evaluation.result import EvaluationResult, result_of
from mats.progress import Progress, Silent


def evaluate_dataset(model: nn.Module, data: PreparedData, progress: Progress | None = None) -> EvaluationResult:
    """Score a model on prepared data: classes, choices, numbers, written texts or tokens.

    Args:
        model: A model of transformers (or PEFT) for the dataset's task, on any device; left as it was.
        data: What `prepare_data` made for it.
        progress: Told about each of `data.steps` steps; the caller opens the stage.

    Returns:
        The result, its predictions in the order of the examples whatever the order of the batches.

    Raises:
        InputsMismatch: the data were prepared for a model of the other kind (causal, or not).
        NonFiniteStatistic: a score is NaN or infinite.
    """
    progress = progress or Silent()
    _check_architecture(model, data)
    predictions = _predictions(model, data, progress)
    return result_of(data.spec.metrics, predictions, len(data.examples))


def _predictions(model: nn.Module, data: PreparedData, progress: Progress) -> list[dict[str, Any]]:
    spec, examples = data.spec, data.examples
    if data.kind == "tokens":
        assert data.processor is not None  # a perplexity was prepared with one
        split = examples[0].example_id.split(":")[0]
        return score_windows(model, data.windows, data.batch_size, data.processor.pad_id, split, progress)
    if data.kind == "texts":
        assert data.processor is not None
        texts = generate_texts(model, data.batches, data.processor, data.settings, progress=progress)
        return score_texts(texts, examples, spec.metrics)
    if data.kind == "choices" and data.decoder_only:
        normalise = spec.length_normalization
        return score_continuations(model, data.batches, examples, length_normalization=normalise, progress=progress)
    scored = evaluate(
        model,
        data.batches,
        metrics=spec.metrics,
        length_normalization=spec.length_normalization,
        progress=progress,
    )
    by_id = {entry["example_id"]: entry for entry in scored.predictions}
    return [by_id[example.example_id] for example in examples]


def _check_architecture(model: nn.Module, data: PreparedData) -> None:
    encodes = getattr(getattr(model, "config", None), "is_encoder_decoder", None)
    if encodes is None or data.kind not in ("choices", "texts", "tokens"):
        return
    if bool(encodes) == data.decoder_only:
        ours, theirs = ("an encoder–decoder", "a causal") if encodes else ("a causal", "an encoder–decoder")
        raise InputsMismatch(
            f"dataset {data.spec.name}: prepared for {theirs} model, and this is {ours} one; prepare_data with"
            f" decoder_only={not encodes} would be right"
        )
