"""The cut vocabulary: what it keeps, how it spells what it cut, and whose embeddings its pieces start with."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from pieces import SPECIAL, cut_pieces, projected_embeddings
from safetensors.torch import load_file
from tokenizers import Tokenizer

TEXTS = ["the river walks", "the river", "the film"]
LETTERS = 2 * 26 + 2  # each at the start of a word and inside it; ? and :


def test_letters_stay_and_then_the_most_frequent_pieces(encoder_folder: Path) -> None:
    pieces = cut_pieces(encoder_folder, TEXTS, len(SPECIAL) + LETTERS + 2)
    kept = set(pieces.tokenizer.get_vocab())
    assert {"the", "river"} < kept
    assert kept.isdisjoint({"film", "walks", "unused", "[CLS]", "[PAD]", "é"})
    assert len(pieces.sources) == len(pieces.tokenizer) == len(SPECIAL) + LETTERS + 2


def test_what_is_cut_is_spelt_and_every_text_ends(encoder_folder: Path) -> None:
    tokenizer = cut_pieces(encoder_folder, TEXTS, len(SPECIAL) + LETTERS + 2).tokenizer
    found = tokenizer("The good river")
    assert tokenizer.convert_ids_to_tokens(found["input_ids"]) == ["the", "g", "##o", "##o", "##d", "river", "</s>"]
    assert set(found) == {"input_ids", "attention_mask"}
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_pieces_that_no_text_has_are_not_kept_for_want_of_others(encoder_folder: Path) -> None:
    assert "unused" not in cut_pieces(encoder_folder, TEXTS, 10_000).tokenizer.get_vocab()


def test_every_piece_has_the_embedding_that_it_had(encoder_folder: Path) -> None:
    pieces = cut_pieces(encoder_folder, TEXTS, 60)
    ids = Tokenizer.from_file(str(encoder_folder / "tokenizer.json")).get_vocab()
    for piece, index in pieces.tokenizer.get_vocab().items():
        assert pieces.sources[index] == ids[SPECIAL.get(piece, piece)]
    rows = load_file(encoder_folder / "model.safetensors")["bert.embeddings.word_embeddings.weight"]
    rows = rows[list(pieces.sources)]
    found = projected_embeddings(encoder_folder, pieces.sources, 48)
    assert float(found.std()) == pytest.approx(1, abs=1e-5)
    # At full width a projection onto principal directions is a rotation: angles between pieces stay.
    centred = rows - rows.mean(dim=0)
    scale = float(found.norm() / centred.norm())
    torch.testing.assert_close(found @ found.T, scale**2 * centred @ centred.T, rtol=1e-3, atol=1e-3)
    narrow = projected_embeddings(encoder_folder, pieces.sources, 8)
    leading = torch.linalg.svdvals(centred)[:8]
    torch.testing.assert_close(torch.linalg.svdvals(narrow) / narrow.norm(), leading / leading.norm())
