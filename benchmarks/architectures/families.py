"""The architectures tried, each in its smallest random configuration."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from benchmarks.architectures import examples
from benchmarks.architectures.examples import CLASSES, VOCABULARY
from mats.data.batch import Batch

_WIDE = {"hidden_size": 12, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 16}
_TEXT = {"vocab_size": VOCABULARY, "max_position_embeddings": 16, **_WIDE}
_MARKS = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_CAUSAL = {**_TEXT, **_MARKS, "num_key_value_heads": 1}
_HEADED = {**_CAUSAL, "head_dim": 6}
_IMAGE = {**_WIDE, "image_size": 8, "patch_size": 4}
_T5 = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "d_kv": 4,
    "d_ff": 16,
    "num_layers": 2,
    "num_heads": 2,
    "relative_attention_num_buckets": 6,
    "relative_attention_max_distance": 8,
    "pad_token_id": 0,
    "decoder_start_token_id": 0,
}
_GATED = {**_T5, "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False}
_BART = {
    "vocab_size": VOCABULARY,
    "d_model": 12,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 16,
    "decoder_ffn_dim": 16,
    "max_position_embeddings": 16,
    **_MARKS,
    "decoder_start_token_id": 0,
    "forced_eos_token_id": None,
}
_EXPERTS = {**_CAUSAL, "num_experts_per_tok": 2}
_ROPE = {"rope_type": "default", "rope_theta": 10000.0}
_WAV2VEC2 = {
    "vocab_size": VOCABULARY,
    **_WIDE,
    "conv_dim": (8, 8),
    "conv_stride": (3, 2),
    "conv_kernel": (4, 2),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "classifier_proj_size": 8,
    "mask_time_prob": 0.0,
    "num_labels": CLASSES,
}


@dataclass(frozen=True)
class Family:
    """One row of the table.

    Attributes:
        name: As people call it.
        model: Name of the class in transformers.
        config: Name of its configuration's class.
        values: What the configuration is given.
        batch: Makes a batch of so many examples.
        remark: What is special about it.
        untied: The head has a weight of its own, although the configuration's class ties it (T5 v1.1).
    """

    name: str
    model: str
    config: str
    values: dict[str, Any]
    batch: Callable[[int], Batch]
    remark: str = ""
    untied: bool = False

    def build(self, dtype: torch.dtype = torch.float64) -> nn.Module:
        """A random model, the same at every call."""
        import transformers

        torch.manual_seed(0)
        model = getattr(transformers, self.model)(getattr(transformers, self.config)(**self.values))
        if self.untied:
            model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
        return enlivened(model, seed=1).to(dtype).eval()


def enlivened(model: nn.Module, *, seed: int, size: float = 0.15) -> nn.Module:
    """`model` with noise of this size on every parameter: no scale is 1 and no bias 0, as after training."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
        parameter.data = parameter.data + size * noise.to(parameter.dtype)
    return model


