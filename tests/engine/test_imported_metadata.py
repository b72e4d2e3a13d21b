"""Metadata files in the form of the published MaTS code, written from the maths, against a store of our own."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from family_stores import write_measured_store
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[2]))

from benchmarks.architectures.families import FAMILIES, enlivened
from mats.checkpoints import open_checkpoint
from mats.curvature import CollectionSettings
from mats.engine import MergeRequest, ModelInput, merge
from mats.engine.imported import ImportRequest, import_metadata
from mats.errors import CheckpointCorrupt, InputsMismatch, OutputExists, RequestError, ShapeMismatch
from mats.methods import FisherSettings, MatsSettings
from mats.store import open_store

T5 = next(family for family in FAMILIES if family.name == "FLAN-T5")
BATCH = T5.batch(6)
INPUT_TOKENS, TARGET_TOKENS = int(BATCH.input_mask.sum()), int(BATCH.target_mask.sum())


def published(model: nn.Module) -> dict[str, dict[str, Tensor]]:
    """What the published code would save of `model`, from its formulas: examples one by one, means, wrapped names."""
    linears = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    seen: dict[str, list[tuple[Tensor, Tensor]]] = {name: [] for name in linears}
    found: dict[str, dict[str, Tensor]] = {"input_gram": {}, "output_gram": {}, "diagonal": {}}
    squares = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for number in range(BATCH.size):
        inputs = {name: t[number : number + 1] for name, t in BATCH.inputs.items()}
        long, short = int(BATCH.input_mask[number].sum()), int(BATCH.target_mask[number].sum())
        inputs = {name: t[:, : short if "decoder" in name else long] for name, t in inputs.items()}
        labels = BATCH.labels[number : number + 1, :short]
        calls: list[tuple[str, Tensor, Tensor]] = []
        hooks = [module.register_forward_hook(partial(noted, calls, name)) for name, module in linears.items()]
        logits = model.requires_grad_(True)(**inputs).logits
        for hook in hooks:
            hook.remove()
        loss = nn.functional.cross_entropy(logits[0], labels[0])  # the mean over target tokens
        deltas = torch.autograd.grad(loss, [out for *_, out in calls], retain_graph=True)
        for (name, read, _), delta in zip(calls, deltas, strict=True):
            seen[name].append((read.detach().flatten(0, 1), delta.flatten(0, 1)))
        gradients = torch.autograd.grad(loss, list(model.parameters()))
        for (name, _), gradient in zip(model.named_parameters(), gradients, strict=True):
            squares[name] += gradient**2 / BATCH.size
    for name, pairs in seen.items():
        read, delta = (torch.cat(rows) for rows in zip(*pairs, strict=True))
        found["input_gram"][f"transformer.{name}"] = (read.T @ read / len(read)).float()
        if name != "lm_head":
            found["output_gram"][f"transformer.{name}"] = (delta.T @ delta / len(delta)).float()
    found["diagonal"] = {f"transformer.{name}": square.detach().float() for name, square in squares.items()}
    return found


def noted(calls: list[tuple[str, Tensor, Tensor]], name: str, _module: nn.Module, args: Any, output: Tensor) -> None:
    calls.append((name, args[0], output))


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two models, each with files as published, a store imported from them and a store of our own."""
    root = tmp_path_factory.mktemp("published")
    for number in (1, 2):
        folder = root / f"model{number}"
        model = enlivened(T5.build(torch.float32), seed=number, size=0.05)
        model.save_pretrained(folder)
        model = type(model).from_pretrained(folder).double().eval()
        files = {}
        for statistic, tensors in published(model).items():
            files[statistic] = root / f"{statistic}{number}.pt"
            torch.save(tensors, files[statistic])
        request = ImportRequest(
            model=str(folder),
            name=f"model{number}",
            files=files,
            output=root / f"imported{number}",
            examples=BATCH.size,
            input_tokens=INPUT_TOKENS,
            target_tokens=TARGET_TOKENS,
        )
        import_metadata(request)
        own_store(model, folder, root / f"own{number}")
    return root


def own_store(model: nn.Module, folder: Path, store: Path) -> None:
    statistics = ("input_gram", "output_gram", "diagonal")
    settings = CollectionSettings(statistics=statistics, homogeneous=False, accumulate_dtype="float64")
    write_measured_store(model, BATCH, settings, folder, store)


def merged(root: Path, kind: str, method: MatsSettings | FisherSettings, output: Path) -> dict[str, Tensor]:
    models = tuple(ModelInput(f"model{n}", str(root / f"model{n}"), metadata=str(root / f"{kind}{n}")) for n in (1, 2))
    merge(MergeRequest(models=models, method=method, output=output))
    with open_checkpoint(output) as checkpoint:
        return {name: checkpoint.read(name) for name in checkpoint.tensors}


@pytest.mark.usefixtures("light_report")
@pytest.mark.parametrize(("statistic", "scaling"), [("kfac", "tokens"), ("kfac", "examples"), ("diagonal", "examples")])
def test_a_merge_with_imported_files_is_that_with_our_own_store(
    both: Path, statistic: str, scaling: str, tmp_path: Path
) -> None:
    if statistic == "kfac":
        layers = ("linear",)
        method: MatsSettings | FisherSettings = MatsSettings(
            init={"method": "average"},
            fallback=("kfac", "init"),
            scaling=scaling,
            layer_kinds=layers,
            solver={"name": "auto"},
        )
    else:
        method = FisherSettings(scaling=scaling, anchor=0.0)
    ours, theirs = (merged(both, kind, method, tmp_path / kind) for kind in ("own", "imported"))
    assert ours.keys() == theirs.keys()
    moved = 0
    with open_checkpoint(both / "model1") as first, open_checkpoint(both / "model2") as second:
        for name, tensor in ours.items():
            average = (first.read(name) + second.read(name)) / 2
            if name == "lm_head.weight" and statistic == "kfac":  # the published code has no output Gram of it
                continue
            torch.testing.assert_close(theirs[name], tensor, rtol=2e-3, atol=2e-5)
            moved += not torch.allclose(tensor, average, atol=1e-4)
    assert moved > 20


