"""Any method on adapters laid onto their base, an adapter of a given rank out: against the dense merge, cut by hand."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from engine_families import draw_store, make_model, write_raw
from lora_adapters import make_base, make_lora, request_of, updates, updates_by_peft
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.checkpoints.lora import open_lora
from mats.engine import Heads, MergeRequest, merge, plan_merge
from mats.errors import FingerprintMismatch, RequestError
from mats.methods import (
    MatsSettings,
    RegMeanSettings,
    SolverChoice,
    TaskArithmeticSettings,
    TiesSettings,
)
from mats.methods.sparsify import SparsifySettings
from mats.progress import Silent
from mats.store import open_store

SUM = TaskArithmeticSettings(scale=1.0)
EXACT = SolverChoice(precision="float64", tolerance=1e-10)


@pytest.fixture(autouse=True)
def light_adapter_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(report: dict[str, Any], folder: Path, **_: object) -> list[str]:
        (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True))
        return ["report.json"]

    monkeypatch.setattr("mats.engine.adapters.write_report", write)
    monkeypatch.setattr("mats.engine.merging.write_report", write)


def change_of(folder: Path, base: Path) -> dict[str, Tensor]:
    """Weight → merged − base in fp64, of a whole model."""
    with open_checkpoint(folder) as merged, open_checkpoint(base) as below:
        changes = {name: merged.read(name).double() - below.read(name).double() for name in below.tensors}
    return {name: change for name, change in changes.items() if change.abs().max() > 1e-12}


def cut(matrix: Tensor, rank: int) -> tuple[Tensor, float]:
    left, values, right = torch.linalg.svd(matrix, full_matrices=False)
    return left[:, :rank] * values[:rank] @ right[:rank], float(values[rank:].norm() / values.norm())


def both_ways(request: MergeRequest, root: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The change that the same merge makes to a whole model, and the report of the merge into an adapter."""
    merge(replace(request, adapters=None, output=root / "dense"))
    report = merge(request).report
    return change_of(root / "dense", root / "base"), report


@pytest.mark.parametrize("family", ["t5", "gpt2", "vit", "bert"])
def test_ties_into_an_adapter(tmp_path: Path, family: str) -> None:
    """Linear, Conv1D (stored transposed), convolution and embedding; every layer the best of its rank."""
    targets = {
        "t5": ["q", "v"],
        "gpt2": ["c_attn", "c_proj"],
        "vit": ["projection", "query"],
        "bert": ["word_embeddings", "query"],
    }[family]
    base = make_base(tmp_path, family)
    folders = {
        name: make_lora(
            tmp_path, name, seed, family=family, target_modules=targets, fan_in_fan_out=family == "gpt2", r=2 + seed
        )
        for seed, name in enumerate("ab")
    }
    request = request_of(
        folders,
        [1.0, 1.0],
        tmp_path / "out",
        TiesSettings(density=0.5, scale=1.0, trim_scope="tensor"),
        {"rank": 3},
        base=str(base),
    )
    changes, report = both_ways(request, tmp_path)
    found = updates_by_peft(tmp_path / "out", tmp_path, family)
    assert found.keys() == changes.keys()
    lost = {}
    for name, change in changes.items():
        best, lost[name] = cut(change.flatten(1), 3)
        torch.testing.assert_close(found[name].flatten(1), best, rtol=1e-4, atol=1e-5)
        assert lost[name] > 0.05  # TIES has filled the ranks up
    for entry in report["layers"]:
        assert (entry["rank"], entry["metric"]) == (3, "frobenius")
        assert entry["truncation_error"] == pytest.approx(lost[entry["name"]], rel=1e-4)
    assert set(report["parameters"]["by_rule"]) == {"ties"}


def with_stores(root: Path, folders: dict[str, Path], request: MergeRequest) -> MergeRequest:
    with open_checkpoint(root / "base") as base:
        identity = (str(root / "base"), base.fingerprint())
    models = []
    for seed, (model, folder) in enumerate(zip(request.models, folders.values(), strict=True)):
        raw, parameters, _ = draw_store(make_model("t5", 0), 50 + seed)
        if not (root / f"store-{model.name}").exists():
            write_raw(root / f"store-{model.name}", raw, folder, parameters, identity)
        models.append(replace(model, metadata=root / f"store-{model.name}"))
    return replace(request, models=tuple(models))


