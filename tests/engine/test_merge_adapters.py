"""(IA)³ adapters in, an (IA)³ adapter out: block Fisher from ones, against a dense solve; legacy .pt files likewise."""

from __future__ import annotations

from pathlib import Path

import engine_oracle
import pytest
import torch
from engine_families import RawStore, make_model, save, write_raw

from mats.checkpoints import load_model, open_checkpoint
from mats.engine import Heads, MergeRequest, ModelInput, merge
from mats.errors import FingerprintMismatch
from mats.methods import MatsSettings, SolverChoice, TaskArithmeticSettings
from mats.methods.published import published_settings
from mats.store import Sums

pytestmark = pytest.mark.usefixtures("light_report")


def make_adapters(root: Path, count: int = 3) -> list[Path]:
    from peft import IA3Config, get_peft_model

    base = make_model("t5", 0)
    save(base, root / "base")
    folders = []
    for i in range(count):
        config = IA3Config(
            task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wi_1"], feedforward_modules=[]
        )  # fmt: skip
        model = get_peft_model(make_model("t5", 0), config)
        generator = torch.Generator().manual_seed(i)
        for name, parameter in model.named_parameters():
            if "ia3" in name:
                parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
        model.save_pretrained(root / f"adapter{i}")
        folders.append(root / f"adapter{i}")
    return folders


def measure(root: Path, adapter: Path, seed: int, base: tuple[str, ...] = ()) -> Path:
    """Random per-example gradients of every vector, summed into blocks."""
    generator = torch.Generator().manual_seed(seed)
    raw = RawStore(7 + seed, Sums())
    with open_checkpoint(adapter) as checkpoint:
        names = list(checkpoint.tensors)
        for name, info in checkpoint.tensors.items():
            rows = torch.randn(raw.examples, info.numel, generator=generator, dtype=torch.float64)
            raw.sums.tensors[f"block/{name}"] = rows.T @ rows
    raw.sums.example_ids = [f"{seed}-{i}" for i in range(raw.examples)]
    folder = root / f"store-{adapter.name}"
    write_raw(folder, raw, adapter, names, base)
    return folder


def test_block_fisher_of_adapters(tmp_path: Path) -> None:
    adapters = make_adapters(tmp_path)
    stores = [measure(tmp_path, adapter, seed) for seed, adapter in enumerate(adapters)]
    models = tuple(
        ModelInput(f"task{i}", str(a), 1.0 + i, s) for i, (a, s) in enumerate(zip(adapters, stores, strict=True))
    )
    settings = MatsSettings(
        init=TaskArithmeticSettings(scale=0.2),
        solver=SolverChoice(precision="float64"),
        anchor=0.05,
        damping=0.0,
        scaling="examples",
    )
    request = MergeRequest(models, settings, tmp_path / "out", base=str(tmp_path / "base"), device="cpu")
    report = merge(request).report
    assert set(report["parameters"]["by_rule"]) == {"block"}
    weights = (1.0, 2.0, 3.0)
    with open_checkpoint(tmp_path / "out") as merged:
        assert merged.kind == "ia3"
        for name, info in merged.tensors.items():
            targets, blocks = [], []
            for i, adapter in enumerate(adapters):
                with open_checkpoint(adapter) as checkpoint:
                    targets.append(checkpoint.read(name).double().numpy().reshape(1, -1))
                blocks.append(_block(stores[i], name))
            start = engine_oracle.task_arithmetic(torch.ones(1, info.numel).double().numpy(), targets, 0.2, weights)
            expected = engine_oracle.anchored(blocks, targets, start, weights, 0.05)
            found = merged.read(name).double().numpy().reshape(1, -1)
            assert abs(found - expected).max() < 1e-5
            assert abs(found - start).max() > 1e-3
    _changes_the_logits(tmp_path / "out", tmp_path / "base")


def test_adapters_measured_on_another_base_are_refused(tmp_path: Path) -> None:
    adapters = make_adapters(tmp_path, 2)
    bases = [("base", "xxh3_128:" + digit * 32) for digit in "12"]
    stores = [measure(tmp_path, adapter, i, bases[i]) for i, adapter in enumerate(adapters)]
    models = tuple(
        ModelInput(f"task{i}", str(a), 1.0, s) for i, (a, s) in enumerate(zip(adapters, stores, strict=True))
    )
    with pytest.raises(FingerprintMismatch, match=r"task1 was measured on the base.*not on the base under task0"):
        merge(MergeRequest(models, MatsSettings(), tmp_path / "out"))
    with pytest.raises(FingerprintMismatch, match=r"task0 was measured on the base.*not on the base /"):
        merge(MergeRequest(models, MatsSettings(), tmp_path / "out", base=str(tmp_path / "base")))


def _block(store: Path, name: str):
    from mats.store import open_store

    opened = open_store(store)
    return opened.sum(f"block/{name}").double().numpy() / opened.examples


