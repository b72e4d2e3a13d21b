"""Three tiny tasks with unlike heads (two classes, five classes, a number): random specialists of one random base."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

OUTPUTS = {"two": 2, "five": 5, "number": 1}
WORDS = [f"w{index}" for index in range(30)]
ROWS = {"validation": 24, "test": 16}


@dataclass(frozen=True)
class HeadedTasks:
    """Folders of the base and the specialists, and the tasks' dataset files."""

    base: Path
    models: dict[str, Path]
    data: dict[str, Path]

    def recipe(self, **sections: Any) -> dict[str, Any]:
        entries = [{"name": name, "path": str(self.models[name]), "data": str(self.data[name])} for name in OUTPUTS]
        return {"base": str(self.base), "models": entries, "device": "cpu", **sections}


def build_headed_tasks(folder: Path) -> HeadedTasks:
    """Write everything; the base is a bare `BertModel`, as pretrained encoders are."""
    folder.mkdir(parents=True, exist_ok=True)
    with torch.random.fork_rng(devices=[]):
        _saved(_bert(2, 0).bert, folder / "base")
        tasks = HeadedTasks(folder / "base", {}, {})
        for number, (name, outputs) in enumerate(OUTPUTS.items()):
            model = _bert(outputs, 0)
            torch.manual_seed(number)
            for parameter in model.parameters():
                parameter.data += 0.1 * torch.randn_like(parameter)
            tasks.models[name] = _saved(model, folder / name)
            tasks.data[name] = _data(folder / "data", name, outputs, number)
    return tasks


def _bert(outputs: int, seed: int) -> Any:
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(seed)
    shape = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24}
    config = BertConfig(
        vocab_size=40, max_position_embeddings=20, num_labels=outputs, initializer_range=0.3, pad_token_id=0, **shape
    )
    if outputs == 1:
        config.problem_type = "regression"
    return BertForSequenceClassification(config).eval()


def _saved(model: Any, folder: Path) -> Path:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    model.save_pretrained(folder)
    tokenizer = Tokenizer(models.WordLevel(unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    special = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    tokenizer.train_from_iterator([WORDS], trainers.WordLevelTrainer(special_tokens=special))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return folder


def _data(folder: Path, name: str, outputs: int, seed: int) -> Path:
    generator = np.random.default_rng(seed)
    (folder / name).mkdir(parents=True)
    for split, count in ROWS.items():
        rows = []
        for _ in range(count):
            words = generator.choice(WORDS, size=int(generator.integers(2, 9)))
            label = float(generator.normal()) if outputs == 1 else int(generator.integers(outputs))
            rows.append(json.dumps({"text": " ".join(words), "label": label}))
        (folder / name / f"{split}.jsonl").write_text("\n".join(rows) + "\n")
    content: dict[str, Any] = {
        "name": name,
        "task": "text_regression" if outputs == 1 else "text_classification",
        "source": {"format": "json_lines", "files": {split: f"{name}/{split}.jsonl" for split in ROWS}},
    }
    content |= {"metrics": ["pearson"]} if outputs == 1 else {"labels": outputs}
    (folder / f"{name}.yaml").write_text(json.dumps(content))
    return folder / f"{name}.yaml"
