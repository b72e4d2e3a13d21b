"""Tiny random models of real architectures, and the inputs on which their logits are compared."""

from __future__ import annotations

import torch
from torch import Tensor, nn

VOCABULARY = 40


def t5(tied: bool, seed: int = 0) -> nn.Module:
    """T5 as released (tied) or as v1.1, lm-adapt and FLAN have it (a head of its own, no scaling)."""
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(seed)
    config = T5Config(
        vocab_size=VOCABULARY,
        d_model=16,
        d_kv=4,
        num_heads=4,
        d_ff=24,
        num_layers=2,
        feed_forward_proj="relu" if tied else "gated-gelu",
        tie_word_embeddings=tied,
        decoder_start_token_id=0,
    )
    model = T5ForConditionalGeneration(config).eval()
    return model if tied else with_own_head(model)


def bert(seed: int = 0, num_labels: int = 3) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        max_position_embeddings=32,
        num_labels=num_labels,
    )
    return BertForSequenceClassification(config).eval()


def gpt2(tied: bool, seed: int = 0) -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(seed)
    config = GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    model = GPT2LMHeadModel(config).eval()
    return model if tied else with_own_head(model)


def llama(tied: bool, seed: int = 0) -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=32,
        tie_word_embeddings=tied,
    )
    return LlamaForCausalLM(config).eval()


def vit(seed: int = 0) -> nn.Module:
    """Its names in memory differ from those in files, since transformers 5."""
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(seed)
    config = ViTConfig(
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        image_size=8,
        patch_size=4,
        num_channels=1,
        num_labels=3,
    )
    model = ViTForImageClassification(config).eval()
    nn.init.normal_(model.vit.embeddings.cls_token)  # zeros as made, and constants are evidence of nothing
    return model


def with_own_head(model: nn.Module) -> nn.Module:
    """Untie the output head by giving it other values, whatever the config says."""
    model.lm_head.weight = nn.Parameter(torch.randn_like(model.lm_head.weight))
    return model


def logits(model: nn.Module) -> Tensor:
    """On fixed inputs; the model decides which it takes."""
    if model.config.model_type == "vit":
        with torch.no_grad():
            return model(torch.arange(128.0).reshape(2, 1, 8, 8) / 64 - 1).logits
    ids = torch.arange(2, 14).reshape(2, 6)
    with torch.no_grad():
        if model.config.is_encoder_decoder:
            return model(input_ids=ids, decoder_input_ids=ids[:, :4]).logits
        return model(input_ids=ids).logits
