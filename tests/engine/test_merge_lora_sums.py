"""LoRA adapters in, a LoRA adapter out, by their factors: against fp64 products, and through PEFT's own loading."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lora_adapters import make_base, make_lora, request_of, updates, updates_by_peft
from torch import Tensor

from mats.checkpoints import open_checkpoint
from mats.checkpoints.lora import open_lora
from mats.engine import Heads, merge, plan_merge
from mats.engine.request import Rule
from mats.errors import InputsMismatch, RequestError, ShapeMismatch
from mats.methods import AverageSettings, LinearSettings, TaskArithmeticSettings
from mats.methods.formula import FormulaSettings
from mats.progress import Silent

pytestmark = pytest.mark.usefixtures("light_adapter_report")

SUM = TaskArithmeticSettings(scale=1.0)


@pytest.fixture
def light_adapter_report(monkeypatch: pytest.MonkeyPatch) -> None:
    def write(report: dict[str, Any], folder: Path, **_: object) -> list[str]:
        (folder / "report.json").write_text(json.dumps(report, indent=2, sort_keys=True))
        return ["report.json"]

    monkeypatch.setattr("mats.engine.adapters.write_report", write)


def check(folder: Path, expected: dict[str, Tensor], *, rtol: float = 1e-5) -> None:
    found = updates(folder)
    assert found.keys() == expected.keys()
    for name, update in expected.items():
        torch.testing.assert_close(found[name], update, rtol=rtol, atol=1e-6)


def test_r01_identity_adapter(tmp_path: Path) -> None:
    """R01: one adapter with weight 1 is itself to the bit: plain, α ≠ r, rsLoRA, with a bias of B."""
    kinds: dict[str, dict[str, Any]] = {
        "plain": {"lora_alpha": 4},
        "alpha": {"lora_alpha": 7},
        "rslora": {"lora_alpha": 8, "use_rslora": True, "r": 3},
        "bias": {"lora_bias": True, "lora_alpha": 3, "target_modules": ["query", "value"], "family": "bert"},
    }
    for number, (kind, options) in enumerate(kinds.items()):
        root = tmp_path / kind
        family = options.get("family", "t5")
        folder = make_lora(root, "a", number, **options)
        merge(request_of({"a": folder}, [1.0], root / "out", SUM))
        with open_checkpoint(folder) as given, open_checkpoint(root / "out") as merged:
            assert given.tensors.keys() == merged.tensors.keys()
            for name in given.tensors:
                assert torch.equal(given.read(name), merged.read(name)), name
        ours, theirs = updates_by_peft(root / "out", root, family), updates_by_peft(folder, root, family)
        assert ours.keys() == theirs.keys()
        for name, change in theirs.items():
            torch.testing.assert_close(ours[name], change, rtol=1e-12, atol=1e-12)


def test_r01_identity_adapter_with_dora_is_refused_by_name(tmp_path: Path) -> None:
    folder = make_lora(tmp_path, "a", 0, use_dora=True)
    with pytest.raises(RequestError, match=r"exact adds s·B·A .* a has DoRA magnitudes"):
        plan_merge(request_of({"a": folder}, [1.0], tmp_path / "out", SUM, {"combine": "exact"}))


def test_r02_no_cross_terms_and_r04_negative_weights(tmp_path: Path) -> None:
    """Σ w_i s_i B_i A_i of different ranks and scalings, one of them negative; PEFT merges the folder to the same."""
    folders = {
        "a": make_lora(tmp_path, "a", 1, r=2, lora_alpha=5),
        "b": make_lora(tmp_path, "b", 2, r=4, lora_alpha=8, use_rslora=True),
        "c": make_lora(tmp_path, "c", 3, r=3, target_modules=["q", "k"]),
    }
    weights = [0.7, -1.3, 0.4]
    report = merge(request_of(folders, weights, tmp_path / "out", TaskArithmeticSettings(scale=0.5))).report
    expected: dict[str, Tensor] = {}
    for folder, weight in zip(folders.values(), weights, strict=True):
        for name, update in updates(folder).items():
            expected[name] = expected.get(name, 0) + 0.5 * weight * update
    check(tmp_path / "out", expected)
    for name, change in updates_by_peft(tmp_path / "out", tmp_path).items():
        torch.testing.assert_close(change, expected[name.removesuffix(".weight")], rtol=1e-5, atol=1e-6)
    ranks = {entry["name"].rsplit(".", 2)[-2]: entry["rank"] for entry in report["layers"]}
    assert ranks == {"q": 9, "v": 6, "k": 3}
    assert set(report["missing"]) == {"a", "b", "c"}


def test_r05_weights_on_both_factors(tmp_path: Path) -> None:
    """R05: weights [1, 0, 0] give the first adapter unchanged."""
    folders = {name: make_lora(tmp_path, name, seed, r=2 + seed) for seed, name in enumerate("abc")}
    merge(request_of(folders, [1.0, 0.0, 0.0], tmp_path / "out", LinearSettings()))
    check(tmp_path / "out", updates(folders["a"]), rtol=0)


def test_r06_rank_pattern_reload(tmp_path: Path) -> None:
    """R06: every module's own rank and scaling are read, and those of the sum survive save → PEFT → ours."""
    patterned = make_lora(
        tmp_path, "a", 1, r=2, rank_pattern={"q": 5}, alpha_pattern={"encoder.block.0.layer.0.SelfAttention.v": 9}
    )
    other = make_lora(tmp_path, "b", 2, r=3)
    merge(request_of({"a": patterned, "b": other}, [1.0, 1.0], tmp_path / "out", SUM))
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert {config["r"], *config["rank_pattern"].values()} == {5, 8}
    expected = {name: update + updates(other)[name] for name, update in updates(patterned).items()}
    check(tmp_path / "out", expected)
    for name, change in updates_by_peft(tmp_path / "out", tmp_path).items():
        torch.testing.assert_close(change, expected[name.removesuffix(".weight")], rtol=1e-5, atol=1e-6)


