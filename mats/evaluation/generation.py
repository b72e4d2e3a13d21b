"""Texts that models write: `model.generate` under the dataset's settings alone, the same in batches of any size."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mats.data import Batch, Example, Processor
from mats.data.generation import GenerationSettings
from mats.errors import RequestError
from mats.evaluation.decoding import GumbelNoise, RepetitionPenalty, StopTexts
from mats.evaluation.scoring import evaluating
from mats.evaluation.texts import extracted_answer, text_scores
from mats.progress import Progress, Silent

DEFAULT_SETTINGS = GenerationSettings(max_new_tokens=64)  # greedy, as MaTS and TIES score
INHERITED = ("eos_token_id", "bos_token_id", "decoder_start_token_id", "forced_bos_token_id", "forced_eos_token_id")


@dataclass(frozen=True)
class Written:
    """What a model wrote after one prompt.

    Attributes:
        text: Without special tokens, ended before the first stop text.
        finished: Whether the model ended it (an end token, a stop text) before the limit of tokens did.
    """

    text: str
    finished: bool


def generate_texts(
    model: nn.Module,
    batches: Sequence[Batch],
    processor: Processor,
    settings: GenerationSettings = DEFAULT_SETTINGS,
    *,
    progress: Progress | None = None,
) -> dict[str, str]:
    """What a model writes for each example.

    Only `settings` and the ids of special tokens count: what a checkpoint's generation_config.json says about sampling,
    lengths or penalties does not. Sampling draws from (seed, example id, position), so that neither batch size nor
    order changes a text.

    Args:
        model: An encoder–decoder or a causal language model of transformers (or PEFT).
        batches: What `make_batches` returned: of text_to_text, or with `prompts_only` (padded on the left).
        processor: Of the model.
        settings: How to write.
        progress: Told about each batch; the caller opens the stage.

    Returns:
        Example id → text, without special tokens, ended before the first stop text, in the order of the batches.

    Raises:
        RequestError: sampling with beams.
    """
    check_settings(settings)
    device = next(model.parameters()).device
    progress = progress or Silent()
    texts: dict[str, str] = {}
    with evaluating(model):
        for batch in batches:
            rows = write_rows(model, batch.to(device).inputs, batch.example_ids, processor, settings)
            texts.update(zip(batch.example_ids, (row.text for row in rows), strict=True))
            progress.advance()
    return texts


def score_texts(texts: dict[str, str], examples: Sequence[Example], metrics: Sequence[str]) -> list[dict[str, Any]]:
    """The predictions of an `EvaluationResult`, in the order of `examples`.

    Raises:
        RequestError: a metric is none of texts.
    """
    return [
        {
            "example_id": example.example_id,
            "prediction": texts[example.example_id],
            "gold": list(example.answers),
            "answer": extracted_answer(metrics[0], texts[example.example_id]),
            "scores": text_scores(metrics, texts[example.example_id], example.answers),
            **({"kept": dict(example.kept)} if example.kept else {}),
        }
        for example in examples
    ]


def check_settings(settings: GenerationSettings, where: str = "generation") -> None:
    """Refuse what is not offered, before a model is loaded.

    Raises:
        RequestError: sampling with beams.
    """
    if settings.do_sample and settings.num_beams > 1:
        raise RequestError(f"{where}: do_sample with num_beams {settings.num_beams}; one of the two would be right")


def write_rows(
    model: nn.Module,
    inputs: dict[str, Tensor],
    example_ids: Sequence[str],
    processor: Processor,
    settings: GenerationSettings,
) -> list[Written]:
    """What a model, in eval mode, writes after each row.

    Args:
        model: On the device of the inputs.
        inputs: `input_ids` and `attention_mask`, int64 [B, T]; for causal models padded on the left.
        example_ids: One per row; draws depend on them.
        processor: Of the model.
        settings: How to write.
    """
    import transformers

    inner: Any = _innermost(model)
    encodes = bool(inner.config.is_encoder_decoder)
    width = 1 if encodes else inputs["input_ids"].shape[1]  # an encoder–decoder's output begins with its start token
    config = _config(inner, processor, settings)
    mask = None if encodes else inputs["attention_mask"].bool()
    options: dict[str, Any] = {"logits_processor": _processors(settings, example_ids, mask)}
    if settings.stop:
        stop: Any = StopTexts(processor.tokenizer, settings.stop, width)
        options["stopping_criteria"] = transformers.StoppingCriteriaList([stop])
    generate: Any = getattr(model, "generate")  # noqa: B009 - nn.Module's type does not know it
    with _only_config(model, config):
        output: Tensor = generate(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], generation_config=config, **options
        )
    return [_decoded(row, config.eos_token_id, processor, settings.stop) for row in output[:, width:].tolist()]


def _config(inner: Any, processor: Processor, settings: GenerationSettings) -> Any:
    """The settings, with the special tokens that the checkpoint names."""
    import transformers

    known = {name: getattr(inner.generation_config, name, None) for name in INHERITED}
    if known["eos_token_id"] is None:
        known["eos_token_id"] = processor.tokenizer.eos_token_id
    if inner.config.is_encoder_decoder and known["decoder_start_token_id"] is None:
        known["decoder_start_token_id"] = processor.decoder_start_id
    return transformers.GenerationConfig(
        max_new_tokens=settings.max_new_tokens,
        num_beams=settings.num_beams,
        do_sample=False,  # draws are made by noise: see GumbelNoise
        pad_token_id=processor.pad_id,
        **known,
    )


def _processors(settings: GenerationSettings, example_ids: Sequence[str], mask: Tensor | None) -> Any:
    """Penalty, temperature, top_p and the draw, in transformers' order."""
    import transformers

    steps: list[Any] = []
    if settings.repetition_penalty is not None:
        steps.append(RepetitionPenalty(settings.repetition_penalty, mask))
    if settings.temperature is not None:
        steps.append(transformers.TemperatureLogitsWarper(float(settings.temperature)))
    if settings.top_p is not None:
        steps.append(transformers.TopPLogitsWarper(float(settings.top_p)))
    if settings.do_sample:
        steps.append(GumbelNoise(settings.seed, example_ids))
    return transformers.LogitsProcessorList(steps)


def _decoded(
    row: Sequence[int], ends: int | Sequence[int] | None, processor: Processor, stop: Sequence[str]
) -> Written:
    """The text of a row of ids: up to an end token, and before the first stop text."""
    known = set(ends) if isinstance(ends, (list, tuple)) else {ends}
    length = next((place for place, token in enumerate(row) if token in known), len(row))
    # Some tokenizers would close the space before punctuation, which is not what the model wrote.
    options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    text: str = processor.tokenizer.decode(row[:length], **options)
    places = [text.find(phrase) for phrase in stop if phrase in text]
    return Written(text[: min(places)] if places else text, length < len(row) or bool(places))


def _innermost(model: nn.Module) -> Any:
    """The transformers model inside PEFT's wrapper, or the model itself."""
    unwrap: Any = getattr(model, "get_base_model", None)
    return unwrap() if unwrap is not None else model


@contextmanager
def _only_config(model: nn.Module, config: Any) -> Iterator[None]:
    """Put `config` in the place of the checkpoint's: transformers fills what is unset in the one from the other."""
    holders: list[Any] = list({id(holder): holder for holder in (model, _innermost(model))}.values())
    before = [holder.generation_config for holder in holders]
    try:
        for holder in holders:
            holder.generation_config = config
        yield
    finally:
        for holder, kept in zip(holders, before, strict=True):
            holder.generation_config = kept
