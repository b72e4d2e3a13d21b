"""A dataset made ready for scoring, tokenised once for all models of a run that share a tokenizer."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import xxhash

from mats.data import Batch, DatasetSpec, Example, Processor, as_processor, make_batches
from mats.data.generation import GenerationSettings
from mats.errors import DataError, RequestError
from mats.evaluation.causal import causal_spec, continuations_of
from mats.evaluation.generation import DEFAULT_SETTINGS, check_settings
from mats.evaluation.kinds import Kind, scoring_kind
from mats.evaluation.perplexity import Window, text_windows, window_batches


@dataclass(frozen=True)
class PreparedData:
    """Everything that scoring needs but the model.

    Attributes:
        spec: The dataset.
        kind: How it is scored.
        examples: In their order.
        processor: Of the model; None for images.
        decoder_only: Whether the model continues its input (a causal language model).
        batches: On the CPU, planned by length; empty for a perplexity.
        windows: Of a perplexity; empty otherwise.
        batch_size: Examples, or windows, at once.
    """

    spec: DatasetSpec
    kind: Kind
    examples: tuple[Example, ...]
    processor: Processor | None
    decoder_only: bool
    batches: Sequence[Batch]
    windows: tuple[Window, ...]
    batch_size: int

    @property
    def steps(self) -> int:
        """Steps of progress that scoring takes."""
        return window_batches(self.windows, self.batch_size) if self.kind == "tokens" else len(self.batches)

    @property
    def settings(self) -> GenerationSettings:
        """How texts are written."""
        return self.spec.generation or DEFAULT_SETTINGS

    @property
    def longest(self) -> int:
        """Most positions that an input takes, what is written after a causal model's prompt included; 0 for images."""
        if self.kind == "tokens":
            return max(len(window.tokens) for window in self.windows)
        if self.processor is None:
            return 0  # batches of images are made when they are asked for, at a cost
        widths = [batch.inputs["input_ids"].shape[1] for batch in self.batches]
        written = self.settings.max_new_tokens if self.kind == "texts" and self.decoder_only else 0
        return max(widths, default=0) + written


def prepare_data(
    spec: DatasetSpec, examples: Sequence[Example], processor: Any, batch_size: int, *, decoder_only: bool = False
) -> PreparedData:
    """Tokenise the examples in the way in which they will be scored.

    Args:
        spec: The dataset.
        examples: What `load_examples` returned.
        processor: What `load_processor` returned, or a bare tokenizer; None for images.
        batch_size: Examples in a forward pass.
        decoder_only: Whether a causal language model will be scored.

    Raises:
        RequestError: metrics of different kinds, settings that cannot be, a text task without a tokenizer.
        DataError: an example lacks what the metrics need, or cannot be tokenised.
    """
    kind = scoring_kind(spec)
    _check_examples(spec, kind, examples)
    made = None if spec.task == "image_classification" or processor is None else as_processor(processor)
    windows: tuple[Window, ...] = ()
    batches: Sequence[Batch] = ()
    if kind == "tokens":
        if made is None:
            raise RequestError(f"dataset {spec.name}: a perplexity needs a tokenizer; load it with load_processor")
        windows = tuple(text_windows(examples, spec, made))
    else:
        batches = _batches(spec, kind, examples, made, batch_size, decoder_only)
    return PreparedData(spec, kind, tuple(examples), made, decoder_only, batches, windows, batch_size)


def _batches(
    spec: DatasetSpec,
    kind: Kind,
    examples: Sequence[Example],
    processor: Processor | None,
    batch_size: int,
    decoder_only: bool,
) -> Sequence[Batch]:
    shown, rows = spec, examples
    if kind == "texts":
        check_settings(spec.generation or DEFAULT_SETTINGS, f"dataset {spec.name}: generation")
    if decoder_only and kind in ("choices", "texts"):
        # The settings decide how much of a prompt there is room for.
        shown = causal_spec(spec).model_copy(update={"generation": spec.generation or DEFAULT_SETTINGS})
        rows = continuations_of(examples) if kind == "choices" else examples
    prompts_only = decoder_only and kind == "texts"
    batches = make_batches(rows, shown, processor, batch_size, by_length=True, prompts_only=prompts_only)
    # Token ids are small and are kept; images are not.
    return batches if processor is None else list(batches)


def _check_examples(spec: DatasetSpec, kind: Kind, examples: Sequence[Example]) -> None:
    for example in examples:
        if kind == "choices" and not example.choices:
            raise DataError(
                f"dataset {spec.name}: example {example.example_id} has no answer choices for {spec.metrics[0]};"
                " choices, or a metric of texts, would be right"
            )
        if kind == "texts" and not example.answers:
            raise DataError(
                f"dataset {spec.name}: example {example.example_id} has no answer to compare with; a template with a"
                " target, or generation.answers, would be right"
            )


class SharedData:
    """Prepared datasets of one run, each made once per tokenizer."""

    def __init__(self, batch_size: int) -> None:
        self._batch_size = batch_size
        self._made: dict[tuple[Any, ...], PreparedData] = {}

    def prepare(
        self, spec: DatasetSpec, examples: Sequence[Example], processor: Processor | None, *, decoder_only: bool
    ) -> PreparedData:
        """`prepare_data`, remembered; `examples` must be one and the same list each time."""
        key = (spec.model_dump_json(), id(examples), processor_fingerprint(processor), decoder_only)
        if key not in self._made:
            self._made[key] = prepare_data(spec, examples, processor, self._batch_size, decoder_only=decoder_only)
        return self._made[key]


def processor_fingerprint(processor: Processor | None) -> str:
    """Equal for processors that make the same tokens, where that can be told; unique otherwise."""
    if processor is None:
        return ""
    tokenizer = processor.tokenizer
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        return f"object {id(tokenizer)}"
    state = json.loads(backend.to_str())
    for changing in ("truncation", "padding"):  # traces of earlier calls; every call of ours says what it wants
        state.pop(changing, None)
    ids = (processor.pad_id, processor.decoder_start_id, processor.vocabulary_size, tokenizer.bos_token_id)
    text = json.dumps([type(tokenizer).__name__, state, ids, list(tokenizer.model_input_names)])
    return f"xxh3_128:{xxhash.xxh3_128(text.encode()).hexdigest()}"
