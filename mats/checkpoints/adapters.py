"""(IA)³ adapters: their PEFT configuration, and the neutral adapter from which task vectors are measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from mats.checkpoints.checkpoint import Checkpoint, Stored
from mats.checkpoints.legacy import PEFT_PREFIX, ia3_module, is_ia3_vector
from mats.checkpoints.tensors import TensorInfo
from mats.errors import InputsMismatch, ShapeMismatch

TASK_TYPES = {  # ending of an architecture's name → PEFT's task type
    "ForConditionalGeneration": "SEQ_2_SEQ_LM",
    "ForCausalLM": "CAUSAL_LM",
    "LMHeadModel": "CAUSAL_LM",
    "ForSequenceClassification": "SEQ_CLS",
    "ForTokenClassification": "TOKEN_CLS",
    "ForQuestionAnswering": "QUESTION_ANS",
}


def ia3_config(names: Iterable[str], base: Checkpoint | None = None) -> dict[str, Any]:
    """A PEFT `adapter_config.json` under which (IA)³ vectors multiply the *output* of exactly the modules named.

    Args:
        names: PEFT names of the vectors (`base_model.model.<module>.ia3_l`).
        base: the model under the adapter; with it, module names are shortened to endings (`k`, `v`, `wi_1`) where
            these mean the same modules, and its name and task are filled in.
    """
    modules = [ia3_module(name) for name in names if is_ia3_vector(name)]
    return {
        "peft_type": "IA3",
        "task_type": None if base is None else task_type(base),
        "base_model_name_or_path": None if base is None else reference_of(base),
        "target_modules": sorted(modules) if base is None else _shortest_targets(modules, base),
        "feedforward_modules": [],
        "fan_in_fan_out": False,
        "modules_to_save": None,
        "init_ia3_weights": True,
        "inference_mode": True,
        "revision": None,
    }


def task_type(base: Checkpoint) -> str | None:
    """PEFT's task type for the architecture that a base's config names; None when it cannot be told."""
    config = base.config or {}
    for architecture in config.get("architectures") or ():
        for ending, task in TASK_TYPES.items():
            if architecture.endswith(ending):
                return task
    if config.get("is_encoder_decoder") or config.get("model_type") in ("t5", "mt5", "umt5"):
        return "SEQ_2_SEQ_LM"
    return None


def reference_of(base: Checkpoint) -> str:
    """How an adapter names its base: the hub id, or the absolute path of a local checkpoint."""
    return base.name if base.path.name != base.name and "/" in base.name else str(base.path.resolve())


def _shortest_targets(modules: Sequence[str], base: Checkpoint) -> list[str]:
    """Last name parts (`k`) when they select the same modules in `base`, else full names."""
    wanted = set(modules)
    endings = {module.rsplit(".", 1)[-1] for module in modules}
    weighted = {name.rsplit(".", 1)[0] for name in base.tensors if name.endswith(".weight")}
    selected = {module for module in weighted if module.rsplit(".", 1)[-1] in endings}
    return sorted(endings if selected == wanted else wanted)


class _Ones:
    """A `TensorFile` without a file: every tensor is one everywhere."""

    def __init__(self, infos: dict[str, TensorInfo]) -> None:
        self.path = Path("neutral-adapter")
        self.infos = infos

    def load(self, name: str, start: int, out: Tensor) -> None:  # noqa: ARG002 - the same everywhere
        out.fill_(1)

    def view(self, name: str) -> None:  # noqa: ARG002 - there is no file to map
        return None

    def close(self) -> None:
        pass


def neutral_adapter(models: Sequence[Checkpoint], base: Checkpoint | None = None) -> Checkpoint:
    """The (IA)³ adapter that changes nothing: ones for every vector that occurs in any of `models`.

    Whole modules saved with the adapters (`modules_to_save`, a classification head) come from `base`, where it has
    them; otherwise they are absent here.

    Raises:
        ShapeMismatch: two models give a vector different sizes.
    """
    vectors: dict[str, TensorInfo] = {}
    for model in models:
        for name, info in model.tensors.items():
            known = vectors.setdefault(name, info)
            if known.shape != info.shape and is_ia3_vector(name):
                raise ShapeMismatch(f"{model.name}: {name} has shape {list(info.shape)}, others {list(known.shape)}")
    ones = _Ones({name: info for name, info in vectors.items() if is_ia3_vector(name)})
    stored = {name: Stored(ones, name, info.shape) for name, info in ones.infos.items()}
    for name in vectors.keys() - stored.keys():
        inside = name.removeprefix(PEFT_PREFIX)
        if base is not None and inside in base.tensors:
            stored[name] = base.place(inside)
    return Checkpoint("ones", ones.path, "ia3", stored, models[0].config)


def merge_base(base: Checkpoint, models: Sequence[Checkpoint]) -> Checkpoint:
    """What the merge starts from and measures task vectors against: `base`, or all ones for (IA)³ adapters on `base`.

    Raises:
        InputsMismatch: adapters and full models together, or an adapter of a module that `base` does not have.
        ShapeMismatch: an (IA)³ vector whose size is not that of its module.
    """
    kinds = {model.kind for model in models}
    if len(kinds) > 1:
        listed = ", ".join(f"{model.name} is {model.kind}" for model in models)
        raise InputsMismatch(f"adapters and full models cannot be merged together: {listed}")
    if kinds != {"ia3"} or base.kind == "ia3":
        return base
    for model in models:
        _check_on_base(model, base)
    return neutral_adapter(models, base)


def _check_on_base(adapter: Checkpoint, base: Checkpoint) -> None:
    for name, info in adapter.tensors.items():
        if not is_ia3_vector(name):
            continue
        module = ia3_module(name)
        inside = module.partition(".")[2]  # a base saved as a bare body lacks the first part
        weight = base.tensors.get(f"{module}.weight") or base.tensors.get(f"{inside}.weight")
        if weight is None:
            raise InputsMismatch(f"{adapter.name}: {name} scales a module that the base {base.name} does not have")
        if info.numel not in weight.shape:
            raise ShapeMismatch(
                f"{adapter.name}: {name} has {info.numel} elements; its module in {base.name} has weight shape"
                f" {list(weight.shape)}"
            )
