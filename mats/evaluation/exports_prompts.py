"""How an instruction is put to a model: the published wrappers by name, or one's own text.

Texts that are others': `alpaca` is from Stanford Alpaca (train.py), `vicuna` from FastChat, and the two phrases around
code problems ("Create a Python script for this problem:", "Test examples:") from WizardCoder; all are Apache-2.0.
"""

from __future__ import annotations

from typing import Any

from mats.errors import RequestError

SLOT = "{instruction}"
CHAT = "chat"
WRAPPERS = {
    "plain": SLOT,
    "alpaca": (
        "Below is an instruction that describes a task. Write a response that appropriately completes the request."
        f"\n\n### Instruction:\n{SLOT}\n\n### Response:"
    ),
    "vicuna": (
        "A chat between a curious user and an artificial intelligence assistant. The assistant gives helpful, "
        f"detailed, and polite answers to the user's questions. USER: {SLOT} ASSISTANT:"
    ),
}


def check_wrapper(wrapper: str) -> None:
    """Refuse what is neither a name nor a text with `{instruction}` in it.

    Raises:
        RequestError: it is neither.
    """
    if wrapper not in WRAPPERS and wrapper != CHAT and SLOT not in wrapper:
        names = ", ".join((*WRAPPERS, CHAT))
        raise RequestError(f"prompt {wrapper!r}: unknown; {names}, or a text with {SLOT} in it would be right")


def wrap(instruction: str, wrapper: str, tokenizer: Any) -> str:
    """The text that the model reads.

    Args:
        instruction: What is asked; braces in it are left as they are.
        wrapper: A name of `WRAPPERS`, `chat` (the tokenizer's own template), or a text with `{instruction}`.
        tokenizer: Of transformers; asked only for `chat`.

    Raises:
        RequestError: `chat`, and the tokenizer has no template.
    """
    if wrapper != CHAT:
        return WRAPPERS.get(wrapper, wrapper).replace(SLOT, instruction)
    if getattr(tokenizer, "chat_template", None) is None:
        raise RequestError(f"prompt chat: the tokenizer has no chat template; {', '.join(WRAPPERS)} would be right")
    messages = [{"role": "user", "content": instruction}]
    return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True))


def special_tokens_wanted(wrapper: str) -> bool:
    """Whether the tokenizer adds its begin token; a chat template has written it already."""
    return wrapper != CHAT