def test_negating_twice_is_the_identity(tmp_path: Path) -> None:
    folder = make_lora(tmp_path, "a", 1, use_rslora=True)
    merge(request_of({"a": folder}, [-1.0], tmp_path / "negated", SUM))
    check(tmp_path / "negated", {name: -update for name, update in updates(folder).items()}, rtol=0)
    merge(request_of({"a": tmp_path / "negated"}, [-1.0], tmp_path / "twice", SUM))
    with open_lora(folder) as given, open_lora(tmp_path / "twice") as twice:
        for name, module in given.modules.items():
            assert torch.equal(module.A, twice.modules[name].A)
            assert torch.equal(module.B, twice.modules[name].B)
            assert twice.modules[name].scaling == pytest.approx(module.scaling, rel=1e-12)


@pytest.mark.parametrize(
    ("method", "weights", "coefficients"),
    [
        (AverageSettings(), [1.0, 3.0, 4.0], (1 / 8, 3 / 8, 4 / 8)),
        (LinearSettings(normalize=True), [2.0, -1.0, 1.0], (1.0, -0.5, 0.5)),
        (FormulaSettings(formula="base - 0.7*(a - base)"), [1.0] * 3, (-0.7, 0.0, 0.0)),
        (FormulaSettings(formula="base + 0.9*(a - base) + 0.1*(b - c)"), [1.0] * 3, (0.9, 0.1, -0.1)),
        (FormulaSettings(formula="a + b - c"), [1.0] * 3, (1.0, 1.0, -1.0)),
    ],
)
def test_linear_methods(tmp_path: Path, method: Any, weights: list[float], coefficients: tuple[float, ...]) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("abc")}
    merge(request_of(folders, weights, tmp_path / "out", method))
    expected = {
        name: sum(factor * updates(folder)[name] for factor, folder in zip(coefficients, folders.values(), strict=True))
        for name in updates(folders["a"])
    }
    check(tmp_path / "out", expected)


