"""Tiny models of real architectures with tokenizers whose words are known, and what a row must be by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn

from mats.engine import ModelInput

SPECIAL = ("<unk>", "<pad>", "<eos>")


def word_tokenizer(words: Sequence[str], added: Sequence[str] = ()) -> Tokenizer:
    """A word is a token: those of `words` in the model, `added` as special tokens after them."""
    from tokenizers import AddedToken

    ids = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(ids, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in added])
    return tokenizer


def save_tokenizer(folder: Path, tokenizer: Tokenizer, **settings: object) -> None:
    from transformers import PreTrainedTokenizerFast

    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", pad_token="<pad>", eos_token="<eos>")
    for key, value in settings.items():
        setattr(fast, key, value)
    fast.save_pretrained(folder)


def build(family: str, rows: int, seed: int, **changes: object) -> nn.Module:
    """A random model with so many rows; 8 numbers a row."""
    import transformers as hf

    torch.manual_seed(seed)
    small = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    ids = {"pad_token_id": 1, "eos_token_id": 2, "bos_token_id": None}
    if family == "llama":
        config = hf.LlamaConfig(vocab_size=rows, num_key_value_heads=2, **small, **ids, **changes)
        return hf.LlamaForCausalLM(config).eval()
    if family == "bert":
        config = hf.BertConfig(vocab_size=rows, max_position_embeddings=16, **small, pad_token_id=1, **changes)
        return hf.BertForMaskedLM(config).eval()
    if family == "gpt2":
        config = hf.GPT2Config(vocab_size=rows, n_embd=8, n_layer=1, n_head=2, n_positions=16, **ids, **changes)
        return hf.GPT2LMHeadModel(config).eval()
    config = hf.T5Config(
        vocab_size=rows, d_model=8, d_kv=4, num_heads=2, d_ff=8, num_layers=1, pad_token_id=1, eos_token_id=2,
        decoder_start_token_id=1, **changes,
    )  # fmt: skip
    return hf.T5ForConditionalGeneration(config).eval()


@dataclass(frozen=True)
class Worded:
    """One model on disk."""

    name: str
    path: Path
    tokens: Mapping[str, int]

    @property
    def state(self) -> dict[str, Tensor]:
        return load_file(self.path / "model.safetensors")

    @property
    def input(self) -> ModelInput:
        return ModelInput(self.name, str(self.path))

    def row(self, token: str, tensor: str) -> Tensor | None:
        at = self.tokens.get(token)
        return None if at is None else self.state[tensor][at]


def worded(
    root: Path,
    name: str,
    words: Sequence[str],
    *,
    family: str = "llama",
    added: Sequence[str] = (),
    padding: int = 0,
    seed: int = 0,
    tokenizer: bool = True,
    dtype: torch.dtype = torch.float32,
    **changes: object,
) -> Worded:
    """Make and save a model of these words, with `padding` rows more than tokens."""
    made = word_tokenizer([*SPECIAL, *words], added)
    ids = made.get_vocab()
    model = build(family, len(ids) + padding, seed, **changes)
    with torch.no_grad():
        for parameter in model.parameters():  # zero biases would hide mistakes
            parameter += 0.1 * torch.randn_like(parameter)
    model.to(dtype).save_pretrained(root / name)
    if tokenizer:
        save_tokenizer(root / name, made)
    return Worded(name, root / name, ids)


def expected_rows(token: str, tensor: str, base: Worded | None, owners: Sequence[Worded]) -> list[Tensor]:
    """Each model's row for a token by the definition: its own, the base's, or the mean of those that have it."""
    of_base = None if base is None else base.row(token, tensor)
    held = [row for model in owners if (row := model.row(token, tensor)) is not None]
    instead = of_base if of_base is not None else torch.stack(held).mean(dim=0)
    rows = [model.row(token, tensor) for model in owners]
    return [instead if row is None else row for row in rows]


def drop(folder: Path, *names: str) -> None:
    """Take tensors out of a saved model."""
    state = load_file(folder / "model.safetensors")
    save_file({k: v for k, v in state.items() if k not in names}, folder / "model.safetensors", {"format": "pt"})
