"""The text-to-text track's modules by the names that they call each other, and a stand-in for the MiniLM encoder."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path += [str(BENCHMARKS / name) for name in ("text_to_text", "quality")]

WORDS = ["a", "the", "film", "river", "good", "bad", "no", "yes", "walks", "##ing", "##s", "unused"]
LABELS = {
    "sst2": ["negative", "positive"],
    "trec": ["human", "location", "numeric"],
    "subj": ["subjective", "objective"],
    "sick": ["entailment", "neutral", "contradiction"],
    "emotion": ["anger", "joy"],
    "banking77": ["card_arrival", "lost_card?", "top_up"],
}


@pytest.fixture
def encoder_folder(tmp_path: Path) -> Path:
    """A WordPiece tokenizer of letters and a few words, and embeddings 48 wide, as the encoder's package has them."""
    folder = tmp_path / "encoder"
    folder.mkdir()
    letters = [piece for code in range(ord("a"), ord("z") + 1) for piece in (chr(code), f"##{chr(code)}")]
    pieces = dict.fromkeys(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS, *letters, "?", ":", "é"])
    tokenizer = Tokenizer(models.WordPiece({piece: index for index, piece in enumerate(pieces)}, unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.Lowercase()
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.save(str(folder / "tokenizer.json"))
    rows = torch.randn(len(pieces), 48, generator=torch.Generator().manual_seed(0))
    save_file({"bert.embeddings.word_embeddings.weight": rows}, folder / "model.safetensors")
    return folder


@pytest.fixture
def data_folder(tmp_path: Path) -> Path:
    """Small files of all six tasks; each text tells its label."""
    for name, labels in LABELS.items():
        folder = tmp_path / "data" / name
        folder.mkdir(parents=True)
        (folder / "labels.json").write_text(json.dumps(labels))
        for split, count in {"train": 96, "validation": 20, "test": 20}.items():
            rows = []
            for index in range(count):
                label = index % len(labels)
                row = {"text": f"the film {WORDS[2 + label]} {split[0]} {chr(97 + index % 26)}", "label": label}
                rows.append(json.dumps(row | ({"text_pair": "a river"} if name == "sick" else {})))
            (folder / f"{split}.jsonl").write_text("\n".join(rows))
    return tmp_path / "data"
