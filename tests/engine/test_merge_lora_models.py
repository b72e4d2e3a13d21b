"""LoRA adapters merged as whole models on their base: by any method, with full models, from their own statistics."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

sys.path.append(str(Path(__file__).parents[1] / "checkpoints"))  # adapters on disk are made there

import adapter_cases as cases
import checkpoint_models as tiny
import peft

from mats.checkpoints import load_model, open_checkpoint
from mats.engine import Heads, MergeRequest, ModelInput, merge, plan_merge
from mats.errors import InputsMismatch, RequestError
from mats.methods import TaskArithmeticSettings
from mats.methods.average import AverageSettings
from mats.methods.ties import TiesSettings

pytestmark = pytest.mark.usefixtures("light_report")
CONFIG = {"r": 3, "lora_alpha": 5, "target_modules": ["query", "dense"]}


def save_adapters(
    root: Path, make: Any = tiny.bert, count: int = 2, dtype: torch.dtype = torch.float32, **settings: Any
) -> list[nn.Module]:
    """`base/`, `adapter0/`, `adapter1/`, …; the adapted models in float64."""
    models = []
    for number in range(count):
        config = peft.LoraConfig(**{**CONFIG, **settings})
        models.append(cases.save_pair(root, make, config, dtype=dtype, seed=number + 1))
        (root / "adapter").rename(root / f"adapter{number}")
    return models


def request(root: Path, names: list[str], method: Any, output: str = "out", **settings: Any) -> MergeRequest:
    models = tuple(ModelInput(name, str(root / name)) for name in names)
    return MergeRequest(models, method, root / output, **{"base": str(root / "base"), "device": "cpu", **settings})


def weights(root: Path, name: str) -> dict[str, Tensor]:
    with open_checkpoint(root / name) as checkpoint:
        return {each: checkpoint.read(each).double() for each in checkpoint.tensors}


def expected(root: Path, models: list[nn.Module], combine: Any) -> dict[str, Tensor]:
    """`combine(base, [model, …])` on effective weights, as PEFT's forward shows them."""
    result = weights(root, "base")
    for name, base in result.items():
        module = name.removesuffix(".weight")
        if name.endswith(".weight") and module.rpartition(".")[2] in CONFIG["target_modules"]:
            result[name] = combine(base, [cases.effective_weight(model, module) for model in models])
    return result


@pytest.mark.parametrize(
    ("method", "combine"),
    [
        (AverageSettings(), lambda base, models: sum(models) / len(models)),
        (TaskArithmeticSettings(scale=0.7), lambda base, models: base + 0.7 * sum(model - base for model in models)),
    ],
    ids=["average", "task_arithmetic"],
)
def test_r02_no_cross_terms(tmp_path: Path, method: Any, combine: Any) -> None:
    adapted = save_adapters(tmp_path)
    merge(request(tmp_path, ["adapter0", "adapter1"], method))
    for name, tensor in expected(tmp_path, adapted, combine).items():
        torch.testing.assert_close(weights(tmp_path, "out")[name], tensor, rtol=1e-6, atol=1e-6)


def test_r09_dora_order(tmp_path: Path) -> None:
    adapted = save_adapters(tmp_path, use_dora=True)
    merge(request(tmp_path, ["adapter0", "adapter1"], TaskArithmeticSettings(scale=1.0)))
    merge(request(tmp_path, ["adapter1", "adapter0"], TaskArithmeticSettings(scale=1.0), "turned"))
    found, turned = weights(tmp_path, "out"), weights(tmp_path, "turned")
    sums = expected(tmp_path, adapted, lambda base, models: base + sum(model - base for model in models))
    for name, tensor in sums.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(turned[name], found[name], rtol=1e-6, atol=1e-6)


def test_adapters_and_full_models_together(tmp_path: Path) -> None:
    """A LoRA adapter, an (IA)³ adapter and a whole model, by TIES: the same as from three whole models."""
    save_adapters(tmp_path, count=1)
    ia3 = peft.IA3Config(target_modules=["key", "output.dense"], feedforward_modules=["output.dense"])
    cases.save_pair(tmp_path, tiny.bert, ia3)
    (tmp_path / "adapter").rename(tmp_path / "vectors")
    whole = cases.lively(tiny.bert)
    cases.scramble(whole, 5)
    whole.save_pretrained(tmp_path / "whole")
    names = ["adapter0", "vectors", "whole"]
    merge(request(tmp_path, names, TiesSettings()))
    folded = [fold(tmp_path, name) if name != "whole" else name for name in names]
    merge(request(tmp_path, folded, TiesSettings(), "from_whole"))
    by_adapters, by_models = weights(tmp_path, "out"), weights(tmp_path, "from_whole")
    for name, tensor in by_models.items():
        torch.testing.assert_close(by_adapters[name], tensor, rtol=1e-6, atol=1e-6)
    assert not torch.equal(by_models["bert.pooler.dense.weight"], weights(tmp_path, "base")["bert.pooler.dense.weight"])


def fold(root: Path, name: str) -> str:
    """One adapter laid onto the base: a merge of it alone."""
    merge(request(root, [name], TaskArithmeticSettings(scale=1.0), f"{name}_whole"))
    return f"{name}_whole"


