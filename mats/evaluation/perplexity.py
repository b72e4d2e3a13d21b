"""Strided perplexity: one long text read in overlapping windows, every token scored exactly once.

As in transformers' guide "Perplexity of fixed-length models" (window 1024, stride 512), with the sum over tokens
exact: there the loss of a window is multiplied by one token too many.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn

from mats.data import NOT_SCORED, DatasetSpec, Example, Processor, pad_rows, real_positions
from mats.data.generation import PerplexitySettings
from mats.errors import DataError
from mats.evaluation.evaluate import check_finite
from mats.evaluation.scoring import evaluating, sequence_log_probability
from mats.progress import Progress


@dataclass(frozen=True)
class Window:
    """Tokens that are read together.

    Attributes:
        tokens: Their ids.
        scored: The last so many of them are scored.
    """

    tokens: tuple[int, ...]
    scored: int


def text_windows(examples: Sequence[Example], spec: DatasetSpec, processor: Processor) -> list[Window]:
    """The windows of all texts joined. The first token of all is not scored: nothing predicts it.

    Where the tokenizer begins texts with a begin token, that is the first one, and all of the text is scored.

    Raises:
        DataError: there are fewer than two tokens.
        InputsMismatch: the tokenizer makes an id that the model does not have.
    """
    settings = spec.perplexity or PerplexitySettings()
    tokenizer = processor.tokenizer
    text = settings.separator.join(example.text + (example.target or "") for example in examples)
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    first = tokenizer("")["input_ids"][:1]
    if tokenizer.bos_token_id is not None and first == [tokenizer.bos_token_id]:
        ids = [*first, *ids]
    if len(ids) < 2:
        raise DataError(f"dataset {spec.name}: {len(ids)} tokens; a text of two or more would be right")
    processor.check_ids([ids])
    return [Window(tuple(ids[begin:end]), scored) for begin, end, scored in window_ranges(len(ids), settings)]


def window_ranges(tokens: int, settings: PerplexitySettings) -> Iterator[tuple[int, int, int]]:
    """(first token, one past the last, number scored at the end) of each window over `tokens` tokens.

    The first window scores all of its tokens but the first; each further one the next `stride` tokens (at most
    window − 1: a window's first token has nothing before it).
    """
    stride = min(settings.stride, settings.window - 1)
    end = min(settings.window, tokens)
    yield 0, end, end - 1
    while end < tokens:
        begin, last = end + stride - settings.window, min(end + stride, tokens)
        yield begin, last, last - end
        end = last


def score_windows(
    model: nn.Module, windows: Sequence[Window], batch_size: int, pad_id: int, split: str, progress: Progress
) -> list[dict[str, Any]]:
    """Per window, in order: `example_id` (`<split>:window:<n>`), `log_likelihood` in nats and `tokens` scored.

    Raises:
        NonFiniteStatistic: a log-likelihood is NaN or infinite.
    """
    device = next(model.parameters()).device
    predictions = []
    with evaluating(model):
        for start in range(0, len(windows), batch_size):
            part = windows[start : start + batch_size]
            rows = [window.tokens for window in part]
            labels = pad_rows([_labels(window) for window in part], NOT_SCORED).to(device)
            inputs = {"input_ids": pad_rows(rows, pad_id), "attention_mask": real_positions(rows).long()}
            logits: Any = model(**{name: value.to(device) for name, value in inputs.items()}, use_cache=False).logits
            scores = sequence_log_probability(logits[:, :-1], labels[:, 1:]).cpu()
            ids = [f"{split}:window:{start + number}" for number in range(len(part))]
            check_finite(scores.unsqueeze(1), ids)
            predictions += [
                {"example_id": name, "log_likelihood": score, "tokens": window.scored}
                for name, score, window in zip(ids, scores.tolist(), part, strict=True)
            ]
            progress.advance()
    return predictions


def window_batches(windows: Sequence[Window], batch_size: int) -> int:
    """How many steps of progress `score_windows` takes."""
    return -(-len(windows) // batch_size)


def _labels(window: Window) -> list[int]:
    unscored = len(window.tokens) - window.scored
    return [NOT_SCORED] * unscored + list(window.tokens[unscored:])
