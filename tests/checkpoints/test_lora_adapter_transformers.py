"""Files of adapter-transformers, against the layer's definition as that library's forward has it, in float64."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import checkpoint_models as tiny
import pytest
import torch
from adapter_cases import assert_same_forward, lively, logits, running
from torch import Tensor, nn

from mats.checkpoints import load_model, open_checkpoint, open_lora
from mats.errors import CheckpointCorrupt, RequestError

WIDTH = 16
LORA = {"architecture": "lora", "r": 3, "alpha": 5, "composition_mode": "add", "attn_matrices": ["q", "v"]}
IA3 = {"architecture": "lora", "r": 1, "alpha": 1, "composition_mode": "scale", "attn_matrices": ["k", "v"]}


def save(folder: Path, make: Callable[[], nn.Module], tensors: Mapping[str, Tensor], config: Mapping[str, Any]) -> None:
    lively(make).save_pretrained(folder / "base")
    adapter = folder / "adapter"
    adapter.mkdir()
    torch.save(dict(tensors), adapter / "pytorch_adapter.bin")
    torch.save({"heads.rte.1.weight": torch.ones(2, 2)}, adapter / "pytorch_model_head.bin")
    described = {"config": dict(config), "hidden_size": WIDTH, "model_name": str(folder / "base"), "name": "rte"}
    (adapter / "adapter_config.json").write_text(json.dumps(described))


@contextmanager
def hooked(model: nn.Module, forwards: Mapping[str, Callable[[Tensor, Tensor], Tensor]]) -> Iterator[nn.Module]:
    """Each layer's output replaced by a function of its input and output."""
    handles = [
        model.get_submodule(name).register_forward_hook(lambda _m, given, out, change=change: change(given[0], out))
        for name, change in forwards.items()
    ]
    yield model.double().eval()
    for handle in handles:
        handle.remove()