def test_rules_give_modules_coefficients_of_their_own(tmp_path: Path) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    rules = (Rule("decoder.*", AverageSettings()),)
    merge(request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, rules=rules))
    a, b = (updates(folder) for folder in folders.values())
    check(tmp_path / "out", {n: (0.5 if n.startswith("decoder") else 1.0) * (a[n] + b[n]) for n in a})


@pytest.mark.parametrize("settings", [{"rank": 2}, {"combine": "svd"}, {"combine": "svd", "rank": 100}])
def test_best_rank(tmp_path: Path, settings: dict[str, Any]) -> None:
    """R03 as well: scaling 2 counts once. The report says what is lost, to the digit of the dense SVD."""
    folders = {name: make_lora(tmp_path, name, seed, lora_alpha=8, r=4) for seed, name in enumerate("ab")}
    report = merge(request_of(folders, [1.0, -0.5], tmp_path / "out", SUM, settings)).report
    a, b = (updates(folder) for folder in folders.values())
    rank = min(settings.get("rank", 4), 8)
    expected, lost = {}, {}
    for name in a:
        total = a[name] - 0.5 * b[name]
        left, values, right = torch.linalg.svd(total)
        expected[name] = left[:, :rank] * values[:rank] @ right[:rank]
        lost[f"{name}.weight"] = float(values[rank:].norm() / values.norm())
    check(tmp_path / "out", expected)
    for entry in report["layers"]:
        assert (entry["rule"], entry["rank"], entry["metric"]) == ("svd", rank, "frobenius")
        assert entry["truncation_error"] == pytest.approx(lost[entry["name"]], abs=1e-6)


def test_reduced_without_loss(tmp_path: Path) -> None:
    """The same adapter twice: 8 ranks one after another, 4 that are needed."""
    folder = make_lora(tmp_path, "a", 1)
    for reduce, rank in ((False, 8), (True, 4)):
        out = tmp_path / f"out{reduce}"
        report = merge(request_of({"a": folder, "b": folder}, [1.0, 0.5], out, SUM, {"reduce": reduce})).report
        assert {entry["rank"] for entry in report["layers"]} == {rank}
        check(out, {name: 1.5 * update for name, update in updates(folder).items()})


def test_published_forms_and_how_far_they_are_from_the_sum(tmp_path: Path) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    settings = {"combine": "factorwise", "negate": "B"}
    report = merge(request_of(folders, [1.0, -1.0], tmp_path / "out", SUM, settings)).report
    a, b = (updates(folder) for folder in folders.values())
    with open_lora(folders["a"]) as first, open_lora(folders["b"]) as second:
        expected = {
            name: 2.0 * (module.B - second.modules[name].B).double() @ (module.A + second.modules[name].A).double()
            for name, module in first.modules.items()
        }
    check(tmp_path / "out", expected)
    for entry in report["layers"]:
        name = entry["name"].removesuffix(".weight")
        exact = a[name] - b[name]
        difference = float((expected[name] - exact).norm() / exact.norm())
        assert entry["difference_from_sum"] == pytest.approx(difference, rel=1e-5)
        assert entry["difference_from_sum"] > 0.3
        cosine = float((expected[name] * exact).sum() / expected[name].norm() / exact.norm())
        assert entry["cosine_with_sum"] == pytest.approx(cosine, rel=1e-5)