@pytest.mark.parametrize("target", ["lm_head", "wte"])
def test_r07_tied_head_adapter(tmp_path: Path, target: str) -> None:
    """The merged model, reloaded by transformers, is PEFT's forward; the flag says that its head is its own."""
    from transformers import AutoModelForCausalLM

    (adapted,) = save_adapters(tmp_path, lambda: tiny.gpt2(True), 1, target_modules=["c_attn", target])
    fold(tmp_path, "adapter0")
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path / "adapter0_whole").double().eval()
    assert reloaded.config.tie_word_embeddings is False
    cases.assert_same_forward(reloaded, adapted, 1e-5)  # its weights were rounded to float32


def test_r08_one_rounding_of_the_merge(tmp_path: Path) -> None:
    """bfloat16: the adapters are not rounded before they are added up, so small updates count."""
    adapted = save_adapters(tmp_path, dtype=torch.bfloat16, lora_alpha=0.02)
    merge(request(tmp_path, ["adapter0", "adapter1"], TaskArithmeticSettings(scale=1.0)))
    exact = expected(tmp_path, adapted, lambda base, models: base + sum(model - base for model in models))
    name = "bert.pooler.dense.weight"
    found = weights(tmp_path, "out")[name]
    unit = torch.exp2(torch.floor(torch.log2(exact[name].abs())) - 7)
    assert ((found - exact[name]).abs() / unit).max() <= 0.5 + 1e-2


def test_an_adapter_needs_a_base(tmp_path: Path) -> None:
    save_adapters(tmp_path, count=1)
    with pytest.raises(RequestError, match=r"model adapter0: an adapter \(lora\) is merged as a whole model"):
        plan_merge(request(tmp_path, ["adapter0"], AverageSettings(), base=None))


def test_heads_saved_with_adapters_are_kept(tmp_path: Path) -> None:
    """A body without head as base, two adapters with classifiers of 3 and 5 classes."""
    for number, classes in enumerate((3, 5)):
        config = peft.LoraConfig(**CONFIG, modules_to_save=["classifier"])
        adapted = cases.save_pair(tmp_path, lambda n=classes: tiny.bert(num_labels=n), config, seed=number)
        (tmp_path / "adapter").rename(tmp_path / f"task{number}")
    cases.lively(tiny.bert).bert.save_pretrained(tmp_path / "body")
    heads = {"heads": Heads(), "base": str(tmp_path / "body")}
    merge(request(tmp_path, ["task0", "task1"], AverageSettings(), **heads))
    first = load_model(tmp_path / "out", "text_classification")
    second = load_model(tmp_path / "out", "text_classification", head="task1")
    assert (first.config.num_labels, second.config.num_labels) == (3, 5)
    saved = adapted.get_submodule("base_model.model.classifier.modules_to_save.default")
    torch.testing.assert_close(second.classifier.weight.double(), saved.weight)


def test_r20_plus_and_at_in_paths(tmp_path: Path) -> None:
    root = tmp_path / "a+b@main"
    root.mkdir()
    save_adapters(root, count=1)
    assert fold(root, "adapter0") == "adapter0_whole"
    assert (root / "adapter0_whole" / "config.json").is_file()


def test_an_adapter_on_an_adapter_is_refused(tmp_path: Path) -> None:
    save_adapters(tmp_path, count=2)
    with pytest.raises((RequestError, InputsMismatch), match="an adapter on a whole model is needed"):
        plan_merge(request(tmp_path, ["adapter0"], AverageSettings(), base=str(tmp_path / "adapter1")))


def test_an_adapter_of_another_base_is_told(tmp_path: Path) -> None:
    save_adapters(tmp_path)
    for number, named in enumerate((str(tmp_path / "elsewhere" / "base"), "someone/other-model")):
        file = tmp_path / f"adapter{number}" / "adapter_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "base_model_name_or_path": named}))
    notes = plan_merge(request(tmp_path, ["adapter0", "adapter1"], AverageSettings())).notes
    assert [note for note in notes if "made for" in note] == [
        f"the adapter adapter1 was made for someone/other-model and is merged on {tmp_path / 'base'}"
    ]


def test_r07_a_tied_model_beside_an_adapter_on_the_head(tmp_path: Path) -> None:
    """The tied model's head is its embedding, so both of the output's are averages of their own."""
    (adapted,) = save_adapters(tmp_path, lambda: tiny.gpt2(True), 1, target_modules=["c_attn", "lm_head"])
    whole = cases.lively(lambda: tiny.gpt2(True))
    cases.scramble(whole, 5)
    whole.save_pretrained(tmp_path / "whole")
    merge(request(tmp_path, ["adapter0", "whole"], AverageSettings()))
    found, base, other = (weights(tmp_path, name) for name in ("out", "base", "whole"))
    embedding = "transformer.wte.weight"
    head = cases.effective_weight(adapted, "lm_head")
    torch.testing.assert_close(found["lm_head.weight"], (head + other[embedding]) / 2, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(found[embedding], (base[embedding] + other[embedding]) / 2, rtol=1e-6, atol=1e-6)