def test_kfac_on_the_densified_update_with_an_adapter_out(tmp_path: Path) -> None:
    """Solved as whole models, cut in the metric of ΣG ⊗ ΣA: nearer there than the plain truncation, farther else."""
    base = make_base(tmp_path)
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    method = MatsSettings(init=TaskArithmeticSettings(scale=0.5), solver=EXACT, anchor=0.1, scaling="examples")
    request = request_of(folders, [1.0, 2.0], tmp_path / "out", method, {"rank": 2, "damping": 0.0}, base=str(base))
    request = with_stores(tmp_path, folders, request)
    changes, report = both_ways(request, tmp_path)
    assert set(report["parameters"]["by_rule"]) == {"kfac"}
    plain_request = replace(
        request, adapters=request.adapters.model_copy(update={"metric": "frobenius"}), output=tmp_path / "plain"
    )
    merge(plain_request)
    found, plain = updates(tmp_path / "out"), updates(tmp_path / "plain")
    for entry in report["layers"]:
        module = entry["name"].removesuffix(".weight")
        G, A = summed_grams(request, module)
        target = changes[entry["name"]]
        cost, plain_cost, size = (
            math.sqrt(float(torch.trace(d.T @ G @ d @ A)))
            for d in (target - found[module], target - plain[module], target)
        )
        assert entry["metric"] == "curvature"
        assert entry["truncation_error_in_metric"] == pytest.approx(cost / size, rel=1e-3)
        assert cost < 0.99 * plain_cost
        torch.testing.assert_close(plain[module], cut(target, 2)[0], rtol=1e-4, atol=1e-5)
        assert (target - plain[module]).norm() < (target - found[module]).norm()
        values = torch.linalg.svdvals(root_of(G) @ target @ root_of(A))
        assert cost == pytest.approx(float(values[2:].norm()), rel=1e-3)  # Eckart and Young: no rank 2 is nearer


def summed_grams(request: MergeRequest, module: str) -> tuple[Tensor, Tensor]:
    """Σ w_i G_i / tr G_i and Σ w_i A_i / tr A_i with w_i = √(λ_i tr G_i tr A_i), from the stores, written out."""
    G, A = 0, 0
    for model in request.models:
        store = open_store(model.metadata)
        g = store.sum(f"output_gram/{module}").double() / store.examples
        a = store.sum(f"input_gram/{module}").double() / store.tokens("site", module)
        weight = math.sqrt(model.weight * g.trace() * a.trace())
        G, A = G + weight * g / g.trace(), A + weight * a / a.trace()
    return G, A


def root_of(gram: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(gram)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def test_regmean_and_a_sum_in_the_metric_of_curvature(tmp_path: Path) -> None:
    """Input Grams alone, and a data-free sum cut by factors: both in the metric that the stores give."""
    base = make_base(tmp_path)
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    request = request_of(folders, [1.0, 1.0], tmp_path / "regmean", RegMeanSettings(), {"rank": 2}, base=str(base))
    report = merge(with_stores(tmp_path, folders, request)).report
    assert {entry["metric"] for entry in report["layers"]} == {"curvature"}
    settings = {"rank": 2, "metric": "curvature", "damping": 0.0}
    by_factors = request_of(folders, [1.0, -0.5], tmp_path / "sum", SUM, settings)
    report = merge(with_stores(tmp_path, folders, by_factors)).report
    a, b = (updates(folder) for folder in folders.values())
    found = updates(tmp_path / "sum")
    weights = replace(by_factors, models=tuple(replace(model, weight=abs(model.weight)) for model in by_factors.models))
    for entry in report["layers"]:
        module = entry["name"].removesuffix(".weight")
        G, A = summed_grams(with_stores(tmp_path, folders, weights), module)
        target = a[module] - 0.5 * b[module]
        difference = target - found[module]
        cost = math.sqrt(float(torch.trace(difference.T @ G @ difference @ A)))
        values = torch.linalg.svdvals(root_of(G) @ target @ root_of(A))
        assert cost == pytest.approx(float(values[2:].norm()), rel=1e-3)
        assert entry["truncation_error_in_metric"] == pytest.approx(cost / float(values.norm()), rel=1e-3)


def test_stores_of_other_adapters_are_refused(tmp_path: Path) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    request = request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, {"rank": 2, "metric": "curvature"})
    with pytest.raises(RequestError, match=r"model a: adapters.metric: curvature reads metadata and none is given"):
        merge(request)
    request = with_stores(tmp_path, folders, request)
    swapped = tuple(
        replace(model, metadata=other.metadata)
        for model, other in zip(request.models, request.models[::-1], strict=True)
    )
    with pytest.raises(FingerprintMismatch, match=r"measured on 'b' .* not on 'a'"):
        merge(replace(request, models=swapped))


