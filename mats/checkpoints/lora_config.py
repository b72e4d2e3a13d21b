"""What a PEFT LoRA configuration says about the mathematics, and which of its features cannot be honoured."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

from mats.errors import RequestError

UNDERSTOOD = frozenset(
    {
        "alpha_pattern",
        "bias",
        "fan_in_fan_out",
        "init_lora_weights",
        "lora_alpha",
        "lora_bias",
        "modules_to_save",
        "peft_type",
        "r",
        "rank_pattern",
        "use_dora",
        "use_rslora",
    }
)
"""Keys that are honoured."""
IRRELEVANT = frozenset(
    {
        "auto_mapping",
        "base_model_name_or_path",
        "corda_config",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_version",
        "qalora_group_size",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "velora_config",
    }
)
"""Keys that choose where or how an adapter is trained; what was trained is in the file."""
KEPT_INITS = (True, False, None, "true", "false", "gaussian", "eva", "orthogonal")
"""Initialisations that leave the base as it is. PiSSA, OLoRA, CorDA, LoRA-GA and LoftQ move a part of it into A and B,
so that an adapter not converted on saving belongs to another base than the one it names."""


def refuse_unsupported(config: Mapping[str, Any], where: str) -> None:
    """Refuse a LoRA configuration with a feature under which W + s·B·A is not what the adapter computes.

    Any key that is neither known nor empty counts: a setting of a later PEFT may change the mathematics.

    Raises:
        RequestError: the first such feature, by name.
    """
    for key, value in config.items():
        if key not in UNDERSTOOD | IRRELEVANT and value:
            raise RequestError(
                f"{where}: LoRA with {key} ({_brief(value)}) cannot be merged: its update is not s·B·A of one weight; "
                "plain LoRA, rsLoRA, DoRA and their patterns, biases and saved modules can"
            )
    initial = config.get("init_lora_weights", True)
    if initial not in KEPT_INITS:
        raise RequestError(
            f"{where}: init_lora_weights is {initial!r}, which changes the base as well; save the adapter converted to "
            "plain LoRA (PEFT's save_pretrained with path_initial_model_for_weight_conversion)"
        )
    if config.get("use_dora") and config.get("lora_bias"):
        raise RequestError(f"{where}: use_dora together with lora_bias is not defined; one of the two would be right")


def pattern_value(patterns: Mapping[str, Any] | None, module: str, default: Any) -> Any:
    """The value of the first pattern that matches the end of a module's path, as PEFT looks it up; else `default`.

    >>> pattern_value({"layer.1.q": 4, "q": 8}, "encoder.layer.1.q", 2), pattern_value({"q": 8}, "encoder.seq", 2)
    (4, 2)
    """
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def scaling(config: Mapping[str, Any], module: str, rank: int) -> float:
    """s of one module: α/r, with rsLoRA α/√r; α and r by the patterns where these name the module."""
    alpha = float(pattern_value(config.get("alpha_pattern"), module, config.get("lora_alpha", 8)))
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def declared_rank(config: Mapping[str, Any], module: str) -> int | None:
    """The rank that a configuration gives a module; None where it gives none."""
    rank = pattern_value(config.get("rank_pattern"), module, config.get("r"))
    return None if rank is None else int(rank)


def config_for(config: Mapping[str, Any], modules: Mapping[str, tuple[int, float]]) -> dict[str, Any]:
    """The configuration under which PEFT gives every module its own rank and scaling.

    Args:
        config: what else it says (base, task, biases, saved modules) is kept.
        modules: module → (rank r, scaling s). α becomes s·r; the commonest rank and α are the defaults, every other
            stands in a pattern that matches this module alone.
    """
    alphas = {name: _plain(value * rank) for name, (rank, value) in modules.items()}
    ranks = {name: rank for name, (rank, _) in modules.items()}
    rank, alpha = _commonest(list(ranks.values())), _commonest(list(alphas.values()))
    return {
        **config,
        "peft_type": "LORA",
        "r": rank,
        "lora_alpha": alpha,
        "use_rslora": False,
        "rank_pattern": {_exactly(name): value for name, value in ranks.items() if value != rank},
        "alpha_pattern": {_exactly(name): value for name, value in alphas.items() if value != alpha},
        "target_modules": sorted(modules),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
        "init_lora_weights": True,
        "inference_mode": True,
    }


def _exactly(module: str) -> str:
    return f"^{re.escape(module)}"


def _commonest(values: Sequence[Any]) -> Any:
    return max(values, key=values.count) if values else 1


def _plain(value: float) -> float | int:
    """16 for 16.0: PEFT declares α as an integer, although it takes any number."""
    return int(value) if value == int(value) else value


def _brief(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
