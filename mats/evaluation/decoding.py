"""What steers `model.generate` beyond its own settings, each row by itself: results are the same in any batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import xxhash
from torch import Tensor

TOKENS_PER_CHARACTER = 4  # of a byte-level tokenizer at worst


class GumbelNoise:
    """Sampling, turned into a greedy choice: argmax(logits + Gumbel noise) is a draw from softmax(logits).

    Each row has a stream of its own, seeded by (seed, example id): `generate`'s one generator for a whole batch would
    give an example another text in another batch.
    """

    def __init__(self, seed: int, example_ids: Sequence[str]) -> None:
        self._generators = [torch.Generator().manual_seed(_digest(seed, name)) for name in example_ids]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B, V] with a step's noise added."""
        del input_ids
        waits = torch.stack(
            [
                torch.empty(scores.shape[1], dtype=torch.float64).exponential_(generator=generator)
                for generator in self._generators
            ]
        )
        return scores.double() - waits.log().to(scores.device)


class RepetitionPenalty:
    """transformers' repetition penalty, without counting padding: a row's own pad token may be its end token."""

    def __init__(self, penalty: float, mask: Tensor | None) -> None:
        from transformers import RepetitionPenaltyLogitsProcessor

        self._penalise: Any = RepetitionPenaltyLogitsProcessor(penalty)
        self._mask = mask  # bool [B, T] of the prompt's real tokens; None for decoders that begin with no prompt

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """Scores [B · beams, V] with every token met so far made less likely."""
        if self._mask is not None:
            mask = self._mask.repeat_interleave(len(input_ids) // len(self._mask), dim=0)
            last = mask.shape[1] - 1  # padding stands on the left: the prompt's last token is real
            prompt = torch.where(mask, input_ids[:, : last + 1], input_ids[:, last : last + 1])
            input_ids = torch.cat([prompt, input_ids[:, last + 1 :]], dim=1)
        result: Tensor = self._penalise(input_ids, scores)
        return result


class StopTexts:
    """Ends a row when one of the texts occurs in what it has written; the prompt does not count."""

    def __init__(self, tokenizer: Any, texts: Sequence[str], prompt_length: int) -> None:
        self._tokenizer = tokenizer
        self._texts = tuple(texts)
        self._start = prompt_length
        self._tail = TOKENS_PER_CHARACTER * max(len(text) for text in texts) + 1

    def __call__(self, input_ids: Tensor, scores: Any, **_: Any) -> Tensor:
        """Bool [B · beams], True at rows that are done."""
        del scores
        written = input_ids[:, max(self._start, input_ids.shape[1] - self._tail) :]
        options = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
        tails = self._tokenizer.batch_decode(written, **options)
        done = [any(text in tail for text in self._texts) for tail in tails]
        return torch.tensor(done, dtype=torch.bool, device=input_ids.device)


def _digest(seed: int, example_id: str) -> int:
    """64 bits that depend on both alone."""
    return xxhash.xxh64(f"{seed}\0{example_id}".encode()).intdigest() % (1 << 63)
