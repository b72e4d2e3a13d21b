"""LoRA and (IA)³ around a model, by PEFT."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from mats.checkpoints import open_checkpoint
from mats.data import Task
from mats.errors import InputsMismatch, RequestError, ShapeMismatch
from mats.training.tuning import AdapterTuning, Ia3Tuning, LoraTuning

ATTENTION_AND_MLP = (
    ("k", "v", "wi_1"),  # T5 v1.1 and its relatives
    ("k", "v", "wi"),  # T5 v1.0
    ("key", "value", "intermediate.dense"),  # BERT, RoBERTa
    ("key", "value", "mlp.fc1"),
    ("k_proj", "v_proj", "up_proj"),  # Llama, Mistral, Qwen
    ("k_proj", "v_proj", "fc1"),  # OPT, CLIP
    ("c_attn", "mlp.c_fc"),  # GPT-2
    ("k_lin", "v_lin", "ffn.lin1"),  # DistilBERT
    ("query_key_value", "dense_h_to_4h"),  # GPT-NeoX, BLOOM
)
"""Where (IA)³ puts its vectors, by family; the first of which a model has every part."""
QUERY_AND_VALUE = (
    ("q", "v"),
    ("query", "value"),
    ("q_proj", "v_proj"),
    ("c_attn",),
    ("q_lin", "v_lin"),
    ("query_key_value",),
)
"""Where LoRA puts its factors, by family."""
TASK_TYPES = {"text_classification": "SEQ_CLS", "text_regression": "SEQ_CLS", "text_to_text": "SEQ_2_SEQ_LM"}


def wrap_in_adapter(model: nn.Module, tuning: AdapterTuning, task: Task, head: Iterable[str], seed: int) -> nn.Module:
    """The PEFT model around `model`: its weights frozen, an adapter to train, and the head trained whole.

    Args:
        model: A model of transformers; it is changed in place.
        tuning: Kind and settings of the adapter.
        task: What the model is for.
        head: Names of the head's parameters.
        seed: Of the adapter's numbers, where the tuning does not say.

    Raises:
        RequestError: the model has none of the modules, or the adapter to start from is of another kind.
        InputsMismatch: the adapter to start from adapts other modules, or (ShapeMismatch) has another rank.
    """
    import peft

    modules = tuning.modules or _known_modules(model, tuning)
    _refuse_absent(model, modules)
    start = tuning.adapter_initialisation
    state = torch.get_rng_state()
    try:
        torch.manual_seed(start if isinstance(start, int) else seed)
        wrapped: nn.Module = peft.get_peft_model(model, _config(model, tuning, modules, task, head))
    except ValueError as error:  # a module of a kind that PEFT cannot adapt
        raise RequestError(f"tuning.modules {list(modules)}: {str(error).splitlines()[0][:200]}") from error
    finally:
        torch.set_rng_state(state)
    if isinstance(start, str):
        _start_from(wrapped, start, tuning)
    return wrapped


def _config(model: nn.Module, tuning: AdapterTuning, modules: Iterable[str], task: Task, head: Iterable[str]) -> Any:
    import peft

    transposed = [name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"]
    common: dict[str, Any] = {
        "target_modules": sorted(modules),
        "modules_to_save": sorted({name.partition(".")[0] for name in head}) or None,
        "fan_in_fan_out": any(_selects(ending, transposed) for ending in modules),
        "task_type": "CAUSAL_LM" if task == "language_modeling" else TASK_TYPES.get(task),
    }
    if isinstance(tuning, LoraTuning):
        return peft.LoraConfig(
            r=tuning.rank,
            lora_alpha=tuning.alpha,
            lora_dropout=tuning.dropout,
            use_rslora=tuning.rank_stabilised,
            **common,
        )
    # Outputs are scaled everywhere, as in the published (IA)³ checkpoints; PEFT's default scales the input of `wo`.
    return peft.IA3Config(feedforward_modules=[], **common)


def _known_modules(model: nn.Module, tuning: AdapterTuning) -> tuple[str, ...]:
    """The usual modules of the model's family."""
    names = _adaptable(model)
    families = ATTENTION_AND_MLP if isinstance(tuning, Ia3Tuning) else QUERY_AND_VALUE
    for family in families:
        if all(_selects(ending, names) for ending in family):
            return family
    raise RequestError(
        f"tuning: {type(model).__name__} is of no family whose {tuning.method} modules are known;"  # type: ignore[attr-defined]
        " modules: [name endings] would be right"
    )


def _refuse_absent(model: nn.Module, modules: Iterable[str]) -> None:
    names = _adaptable(model)
    for ending in modules:
        if not _selects(ending, names):
            raise RequestError(f"tuning.modules: {ending!r} is the ending of no linear layer of {type(model).__name__}")


def _adaptable(model: nn.Module) -> list[str]:
    """Names of the layers that multiply by a matrix."""
    kinds = ("Linear", "Conv1D")  # GPT-2 has the latter, a linear layer stored the other way round
    return [name for name, module in model.named_modules() if type(module).__name__ in kinds]


def _selects(ending: str, names: Iterable[str]) -> bool:
    return any(name == ending or name.endswith(f".{ending}") for name in names)


def _start_from(wrapped: nn.Module, path: str, tuning: AdapterTuning) -> None:
    """Put the numbers of an adapter folder in place of the drawn ones; a head in it is left alone."""
    kind = "ia3" if isinstance(tuning, Ia3Tuning) else "lora"
    parameters = {_stored_name(name): p for name, p in wrapped.named_parameters() if _is_adapter(name)}
    with open_checkpoint(path) as adapter:
        if adapter.kind != kind:
            raise RequestError(f"tuning.adapter_initialisation: {path} is {adapter.kind}; {kind} would be right")
        shapes = {name: info.shape for name, info in adapter.tensors.items() if _is_adapter(name)}
        one_sided = sorted(shapes.keys() ^ parameters.keys())
        if one_sided:
            raise InputsMismatch(
                f"tuning.adapter_initialisation: {path} adapts other modules ({one_sided[0]} is on one side only)"
            )
        for name, parameter in parameters.items():
            if shapes[name] != tuple(parameter.shape):
                raise ShapeMismatch(
                    f"tuning.adapter_initialisation: {path}: {name} has shape {list(shapes[name])},"
                    f" here {list(parameter.shape)}; the same rank and base would be right"
                )
            parameter.data.copy_(adapter.read(name))


def _is_adapter(name: str) -> bool:
    return ".lora_" in name or ".ia3_l" in name


def _stored_name(name: str) -> str:
    """The name under which PEFT stores a parameter: without that of the adapter."""
    return name.replace(".default.", ".").removesuffix(".default")
