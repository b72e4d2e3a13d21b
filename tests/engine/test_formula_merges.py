"""Formulas and linear combinations of real models against float64; with rules, heads, starts, sparsified models."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import Family
from safetensors.torch import load_file, save_file
from torch import Tensor

from mats.engine import Heads, MergeRequest, ModelInput, Rule, merge
from mats.engine.inputs import MergeInputs
from mats.errors import RequestError
from mats.methods import (
    AverageSettings,
    FormulaSettings,
    LinearSettings,
    RegMeanSettings,
    TaskArithmeticSettings,
)
from mats.methods.sparsify import SparsifySettings

pytestmark = pytest.mark.usefixtures("light_report")
ANALOGY = "base + 0.9*(task0 - base) + (1 - 0.9)*(task1 - task2)"


def request(bert: Family, output: Path, formula: str, **options: object) -> MergeRequest:
    models = bert.inputs(metadata=False)
    return MergeRequest(models, FormulaSettings(formula=formula), output, str(bert.base), device="cpu", **options)


def merged(wanted: MergeRequest) -> dict[str, Tensor]:
    return load_file(merge(wanted).path / "model.safetensors")


def states(bert: Family) -> tuple[dict[str, Tensor], ...]:
    return tuple(load_file(path / "model.safetensors") for path in bert.models)


def test_analogy_and_unlearning_of_full_models(bert: Family, tmp_path: Path) -> None:
    first, second, third = states(bert)
    found = merged(request(bert, tmp_path / "analogy", ANALOGY))
    for name, base in bert.base_state.items():
        base64 = base.double()
        expected = base64 + 0.9 * (first[name] - base64) + 0.1 * (second[name].double() - third[name])
        torch.testing.assert_close(found[name].double(), expected, atol=1e-6, rtol=1e-6)
    negated = merged(request(bert, tmp_path / "negated", "base - 0.7*(task0 - base)"))
    for name, base in bert.base_state.items():
        expected = base.double() - 0.7 * (first[name].double() - base)
        torch.testing.assert_close(negated[name].double(), expected, atol=1e-6, rtol=1e-6)


def test_weights_multiply_their_models_wherever_they_stand(bert: Family, tmp_path: Path) -> None:
    plain = request(bert, tmp_path / "plain", "base + task0 - 5*task1 + task1")
    weighted = request(bert, tmp_path / "weighted", "base + task0 - 2.5*task1 + task1/2")
    models = tuple(replace(model, weight=2.0 if model.name == "task1" else 1.0) for model in weighted.models)
    first, second = merged(plain), merged(replace(weighted, models=models))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_task_arithmetic_written_as_a_formula_and_as_a_linear_combination(bert: Family, tmp_path: Path) -> None:
    models = bert.inputs(metadata=False)
    usual = MergeRequest(models, TaskArithmeticSettings(scale=0.3), tmp_path / "usual", str(bert.base), device="cpu")
    formula = request(bert, tmp_path / "formula", "base + 0.3*(task0 - base + task1 - base + task2 - base)")
    weights = [0.3] * 3 + [1 - 0.9]
    inputs = (*models, ModelInput("base", str(bert.base)))
    linear = MergeRequest(
        tuple(replace(model, weight=weight) for model, weight in zip(inputs, weights, strict=True)),
        LinearSettings(),
        tmp_path / "linear",
        device="cpu",
    )
    results = [merged(wanted) for wanted in (usual, formula, linear)]
    for name in bert.base_state:
        for other in results[1:]:
            torch.testing.assert_close(other[name], results[0][name], atol=2e-6, rtol=1e-5)


def test_what_cancels_is_never_asked_for(bert: Family, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    read = MergeInputs.read

    def watched(self: MergeInputs, index: int, name: str) -> Tensor:
        asked.append(index)
        return read(self, index, name)

    monkeypatch.setattr(MergeInputs, "read", watched)
    merge(request(bert, tmp_path / "out", "task0 + task1 - task1"))
    assert set(asked) == {0}
    asked.clear()
    merge(request(bert, tmp_path / "both", "task0 + task1"))
    assert set(asked) == {0, 1}
    assert len(asked) == 2 * len(bert.base_state)  # each model once


def test_with_rules_heads_and_sparsified_models(bert: Family, tmp_path: Path) -> None:
    wanted = request(bert, tmp_path / "out", "task0 - task1 + base", rules=(Rule("*.bias", AverageSettings()),))
    plain = merged(wanted)
    first, second, third = states(bert)
    for name, base in bert.base_state.items():
        expected = (first[name] + second[name] + third[name]) / 3 if name.endswith(".bias") else None
        expected = first[name] - second[name] + base if expected is None else expected
        torch.testing.assert_close(plain[name], expected, atol=1e-6, rtol=1e-5)
    headed = merged(replace(wanted, output=tmp_path / "headed", rules=(), heads=Heads(source="task1")))
    assert torch.equal(headed["classifier.weight"], second["classifier.weight"])
    dropped = SparsifySettings(drop=1.0)
    models = tuple(replace(model, sparsify=dropped) for model in wanted.models)
    sparse = merged(replace(wanted, output=tmp_path / "sparse", rules=(), models=models))
    for name, base in bert.base_state.items():  # nothing is left of either change
        torch.testing.assert_close(sparse[name], base, atol=1e-6, rtol=1e-6)


def test_as_the_start_of_a_quadratic_method(bert: Family, tmp_path: Path) -> None:
    alone = merged(request(bert, tmp_path / "alone", ANALOGY))
    start = RegMeanSettings(init=FormulaSettings(formula=ANALOGY), anchor=1e9)
    anchored = MergeRequest(bert.inputs(), start, tmp_path / "anchored", str(bert.base), device="cpu")
    found = merged(anchored)
    for name in alone:
        torch.testing.assert_close(found[name], alone[name], atol=1e-5, rtol=1e-4)
    with pytest.raises(RequestError, match="formula:1: 'nobody' is neither a model"):
        replace(anchored, method=RegMeanSettings(init=FormulaSettings(formula="nobody")))


def test_ia3_vectors_stand_for_the_base_and_their_update(tmp_path: Path) -> None:
    """Negation turns l into 2 − l; a + b − c with b = c returns a; both are arithmetic in l − 1."""
    from engine_families import make_model, save
    from peft import IA3Config, get_peft_model

    save(make_model("t5", 0), tmp_path / "base")
    for number in range(2):
        torch.manual_seed(number)
        config = IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v"], feedforward_modules=[])
        model = get_peft_model(make_model("t5", 0), config)
        for name, parameter in model.named_parameters():
            if "ia3" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        model.save_pretrained(tmp_path / f"adapter{number}")
    models = tuple(ModelInput(f"l{number}", str(tmp_path / f"adapter{number}")) for number in range(2))
    first, second = (load_file(tmp_path / f"adapter{number}" / "adapter_model.safetensors") for number in range(2))
    for formula, value in {
        "base - (l0 - base)": lambda one, _: 2 - one,
        "l0 + l1 - l1": lambda one, _: one,
        "base + 0.5*(l0 - base) - 2*(l1 - base)": lambda one, two: 1 + 0.5 * (one - 1) - 2 * (two - 1),
    }.items():
        wanted = MergeRequest(
            models, FormulaSettings(formula=formula), tmp_path / "out", str(tmp_path / "base"), overwrite=True
        )
        found = load_file(merge(wanted).path / "adapter_model.safetensors")
        assert found.keys() == first.keys()
        for name, tensor in found.items():
            torch.testing.assert_close(tensor, value(first[name], second[name]), atol=1e-6, rtol=1e-6)


def test_bfloat16_is_rounded_once(tmp_path: Path) -> None:
    for name, value in (("a", 1.0), ("b", 0.003), ("c", 0.003)):
        (tmp_path / name).mkdir()
        save_file({"w": torch.tensor([value], dtype=torch.bfloat16)}, tmp_path / name / "model.safetensors")
    models = tuple(ModelInput(name, str(tmp_path / name)) for name in "abc")
    found = merged(MergeRequest(models, FormulaSettings(formula="a + b + c"), tmp_path / "out", device="cpu"))
    assert found["w"].dtype == torch.bfloat16
    assert found["w"].item() == 1.0078125