def test_dora_is_cut_from_what_it_makes_of_the_base(tmp_path: Path) -> None:
    """R01: with enough ranks the output is the DoRA adapter's own change, as PEFT merges it."""
    base = make_base(tmp_path)
    folder = make_lora(tmp_path, "a", 1, use_dora=True)
    request = request_of({"a": folder}, [1.0], tmp_path / "out", SUM, {"rank": 16}, base=str(base))
    merge(request)
    ours, theirs = updates_by_peft(tmp_path / "out", tmp_path), updates_by_peft(folder, tmp_path)
    assert ours.keys() == theirs.keys()
    for name, change in theirs.items():
        torch.testing.assert_close(ours[name], change, rtol=1e-4, atol=1e-4)
    with open_lora(tmp_path / "out") as merged:
        assert all(module.magnitude is None for module in merged.modules.values())


def test_sparsified_updates(tmp_path: Path) -> None:
    """DARE of adapters: dropped as whole updates, an adapter of the ranks asked for out."""
    base = make_base(tmp_path)
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    request = request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, {"rank": 5}, base=str(base))
    thinned = tuple(replace(model, sparsify=SparsifySettings(drop=0.5, seed=1)) for model in request.models)
    changes, _ = both_ways(replace(request, models=thinned), tmp_path)
    found = updates(tmp_path / "out")
    for name, change in changes.items():
        torch.testing.assert_close(found[name.removesuffix(".weight")], cut(change, 5)[0], rtol=1e-4, atol=1e-5)


def test_saved_modules_and_biases(tmp_path: Path) -> None:
    """A bias of B, and a module saved whole that the base has, are merged by the method; PEFT finds both."""
    base = make_base(tmp_path, "bert")
    options = {"family": "bert", "target_modules": ["query"], "lora_bias": True, "modules_to_save": ["classifier"]}
    folders = {name: make_lora(tmp_path, name, seed, **options) for seed, name in enumerate("ab")}
    request = request_of(
        folders,
        [1.0, 1.0],
        tmp_path / "out",
        TiesSettings(density=0.4, scale=1.0, trim_scope="tensor"),
        {"rank": 16},
        base=str(base),
    )
    changes, _ = both_ways(request, tmp_path)
    found = updates_by_peft(tmp_path / "out", tmp_path, "bert")
    assert {name.split(".")[-2] for name in changes} == {"query", "classifier"}
    for name, change in changes.items():
        torch.testing.assert_close(found[name], change, rtol=1e-4, atol=1e-5)


def test_heads_that_the_base_lacks_need_a_word(tmp_path: Path) -> None:
    make_model("bert", 0).bert.save_pretrained(tmp_path / "body")
    options = {"family": "bert", "target_modules": ["query"], "modules_to_save": ["classifier"]}
    folders = {name: make_lora(tmp_path, name, seed, **options) for seed, name in enumerate("ab")}
    request = request_of(
        folders, [1.0, 1.0], tmp_path / "out", TiesSettings(), {"rank": 4}, base=str(tmp_path / "body")
    )
    with pytest.raises(RequestError, match=r"models a, b: save classifier\.\w+, which the base does not have.*from: a"):
        plan_merge(request)
    merge(replace(request, heads=Heads(source="b")))
    with open_lora(folders["b"]) as b, open_lora(tmp_path / "out") as merged:
        assert merged.other.keys() == b.other.keys()
        for name, content in merged.other.items():
            assert torch.equal(content.read(), b.other[name].read())


def test_taken_up_after_an_interruption(tmp_path: Path) -> None:
    base = make_base(tmp_path)
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    method = TiesSettings(density=0.5, scale=1.0)
    request = request_of(folders, [1.0, 1.0], tmp_path / "out", method, {"rank": 3}, base=str(base))
    merge(replace(request, output=tmp_path / "whole"))

    class Interrupted(Silent):
        count = 0

        def advance(self, amount: int = 1) -> None:
            self.count += amount
            if self.count >= 20:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(request, Interrupted())
    merge(request)
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"combine": "exact"}, r"exact adds s·B·A of every adapter, and method ties .* is no linear combination"),
        ({"reduce": True}, r"adapters.reduce: a merge of dense updates has all ranks"),
    ],
)
def test_refusals(tmp_path: Path, settings: dict[str, Any], message: str) -> None:
    base = make_base(tmp_path)
    folder = make_lora(tmp_path, "a", 0)
    request = request_of({"a": folder}, [1.0], tmp_path / "out", TiesSettings(), settings, base=str(base))
    with pytest.raises(RequestError, match=message):
        plan_merge(request)
    with pytest.raises(RequestError, match="`base:` with the model under it"):
        plan_merge(replace(request, base=None, adapters=request.adapters.model_validate({})))
