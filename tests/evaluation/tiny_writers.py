"""Tiny random models on disk that write text, with a byte-level tokenizer, and what they write by the plainest loop."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

SENTENCES = [
    "def f(x):\n    return x + 1\n```python\n",
    "the cat sat on the mat. USER: ASSISTANT: ### Instruction: Response:",
    "Create a Python script for this problem:",
]
END = "<|end|>"


def tokenizer() -> Any:
    """Byte-level, so that every text can be read and written."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=[END], initial_alphabet=alphabet, show_progress=False)
    inner.train_from_iterator(SENTENCES, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token=END, bos_token=END)


def write_gpt2(folder: Path, *, seed: int = 0, positions: int = 256) -> Path:
    """A causal model that reads and writes whatever comes."""
    from transformers import GPT2Config, GPT2LMHeadModel

    words = tokenizer()
    shape = {"n_embd": 32, "n_layer": 2, "n_head": 2, "initializer_range": 0.3}
    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=len(words), n_positions=positions, bos_token_id=0, eos_token_id=0, **shape)
    GPT2LMHeadModel(config).double().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def write_t5(folder: Path) -> Path:
    """An encoder–decoder of the same words."""
    from transformers import T5Config, T5ForConditionalGeneration

    words = tokenizer()
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "initializer_factor": 4.0}
    ids = {"pad_token_id": 1, "eos_token_id": 0, "decoder_start_token_id": 1}
    torch.manual_seed(3)
    T5ForConditionalGeneration(
        T5Config(vocab_size=len(words), dropout_rate=0.0, **ids, **shape)
    ).double().save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def continue_alone(folder: Path, prompt: str, count: int) -> str:
    """Greedy text of a causal model: one prompt, no cache, no padding, the whole text read anew for every token."""
    from transformers import AutoModelForCausalLM

    words = tokenizer()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float64).eval()
    ids: list[int] = words(prompt)["input_ids"]
    start = len(ids)
    with torch.no_grad():
        while len(ids) < start + count and (len(ids) == start or ids[-1] != words.eos_token_id):
            ids.append(int(model(torch.tensor([ids])).logits[0, -1].argmax()))
    return str(words.decode(ids[start:], skip_special_tokens=True))


def write_lines(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """JSON lines."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The objects of JSON lines."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]


def instructions(count: int) -> list[dict[str, Any]]:
    """Rows of unequal length."""
    return [{"instruction": f"the cat {'sat on ' * (index % 5)}{index}"} for index in range(count)]


def never_loaded(*_: Any, **__: Any) -> Any:
    """A loader for requests that must be refused before a model is loaded."""
    raise AssertionError("a model was loaded")


def column(rows: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """One value of each row."""
    return [row[name] for row in rows]