def test_the_sums_are_means_times_counts(both: Path) -> None:
    ours, theirs = open_store(both / "own1"), open_store(both / "imported1")
    sites = {layer.name: layer.site for layer in ours.manifest.layers}
    assert len(theirs.manifest.layers) == sum(layer.kind == "linear" for layer in ours.manifest.layers)
    for layer in theirs.manifest.layers:
        key = f"input_gram/{sites[layer.name]}"
        torch.testing.assert_close(
            theirs.sum(f"input_gram/{layer.site}").double(), ours.sum(key).double(), rtol=1e-4, atol=1e-5
        )
        assert theirs.tokens("layer", layer.name) == ours.tokens("layer", layer.name)
    assert not theirs.has("output_gram/lm_head")
    assert theirs.has("diagonal/shared.weight")


def test_the_wrong_side_s_tokens_would_differ(both: Path) -> None:
    theirs = open_store(both / "imported1")
    cross = "decoder.block.0.layer.1.EncDecAttention"
    assert theirs.tokens("site", f"{cross}.k") == INPUT_TOKENS
    assert theirs.tokens("site", f"{cross}.q") == TARGET_TOKENS
    assert INPUT_TOKENS != TARGET_TOKENS


def request(root: Path, output: Path, **files: Path) -> ImportRequest:
    return ImportRequest(model=str(root / "model1"), name="model1", files=files, output=output)  # type: ignore[arg-type]


def test_files_of_another_model_are_refused(both: Path, tmp_path: Path) -> None:
    torch.save({"transformer.encoder.block.0.layer.0.SelfAttention.x": torch.eye(12)}, tmp_path / "a.pt")
    with pytest.raises(InputsMismatch, match=r"SelfAttention\.x\.weight, which model1 does not hold; the nearest is"):
        import_metadata(request(both, tmp_path / "store", input_gram=tmp_path / "a.pt"))
    torch.save({"transformer.encoder.block.0.layer.0.SelfAttention.q": torch.eye(13)}, tmp_path / "b.pt")
    with pytest.raises(ShapeMismatch, match=r"\[13, 13\] is no input_gram of encoder"):
        import_metadata(request(both, tmp_path / "store", input_gram=tmp_path / "b.pt"))
    with pytest.raises(ShapeMismatch, match="is no block of"):
        import_metadata(request(both, tmp_path / "store", block=both / "diagonal1.pt"))
    assert not (tmp_path / "store").exists()


def test_a_file_that_asks_for_code_is_not_loaded(both: Path, tmp_path: Path) -> None:
    torch.save({"transformer.shared.weight": Path("somewhere")}, tmp_path / "code.pt")
    with pytest.raises(CheckpointCorrupt, match="not a file of tensors alone"):
        import_metadata(request(both, tmp_path / "store", diagonal=tmp_path / "code.pt"))


def test_an_output_that_exists_is_told_before_the_checkpoint_is_looked_for(tmp_path: Path) -> None:
    request = ImportRequest(model="nothing", name="x", files={"diagonal": tmp_path / "no.pt"}, output=tmp_path)
    with pytest.raises(OutputExists, match="exists already; choose another output"):
        import_metadata(request)


def test_requests_that_mean_nothing_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="output_gram without input_gram"):
        request(tmp_path, tmp_path / "store", output_gram=tmp_path / "g.pt")
    with pytest.raises(RequestError, match="nothing to import"):
        request(tmp_path, tmp_path / "store")
    with pytest.raises(RequestError, match="examples: 0; 1 or more"):
        ImportRequest("m", "m", {"diagonal": tmp_path / "d.pt"}, tmp_path / "s", examples=0)


def test_block_fishers_of_ia3_find_the_vectors_of_a_peft_adapter(both: Path, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model

    model = get_peft_model(
        T5.build(torch.float32),
        IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wi_1"], feedforward_modules=[]),
    )
    model.save_pretrained(tmp_path / "adapter")
    with open_checkpoint(tmp_path / "adapter") as checkpoint:
        sizes = {name: info.numel for name, info in checkpoint.tensors.items()}
    generator = torch.Generator().manual_seed(1)
    means = {}
    for name, size in sizes.items():
        module = name.removeprefix("base_model.model.").removesuffix(".ia3_l")
        rows = torch.randn(4, size, generator=generator)
        means[f"transformer.{module}.ia3_layer.ia3_vector"] = rows.T @ rows / 4
    torch.save(means, tmp_path / "block.pt")
    request = ImportRequest(
        model=str(tmp_path / "adapter"),
        name="ia3",
        files={"block": tmp_path / "block.pt"},
        output=tmp_path / "store",
        base=str(both / "model1"),
        examples=4,
    )
    manifest = import_metadata(request)
    assert set(manifest.parameters) == set(sizes)
    assert manifest.model.base_fingerprint is not None
    store = open_store(tmp_path / "store")
    for (name, size), mean in zip(sizes.items(), means.values(), strict=True):
        assert store.sum(f"block/{name}").shape == (size, size)
        torch.testing.assert_close(store.sum(f"block/{name}"), 4 * mean)
