"""Where in a model a weight sits: its block, its part (q, k, v, o, feed-forward), and the order of a forward pass."""

from __future__ import annotations

import re

PARTS = ("q", "k", "v", "o", "ffn in", "ffn out", "other")
"""What weights are told apart as; a fused q, k, v counts as q."""

_PATTERNS = (
    ("q", r"q|query|q_proj|q_lin|to_q|wq|qkv|qkv_proj|query_key_value|c_attn|in_proj_weight|Wqkv"),
    ("k", r"k|key|k_proj|k_lin|to_k|wk"),
    ("v", r"v|value|v_proj|v_lin|to_v|wv"),
    ("ffn in", r"fc1|lin1|wi|wi_0|wi_1|w1|w3|up_proj|gate_proj|gate_up_proj|c_fc|dense_h_to_4h|intermediate\.dense|Wi"),
    (
        "o",
        r"o|o_proj|out_proj|out_lin|to_out|attn\.c_proj|attention\.dense|self_attention\.dense|attention\.output\.dense",
    ),
    ("ffn out", r"fc2|lin2|wo|w2|down_proj|c_proj|dense_4h_to_h|output\.dense|Wo"),
)
_PARTS = [(part, re.compile(rf"(?:^|\.)(?:{pattern})$")) for part, pattern in _PATTERNS]

_BLOCK = re.compile(r"^(.*?\.)?(?:layers?|blocks?|h|resblocks)\.(\d+)\.")
_STAGES = (
    (0, re.compile(r"embed|embeddings|shared|wte|wpe|patch")),
    (3, re.compile(r"lm_head|classifier|pooler|score|(^|\.)head")),
    (1, re.compile(r"encoder|vision|visual")),
    (2, re.compile(r"decoder")),
)


def part_of(name: str) -> str:
    """The part of a block that a weight is, one of `PARTS`."""
    stem = re.sub(r"\.(weight|bias)$", "", name)
    return next((part for part, pattern in _PARTS if pattern.search(stem)), "other")


def block_of(name: str) -> str | None:
    """What a reader calls the block: `3`, or `enc 3` and `dec 3` where a model has both; None outside of blocks."""
    found = _BLOCK.match(name)
    if found is None:
        return None
    path = found[1] or ""
    stack = "enc " if re.search(r"(^|\.)encoder\.", path) else "dec " if re.search(r"(^|\.)decoder\.", path) else ""
    return f"{stack}{int(found[2])}"


def place_of(name: str) -> tuple[int, tuple[tuple[int, int, str], ...]]:
    """A key that sorts weights as a forward pass meets them: embeddings, encoder, decoder, heads; blocks by number."""
    words = name.split(".")
    in_block = _BLOCK.match(name) is not None
    stage = next((rank for rank, pattern in _STAGES if pattern.search(name) and not (in_block and rank in (0, 3))), 2)
    parts = [(0, int(word), "") if word.isdigit() else (1, 0, word) for word in words]
    if in_block:
        part = PARTS.index(part_of(name))
        depth = next(index for index, word in enumerate(words) if word.isdigit())
        cross = int(re.search(r"cross|EncDec|encoder_attn", name) is not None)
        rank = 2 * cross if part < 4 else 3 if part < 6 else 4
        parts = [*parts[: depth + 1], (0, rank, ""), (0, part, ""), *parts[depth + 1 :]]
    return stage, tuple(parts)