@pytest.mark.parametrize("layer", ["embedding", "convolution", "conv1d"])
def test_other_layers(tmp_path: Path, layer: str) -> None:
    family, options = {
        "embedding": ("bert", {"target_modules": ["word_embeddings", "query"]}),
        "convolution": ("vit", {"target_modules": ["projection", "query"]}),
        "conv1d": ("gpt2", {"target_modules": ["c_attn", "c_proj"], "fan_in_fan_out": True}),
    }[layer]
    folders = {name: make_lora(tmp_path, name, seed, family=family, **options) for seed, name in enumerate("ab")}
    for number, settings in enumerate(({}, {"rank": 3})):
        merge(request_of(folders, [1.0, -0.5], tmp_path / f"out{number}", SUM, settings))
    a, b = (updates_by_peft(folder, tmp_path, family) for folder in folders.values())
    exact = updates_by_peft(tmp_path / "out0", tmp_path, family)
    cut = updates_by_peft(tmp_path / "out1", tmp_path, family)
    assert exact.keys() == a.keys()
    for name in a:
        expected = a[name] - 0.5 * b[name]
        torch.testing.assert_close(exact[name], expected, rtol=1e-5, atol=1e-6)
        left, values, right = torch.linalg.svd(expected.flatten(1), full_matrices=False)
        best = (left[:, :3] * values[:3] @ right[:3]).reshape(expected.shape)
        torch.testing.assert_close(cut[name], best, rtol=1e-4, atol=1e-5)


def test_biases_of_B_add_up_too(tmp_path: Path) -> None:
    options = {"family": "bert", "target_modules": ["query", "value"], "lora_bias": True, "lora_alpha": 3}
    folders = {"a": make_lora(tmp_path, "a", 0, **options), "b": make_lora(tmp_path, "b", 1, r=2, **options)}
    merge(request_of(folders, [0.5, -2.0], tmp_path / "out", SUM))
    a, b = (updates_by_peft(folder, tmp_path, "bert") for folder in folders.values())
    found = updates_by_peft(tmp_path / "out", tmp_path, "bert")
    assert {name.rsplit(".", 1)[-1] for name in found} == {"weight", "bias"}
    for name, change in found.items():
        torch.testing.assert_close(change, 0.5 * a[name] - 2 * b[name], rtol=1e-5, atol=1e-6)


def with_head(tmp_path: Path) -> dict[str, Path]:
    options = {"family": "bert", "target_modules": ["query"], "modules_to_save": ["classifier"], "task_type": "SEQ_CLS"}
    return {name: make_lora(tmp_path, name, seed, **options) for seed, name in enumerate("ab")}


def test_modules_saved_whole(tmp_path: Path) -> None:
    """Averaged without a base; with other coefficients the base's values count, and are asked for."""
    folders = with_head(tmp_path)
    merge(request_of(folders, [1.0, 3.0], tmp_path / "mean", AverageSettings()))
    with open_lora(folders["a"]) as a, open_lora(folders["b"]) as b, open_lora(tmp_path / "mean") as mean:
        for name, content in mean.other.items():
            expected = 0.25 * a.other[name].read() + 0.75 * b.other[name].read()
            torch.testing.assert_close(content.read(), expected)
        assert len(mean.other) == 2
        with pytest.raises(RequestError, match=r"model a: saves classifier\.\w+ whole.*`base:` would be right"):
            plan_merge(request_of(folders, [1.0, 1.0], tmp_path / "sum", SUM))
        merge(request_of(folders, [1.0, 1.0], tmp_path / "sum", SUM, base=str(make_base(tmp_path, "bert"))))
        with open_checkpoint(make_base(tmp_path, "bert")) as base, open_lora(tmp_path / "sum") as summed:
            for name, content in summed.other.items():
                expected = a.other[name].read() + b.other[name].read() - base.read(name)
                torch.testing.assert_close(content.read(), expected)
    updates_by_peft(tmp_path / "mean", tmp_path, "bert")


def test_heads_follow_their_own_choice(tmp_path: Path) -> None:
    folders = with_head(tmp_path)
    merge(request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, heads=Heads(source="b")))
    with open_lora(folders["b"]) as b, open_lora(tmp_path / "out") as merged:
        for name, content in merged.other.items():
            assert torch.equal(content.read(), b.other[name].read())