FAMILIES = (
    Family("BERT", "BertForSequenceClassification", "BertConfig", {**_TEXT, "num_labels": 3}, examples.text_pairs),
    Family(
        "RoBERTa",
        "RobertaForSequenceClassification",
        "RobertaConfig",
        {**_TEXT, **_MARKS, "num_labels": 3},
        examples.text_classes,
        "position ids of its own making",
    ),
    Family(
        "DeBERTa-v2",
        "DebertaV2ForSequenceClassification",
        "DebertaV2Config",
        {
            **_TEXT,
            "num_labels": 3,
            "relative_attention": True,
            "pos_att_type": ["c2p", "p2c"],
            "position_buckets": 4,
            "share_att_key": True,
            "norm_rel_ebd": "layer_norm",
            "pooler_hidden_size": 12,
        },
        examples.text_pairs,
        "projections that also read a table of relative positions",
    ),
    Family(
        "DistilBERT",
        "DistilBertForSequenceClassification",
        "DistilBertConfig",
        {
            "vocab_size": VOCABULARY,
            "dim": 12,
            "n_layers": 2,
            "n_heads": 2,
            "hidden_dim": 16,
            "max_position_embeddings": 16,
            "num_labels": 3,
        },
        examples.text_classes,
    ),
    Family(
        "ModernBERT",
        "ModernBertForSequenceClassification",
        "ModernBertConfig",
        {**_TEXT, **_MARKS, "cls_token_id": 1, "sep_token_id": 2, "num_labels": 3, "local_attention": 4},
        examples.text_classes,
        "fused qkv, gate and up",
    ),
    Family(
        "ALBERT",
        "AlbertForSequenceClassification",
        "AlbertConfig",
        {**_TEXT, "num_hidden_layers": 3, "embedding_size": 8, "num_labels": 3},
        examples.text_pairs,
        "one layer called three times",
    ),
    Family(
        "ELECTRA",
        "ElectraForSequenceClassification",
        "ElectraConfig",
        {**_TEXT, "embedding_size": 8, "num_labels": 3},
        examples.text_pairs,
    ),
    Family("T5", "T5ForConditionalGeneration", "T5Config", _T5, examples.questions, "tied head"),
    Family(
        "FLAN-T5",
        "T5ForConditionalGeneration",
        "T5Config",
        _GATED,
        examples.questions,
        "untied head, gated",
        untied=True,
    ),
    Family(
        "mT5",
        "MT5ForConditionalGeneration",
        "MT5Config",
        _GATED,
        examples.questions,
        "untied head, gated",
        untied=True,
    ),
    Family("BART", "BartForConditionalGeneration", "BartConfig", _BART, examples.questions, "tied head"),
    Family(
        "GPT-2",
        "GPT2LMHeadModel",
        "GPT2Config",
        {"vocab_size": VOCABULARY, "n_embd": 12, "n_layer": 2, "n_head": 2, "n_positions": 16, **_MARKS},
        examples.texts,
        "Conv1D, fused qkv",
    ),
    Family("GPT-NeoX", "GPTNeoXForCausalLM", "GPTNeoXConfig", {**_TEXT, **_MARKS}, examples.texts, "fused qkv"),
    Family(
        "OPT",
        "OPTForCausalLM",
        "OPTConfig",
        {
            "vocab_size": VOCABULARY,
            "hidden_size": 12,
            "word_embed_proj_dim": 8,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 16,
            "max_position_embeddings": 16,
            **_MARKS,
        },
        examples.texts,
        "tied head",
    ),
    Family("Llama", "LlamaForCausalLM", "LlamaConfig", {**_CAUSAL, "tie_word_embeddings": False}, examples.texts),
    Family("Mistral", "MistralForCausalLM", "MistralConfig", {**_CAUSAL, "sliding_window": 4}, examples.texts),
    Family("Qwen2", "Qwen2ForCausalLM", "Qwen2Config", _CAUSAL, examples.texts, "biases on q, k, v alone"),
    Family("Qwen3", "Qwen3ForCausalLM", "Qwen3Config", _HEADED, examples.texts, "norms of queries and keys"),
    Family("Gemma 2", "Gemma2ForCausalLM", "Gemma2Config", _HEADED, examples.texts, "scaled, tied embedding"),
    Family("Gemma 3", "Gemma3ForCausalLM", "Gemma3TextConfig", _HEADED, examples.texts, "scaled, tied embedding"),
    Family(
        "Phi",
        "PhiForCausalLM",
        "PhiConfig",
        {**_CAUSAL, "num_key_value_heads": 2, "partial_rotary_factor": 1.0},
        examples.texts,
    ),
    Family("Phi-3", "Phi3ForCausalLM", "Phi3Config", _CAUSAL, examples.texts, "fused qkv, gate and up"),
    Family(
        "Falcon",
        "FalconForCausalLM",
        "FalconConfig",
        {**{k: v for k, v in _TEXT.items() if k != "intermediate_size"}, **_MARKS},
        examples.texts,
        "fused qkv, tied head",
    ),
    Family(
        "Mixtral",
        "MixtralForCausalLM",
        "MixtralConfig",
        {**_EXPERTS, "num_local_experts": 3},
        examples.texts,
        "experts fused in memory, apart in files",
    ),
    Family(
        "Qwen2-MoE",
        "Qwen2MoeForCausalLM",
        "Qwen2MoeConfig",
        {**_EXPERTS, "num_experts": 3, "moe_intermediate_size": 8, "shared_expert_intermediate_size": 16},
        examples.texts,
        "experts fused in memory, apart in files; a shared one",
    ),
    Family(
        "OLMoE",
        "OlmoeForCausalLM",
        "OlmoeConfig",
        {**_EXPERTS, "num_experts": 3},
        examples.texts,
        "experts fused in memory, apart in files",
    ),
    Family(
        "gpt-oss",
        "GptOssForCausalLM",
        "GptOssConfig",
        {**_HEADED, "num_experts_per_tok": 2, "num_local_experts": 3, "sliding_window": 4, "rope_parameters": _ROPE},
        examples.texts,
        "experts fused in files too, with biases; attention sinks",
    ),
    Family(
        "ViT",
        "ViTForImageClassification",
        "ViTConfig",
        {**_IMAGE, "num_labels": CLASSES},
        examples.images,
        "class token, table of positions",
    ),
    Family(
        "DeiT",
        "DeiTForImageClassification",
        "DeiTConfig",
        {**_IMAGE, "num_labels": CLASSES},
        examples.images,
        "class and distillation tokens",
    ),
    Family(
        "Swin",
        "SwinForImageClassification",
        "SwinConfig",
        {
            "image_size": 8,
            "patch_size": 2,
            "embed_dim": 8,
            "depths": [2, 1],
            "num_heads": [2, 2],
            "window_size": 2,
            "num_labels": CLASSES,
        },
        examples.images,
        "tables of relative positions",
    ),
    Family(
        "CLIP vision",
        "CLIPForImageClassification",
        "CLIPConfig",
        {
            "vision_config": _IMAGE,
            "text_config": {**_TEXT, **_MARKS},
            "projection_dim": 8,
            "num_labels": CLASSES,
        },
        examples.images,
        "class token, table of positions",
    ),
    Family(
        "ConvNeXt",
        "ConvNextForImageClassification",
        "ConvNextConfig",
        {
            "image_size": 8,
            "patch_size": 2,
            "hidden_sizes": [8, 8],
            "depths": [1, 1],
            "num_stages": 2,
            "num_labels": CLASSES,
        },
        examples.images,
        "depthwise convolutions, layer scales",
    ),
    Family(
        "ResNet",
        "ResNetForImageClassification",
        "ResNetConfig",
        {
            "embedding_size": 8,
            "hidden_sizes": [8, 16],
            "depths": [1, 1],
            "layer_type": "basic",
            "num_labels": CLASSES,
        },
        examples.images,
        "convolutions, batch norms",
    ),
    Family(
        "Whisper",
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            **{
                key: value
                for key, value in _BART.items()
                if key not in ("forced_eos_token_id", "max_position_embeddings")
            },
            "num_mel_bins": 8,
            "max_source_positions": 6,
            "max_target_positions": 16,
            "suppress_tokens": None,
            "begin_suppress_tokens": None,
        },
        examples.spectrograms,
        "one-dimensional convolutions, tied head",
    ),
    Family(
        "wav2vec 2.0",
        "Wav2Vec2ForSequenceClassification",
        "Wav2Vec2Config",
        _WAV2VEC2,
        examples.sounds,
        "one-dimensional convolutions, one of them under weight norm",
    ),
)