def _changes_the_logits(adapter: Path, base: Path) -> None:
    ids = torch.arange(10).reshape(2, 5) + 3
    with torch.no_grad():
        plain = load_model(base, "text_to_text")(input_ids=ids, decoder_input_ids=ids).logits
        adapted = load_model(adapter, "text_to_text", base=base)(input_ids=ids, decoder_input_ids=ids).logits
    assert not torch.allclose(plain, adapted, atol=1e-4)


def test_published_settings_for_adapters_take_ten_iterations(tmp_path: Path) -> None:
    adapters = make_adapters(tmp_path, 2)
    models = tuple(ModelInput(f"task{i}", str(a), 1.0, measure(tmp_path, a, i)) for i, a in enumerate(adapters))
    request = MergeRequest(models, published_settings("mats", "ia3"), tmp_path / "out", device="cpu")
    report = merge(request).report
    assert {layer["iterations"] for layer in report["layers"]} <= set(range(11))
    assert all(layer["anchor"] == 0 for layer in report["layers"])


@pytest.mark.parametrize("spelling", ["ia3_layer.ia3_vector", "ia3_vector"])
def test_legacy_files(tmp_path: Path, spelling: str) -> None:
    """MaTS and TIES pickles of (IA)³ vectors become a PEFT adapter."""
    save(make_model("t5", 0), tmp_path / "base")
    key = f"transformer.encoder.block.0.layer.0.SelfAttention.k.{spelling}"
    vectors = [torch.rand(16) + 0.5 for _ in range(2)]
    for i, vector in enumerate(vectors):
        torch.save({key: vector}, tmp_path / f"task{i}.pt")
    models = tuple(ModelInput(f"task{i}", str(tmp_path / f"task{i}.pt")) for i in range(2))
    settings = TaskArithmeticSettings(scale=0.5)
    merge(MergeRequest(models, settings, tmp_path / "out", base=str(tmp_path / "base")))
    with open_checkpoint(tmp_path / "out") as merged:
        (name,) = merged.tensors
        expected = 1 + 0.5 * ((vectors[0] - 1) + (vectors[1] - 1))
        torch.testing.assert_close(merged.read(name).flatten(), expected)
    _changes_the_logits(tmp_path / "out", tmp_path / "base")


def test_full_legacy_checkpoints(tmp_path: Path) -> None:
    """`transformer.`-prefixed state dicts merge onto a base folder."""
    base = make_model("t5", 0)
    save(base, tmp_path / "base")
    state = {name: tensor.detach() for name, tensor in base.named_parameters()}
    for i in range(2):
        torch.save({f"transformer.{k}": v + 0.1 * (i + 1) for k, v in state.items()}, tmp_path / f"task{i}.pt")
    models = tuple(ModelInput(f"task{i}", str(tmp_path / f"task{i}.pt")) for i in range(2))
    merge(MergeRequest(models, TaskArithmeticSettings(scale=1.0), tmp_path / "out", base=str(tmp_path / "base")))
    with open_checkpoint(tmp_path / "out") as merged:
        for name in merged.tensors:
            torch.testing.assert_close(merged.read(name), state[name] + 0.3, rtol=1e-5, atol=1e-5)


def test_adapters_merge_their_vectors_and_keep_the_heads_saved_with_them(tmp_path: Path) -> None:
    from headed_models import with_classes
    from peft import IA3Config, get_peft_model

    make_model("bert", 0).bert.save_pretrained(tmp_path / "base")
    models = []
    for number, classes in enumerate((2, 5)):
        torch.manual_seed(number)
        whole = with_classes(make_model("bert", 0), classes, number)
        config = IA3Config(
            task_type="SEQ_CLS",
            target_modules=["key", "value"],
            feedforward_modules=[],
            modules_to_save=["classifier"],
            base_model_name_or_path=str(tmp_path / "base"),
        )
        adapter = get_peft_model(whole, config)
        for name, parameter in adapter.named_parameters():
            if "ia3" in name:
                parameter.data += 0.2 * torch.randn_like(parameter)
        adapter.save_pretrained(tmp_path / f"adapter{number}")
        models.append(ModelInput(f"task{number}", str(tmp_path / f"adapter{number}")))
    request = MergeRequest(
        tuple(models), TaskArithmeticSettings(scale=0.5), tmp_path / "out", base=str(tmp_path / "base"), heads=Heads()
    )
    report = merge(request).report
    assert report["heads"]["models"]["task1"] == [f"base_model.model.classifier.{part}" for part in ("bias", "weight")]
    checkpoints = [open_checkpoint(model.path) for model in models]
    for number, classes in enumerate((2, 5)):
        with open_checkpoint(tmp_path / "out", head=f"task{number}") as merged:
            for name in merged.tensors:
                if name.endswith("ia3_l"):
                    expected = 1 + 0.5 * sum(checkpoint.read(name) - 1 for checkpoint in checkpoints)
                else:
                    expected = checkpoints[number].read(name)
                torch.testing.assert_close(merged.read(name), expected)
        loaded = load_model(tmp_path / "out", "text_classification", head=f"task{number}")
        logits = loaded(input_ids=torch.arange(2, 14).reshape(2, 6)).logits
        assert logits.shape == (2, classes)