def test_heads_named_by_patterns_are_kept_apart(tmp_path: Path) -> None:
    """A saved module that only a pattern calls a head follows `heads`; without the pattern it is merged."""
    names = {"target_modules": ["query"], "modules_to_save": ["pooler"]}
    folders = {name: make_lora(tmp_path, name, seed, family="bert", **names) for seed, name in enumerate("ab")}
    patterns = Heads(("*pooler*",), "b")
    with open_lora(folders["a"]) as a, open_lora(folders["b"]) as b:
        for heads, share in ((patterns, 0.0), (Heads(source="b"), 0.5)):
            merge(request_of(folders, [1.0, 1.0], tmp_path / "out", AverageSettings(), heads=heads, overwrite=True))
            with open_lora(tmp_path / "out") as merged:
                assert len(merged.other) == 2
                for name, content in merged.other.items():
                    expected = share * a.other[name].read() + (1 - share) * b.other[name].read()
                    torch.testing.assert_close(content.read(), expected)


def test_what_adapters_lack_is_unchanged_or_an_error_as_the_request_says(tmp_path: Path) -> None:
    folders = {"a": make_lora(tmp_path, "a", 0), "c": make_lora(tmp_path, "c", 1, target_modules=["q"])}
    assert set(plan_merge(request_of(folders, [1.0, 1.0], tmp_path / "out", SUM)).missing) == {"c"}
    with pytest.raises(InputsMismatch, match=r"model c: does not adapt \d+ weights that others do .*`missing: base`"):
        plan_merge(request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, missing="error"))
    with pytest.raises(RequestError, match="missing: zeros: is about a whole model"):
        request_of(folders, [1.0, 1.0], tmp_path / "out", SUM, missing="zeros")


def test_same_bytes_again_and_after_an_interruption(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    merge(request_of(folders, [1.0, -0.5], tmp_path / "whole", SUM, {"rank": 3}))

    class Interrupted(Silent):
        count = 0

        def advance(self, amount: int = 1) -> None:
            self.count += amount
            if self.count == 5:
                raise KeyboardInterrupt

    request = request_of(folders, [1.0, -0.5], tmp_path / "again", SUM, {"rank": 3})
    with pytest.raises(KeyboardInterrupt):
        merge(request, Interrupted())
    assert not (tmp_path / "again").exists()
    counted = counting(monkeypatch)
    merge(request)
    assert len(counted) == 12 - 5
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_another_adapter_with_the_same_coefficients_is_another_merge(tmp_path: Path) -> None:
    """Partial work of `formula: a` must not become part of `formula: b`, whose modules have the same plan."""
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}

    class Interrupted(Silent):
        def advance(self, amount: int = 1) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(request_of(folders, [1.0, 1.0], tmp_path / "out", FormulaSettings(formula="a")), Interrupted())
    merge(request_of(folders, [1.0, 1.0], tmp_path / "out", FormulaSettings(formula="b")))
    check(tmp_path / "out", updates(folders["b"]))


def counting(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    from mats.engine import adapters

    original: Callable[..., Any] = adapters.merge_module
    seen: list[str] = []

    def count(part: Any, *rest: Any) -> Any:
        seen.append(part.name)
        return original(part, *rest)

    monkeypatch.setattr(adapters, "merge_module", count)
    return seen


def test_plan_tells_without_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    request = request_of(folders, [1.0, 1.0], tmp_path / "out", SUM)
    monkeypatch.setattr("mats.checkpoints.checkpoint.Checkpoint.read", lambda *_: pytest.fail("read"))
    plan = plan_merge(request)
    assert plan.by_rule == {"exact": sum(info.numel for info in plan.tensors)}
    assert {info.shape[0] for info in plan.tensors if "lora_A" in info.name} == {8}


@pytest.mark.parametrize(
    ("method", "settings", "message"),
    [
        (LinearSettings(), {}, r"2 times the base would be left, which an adapter cannot hold"),
        (FormulaSettings(formula="a - b"), {}, r"formula a - b: .* 0 times the base would be left"),
        (FormulaSettings(formula="a + 1 - 1 + 2"), {}, r"2 is added to every weight, which an adapter cannot hold"),
        (SUM, {"metric": "curvature"}, r"adapters.metric: curvature: the method is linear, and exact loses nothing"),
        (SUM, {"combine": "alpaca"}, r"alpaca takes two adapters with coefficients 1 and −c"),
    ],
)
def test_refusals(tmp_path: Path, method: Any, settings: dict[str, Any], message: str) -> None:
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    with pytest.raises(RequestError, match=message):
        plan_merge(request_of(folders, [1.0, 1.0], tmp_path / "out", method, settings))


def test_what_is_about_whole_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="chat_template: is about a whole model, and adapters gives an adapter"):
        request_of({"a": tmp_path}, [1.0], tmp_path / "out", SUM, chat_template="chatml")


