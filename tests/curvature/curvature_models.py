"""Tiny real models of every family, in float64, and batches for them with ragged lengths."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mats.data.batch import Batch

VOCABULARY = 23


def tiny_t5(*, tied: bool = False, layers: int = 2) -> nn.Module:
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(1)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=12,
        d_kv=4,
        d_ff=16,
        num_layers=layers,
        num_heads=2,
        relative_attention_num_buckets=6,
        relative_attention_max_distance=8,
        feed_forward_proj="gated-gelu",
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config)
    if not tied:
        model.lm_head.weight = nn.Parameter(torch.randn(VOCABULARY, 12) * 0.2)
    return sharpened(model)


def tiny_bert() -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(2)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=20,
        num_labels=3,
    )
    return sharpened(BertForSequenceClassification(config))


def tiny_gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(3)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=12, n_layer=2, n_head=2, n_positions=24, pad_token_id=0)
    return sharpened(GPT2LMHeadModel(config))


def tiny_llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(4)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=12,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=24,
        tie_word_embeddings=False,
        pad_token_id=0,
    )
    return sharpened(LlamaForCausalLM(config))


def tiny_vit() -> nn.Module:
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(5)
    config = ViTConfig(
        hidden_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=16,
        image_size=8,
        patch_size=4,
        num_channels=3,
        num_labels=4,
    )
    return sharpened(ViTForImageClassification(config))


def tiny_ia3_t5() -> nn.Module:
    from peft import IA3Config, get_peft_model

    config = IA3Config(
        task_type="SEQ_2_SEQ_LM",
        target_modules=["k", "v", "wi_1"],
        feedforward_modules=["wi_1"],
        init_ia3_weights=False,
    )
    model = get_peft_model(tiny_t5(), config)
    torch.manual_seed(6)
    for name, parameter in model.named_parameters():
        if "ia3_l" in name:
            parameter.data = 1 + 0.3 * torch.randn_like(parameter)
    return model.double()


def sharpened(model: nn.Module) -> nn.Module:
    """Larger random weights in float64, so that no statistic is vanishingly small; dropout stays on until eval()."""
    generator = torch.Generator().manual_seed(7)
    for parameter in model.parameters():
        parameter.data = parameter.data.double() + 0.15 * torch.randn(parameter.shape, generator=generator).double()
    return model.double()


def lengths(count: int) -> list[int]:
    return [3 + (5 * n) % 6 for n in range(count)]


def padded(rows: list[Tensor], value: int, *, left: bool = False) -> tuple[Tensor, Tensor]:
    """Rows padded to the longest, and the mask of real positions."""
    width = max(len(row) for row in rows)
    values = torch.full((len(rows), width), value, dtype=torch.int64)
    mask = torch.zeros(len(rows), width, dtype=torch.bool)
    for n, row in enumerate(rows):
        place = slice(width - len(row), width) if left else slice(0, len(row))
        values[n, place] = row
        mask[n, place] = True
    return values, mask


def text_examples(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(11)
    return [torch.randint(1, VOCABULARY, (length,), generator=generator) for length in lengths(count)]


def target_examples(count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(12)
    return [torch.randint(1, VOCABULARY, (1 + (3 * n) % 5,), generator=generator) for n in range(count)]


def seq2seq_batch(count: int, first: int = 0, *, choices: int = 0) -> Batch:
    """Examples `first` … `first + count - 1`, padded on the right."""
    which = range(first, first + count)
    ids, mask = padded([text_examples(64)[n] for n in which], 0)
    labels, target_mask = padded([target_examples(64)[n] for n in which], -100)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "decoder_input_ids": shifted(labels)}
    options = None
    if choices:
        rows = [choice_examples(n, choices) for n in which]
        width = max(len(option) for row in rows for option in row)
        options = torch.full((count, choices, width), -100)
        for n, row in enumerate(rows):
            for k, option in enumerate(row):
                options[n, k, : len(option)] = option
    names = tuple(f"example-{n}" for n in which)
    return Batch(inputs, names, "text_to_text", mask, target_mask, labels, choices=options)


def choice_examples(example: int, choices: int) -> list[Tensor]:
    """Answer choices of different lengths; the last one is missing from every third example."""
    generator = torch.Generator().manual_seed(100 + example)
    count = choices - 1 if example % 3 == 0 else choices
    return [torch.randint(1, VOCABULARY, (1 + (example + k) % 3,), generator=generator) for k in range(count)]


def shifted(labels: Tensor) -> Tensor:
    tokens = torch.where(labels == -100, torch.zeros_like(labels), labels)
    return torch.cat([torch.zeros(len(labels), 1, dtype=torch.int64), tokens[:, :-1]], dim=1)


def classification_batch(count: int, first: int = 0, *, classes: int = 3) -> Batch:
    which = range(first, first + count)
    ids, mask = padded([text_examples(64)[n] for n in which], 0)
    inputs = {"input_ids": ids, "attention_mask": mask.long(), "token_type_ids": (ids % 2) * mask.long()}
    names = tuple(f"example-{n}" for n in which)
    return Batch(inputs, names, "text_classification", mask, None, torch.tensor([n % classes for n in which]))


def language_batch(count: int, first: int = 0, *, left: bool = False, positions: bool = True) -> Batch:
    which = range(first, first + count)
    rows = [text_examples(64)[n] for n in which]
    ids, mask = padded(rows, 0, left=left)
    labels, _ = padded(rows, -100, left=left)
    inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": mask.long()}
    if positions:
        inputs["position_ids"] = (mask.long().cumsum(1) - 1).clamp(min=0)
    names = tuple(f"example-{n}" for n in which)
    return Batch(inputs, names, "language_modeling", mask, None, labels)


def image_batch(count: int, first: int = 0, *, classes: int = 4) -> Batch:
    generator = torch.Generator().manual_seed(13)
    pixels = torch.randn(64, 3, 8, 8, generator=generator, dtype=torch.float64)[first : first + count]
    which = range(first, first + count)
    names = tuple(f"example-{n}" for n in which)
    labels = torch.tensor([n % classes for n in which])
    return Batch({"pixel_values": pixels}, names, "image_classification", None, None, labels)


FAMILIES: dict[str, tuple[Any, Any]] = {
    "bert": (tiny_bert, classification_batch),
    "t5": (tiny_t5, seq2seq_batch),
    "t5_tied": (lambda: tiny_t5(tied=True), seq2seq_batch),
    "gpt2": (tiny_gpt2, language_batch),
    "llama": (tiny_llama, language_batch),
    "vit": (tiny_vit, image_batch),
    "ia3_t5": (tiny_ia3_t5, seq2seq_batch),
}
