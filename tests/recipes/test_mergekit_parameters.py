"""Parameters and references of merge files, by hand-worked values."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mats.recipes.mergekit.faults import FileFaults
from mats.recipes.mergekit.parameters import Parameter, between, read_setting, resolve
from mats.recipes.mergekit.references import PathAndRevision, parse_reference, read_reference
from mats.recipes.mergekit.structure import comes_after, resized, structure_of

NUMBER = Parameter()


def setting(value: object):
    """A setting as it stands in a file."""
    faults = FileFaults(Path("x.yaml"), {})
    read = read_setting(value, ("weight",), NUMBER, faults)
    faults.raise_any()
    assert read is not None
    return read


@pytest.mark.parametrize(
    ("values", "position", "expected"),
    [
        ([0, 1], 0.25, 0.25),
        ([0, 1, 0], 0.5, 1.0),
        ([0, 1, 0], 0.75, 0.5),
        ([3], 0.9, 3),
        ([1, 2, 4], 1.0, 4),
        ([1, 2, 4], 0.0, 1),
        ([True, False], 0.99, True),
        ([True, False], 1.0, False),
    ],
)
def test_gradients_interpolate_and_truth_values_step(values: list[float], position: float, expected: float) -> None:
    assert between(values, position) == pytest.approx(expected)


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=6), st.floats(0, 1))
def test_a_gradient_stays_within_its_values(values: list[float], position: float) -> None:
    assert min(values) - 1e-9 <= between(values, position) <= max(values) + 1e-9


def test_the_first_filter_that_fits_counts_and_none_falls_to_the_next_level() -> None:
    own = setting([{"filter": "mlp", "value": [1, 2]}, {"filter": "mlp.up", "value": 9}])
    above = setting([{"filter": "*", "value": 5}])
    assert resolve([own, above], "layers.0.mlp.up", 1.0) == 2
    assert resolve([own, above], "layers.0.attn", 1.0) == 5
    assert resolve([own], "layers.0.attn", 1.0) is None


def test_a_lone_mapping_counts_as_a_list_of_one() -> None:
    assert setting({"filter": "mlp", "value": 0.4}) == setting([{"filter": "mlp", "value": 0.4}])


def test_filters_are_parts_of_names_not_patterns() -> None:
    assert resolve([setting([{"filter": "mlp.*", "value": 1}])], "layers.0.mlp.up", 0) is None


@pytest.mark.parametrize(
    ("text", "model", "revision", "adapter"),
    [
        ("owner/name", "owner/name", None, None),
        ("owner/name@v1.0", "owner/name", "v1.0", None),
        ("owner/name+adapters/one", "owner/name", None, "adapters/one"),
        ("owner/name@main+adapters/one", "owner/name", "main", "adapters/one"),
    ],
)
def test_references_are_taken_apart(text: str, model: str, revision: str | None, adapter: str | None) -> None:
    read = parse_reference(text)
    assert read.model == PathAndRevision(model, revision)
    assert (read.adapter and read.adapter.path) == adapter
    assert str(read) == text


def test_r20_a_path_that_is_there_is_not_taken_apart(tmp_path: Path) -> None:
    for name in ("a+b", "a@b", "c"):
        (tmp_path / name).mkdir()
        assert parse_reference(str(tmp_path / name)).model.path == str(tmp_path / name)
    joined = parse_reference(f"{tmp_path / 'a+b'}+{tmp_path / 'c'}")
    assert joined.model.path == str(tmp_path / "a+b")
    assert joined.adapter == PathAndRevision(str(tmp_path / "c"))


def test_references_as_mappings() -> None:
    faults = FileFaults(Path("x.yaml"), {})
    value = {"model": {"path": "a+b@c", "revision": "main"}, "lora": {"path": "d"}}
    read = read_reference(value, ("model",), faults)
    assert read is not None
    assert read.model == PathAndRevision("a+b@c", "main")
    assert read.adapter == PathAndRevision("d")
    assert read_reference({"model": {"pth": "x"}}, ("model",), faults) is None
    with pytest.raises(ValueError, match="did you mean 'path'"):
        faults.raise_any()


def test_places_of_tensors() -> None:
    assert [comes_after(name) for name in ("transformer.ln_f.bias", "lm_head.weight", "pooler.dense.weight")] == [
        True
    ] * 3
    assert not any(map(comes_after, ("transformer.wte.weight", "shared.weight", "embeddings.LayerNorm.bias", "wpe")))
    names = ["enc.block.0.layer.0.q", "enc.block.0.layer.1.q", "enc.block.1.layer.0.q", "head.0.weight", "shared"]
    structure = structure_of(names, {"num_layers": 2})
    assert list(structure.stacks) == ["enc.block"]
    assert structure.length("enc.block") == 2
    assert structure.outside == ("head.0.weight", "shared")


def test_configs_follow_the_layers() -> None:
    config = {"num_hidden_layers": 3, "layer_types": ["a", "b", "c"], "hidden_size": 3}
    assert resized(config, "model.layers", [0, 2, 2, 1], 3) == {"num_hidden_layers": 4, "layer_types": list("accb")}
    t5 = {"num_layers": 2, "num_decoder_layers": 2}
    assert resized(t5, "decoder.block", [0], 2) == {"num_decoder_layers": 1}
    assert resized({"text_config": {"n_layer": 2, "x": 1}}, "m.layers", [0], 2) == {
        "text_config": {"n_layer": 1, "x": 1}
    }
