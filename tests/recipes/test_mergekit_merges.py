"""Merge files carried out, against their definitions in float64."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from mergekit_cases import CASES, with_paths
from mergekit_models import family, tensors_of
from mergekit_oracle import merged

from mats.engine.merging import merge
from mats.recipes.mergekit import Options, merge_file_request
from mats.yaml_reader import read_yaml

TOLERANCE = 2e-6
"""A few roundings of float32 on numbers around 1."""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Four tiny Llamas."""
    return family(tmp_path_factory.mktemp("family"))


@pytest.fixture(autouse=True)
def _no_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mats.engine.merging.write_report", lambda *_, **__: [])


def carried_out(file: dict[str, Any], paths: dict[str, Path], root: Path, **options: Any) -> dict[str, torch.Tensor]:
    """The tensors of the output of a merge file."""
    root.mkdir(exist_ok=True)
    path = root / "merge.yaml"
    path.write_text(yaml.safe_dump(with_paths(file, paths)))
    return tensors_of(merge(merge_file_request(read_yaml(path), Options(root / "out", device="cpu", **options))).path)


def arrays(paths: dict[str, Path]) -> dict[str, dict[str, np.ndarray]]:
    return {name: {key: value.double().numpy() for key, value in tensors_of(at).items()} for name, at in paths.items()}


@pytest.mark.parametrize("case", list(CASES))
def test_every_case_is_what_its_definition_says(case: str, models: dict[str, Path], tmp_path: Path) -> None:
    expected = merged(CASES[case], arrays(models))
    received = carried_out(CASES[case], models, tmp_path)
    assert sorted(received) == sorted(expected)
    for name, value in expected.items():
        np.testing.assert_allclose(received[name].double().numpy(), value, atol=TOLERANCE, err_msg=name)


def test_the_definitions_tell_a_wrong_gradient(models: dict[str, Path], tmp_path: Path) -> None:
    wrong = {**CASES["slerp"], "parameters": {"t": [{"filter": "self_attn", "value": [0.4, 0.9, 0.2]}, {"value": 0.3}]}}
    expected = merged(wrong, arrays(models))
    received = carried_out(CASES["slerp"], models, tmp_path)
    name = "model.layers.0.self_attn.q_proj.weight"
    assert np.abs(received[name].double().numpy() - expected[name]).max() > 1e-2


def test_r15_every_parameter_reaches_the_kernel(models: dict[str, Path], tmp_path: Path) -> None:
    start: dict[str, Any] = {"weight": 0.5, "density": 0.6}
    changed = {
        "ties": {"weight": 0.7, "density": 0.5, "lambda": 0.9, "normalize": False, "rescale": True},
        "dare_ties": {"density": 0.5, "rescale": False, "normalize": True, "lambda": 0.4},
        "della": {"density": 0.55, "epsilon": 0.3, "rescale": False, "normalize": False},
        "breadcrumbs": {"density": 0.5, "gamma": 0.2, "rescale": True, "normalize": True, "weight": 0.2},
    }
    name = "model.layers.1.mlp.up_proj.weight"
    for method, parameters in changed.items():
        one = {"model": "m1", "parameters": {"weight": 0.9}}
        file = {"merge_method": method, "base_model": "base", "models": [one, {"model": "m2"}]}
        before = carried_out({**file, "parameters": start}, models, tmp_path / method)[name]
        for key, value in parameters.items():
            after = carried_out({**file, "parameters": {**start, key: value}}, models, tmp_path / f"{method} {key}")[
                name
            ]
            assert float((after - before).abs().max()) > 1e-4, f"{method}: {key}"


def test_r15_density_is_the_share_that_is_kept(models: dict[str, Path], tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    base = tensors_of(models["base"])[name]
    for method in ("ties", "dare_linear", "della_linear", "breadcrumbs"):
        file = {
            "merge_method": method,
            "base_model": "base",
            "models": [{"model": "m1", "parameters": {"weight": 1.0, "density": 0.25}}],
        }
        kept = float((carried_out(file, models, tmp_path / method)[name] != base).double().mean())
        assert kept == pytest.approx(0.25, abs=0.12 if method.startswith(("dare", "della")) else 0.01), method


def test_random_methods_keep_the_norm_and_follow_the_seed(models: dict[str, Path], tmp_path: Path) -> None:
    file = {
        "merge_method": "dare_linear",
        "base_model": "base",
        "models": [{"model": "m1", "parameters": {"weight": 1.0, "density": 0.5}}],
    }
    name = "model.layers.1.mlp.up_proj.weight"
    base, model = (tensors_of(models[each])[name].double() for each in ("base", "m1"))
    results = [
        carried_out(file, models, tmp_path / str(index), seed=seed)[name].double() - base
        for index, seed in enumerate((0, 0, 1))
    ]
    assert torch.equal(results[0], results[1])
    assert not torch.equal(results[0], results[2])
    kept = results[0] != 0
    ratio = (results[0] / (model - base))[kept]
    factor = (model - base).abs().sum() / (model - base)[kept].abs().sum()
    np.testing.assert_allclose(ratio.numpy(), float(factor), rtol=1e-4)


def test_r16_unmatched_tensors_stay_those_of_the_base(tmp_path: Path) -> None:
    paths = family(tmp_path / "bf16", torch.bfloat16)
    file = {
        "merge_method": "ties",
        "base_model": "base",
        "unmatched": "base",
        "models": [{"model": name, "parameters": {"weight": {"filter": "mlp", "value": 1.0}}} for name in ("m1", "m2")],
    }
    received, base = carried_out(file, paths, tmp_path), tensors_of(paths["base"])
    for name, tensor in base.items():
        assert torch.equal(received[name], tensor) == ("mlp" not in name), name


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({}, torch.bfloat16),
        ({"dtype": "float32"}, torch.float32),
        ({"dtype": "float32", "out_dtype": "torch.float16"}, torch.float16),
    ],
)
def test_r18_dtypes_of_the_file_decide(keys: dict[str, str], expected: torch.dtype, tmp_path: Path) -> None:
    paths = family(tmp_path / "bf16", torch.bfloat16)
    received = carried_out({**CASES["linear"], **keys}, paths, tmp_path)
    assert {tensor.dtype for tensor in received.values()} == {expected}
    exact = merged(CASES["linear"], arrays(paths))
    for name, tensor in received.items():
        rounded = torch.from_numpy(exact[name]).to(expected)
        assert float((tensor.double() - rounded.double()).abs().max()) <= 2 * float(torch.finfo(expected).eps) * float(
            rounded.abs().max()
        ), name


def test_r18_half_and_bfloat16_meet_in_float32(tmp_path: Path) -> None:
    half, brain = family(tmp_path / "half", torch.float16), family(tmp_path / "brain", torch.bfloat16)
    received = carried_out(CASES["linear"], {**half, "m2": brain["m2"]}, tmp_path)
    assert {tensor.dtype for tensor in received.values()} == {torch.float32}
