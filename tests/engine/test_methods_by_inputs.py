"""Every data-free method on every kind of input: the engine, files in and files out, against the method in memory.

docs/methods.md shows the table. What the methods themselves compute is checked in tests/methods and tests/recipes.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_families import make_model, nudge, save
from lora_adapters import make_base, make_lora, updates
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import parse_method
from mats.methods.registry import method_names, settings_class
from mats.methods.settings import ElementwiseSettings
from mats.progress import Silent

pytestmark = pytest.mark.usefixtures("light_report")
FULL = ("bert", "gpt2", "t5", "vit")
INPUTS = (*FULL, "lora", "ia3")
NAMES = ("a", "b")
PLAIN: dict[str, dict[str, Any]] = {
    "ties": {"density": 0.4},
    "linear": {"normalize": False},
    "formula": {"formula": "base + 2*(a - base) - b/2 + base/2"},
    "slerp": {"t": 0.3},
    "passthrough": {"scale": 0.5},
    "wudi": {"anchor": 0.01},
}
"""Settings under which a method is not another one by accident."""
ONE_MODEL = ("passthrough",)
READ_METADATA = ("fisher", "regmean", "mats")
DATA_FREE = [name for name in method_names() if name not in READ_METADATA]


@dataclass(frozen=True)
class Case:
    """Models on disk, and what they are in memory: fp32 weights by the names of the output."""

    base: Path | None
    folders: tuple[Path, ...]
    base_state: dict[str, Tensor]
    states: tuple[dict[str, Tensor], ...]


def weights(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Case]:
    made = {kind: _full(tmp_path_factory.mktemp(kind), kind) for kind in FULL}
    return made | {"lora": _lora(tmp_path_factory.mktemp("lora")), "ia3": _ia3(tmp_path_factory.mktemp("ia3"))}


def _full(root: Path, family: str) -> Case:
    save(make_model(family, 0), root / "base")
    for seed, name in enumerate(NAMES, start=1):
        save(nudge(make_model(family, 0), seed), root / name)
    folders = tuple(root / name for name in NAMES)
    return Case(root / "base", folders, weights(root / "base"), tuple(weights(folder) for folder in folders))


def _lora(root: Path) -> Case:
    base = make_base(root)
    folders = tuple(make_lora(root, name, seed, r=seed + 1) for seed, name in enumerate(NAMES, start=1))
    start = weights(base)
    states = []
    for folder in folders:
        state = dict(start)
        for module, update in updates(folder).items():
            name = f"{module.removeprefix('base_model.model.')}.weight"
            state[name] = (state[name].double() + update).float()
        states.append(state)
    return Case(base, folders, start, tuple(states))


def _ia3(root: Path) -> Case:
    from peft import IA3Config, get_peft_model

    folders = []
    for seed, name in enumerate(NAMES, start=1):
        settings = IA3Config(target_modules=["k", "v"], feedforward_modules=[])
        model: Any = get_peft_model(make_model("t5", 0), settings)
        generator = torch.Generator().manual_seed(seed)
        for parameter_name, parameter in model.named_parameters():
            if "ia3_l" in parameter_name:
                parameter.data = 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(root / name)
        folders.append(root / name)
    states = tuple(weights(folder) for folder in folders)
    return Case(None, tuple(folders), {name: torch.ones_like(value) for name, value in states[0].items()}, states)


def in_memory(settings: ElementwiseSettings, case: Case, count: int) -> dict[str, Tensor]:
    """Every tensor merged by the method alone: no engine, no file, no sample."""
    read = settings.models_read(list(NAMES[:count]), [1.0] * count)
    made = settings.build_for(list(NAMES[:count]), [1.0] * count)
    made.prepare(
        lambda i, n: case.states[i][n].clone(), lambda n: case.base_state[n].clone(), list(case.base_state), Silent()
    )

    def models(name: str) -> Iterator[Tensor]:
        return (case.states[index][name].clone() for index in read)

    merged = {name: made.merge(name, case.base_state[name].clone(), models(name)) for name in case.base_state}
    again = {name: made.merge(name, case.base_state[name].clone(), models(name)) for name in made.deferred()}
    return merged | again


@pytest.mark.parametrize("method", DATA_FREE)
@pytest.mark.parametrize("kind", INPUTS)
def test_a_merge_of_files_is_the_method_in_memory(
    kind: str, method: str, cases: dict[str, Case], tmp_path: Path
) -> None:
    case = cases[kind]
    count = 1 if method in ONE_MODEL else 2
    settings: Any = parse_method({"method": method, **PLAIN.get(method, {})})
    models = tuple(ModelInput(name, str(path)) for name, path in zip(NAMES[:count], case.folders, strict=False))
    base = None if case.base is None else str(case.base)
    merged = weights(merge(MergeRequest(models, settings, tmp_path / "out", base, device="cpu")).path)
    expected = in_memory(settings, case, count)
    assert set(merged) == set(expected)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), atol=2e-6, rtol=1e-5, msg=name)
    if method != "base":
        assert any(not torch.equal(tensor, case.base_state[name]) for name, tensor in merged.items())


def test_no_method_is_left_out() -> None:
    assert {*DATA_FREE, *READ_METADATA} == set(method_names())
    assert all(settings_class(name).statistics for name in READ_METADATA)
