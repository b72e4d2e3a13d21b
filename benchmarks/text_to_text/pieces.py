"""A small vocabulary: MiniLM's word pieces, cut to those that the tasks' training texts use most.

Most of a small T5 would be its vocabulary, and ranking 77 answers is mostly the product with it, so 30 522 pieces are
too many. A vocabulary trained on these texts would be as small, but its pieces would mean nothing at first; MiniLM's
come with embeddings that were pretrained, the only pretraining that this model gets.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from tokenizers import Tokenizer, models, processors
from torch import Tensor
from transformers import PreTrainedTokenizerFast

PAD, END, UNKNOWN = "<pad>", "</s>", "[UNK]"
SPECIAL = {PAD: "[PAD]", END: "[SEP]", UNKNOWN: "[UNK]"}
"""Special piece here → the one in MiniLM whose embedding it starts from; ids 0, 1, 2 as T5 has them."""
EMBEDDINGS = "embeddings.word_embeddings.weight"


@dataclass(frozen=True)
class Pieces:
    """The vocabulary.

    Attributes:
        tokenizer: ends every text with `</s>`, as T5 expects.
        sources: of each id, the id in the vocabulary that it was cut from.
    """

    tokenizer: Any
    sources: tuple[int, ...]


def cut_pieces(source: Path, texts: Iterable[str], size: int) -> Pieces:
    """At most `size` pieces of the WordPiece tokenizer in `source/tokenizer.json`: all single ASCII characters, so that
    whatever is cut can still be spelt, then the most frequent ones of `texts`.
    """
    whole = Tokenizer.from_file(str(source / "tokenizer.json"))
    whole.no_truncation()
    whole.no_padding()
    ids = whole.get_vocab()
    counts = Counter(
        piece for text in whole.encode_batch(list(texts), add_special_tokens=False) for piece in text.tokens
    )
    letters = [piece for piece in sorted(ids, key=ids.__getitem__) if _is_letter(piece)]
    frequent = sorted(counts, key=lambda piece: (-counts[piece], ids[piece]))
    wanted = [piece for piece in dict.fromkeys([*letters, *frequent]) if piece not in SPECIAL.values()]
    kept = [*SPECIAL, *wanted[: size - len(SPECIAL)]]
    cut = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(kept)}, unk_token=UNKNOWN))
    cut.normalizer, cut.pre_tokenizer, cut.decoder = whole.normalizer, whole.pre_tokenizer, whole.decoder
    cut.post_processor = processors.TemplateProcessing(single=f"$A {END}", special_tokens=[(END, kept.index(END))])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=cut,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        model_input_names=["input_ids", "attention_mask"],  # by default token types too, which T5 refuses
    )
    return Pieces(tokenizer, tuple(ids[SPECIAL.get(piece, piece)] for piece in kept))


def _is_letter(piece: str) -> bool:
    bare = piece.removeprefix("##")
    return len(bare) == 1 and bare.isascii()


def projected_embeddings(source: Path, sources: tuple[int, ...], width: int) -> Tensor:
    """[pieces, width]: the pieces' embeddings in `source/model.safetensors` on their first principal directions.

    Scaled to a standard deviation of 1, which T5's embeddings start with.
    """
    with safe_open(source / "model.safetensors", "pt") as weights:
        name = next(name for name in weights.keys() if name.endswith(EMBEDDINGS))  # noqa: SIM118 - it is no dict
        rows = weights.get_tensor(name).float()[list(sources)]  # [pieces, 384]
    left, values, _ = torch.linalg.svd(rows - rows.mean(dim=0), full_matrices=False)
    projected = left[:, :width] * values[:width]
    return projected / projected.std()
