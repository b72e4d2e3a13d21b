"""Tiny random models that write, a tokenizer whose words are `w3` … `w39`, and datasets of such words, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from mats.data import DatasetSpec, load_spec

VOCABULARY = 40
END, UNKNOWN = 1, 2


def word_tokenizer(end: str | None = None) -> Any:
    """Whole words; `[PAD]` is 0, `[END]` 1, `[UNK]` 2, and `end` is what is appended to a text."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = {"[PAD]": 0, "[END]": END, "[UNK]": UNKNOWN, **{f"w{index}": index for index in range(3, VOCABULARY)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if end is not None:
        tokenizer.post_processor = processors.TemplateProcessing(single=f"$A {end}", special_tokens=[(end, words[end])])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", eos_token="[END]", unk_token="[UNK]", model_max_length=10_000
    )


def tiny_gpt2(seed: int = 1, positions: int = 64) -> Any:
    """Positions are learnt, so a model that counts padding as positions answers otherwise."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=positions,
        n_embd=16,
        n_layer=2,
        n_head=2,
        initializer_range=0.6,
        bos_token_id=None,
        eos_token_id=END,
        pad_token_id=0,
    )
    return GPT2LMHeadModel(config).eval()


def tiny_t5(seed: int = 1) -> Any:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=8,
        d_ff=32,
        num_layers=2,
        num_heads=2,
        feed_forward_proj="gated-gelu",
        initializer_factor=3.0,
        decoder_start_token_id=0,
        pad_token_id=0,
        eos_token_id=END,
        tie_word_embeddings=False,
    )
    return T5ForConditionalGeneration(config).eval()


def save(model: Any, folder: Path, end: str | None = None) -> str:
    """Model and tokenizer as one checkpoint; its path."""
    model.save_pretrained(folder)
    word_tokenizer(end).save_pretrained(folder)
    return str(folder)


def words(seed: int, count: int) -> str:
    generator = torch.Generator().manual_seed(seed)
    return " ".join(f"w{index}" for index in torch.randint(3, VOCABULARY, (count,), generator=generator).tolist())


def write_dataset(folder: Path, name: str, count: int = 11, **content: Any) -> DatasetSpec:
    """`count` rows of unequal length: `text`, `label` (0 to 2), `a`, `b`, `c` (choices) and `answer`."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "text": words(100 + row, 1 + (row * 5) % 9),
            "label": (row * 7) % 3,
            **{letter: words(200 + 10 * row + place, 1 + (row + place) % 3) for place, letter in enumerate("abc")},
            "answer": words(300 + row, 2),
        }
        for row in range(count)
    ]
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"format": "json_lines", "files": {"test": f"{name}.jsonl"}}
    path = folder / f"{name}.yaml"
    path.write_text(json.dumps({"name": name, "source": source, **content}))
    return load_spec(path)
