"""(IA)³ arithmetic on updates l − 1: weights of any sign, analogies, vectors that one adapter lacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from engine_families import RawStore, make_model, save, write_raw
from torch import Tensor

from mats.checkpoints import load_model, open_checkpoint
from mats.checkpoints.densify import densify
from mats.engine import MergeRequest, ModelInput, merge
from mats.errors import RequestError
from mats.methods import AverageSettings, MatsSettings, TaskArithmeticSettings
from mats.methods.adapter_settings import AdapterSettings
from mats.methods.formula import FormulaSettings
from mats.store import Sums

pytestmark = pytest.mark.usefixtures("light_report")


def make_vectors(
    root: Path, name: str, seed: int, targets: tuple[str, ...] = ("k", "v", "wi_1"), inputs: tuple[str, ...] = ()
) -> Path:
    from peft import IA3Config, get_peft_model

    if not (root / "base").exists():
        save(make_model("t5", 0), root / "base")
    plain = make_model("t5", 0)
    plain.name_or_path = str(root / "base")
    model = get_peft_model(plain, IA3Config(target_modules=list(targets), feedforward_modules=list(inputs)))
    generator = torch.Generator().manual_seed(seed)
    for parameter_name, parameter in model.named_parameters():
        if "ia3" in parameter_name:
            parameter.data = 1 + 0.3 * torch.randn(parameter.shape, generator=generator)
    model.save_pretrained(root / name)
    return root / name


def vectors(folder: Path) -> dict[str, Tensor]:
    with open_checkpoint(folder) as checkpoint:
        return {name: checkpoint.read(name).double() for name in checkpoint.tensors}


def merged(root: Path, folders: dict[str, Path], method: Any, weights: list[float] | None = None) -> dict[str, Tensor]:
    weights = weights or [1.0] * len(folders)
    models = tuple(ModelInput(n, str(f), w) for (n, f), w in zip(folders.items(), weights, strict=True))
    merge(MergeRequest(models, method, root / "out", base=str(root / "base"), overwrite=True))
    return vectors(root / "out")


@pytest.mark.parametrize("strength", [1.0, 0.4, 2.0])
def test_negation_is_one_minus_s_times_l_minus_one(tmp_path: Path, strength: float) -> None:
    """s = 1 gives 2 − l; as negative task arithmetic and as a formula. The negated update is −s times the update."""
    folder = make_vectors(tmp_path, "a", 0)
    expected = {name: 1 - strength * (vector - 1) for name, vector in vectors(folder).items()}
    for method, weights in (
        (TaskArithmeticSettings(scale=strength), [-1.0]),
        (FormulaSettings(formula=f"base - {strength}*(a - base)"), None),
    ):
        found = merged(tmp_path, {"a": folder}, method, weights)
        for name, vector in expected.items():
            torch.testing.assert_close(found[name], vector, rtol=1e-6, atol=1e-6)
    if strength == 1.0:
        name = next(iter(expected))
        torch.testing.assert_close(found[name], 2 - vectors(folder)[name], rtol=1e-6, atol=1e-6)


def test_negating_twice_is_the_identity(tmp_path: Path) -> None:
    folder = make_vectors(tmp_path, "a", 0)
    merged(tmp_path, {"a": folder}, TaskArithmeticSettings(scale=1.0), [-1.0])
    (tmp_path / "out").rename(tmp_path / "negated")
    found = merged(tmp_path, {"a": tmp_path / "negated"}, TaskArithmeticSettings(scale=1.0), [-1.0])
    for name, vector in vectors(folder).items():
        torch.testing.assert_close(found[name], vector, rtol=1e-6, atol=1e-6)


def test_analogy(tmp_path: Path) -> None:
    """1 + w0 (l_a − 1) + w1 (l_b − l_c); with b = c it is a."""
    folders = {name: make_vectors(tmp_path, name, seed) for seed, name in enumerate("abc")}
    a, b, c = (vectors(folder) for folder in folders.values())
    found = merged(tmp_path, folders, FormulaSettings(formula="base + 0.9*(a - base) + 0.1*(b - c)"))
    for name in a:
        expected = 1 + 0.9 * (a[name] - 1) + 0.1 * (b[name] - c[name])
        torch.testing.assert_close(found[name], expected, rtol=1e-6, atol=1e-6)
    found = merged(tmp_path, {**folders, "c": folders["b"]}, FormulaSettings(formula="a + b - c"))
    for name in a:
        torch.testing.assert_close(found[name], a[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("method", "weights", "coefficients"),
    [
        (TaskArithmeticSettings(scale=0.5), [1.0, -2.0], (0.5, -1.0)),
        (AverageSettings(), [1.0, 3.0], (0.25, 0.75)),
        (FormulaSettings(formula="base + 2*(a - base) - (b - base)"), [1.0, 1.0], (2.0, -1.0)),
    ],
)
def test_a_vector_that_one_adapter_lacks_is_an_update_of_zero(
    tmp_path: Path, method: Any, weights: list[float], coefficients: tuple[float, float]
) -> None:
    """Neutral 1, not 0: the other's update counts alone, and the loaded model computes with it."""
    folders = {"a": make_vectors(tmp_path, "a", 0), "b": make_vectors(tmp_path, "b", 1, ("k", "q"))}
    found = merged(tmp_path, folders, method, weights)
    a, b = (vectors(folder) for folder in folders.values())
    assert found.keys() == a.keys() | b.keys()
    for name, vector in found.items():
        ones = torch.ones_like(vector)
        expected = 1 + coefficients[0] * (a.get(name, ones) - 1) + coefficients[1] * (b.get(name, ones) - 1)
        torch.testing.assert_close(vector, expected, rtol=1e-6, atol=1e-6)
        assert not torch.equal(vector, ones)
    ids = torch.arange(10).reshape(2, 5) + 3
    model = load_model(tmp_path / "out", "text_to_text", base=tmp_path / "base")
    assert torch.isfinite(model(input_ids=ids, decoder_input_ids=ids).logits).all()


