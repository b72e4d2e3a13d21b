"""Names in the `.pt` checkpoints of the MaTS and TIES code bases, and what they are called here.

Both save a dictionary of trainable parameters whose names carry the wrapper prefix `transformer.`. Their (IA)³
vectors multiply the *output* of `k`, `v` and `wi_1`, which is PEFT's (IA)³ with no feed-forward modules; the vector
of `….k` is spelt `….k.ia3_layer.ia3_vector` by MaTS and `….k.ia3_vector` by TIES.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

WRAPPER = "transformer."
WRAPPED_PARTS = frozenset({"encoder", "decoder", "shared", "lm_head"})  # GPT-2's own `transformer.h` is not a wrapper
IA3_VECTOR = re.compile(r"(?P<module>.+?)(\.ia3_layer)?\.ia3_vector")
PEFT_PREFIX = "base_model.model."
PEFT_IA3 = "ia3_l"


def strip_wrapper(names: Iterable[str]) -> dict[str, str]:
    """Stored name → name without `transformer.`, where all of them carry it as a wrapper; else unchanged."""
    names = list(names)
    wrapped = all(
        name.startswith(WRAPPER) and name.removeprefix(WRAPPER).split(".")[0] in WRAPPED_PARTS for name in names
    )
    return {name: name.removeprefix(WRAPPER) if wrapped else name for name in names}


def peft_ia3_name(name: str) -> str | None:
    """PEFT's name of a legacy (IA)³ vector (without the wrapper prefix), None for any other name.

    >>> peft_ia3_name("encoder.block.0.layer.0.SelfAttention.k.ia3_layer.ia3_vector")
    'base_model.model.encoder.block.0.layer.0.SelfAttention.k.ia3_l'
    """
    match = IA3_VECTOR.fullmatch(name)
    return f"{PEFT_PREFIX}{match['module']}.{PEFT_IA3}" if match else None


def is_ia3_vector(name: str) -> bool:
    """Whether a PEFT name is that of an (IA)³ vector, not of a whole module saved with the adapter."""
    return name.endswith(f".{PEFT_IA3}")


def ia3_module(name: str) -> str:
    """The module (in the base model's names) that a PEFT (IA)³ vector scales."""
    return name.removeprefix(PEFT_PREFIX).removesuffix(f".{PEFT_IA3}")