def random(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def test_lora_of_separate_matrices(tmp_path: Path) -> None:
    """Also: α stays 5 at rank 3, and a prediction head beside the adapter is no part of it."""
    tensors, forwards = {}, {}
    for number, part in enumerate(("query", "value")):
        module = f"bert.encoder.layer.1.attention.self.{part}"
        A, B = random(3, WIDTH, seed=number), random(WIDTH, 3, seed=number + 9)
        tensors |= {f"{module}.loras.rte.lora_A": A, f"{module}.loras.rte.lora_B": B}
        forwards[module] = lambda x, out, A=A, B=B: out + 5 / 3 * x @ A.double().T @ B.double().T
    save(tmp_path, tiny.bert, tensors, LORA)
    with hooked(lively(tiny.bert), forwards) as expected:
        assert_same_forward(running(tmp_path, tiny.bert), expected)
        loaded = load_model(tmp_path / "adapter", "text_classification")  # its base is the one it names
        torch.testing.assert_close(logits(loaded).double(), logits(expected), rtol=1e-4, atol=1e-4)


def test_alpha_has_a_default_of_its_own(tmp_path: Path) -> None:
    module = "bert.encoder.layer.0.attention.self.query"
    tensors = {f"{module}.loras.x.lora_A": torch.ones(32, WIDTH), f"{module}.loras.x.lora_B": torch.ones(WIDTH, 32)}
    save(tmp_path, tiny.bert, tensors, {"architecture": "lora", "r": 32})
    with open_lora(tmp_path / "adapter") as adapter:
        assert adapter.modules[module].scaling == 0.25  # α 8 at rank 32


def test_lora_of_a_fused_layer(tmp_path: Path) -> None:
    """GPT-2's c_attn: the blocks of q and v, each with its own product; k untouched."""
    module = "transformer.h.1.attn.c_attn"
    A, B = random(6, WIDTH, seed=1), random(2 * WIDTH, 3, seed=2)

    def change(x: Tensor, out: Tensor) -> Tensor:
        q, k, v = out.split(WIDTH, dim=-1)
        q = q + 5 / 3 * x @ A[:3].double().T @ B[:WIDTH].double().T
        v = v + 5 / 3 * x @ A[3:].double().T @ B[WIDTH:].double().T
        return torch.cat([q, k, v], dim=-1)

    def make() -> nn.Module:
        return tiny.gpt2(True)

    save(tmp_path, make, {f"{module}.loras.a.lora_A": A, f"{module}.loras.a.lora_B": B}, LORA)
    with hooked(lively(make), {module: change}) as expected:
        assert_same_forward(running(tmp_path, make), expected)
    with open_lora(tmp_path / "adapter") as adapter:
        assert (adapter.modules[module].rank, adapter.modules[module].scaling) == (6, 5 / 3)


def test_ia3_scales_the_output_with_its_bias(tmp_path: Path) -> None:
    sizes = {"attention.self.key": WIDTH, "attention.self.value": WIDTH, "intermediate.dense": 24}
    vectors = {f"bert.encoder.layer.0.{name}": 1 + random(size, 1, seed=size) for name, size in sizes.items()}
    save(tmp_path, tiny.bert, {f"{name}.loras.x.lora_B": vector for name, vector in vectors.items()}, IA3)
    forwards = {
        name: lambda _x, out, vector=vector: out * vector.double().flatten() for name, vector in vectors.items()
    }
    with hooked(lively(tiny.bert), forwards) as expected:
        assert_same_forward(running(tmp_path, tiny.bert), expected)
    with open_checkpoint(tmp_path / "adapter") as adapter:
        assert adapter.kind == "ia3"
        assert adapter.config is not None
        assert adapter.config["feedforward_modules"] == []


def test_ia3_of_a_fused_layer(tmp_path: Path) -> None:
    module, vector = "transformer.h.0.attn.c_attn", 1 + random(2 * WIDTH, 1, seed=4)

    def make() -> nn.Module:
        return tiny.gpt2(True)

    save(tmp_path, make, {f"{module}.loras.x.lora_B": vector}, IA3)
    whole = torch.cat([torch.ones(WIDTH, 1), vector]).double().flatten()  # q, then k and v
    with hooked(lively(make), {module: lambda _x, out: out * whole}) as expected:
        assert_same_forward(running(tmp_path, make), expected)


FAULTS: dict[str, tuple[dict[str, Tensor], dict[str, Any], str]] = {
    "gating": ({"m.loras.x.lora_B": torch.ones(4, 1)}, {"use_gating": True}, "use_gating"),
    "two_adapters": (
        {"m.loras.x.lora_B": torch.ones(4, 1), "n.loras.y.lora_B": torch.ones(4, 1)},
        IA3,
        r"several adapters \(x, y\)",
    ),
    "bottleneck": (
        {"m.loras.x.lora_B": torch.ones(4, 1), "m.adapters.x.adapter_down.0.weight": torch.ones(4, 1)},
        IA3,
        "adapters of other kinds cannot be merged",
    ),
    "which_blocks": ({"h.c_attn.loras.x.lora_B": torch.ones(8, 1)}, {"r": 1}, "do not say which parts"),
    "only_other_kinds": ({"m.adapters.x.adapter_down.0.weight": torch.ones(4, 1)}, {}, "names no peft_type"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_other_features_are_refused_by_name(tmp_path: Path, fault: str) -> None:
    tensors, config, message = FAULTS[fault]
    save(tmp_path, tiny.bert, tensors, config)
    with pytest.raises(RequestError, match=message):
        open_checkpoint(tmp_path / "adapter")


def test_factors_that_do_not_fit_their_configuration_are_refused(tmp_path: Path) -> None:
    tensors = {"m.loras.x.lora_A": torch.ones(8, 4), "m.loras.x.lora_B": torch.ones(4, 8)}
    save(tmp_path, tiny.bert, tensors, LORA)
    with pytest.raises(CheckpointCorrupt, match=r"with r 3 and 1 blocks they do not fit"):
        open_checkpoint(tmp_path / "adapter")