def test_adapters_that_do_not_fit_are_refused_with_both_sides(tmp_path: Path) -> None:
    a, b = make_lora(tmp_path, "a", 0), make_lora(tmp_path, "b", 1, r=2)
    with pytest.raises(
        InputsMismatch, match=r"factorwise adds factors entry by entry, and adapters have ranks 4 and 2"
    ):
        plan_merge(request_of({"a": a, "b": b}, [1.0, 1.0], tmp_path / "out", SUM, {"combine": "factorwise"}))
    c = make_lora(tmp_path, "c", 1, target_modules=["q"])
    with pytest.raises(InputsMismatch, match=r"model c: does not adapt decoder\.block\.0\..*v, which others do"):
        plan_merge(request_of({"a": a, "c": c}, [1.0, 1.0], tmp_path / "out", SUM, {"combine": "peft_linear"}))
    other = make_lora(tmp_path / "bert", "d", 0, family="bert", target_modules=["query"])
    with pytest.raises(InputsMismatch, match=r"is a whole model, and adapters is about LoRA"):
        plan_merge(request_of({"a": a, "m": make_base(tmp_path)}, [1.0, 1.0], tmp_path / "out", SUM))
    wide = tmp_path / "wide"
    with open_lora(other) as adapter:
        from mats.checkpoints.lora import LoraModule
        from mats.checkpoints.lora_writing import write_lora_adapter

        modules = {name: LoraModule.of(name, torch.randn(4, 17), module.B) for name, module in adapter.modules.items()}
        write_lora_adapter(wide, modules, adapter.config)
    with pytest.raises(
        ShapeMismatch, match=r"model w: its update of .* is linear \[16, 17\], that of model d .*16, 16"
    ):
        plan_merge(request_of({"d": other, "w": wide}, [1.0, 1.0], tmp_path / "out", SUM))


def test_dtypes(tmp_path: Path) -> None:
    """One rounding to bf16 of factors summed in fp64."""
    folders = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    merge(request_of(folders, [1 / 3, 1.0], tmp_path / "out", SUM, dtype="bfloat16"))
    with open_lora(folders["a"]) as a, open_lora(folders["b"]) as b, open_lora(tmp_path / "out") as merged:
        for name, module in merged.modules.items():
            assert module.A.dtype == torch.bfloat16
            stacked = torch.cat([a.modules[name].B.double() * 2 / 3, b.modules[name].B.double() * 2], dim=1)
            assert torch.equal(module.B, stacked.to(torch.bfloat16))
    assert math.isclose(json.loads((tmp_path / "out" / "adapter_config.json").read_text())["lora_alpha"], 8)


def test_an_adapter_of_another_base_than_the_one_given_is_refused(tmp_path: Path) -> None:
    own = {name: make_lora(tmp_path, name, seed) for seed, name in enumerate("ab")}
    other = make_lora(tmp_path / "elsewhere", "c", 2, family="gpt2", target_modules=["c_attn"])
    base = str(make_base(tmp_path))
    assert plan_merge(request_of(own, [1.0, 1.0], tmp_path / "out", SUM, base=base))
    mixed = request_of({"a": own["a"], "c": other}, [1.0, 1.0], tmp_path / "out", SUM, base=base)
    with pytest.raises(InputsMismatch, match=r"model c: adapts \S+c_attn, which the base base does not have"):
        plan_merge(mixed)
