"""Data-free methods as whole merges: files in, files out, the same numbers as the method alone on tensors in memory."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from engine_families import Family
from lora_adapters import make_base, make_lora, updates
from safetensors.torch import load_file
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.engine import MergeRequest, ModelInput, merge
from mats.methods import (
    BreadcrumbsSettings,
    IsoCtsSettings,
    KnotsSettings,
    MatsSettings,
    PointwiseSettings,
    TiesSettings,
    WudiSettings,
    elementwise,
)
from mats.methods.settings import ElementwiseSettings
from mats.progress import Silent

pytestmark = pytest.mark.usefixtures("light_report")
METHODS = {
    "ties_exact": TiesSettings(density=0.3, kept_count="exact"),
    "ties_std": TiesSettings(trim="std", elect="norm_mass", aggregate="median"),
    "ties_norm": TiesSettings(trim="norm_fraction", elect="norm_fraction", aggregate="disjoint_max"),
    "ties_tensor": TiesSettings(trim_scope="tensor", kept_count="exact", zero_votes="positive"),
    "breadcrumbs": BreadcrumbsSettings(),
    "pointwise": PointwiseSettings(),
    "wudi": WudiSettings(anchor=0.01),
    "iso_cts": IsoCtsSettings(),
    "knots": KnotsSettings(density=0.5),
}


def weights(path: Path) -> dict[str, Tensor]:
    with open_checkpoint(path) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


def in_memory(
    settings: ElementwiseSettings, base: dict[str, Tensor], models: list[dict[str, Tensor]]
) -> dict[str, Tensor]:
    """Every tensor merged by the method alone, no engine, no file, no sample."""
    made = elementwise(settings, [1.0] * len(models))
    made.prepare(lambda i, n: models[i][n].clone(), lambda n: base[n].clone(), list(base), Silent())
    once = lambda name: made.merge(name, base[name].clone(), (model[name].clone() for model in models))  # noqa: E731
    merged = {name: once(name) for name in base}
    return merged | {name: once(name) for name in made.deferred()}


@pytest.mark.parametrize(
    ("family", "method"),
    [("t5", method) for method in METHODS] + [(f, m) for f in ("bert", "gpt2", "vit") for m in ("ties_exact", "wudi")],
)
def test_a_merge_of_files_is_the_method_on_their_tensors(
    family: str, method: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    made: Family = request.getfixturevalue(family)
    asked = MergeRequest(made.inputs(), METHODS[method], tmp_path / "out", str(made.base), device="cpu")
    merged = weights(merge(asked).path)
    base = weights(made.base)
    expected = in_memory(METHODS[method], base, [weights(path) for path in made.models])
    assert set(merged) == set(expected)
    for name, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[name].to(tensor.dtype), atol=1e-6, rtol=1e-5, msg=name)
    if method != "pointwise":
        assert any(not torch.equal(tensor, base[name]) for name, tensor in merged.items())


@pytest.mark.parametrize("method", ["knots", "ties_exact"])
def test_any_of_them_is_a_start(bert: Family, method: str, tmp_path: Path) -> None:
    settings = MatsSettings(init=METHODS[method], fallback=("init",))
    started = MergeRequest(bert.inputs(metadata=True), settings, tmp_path / "start", str(bert.base), device="cpu")
    alone = MergeRequest(bert.inputs(), METHODS[method], tmp_path / "alone", str(bert.base), device="cpu")
    expected = weights(merge(alone).path)
    assert all(torch.equal(expected[name], value) for name, value in weights(merge(started).path).items())


def test_knots_of_lora_works_on_their_products(tmp_path: Path) -> None:
    """Ranks, scalings and names are the adapters' own; the merged update stays in their joint range."""
    base = make_base(tmp_path)
    folders = [make_lora(tmp_path, f"a{r}", r, r=r, lora_alpha=6) for r in (2, 3)]
    models = tuple(ModelInput(folder.name, str(folder)) for folder in folders)
    settings = KnotsSettings(density=1.0, elect="none", aggregate="mean")
    for chosen, is_mean in ((settings, True), (KnotsSettings(density=0.3), False)):
        output = tmp_path / f"out{is_mean}"
        merged = weights(merge(MergeRequest(models, chosen, output, str(base), device="cpu")).path)
        start, (one, two) = weights(base), (updates(folder) for folder in folders)
        assert one
        for module in one:
            name = f"{module.removeprefix('base_model.model.')}.weight"
            change = merged[name].double() - start[name].double()
            mean = (one[module] + two[module]) / 2
            assert torch.allclose(change, mean, atol=1e-5) == is_mean
            assert torch.linalg.matrix_rank(change, atol=1e-4) <= 5


def test_ties_words_on_ia3_vectors_measure_from_ones(tmp_path: Path) -> None:
    """No base is needed; an oracle is an (IA)³ adapter too."""
    generator = torch.Generator().manual_seed(5)
    folders = [_ia3(tmp_path / f"m{index}", generator) for index in range(3)]
    models = tuple(ModelInput(folder.name, str(folder)) for folder in folders)
    states = [load_file(folder / "adapter_model.safetensors") for folder in folders]
    for method, settings in METHODS.items():
        if not isinstance(settings, TiesSettings):
            continue
        merge(MergeRequest(models, settings, tmp_path / method, device="cpu"))
        expected = in_memory(settings, {name: torch.ones_like(value) for name, value in states[0].items()}, states)
        merged = load_file(tmp_path / method / "adapter_model.safetensors")
        for name, tensor in merged.items():
            torch.testing.assert_close(tensor, expected[name], atol=1e-6, rtol=1e-5)
    oracle = _ia3(tmp_path / "oracle", generator)
    asked = TiesSettings(trim="none", elect="oracle", oracle=str(oracle), aggregate="magnitude")
    merge(MergeRequest(models, asked, tmp_path / "asked", device="cpu"))
    told = load_file(oracle / "adapter_model.safetensors")
    for name, tensor in load_file(tmp_path / "asked" / "adapter_model.safetensors").items():
        assert torch.equal((tensor - 1).sign(), (told[name] - 1).sign())


def _ia3(folder: Path, generator: torch.Generator) -> Path:
    """An (IA)³ adapter of two layers with random vectors."""
    import json

    from safetensors.torch import save_file

    folder.mkdir()
    names = [f"base_model.model.encoder.block.{i}.layer.0.SelfAttention.{k}.ia3_l" for i in range(2) for k in "kv"]
    vectors = {name: 1 + 0.3 * torch.randn(8, 1, generator=generator) for name in names}
    save_file(vectors, folder / "adapter_model.safetensors", {"format": "pt"})
    config = {"peft_type": "IA3", "target_modules": ["k", "v"], "feedforward_modules": [], "task_type": "SEQ_2_SEQ_LM"}
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": "base"}))
    return folder
