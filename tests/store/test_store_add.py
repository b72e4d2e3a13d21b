from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store_cases import LAYERS, SITES, manifest_of, sums_of

from mats.errors import InputsMismatch, OutputExists, RequestError
from mats.store import DataIdentity, ModelIdentity, Sums, add_stores, open_store, verify_store, write_store


def content_of(folder):
    return {item.name: item.read_bytes() for item in folder.iterdir() if item.name != "run.json"}


def assert_same_sums(one, other):
    assert set(one) == set(other)
    for key in one:
        expected = other.sum(key).double()
        assert float((one.sum(key).double() - expected).norm()) <= 1e-6 * float(expected.norm())


def test_the_sum_of_two_stores_is_the_store_of_the_union(build, tmp_path):
    a, b = build("a", range(5)), build("b", range(5, 12))
    added = open_store(add_stores([a, b], tmp_path / "ab"), verify=True)
    union = open_store(build("union", range(12)))
    assert_same_sums(added, union)
    assert added.examples == 12
    assert added.manifest.example_ids == union.manifest.example_ids
    assert added.manifest.data == union.manifest.data
    assert added.manifest.tokens == union.manifest.tokens
    assert added.fourth_moment("site", "encoder.q") == pytest.approx(union.fourth_moment("site", "encoder.q"))
    assert verify_store(tmp_path / "ab") == []
    with pytest.raises(AssertionError):  # negative control: a missing store shows
        assert_same_sums(open_store(a), union)


@given(order=st.permutations(range(4)))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_order_makes_no_difference_to_the_bit(build, tmp_path, order):
    folders = [tmp_path / f"part{n}" for n in range(4)]
    for n, folder in enumerate(folders):
        if not folder.exists():
            build(folder.name, range(3 * n, 3 * n + 3))
    first = add_stores(folders, tmp_path / "first", overwrite=True)
    other = add_stores([folders[n] for n in order], tmp_path / "other", overwrite=True)
    assert content_of(first) == content_of(other)


def test_rounding_happens_once(tmp_path):
    """Adding in float32 would lose each of the ones; float64 keeps both."""
    folders = []
    for n, value in enumerate([2.0**24, 1.0, 1.0]):
        sums = Sums({"diagonal/v": torch.tensor([value])}, {}, {}, [f"e{n}"])
        manifest = manifest_of(sums, parameters=("v",), sites=(), layers=())
        write_store(tmp_path / f"s{n}", manifest, sums, {})
        folders.append(tmp_path / f"s{n}")
    total = open_store(add_stores(folders, tmp_path / "sum")).sum("diagonal/v")
    assert total.item() == 2.0**24 + 2
    assert (torch.tensor(2.0**24) + 1.0 + 1.0).item() == 2.0**24


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"model": ModelIdentity("paws", "x", None, "xxh3_128:9")},
            "model fingerprint: 'xxh3_128:0123' and 'xxh3_128:9'",
        ),
        (
            {"estimator": {"labels": "sampled", "loss": "mean", "seed": 0}},
            "estimator labels: 'empirical' and 'sampled'",
        ),
        ({"estimator": {"labels": "empirical", "loss": "mean"}}, "estimator seed: 0 and 'absent'"),
        ({"data": DataIdentity("quartz", "validation", "plain", {"max_length": 32})}, "data name: 'paws' and 'quartz'"),
        (
            {"data": DataIdentity("paws", "validation", "other", {"max_length": 32})},
            "data template: 'plain' and 'other'",
        ),
        ({"data": DataIdentity("paws", "validation", "plain", {"max_length": 9})}, "setting max_length: 32 and 9"),
        ({"sites": (replace(SITES[0], homogeneous=False), SITES[1])}, r"sites differ at encoder\.q"),
        ({"layers": LAYERS[:1]}, "layers differ at embed"),
        ({"parameters": ()}, r"parameters differ at norm\.weight"),
    ],
)
def test_stores_of_another_kind_are_refused(build, tmp_path, changes, message):
    a, b = build("a", range(5)), build("b", range(5, 9), **changes)
    with pytest.raises(InputsMismatch, match=message):
        add_stores([a, b], tmp_path / "ab")
    assert not (tmp_path / "ab").exists()


def test_sums_of_another_shape_or_dtype_are_refused(build, tmp_path):
    a = build("a", range(5))
    sums = sums_of(range(5, 9), torch.float64)
    write_store(tmp_path / "b", manifest_of(sums), sums, {})
    with pytest.raises(InputsMismatch, match=r"block/norm\.weight is not in all of them with one shape and dtype"):
        add_stores([a, tmp_path / "b"], tmp_path / "ab")


def test_an_example_is_never_counted_twice(build, tmp_path):
    a, b = build("a", range(5)), build("b", range(4, 9))
    with pytest.raises(InputsMismatch, match=r"1 examples are in more than one \(first 'e4'\)"):
        add_stores([a, b], tmp_path / "ab")
    with pytest.raises(InputsMismatch, match="5 examples are in more than one"):
        add_stores([a, a], tmp_path / "aa")


def test_one_store_is_not_a_sum_and_output_is_kept(build, tmp_path):
    a, b = build("a", range(5)), build("b", range(5, 9))
    with pytest.raises(RequestError, match="1 store given; name two or more"):
        add_stores([a], tmp_path / "c")
    with pytest.raises(OutputExists, match="exists already"):
        add_stores([a, b], a)
    assert open_store(a, verify=True).examples == 5


@pytest.mark.parametrize(
    ("folds", "expected"),
    [(["0/2", "1/2"], None), (["0/3", "2/3"], "0/3+2/3"), (["0/3+2/3", "1/3"], None), (["0/2", None], None)],
)
def test_folds_splits_and_data_fingerprints_are_joined(build, tmp_path, folds, expected):
    data = DataIdentity("paws", "validation", "plain", {"max_length": 32}, folds[0], "f" * 32)
    a = build("a", range(5), data=data)
    b = build("b", range(5, 9), data=replace(data, fold=folds[1], split="train", fingerprint=f"{3:032x}"))
    joined = open_store(add_stores([a, b], tmp_path / "ab")).manifest.data
    assert joined.fold == expected
    assert joined.split == "train+validation"
    assert joined.fingerprint == f"{2:032x}"


def test_splits_that_may_overlap_are_refused(build, tmp_path):
    cut = {"splits": {"validation": {"of": "train", "first": 32}}}
    a = build("a", range(5), data=DataIdentity("paws", "validation", "plain", cut))
    b = build("b", range(5, 9), data=DataIdentity("paws", "train", "plain", cut))
    with pytest.raises(InputsMismatch, match=r"data split: .* which the dataset cuts and may overlap"):
        add_stores([a, b], tmp_path / "ab")
    c = build("c", range(5, 9), data=DataIdentity("paws", "validation", "plain", cut))
    add_stores([a, c], tmp_path / "ac")