def test_feedforward_vectors_of_one_adapter_stay_on_the_input(tmp_path: Path) -> None:
    folders = {"a": make_vectors(tmp_path, "a", 0), "b": make_vectors(tmp_path, "b", 1, ("k", "wo"), ("wo",))}
    merged(tmp_path, folders, TaskArithmeticSettings(scale=1.0))
    ids = torch.arange(10).reshape(2, 5) + 3
    model = load_model(tmp_path / "out", "text_to_text", base=tmp_path / "base")
    for name, module in model.named_modules():
        if hasattr(module, "is_feedforward"):
            assert module.is_feedforward == name.endswith(".wo"), name
    assert torch.isfinite(model(input_ids=ids, decoder_input_ids=ids).logits).all()


def test_curvature_refuses_negative_weights_and_skips_what_one_store_lacks(tmp_path: Path) -> None:
    """Block Fisher where both adapters have the vector; elsewhere the start, in which the lacking one counts as 1."""
    folders = {"a": make_vectors(tmp_path, "a", 0), "b": make_vectors(tmp_path, "b", 1, ("k",))}
    models = []
    for seed, (name, folder) in enumerate(folders.items()):
        raw, generator = RawStore(9, Sums()), torch.Generator().manual_seed(seed)
        for vector, value in vectors(folder).items():
            rows = torch.randn(9, value.numel(), generator=generator, dtype=torch.float64)
            raw.sums.tensors[f"block/{vector}"] = rows.T @ rows
        raw.sums.example_ids = [f"{seed}-{i}" for i in range(9)]
        write_raw(tmp_path / f"store-{name}", raw, folder, list(vectors(folder)))
        models.append(ModelInput(name, str(folder), 1.0, tmp_path / f"store-{name}"))
    method = MatsSettings(init=TaskArithmeticSettings(scale=0.5))
    request = MergeRequest(tuple(models), method, tmp_path / "out", base=str(tmp_path / "base"))
    report = merge(request).report
    rules = {entry["name"].split(".")[-2]: entry["rule"] for entry in report["layers"]}
    assert rules == {"k": "block", "v": "init", "wi_1": "init"}
    a, found = vectors(folders["a"]), vectors(tmp_path / "out")
    for name in found:
        if ".k." not in name:
            torch.testing.assert_close(found[name], 1 + 0.5 * (a[name] - 1), rtol=1e-6, atol=1e-6)
    with pytest.raises(RequestError, match=r"weight -1 with method mats; a number in \(0, ∞\)"):
        MergeRequest((ModelInput("a", "x", -1.0),), method, tmp_path / "refused")


def test_dense_output_is_the_base_with_the_merged_change(tmp_path: Path) -> None:
    """`adapters: {output: dense}` of (IA)³ adapters: a whole model, the sum of what each makes of the base."""
    folders = {name: make_vectors(tmp_path, name, seed) for seed, name in enumerate("ab")}
    models = tuple(ModelInput(name, str(folder)) for name, folder in folders.items())
    method, dense = TaskArithmeticSettings(scale=1.0), AdapterSettings(output="dense")
    merge(MergeRequest(models, method, tmp_path / "out", base=str(tmp_path / "base"), adapters=dense))
    with open_checkpoint(tmp_path / "base") as base, open_checkpoint(tmp_path / "out") as found:
        assert found.kind == "model"
        whole = [densify(base, open_checkpoint(folder)) for folder in folders.values()]
        for name in base.tensors:
            expected = base.read(name) + sum(model.read(name) - base.read(name) for model in whole)
            torch.testing.assert_close(found.read(name), expected)
        assert any(not torch.equal(found.read(name), base.read(name)) for name in base.tensors)
