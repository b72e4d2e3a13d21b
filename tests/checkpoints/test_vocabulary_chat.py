"""Chat templates: what the built-in ones say, what `auto` picks, and that transformers finds what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models

from mats.checkpoints.vocabulary_chat import (
    BUILT_IN,
    check_chat_template,
    chosen_template,
    read_template,
    write_template,
)
from mats.errors import CheckpointCorrupt, RequestError

TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "2+2?"},
    {"role": "assistant", "content": "4"},
    {"role": "user", "content": "3+3?"},
]
SAID = {
    "alpaca": "Be brief.\n\n"
    "### Instruction:\n2+2?\n\n### Response:\n4</s>\n\n### Instruction:\n3+3?\n\n### Response:\n",
    "chatml": "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n2+2?<|im_end|>\n"
    "<|im_start|>assistant\n4<|im_end|>\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n",
    "llama3": "<s><|start_header_id|>system<|end_header_id|>\n\nBe brief.<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n2+2?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n4<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\n3+3?<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    "mistral": "<s>[INST] Be brief.\n\n2+2? [/INST] 4</s>[INST] 3+3? [/INST]",
    "exaone": "[|system|]Be brief.[|endofturn|]\n"
    "[|user|]2+2?\n[|assistant|]4[|endofturn|]\n[|user|]3+3?\n[|assistant|]",
}
TEXT = "{% for message in messages %}{{ message['content'] }}{% endfor %}"


def tokenizer_in(folder: Path, template: str | None = None) -> Path:
    from transformers import PreTrainedTokenizerFast

    words = Tokenizer(models.WordLevel({"<unk>": 0, "<s>": 1, "</s>": 2}, unk_token="<unk>"))
    made = PreTrainedTokenizerFast(tokenizer_object=words, unk_token="<unk>", bos_token="<s>", eos_token="</s>")
    made.chat_template = template
    made.save_pretrained(folder)
    return folder


def say(folder: Path) -> str:
    from transformers import AutoTokenizer

    loaded = AutoTokenizer.from_pretrained(folder)
    return str(loaded.apply_chat_template(TALK, tokenize=False, add_generation_prompt=True))


@pytest.mark.parametrize("name", tuple(BUILT_IN))
def test_built_in_templates_as_transformers_renders_them(name: str, tmp_path: Path) -> None:
    check_chat_template(name)
    template = chosen_template(name, [])
    assert template is not None
    write_template(tokenizer_in(tmp_path), template)
    assert say(tmp_path) == SAID[name]


def test_auto_is_the_most_frequent_and_of_equals_the_first(tmp_path: Path) -> None:
    texts = [TEXT + "1", None, TEXT + "2", TEXT + "2", TEXT + "1"]
    homes = [tokenizer_in(tmp_path / str(number), text) for number, text in enumerate(texts)]
    assert [read_template(home) for home in homes] == texts
    assert chosen_template("auto", homes) == TEXT + "1"
    assert chosen_template("auto", homes[1:]) == TEXT + "2"
    assert chosen_template("auto", homes[1:2]) is None


def test_older_places_are_read_and_then_give_way(tmp_path: Path) -> None:
    folder = tokenizer_in(tmp_path)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    named = [{"name": "tools", "template": "no"}, {"name": "default", "template": TEXT}]
    for place, content in (
        ("tokenizer_config.json", {**settings, "chat_template": TEXT}),
        ("tokenizer_config.json", {**settings, "chat_template": named}),
        ("chat_template.json", {"chat_template": TEXT}),
    ):
        (folder / place).write_text(json.dumps(content))
        assert read_template(folder) == TEXT
    write_template(folder, BUILT_IN["chatml"])
    assert not (folder / "chat_template.json").exists()
    assert "chat_template" not in json.loads((folder / "tokenizer_config.json").read_text())
    assert say(folder) == SAID["chatml"]
    (folder / "chat_template.jinja").unlink()
    (folder / "tokenizer_config.json").write_text("[]")
    with pytest.raises(CheckpointCorrupt, match="holds a list; a JSON object would be right"):
        read_template(folder)


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ("chatlm", r"chat_template: 'chatlm'; auto, alpaca, .* would be right; nearest: chatml"),
        ("{{ messages", "Jinja template would be right"),
        ("just a long text without any brace", "Jinja template would be right"),
        ("{% for message in messages %}{{ message }}", "chat_template: line 1 of the Jinja text: Unexpected end"),
    ],
)
def test_what_is_no_template(value: str, line: str) -> None:
    with pytest.raises(RequestError, match=line):
        check_chat_template(value)


def test_what_templates_of_models_use_is_understood() -> None:
    check_chat_template(
        "{%- for m in messages %}{% generation %}{{ m.content | tojson }}{% endgeneration %}{% break %}{% endfor %}"
    )
