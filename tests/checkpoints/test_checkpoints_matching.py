"""Names, ties, vocabularies, architectures: what belongs together, judged by headers and content."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import checkpoint_models as tiny
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn

from mats.checkpoints import (
    Checkpoint,
    labels,
    load_model,
    match_tensors,
    open_checkpoint,
    output_tensors,
    parameter_names,
    tied_in_all,
)
from mats.checkpoints.ties import tied_groups
from mats.errors import InputsMismatch, ShapeMismatch


def saved(folder: Path, content: dict[str, Tensor], **config: object) -> Checkpoint:
    folder.mkdir(parents=True)
    save_file({name: value.clone() for name, value in content.items()}, folder / "model.safetensors")
    if config:
        (folder / "config.json").write_text(json.dumps(config))
    return open_checkpoint(folder)


def test_missing_and_extra_names_are_reported_per_model(tmp_path: Path) -> None:
    one, two = torch.randn(3), torch.randn(4)
    base = saved(tmp_path / "base", {"a": one, "b": two})
    models = [saved(tmp_path / "m1", {"a": one + 1}), saved(tmp_path / "m2", {"a": one, "b": two, "head": one * 2})]
    match = match_tensors(base, models)
    assert match.common == ("a",)
    assert match.missing == {"m1": ("b",), "m2": ()}
    assert match.extra == {"m1": (), "m2": ("head",)}
    assert [info.name for info in output_tensors(base, models)] == ["a", "b"]


def test_models_of_one_name_are_told_apart_by_their_folders(tmp_path: Path) -> None:
    content = {"a": torch.randn(3)}
    models = [saved(tmp_path / task / "checkpoint" / "best", content) for task in ("paws", "qasc")]
    models.append(saved(tmp_path / "wsc", content))
    assert labels(models) == ("paws/checkpoint/best", "qasc/checkpoint/best", "wsc")
    assert labels([models[2], models[2]]) == (f"{models[2].path} #1", f"{models[2].path} #2")


def test_a_vocabulary_difference_is_explained(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", {"model.embed_tokens.weight": torch.randn(32, 4), "w": torch.randn(3)})
    model = saved(tmp_path / "m", {"model.embed_tokens.weight": torch.randn(39, 4), "w": torch.randn(3)})
    with pytest.raises(
        InputsMismatch, match=r"model m: model\.embed_tokens\.weight has 39 rows, the base base has 32.*--vocab union"
    ):
        match_tensors(base, [model])
    listed = match_tensors(base, [model], strict=False).shape_mismatch["m"]
    assert listed == {"model.embed_tokens.weight": ((32, 4), (39, 4))}


def test_other_shapes_sizes_and_architectures(tmp_path: Path) -> None:
    base = saved(tmp_path / "base", {"a.weight": torch.randn(3, 2)}, model_type="bert", hidden_size=2)
    wide = saved(tmp_path / "wide", {"a.weight": torch.randn(3, 4)})
    with pytest.raises(ShapeMismatch, match=r"model wide: a\.weight has shape \[3, 4\], the base base has \[3, 2\]"):
        match_tensors(base, [wide])
    grown = saved(tmp_path / "grown", {"a.weight": torch.randn(3, 2)}, model_type="bert", hidden_size=4)
    with pytest.raises(InputsMismatch, match="model grown has hidden_size 4, the base base has 2"):
        match_tensors(base, [grown])
    other = saved(tmp_path / "other", {"b.weight": torch.randn(3, 2)}, model_type="gpt2")
    with pytest.raises(InputsMismatch, match="model other is a gpt2, the base base a bert"):
        match_tensors(base, [other])
    stranger = saved(tmp_path / "stranger", {"b.weight": torch.randn(3, 2)})
    with pytest.raises(InputsMismatch, match=r"none of its 1 tensors is named as in the base base"):
        match_tensors(base, [stranger])
    quantised = saved(tmp_path / "q", {"a.weight": torch.randn(3, 2)}, quantization_config={"bits": 4})
    with pytest.raises(InputsMismatch, match="q: its weights are quantised"):
        match_tensors(base, [quantised])


def test_content_ties_names_and_constants_do_not(tmp_path: Path) -> None:
    shared = torch.randn(20, 4)
    nudged = shared.clone()
    nudged[7, 1] += 1e-3  # outside of every sample of the content
    big = {"big.a": torch.randn(1000), "big.b": torch.zeros(1000)}
    big["big.b"].copy_(big["big.a"])
    big["big.b"][300] += 1
    content = {
        "lm_head.weight": shared,
        "shared.weight": shared,
        "other.weight": nudged,
        "norm.1.weight": torch.ones(20, 4),
        "norm.2.weight": torch.ones(20, 4),
        "bias.1": torch.zeros(5),
        "bias.2": torch.zeros(5),
        "reshaped.weight": shared.reshape(4, 20),
        "ids.1": torch.arange(9),
        "ids.2": torch.arange(9),
        **big,
    }
    checkpoint = saved(tmp_path / "m", content)
    assert checkpoint.tied == tied_groups(checkpoint) == (("lm_head.weight", "shared.weight"),)


@given(st.lists(st.integers(0, 3), min_size=1, max_size=8), st.sampled_from([1, 2, 200, 70_000]))
@settings(max_examples=30, deadline=None)
def test_groups_are_exactly_the_equal_tensors(
    tmp_path_factory: pytest.TempPathFactory, kinds: list[int], size: int
) -> None:
    pool = [torch.randn(size), torch.randn(size), torch.ones(size), torch.randn(size)]
    pool[3] = pool[0].clone()
    pool[3][size // 3] += 1  # almost the first
    content = {f"t{i}": pool[kind] for i, kind in enumerate(kinds)}
    checkpoint = saved(tmp_path_factory.mktemp("ties") / "m", content)
    expected = {
        tuple(name for name, value in content.items() if torch.equal(value, pool[kind]))
        for kind in set(kinds)
        if size > 1 and kind != 2
    }
    assert set(checkpoint.tied) == {group for group in expected if len(group) > 1}


def test_a_model_that_trained_the_head_apart_unties_it_for_all(tmp_path: Path) -> None:
    shared = torch.randn(6, 4)
    base = saved(tmp_path / "base", {"lm_head.weight": shared, "shared.weight": shared, "embed.weight": shared})
    tied = saved(tmp_path / "tied", {"shared.weight": shared + 1})
    apart = saved(tmp_path / "apart", {"lm_head.weight": shared, "shared.weight": shared + 1, "embed.weight": shared})
    assert tied_in_all(base, [tied]) == (("embed.weight", "lm_head.weight", "shared.weight"),)
    assert tied_in_all(base, [tied, apart]) == (("embed.weight", "lm_head.weight"),)
    assert [info.name for info in output_tensors(base, [apart])] == ["embed.weight", "lm_head.weight", "shared.weight"]


def test_a_body_saved_alone_matches_the_same_body_within_a_class(tmp_path: Path) -> None:
    model = tiny.bert()
    model.bert.save_pretrained(tmp_path / "body")
    model.save_pretrained(tmp_path / "whole")
    body, whole = open_checkpoint(tmp_path / "body"), open_checkpoint(tmp_path / "whole")
    match = match_tensors(body, [whole])
    assert match.aliases["whole"] == {name: f"bert.{name}" for name in body.tensors}
    assert match.common == tuple(body.tensors)
    assert match.extra["whole"] == ("classifier.bias", "classifier.weight")
    match = match_tensors(whole, [body])
    assert match.missing["body"] == ("classifier.bias", "classifier.weight")
    assert match.aliases["body"]["bert.encoder.layer.1.output.dense.bias"] == "encoder.layer.1.output.dense.bias"


def test_legacy_full_checkpoints_lose_their_wrapper_and_gpt2_keeps_its_own(tmp_path: Path) -> None:
    model = tiny.t5(tied=False)
    model.save_pretrained(tmp_path / "base")
    changed = {name: value + 0.5 for name, value in model.named_parameters()}
    torch.save({f"transformer.{name}": value for name, value in changed.items()}, tmp_path / "best.pt")
    base, legacy = open_checkpoint(tmp_path / "base"), open_checkpoint(tmp_path / "best.pt")
    match = match_tensors(base, [legacy])
    assert match.missing["best"] == match.extra["best"] == ()
    loaded = load_model(tmp_path / "best.pt", "text_to_text", base=tmp_path / "base")
    with torch.no_grad():
        for name, value in changed.items():
            model.get_parameter(name).copy_(value)
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(model))
    torch.save(tiny.gpt2(True).transformer.state_dict(prefix="transformer."), tmp_path / "gpt2.pt")
    assert "transformer.wte.weight" in open_checkpoint(tmp_path / "gpt2.pt").tensors


def test_a_head_trained_apart_is_taken_apart_in_a_tied_base(tmp_path: Path) -> None:
    tiny.t5(tied=True).save_pretrained(tmp_path / "base")
    trained = tiny.with_own_head(tiny.t5(tied=True, seed=5))
    torch.save({f"transformer.{n}": p.detach() for n, p in trained.named_parameters()}, tmp_path / "best.pt")
    loaded = load_model(tmp_path / "best.pt", "text_to_text", base=tmp_path / "base")
    torch.testing.assert_close(tiny.logits(loaded), tiny.logits(trained))
    assert loaded.lm_head.weight is not loaded.shared.weight
    assert loaded.encoder.embed_tokens.weight is loaded.shared.weight


def test_a_lone_file_may_use_the_names_in_files_or_those_in_memory(tmp_path: Path) -> None:
    """They differ for ViT, since transformers 5."""
    tiny.vit().save_pretrained(tmp_path / "base")
    trained = tiny.vit(seed=5)
    trained.save_pretrained(tmp_path / "trained")
    with open_checkpoint(tmp_path / "trained") as checkpoint:
        in_files = {name: checkpoint.read(name) for name in checkpoint.tensors}
    for spelling, state in (("files", in_files), ("memory", trained.state_dict())):
        torch.save(state, tmp_path / f"{spelling}.pt")
        loaded = load_model(tmp_path / f"{spelling}.pt", "image_classification", base=tmp_path / "base")
        torch.testing.assert_close(tiny.logits(loaded), tiny.logits(trained))


def test_a_lone_file_that_does_not_fit_its_base(tmp_path: Path) -> None:
    tiny.t5(tied=False).save_pretrained(tmp_path / "base")
    torch.save({"encoder.final_layer_norm.wight": torch.ones(16)}, tmp_path / "odd.pt")
    with pytest.raises(InputsMismatch, match=r"wight has no place in the base; nearest: encoder\.final_layer_norm"):
        load_model(tmp_path / "odd.pt", "text_to_text", base=tmp_path / "base")
    torch.save({"encoder.final_layer_norm.weight": torch.ones(17)}, tmp_path / "wide.pt")
    with pytest.raises(ShapeMismatch, match=r"final_layer_norm\.weight has shape \[17\], the base \[16\]"):
        load_model(tmp_path / "wide.pt", "text_to_text", base=tmp_path / "base")


@pytest.mark.parametrize(
    "build",
    [partial(tiny.t5, True), partial(tiny.t5, False), tiny.bert, partial(tiny.gpt2, True), partial(tiny.llama, False)],
    ids=["t5", "t5 untied", "bert", "gpt2", "llama"],
)
def test_every_parameter_of_a_loaded_model_finds_its_tensor(tmp_path: Path, build: partial, device: str) -> None:
    model = build()
    model.save_pretrained(tmp_path / "m")
    loaded = type(model).from_pretrained(tmp_path / "m").to(device)
    with open_checkpoint(tmp_path / "m") as checkpoint:
        names = parameter_names(loaded, checkpoint)
        assert set(names) == {name for name, _ in loaded.named_parameters(remove_duplicate=False)}
        assert set(names.values()) == set(checkpoint.tensors)
        assert all(name == target for name, target in names.items() if name in checkpoint.tensors)
        half = parameter_names(loaded.to(torch.bfloat16), checkpoint)
        assert half == names


def test_a_bare_body_in_a_class_with_a_head_and_the_reverse(tmp_path: Path) -> None:
    model = tiny.bert()
    model.bert.save_pretrained(tmp_path / "body")
    with open_checkpoint(tmp_path / "body") as body:
        names = parameter_names(model, body)
        assert names["bert.encoder.layer.1.output.dense.weight"] == "encoder.layer.1.output.dense.weight"
        assert "classifier.weight" not in names
        assert len(set(names.values())) == sum(1 for name, _ in model.named_parameters() if name.startswith("bert."))
    model.save_pretrained(tmp_path / "whole")
    with open_checkpoint(tmp_path / "whole") as whole:
        names = parameter_names(model.bert, whole)
        assert names["encoder.layer.0.output.dense.weight"] == "bert.encoder.layer.0.output.dense.weight"


def test_a_changed_parameter_has_no_tensor(tmp_path: Path) -> None:
    model = tiny.bert()
    model.save_pretrained(tmp_path / "m")
    with torch.no_grad():
        model.classifier.weight[0, 0] += 1e-3
    with open_checkpoint(tmp_path / "m") as checkpoint:
        names = parameter_names(model, checkpoint)
    assert "classifier.weight" not in names
    assert "classifier.bias" in names
    assert parameter_names(nn.Linear(3, 3), saved(tmp_path / "x", {"weight": torch.zeros(4, 3)})) == {}
