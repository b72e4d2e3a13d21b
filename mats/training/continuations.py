"""Language modelling for encoder–decoders: texts cut into pieces, each the input whose target is the next.

This is the objective of the language-model modules of PEM composition (domain transfer with T5).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from mats.data import DatasetSpec, Example, Processor
from mats.errors import DataError, RequestError

TEXTS_AT_ONCE = 1000


def continuation_spec(spec: DatasetSpec, size: int) -> DatasetSpec:
    """The dataset as text to text, in pieces of `size` tokens and an end token.

    Raises:
        RequestError: the dataset is not one of texts.
    """
    if spec.task != "language_modeling":
        raise RequestError(f"continuation: dataset {spec.name} is {spec.task}; language_modeling would be right")
    return spec.model_copy(update={"task": "text_to_text", "max_length": size + 1, "max_target_length": size + 1})


def continuation_examples(examples: Sequence[Example], processor: Processor, size: int, name: str) -> list[Example]:
    """One example for each piece but the last: the piece is the text, the next piece its target.

    Args:
        examples: Texts, which are joined in their order; what is left over at the end is dropped.
        processor: Its tokenizer counts the pieces' tokens.
        size: Tokens of a piece.
        name: The dataset's, for the message.

    Raises:
        DataError: there are not two pieces.
    """
    pieces = list(_pieces(examples, processor, size))
    if len(pieces) < 2:
        raise DataError(
            f"dataset {name}: {len(pieces)} pieces of {size} tokens; more text, or smaller pieces, would be right"
        )
    return [
        Example(f"piece:{number}", text=text, target=target) for number, (text, target) in enumerate(pairwise(pieces))
    ]


def _pieces(examples: Sequence[Example], processor: Processor, size: int) -> Iterator[str]:
    """The joined texts in pieces of exactly `size` tokens."""
    tokenizer = processor.tokenizer
    rest: list[int] = []
    for start in range(0, len(examples), TEXTS_AT_ONCE):
        texts = [example.text for example in examples[start : start + TEXTS_AT_ONCE]]
        for ids in tokenizer(texts, add_special_tokens=False, truncation=False)["input_ids"]:
            rest += ids
        whole = len(rest) // size * size
        for first in range(0, whole, size):
            yield tokenizer.decode(rest[first : first + size])
        rest = rest[whole:]
