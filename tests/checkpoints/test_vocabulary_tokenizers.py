"""Tokenizers of every kind read, and extended so that transformers loads them with the ids that rows have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from mats.checkpoints.vocabulary_extension import NewToken, added_tokens, extended, scores
from mats.checkpoints.vocabulary_tokens import TokenizerFiles, tokenizer_files, tokens_of
from mats.errors import CheckpointCorrupt, InputsMismatch

SPECIAL = ["<unk>", "<pad>", "</s>"]


def pieces(kind: str, extra: tuple[str, ...] = ()) -> Tokenizer:
    """A tokenizer that cuts words into letters and a few longer pieces."""
    if kind == "bpe":
        words = [*SPECIAL, *"abc", "ab", *extra]
        merges = [("a", "b"), *((piece[:-1], piece[-1]) for piece in extra)]
        made = Tokenizer(models.BPE({word: n for n, word in enumerate(words)}, merges, unk_token="<unk>"))
    elif kind == "wordpiece":
        words = [*SPECIAL, *"abc", "##a", "##b", "##c", *extra]
        made = Tokenizer(models.WordPiece({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    elif kind == "unigram":
        listed = [(word, 0.0) for word in SPECIAL] + [(word, -3.0) for word in "abc"] + [(word, -1.0) for word in extra]
        made = Tokenizer(models.Unigram(listed, unk_id=0))
        made.decoder = decoders.Fuse()
    else:
        words = [*SPECIAL, *"abc", *extra]
        made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made.add_special_tokens([AddedToken(word, special=True, normalized=False) for word in SPECIAL])
    made.add_special_tokens(["<mask>"])  # beyond the model's own vocabulary
    return made


FOREIGN = {"bpe": "abc", "wordpiece": "##bc", "unigram": "abc", "wordlevel": "abc"}
"""What another tokenizer of the kind has, and the word that it then is a piece of."""
WORD = {"bpe": "abc", "wordpiece": "abc", "unigram": "abc", "wordlevel": "abc"}


@pytest.mark.parametrize("kind", tuple(FOREIGN))
def test_ordinary_tokens_become_pieces_and_added_ones_stay_whole(kind: str, tmp_path: Path) -> None:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    own, other = pieces(kind), pieces(kind, (FOREIGN[kind],))
    ids = own.get_vocab()
    first = max(ids.values()) + 1
    new = [
        NewToken(FOREIGN[kind], None, scores(json.loads(other.to_str())).get(FOREIGN[kind], 0.0)),
        NewToken("<chat>", {"special": True, "single_word": False}),
    ]
    text = extended(json.loads(own.to_str()), first, new, [json.loads(other.to_str())], tmp_path)
    PreTrainedTokenizerFast(tokenizer_object=own, unk_token="<unk>", pad_token="<pad>").save_pretrained(tmp_path)
    (tmp_path / "tokenizer.json").write_text(text)
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    wanted = {**ids, FOREIGN[kind]: first, "<chat>": first + 1}
    assert tokens_of(text, tmp_path) == wanted
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == wanted
    before, after = own.encode("abc cab<chat>").ids, loaded("abc cab<chat>", add_special_tokens=False)["input_ids"]
    assert first in after
    assert after[-1] == first + 1
    assert first not in before
    assert loaded("ca <mask>", add_special_tokens=False)["input_ids"] == own.encode("ca <mask>").ids
    assert after[0] == (first if kind != "wordpiece" else ids["a"])


def test_a_piece_is_not_matched_inside_words_as_an_added_token_would_be(tmp_path: Path) -> None:
    """The negative control of putting ordinary tokens into the model: the word `xbcx` has no piece `bc`."""
    own = pieces("bpe")
    inside = extended(json.loads(own.to_str()), 8, [NewToken("bc")], [], tmp_path)
    added = extended(json.loads(own.to_str()), 8, [NewToken("bc", {})], [], tmp_path)
    word = "abc"
    assert Tokenizer.from_str(inside).encode(word).tokens == ["ab", "c"]
    assert Tokenizer.from_str(added).encode(word).tokens == ["a", "bc"]


@pytest.mark.parametrize("in_text", [True, False])
def test_merges_come_after_the_tokenizers_own_and_only_where_their_parts_are_tokens(
    in_text: bool, tmp_path: Path
) -> None:
    own, other = json.loads(pieces("bpe").to_str()), json.loads(pieces("bpe", ("abc", "abcb")).to_str())
    if in_text:
        own["model"]["merges"] = [" ".join(merge) for merge in own["model"]["merges"]]
    made = json.loads(extended(own, 8, [NewToken("abcb")], [other], tmp_path))
    assert len(made["model"]["merges"]) == 1  # abcb is made of abc, which is no token here
    made = json.loads(extended(own, 8, [NewToken("abc"), NewToken("abcb")], [other], tmp_path))
    assert made["model"]["merges"] == (["a b", "ab c", "abc b"] if in_text else [["a", "b"], ["ab", "c"], ["abc", "b"]])


def test_a_tokenizer_that_gives_other_ids_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputsMismatch, match=r"would give the new token '<x>' the id 8, its row is 12; vocab: base"):
        extended(json.loads(pieces("bpe").to_str()), 12, [NewToken("<x>", {})], [], tmp_path)


def test_reading_from_files_of_either_kind(tmp_path: Path) -> None:
    fast = tmp_path / "fast"
    fast.mkdir()
    pieces("wordlevel").save(str(fast / "tokenizer.json"))
    slow = tmp_path / "slow"
    slow.mkdir()
    (slow / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "##c"]))
    (slow / "config.json").write_text(json.dumps({"model_type": "bert"}))
    found = tokenizer_files(fast, {})
    assert found is not None
    assert found.tokens["<mask>"] == 6
    assert added_tokens(found.definition)["<mask>"]["special"]
    old = tokenizer_files(slow, {"model_type": "bert"})
    assert old is not None
    assert old.names == ("vocab.txt",)
    assert old.tokens["##c"] == 7
    definition = old.definition
    assert definition is not None
    text = extended(definition, 8, [NewToken("##d")], [], slow)
    assert tokens_of(text, slow)["##d"] == 8
    assert tokenizer_files(fast, None) is None  # a lone file of weights
    assert tokenizer_files(tmp_path, {}) is None
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "tokenizer.json").write_bytes((fast / "tokenizer.json").read_bytes())
    again = tokenizer_files(copied, {})
    assert again is not None
    assert again.digest == found.digest != old.digest


@pytest.mark.parametrize("content", ["{", '{"model": {"type": "Surprise"}}'])
def test_a_broken_tokenizer_is_told(content: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    files = TokenizerFiles(tmp_path, ("tokenizer.json",))
    with pytest.raises(CheckpointCorrupt, match=re.escape(f"{tmp_path / 'tokenizer.json'}: not a tokenizer")):
        _ = files.tokens
