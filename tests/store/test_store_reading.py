from __future__ import annotations

import json
import pickle

import pytest
import torch
from store_cases import FINGERPRINT

from mats.errors import FingerprintMismatch, InputsMismatch, NonFiniteStatistic, RequestError, StoreCorrupt
from mats.store import open_store, verify_store

GRAM = "input_gram-00001-of-00001.safetensors"


def edit_manifest(folder, change):
    path = folder / "manifest.json"
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def flip_last_byte(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 0x01
    path.write_bytes(content)


def test_a_sound_store_has_no_faults(build):
    assert verify_store(build("a")) == []


def test_a_missing_store_is_told_with_its_nearest_sibling(build, tmp_path):
    build("paws-validation")
    with pytest.raises(RequestError, match=r"no such metadata store; did you mean 'paws-validation'\?"):
        open_store(tmp_path / "paws-validatoin")
    (tmp_path / "empty").mkdir()
    with pytest.raises(RequestError, match=r"not a metadata store, there is no manifest\.json"):
        open_store(tmp_path / "empty")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "missing"),
        (lambda path: path.write_bytes(path.read_bytes()[:-4]), "truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:20]), "truncated"),
        (lambda path: path.write_bytes(b""), "truncated"),
        (lambda path: path.write_bytes(b"\x10" + bytes(7) + b"garbage garbage!"), "not a safetensors header"),
        (lambda path: path.write_bytes(path.read_bytes() + b"more"), "appended"),
    ],
)
def test_a_damaged_shard_is_named_when_the_store_is_opened(build, damage, message):
    folder = build("a")
    damage(folder / GRAM)
    with pytest.raises(StoreCorrupt, match=f"{GRAM}.*{message}"):
        open_store(folder)
    assert any(GRAM in fault for fault in verify_store(folder))


def test_a_flipped_bit_is_found_on_demand(build):
    folder = build("a")
    flip_last_byte(folder / GRAM)
    open_store(folder)
    with pytest.raises(StoreCorrupt, match=f"{GRAM}: checksum xxh3_128:.* the manifest says xxh3_128:"):
        open_store(folder, verify=True)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda m: m.pop("estimator"), StoreCorrupt, "estimator: Missing|estimator: .*required"),
        (lambda m: m.update(examples="many"), StoreCorrupt, "examples: .*received 'many'"),
        (lambda m: m.update(extra=1), StoreCorrupt, "unknown key 'extra'"),
        (lambda m: m.update(schema_version=3), InputsMismatch, "schema_version 3, this mats reads 1 and 2"),
        (lambda m: m["files"].pop(GRAM), StoreCorrupt, f"lies in '{GRAM}', which is not among its files"),
        (lambda m: m["files"].update({"../x.safetensors": {"bytes": 1, "checksum": ""}}), StoreCorrupt, "own folder"),
        (lambda m: m["tensors"]["block/norm.weight"].update(shape=[10]), StoreCorrupt, r"\[n, n\] expected"),
    ],
)
def test_a_wrong_manifest_is_told(build, change, error, message):
    folder = build("a")
    edit_manifest(folder, change)
    with pytest.raises(error, match=message):
        open_store(folder)
    assert len(verify_store(folder)) == 1


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"\xff\xfe"])
def test_a_manifest_that_is_no_json_object(build, content):
    folder = build("a")
    (folder / "manifest.json").write_bytes(content)
    with pytest.raises(StoreCorrupt, match=r"manifest\.json: (not readable as JSON|holds a JSON list)"):
        open_store(folder)


def test_shards_without_a_manifest_are_an_incomplete_store(build):
    folder = build("a")
    (folder / "manifest.json").unlink()
    with pytest.raises(StoreCorrupt, match="without its manifest"):
        open_store(folder)


def test_unknown_names_are_answered_with_the_nearest(build):
    store = open_store(build("a"))
    assert store.has("input_gram/encoder.q")
    assert not store.has("input_gram/encoder.k")
    with pytest.raises(RequestError, match=r"no sum 'input_gram/encoder\.k'; did you mean 'input_gram/encoder\.q'"):
        store.sum("input_gram/encoder.k")
    with pytest.raises(RequestError, match=r"no tokens for 'site:encoder\.k'; did you mean 'site:encoder\.q'"):
        store.tokens("site", "encoder.k")


def test_other_weights_are_refused_with_both_names(build):
    store = open_store(build("a"))
    store.check_model(FINGERPRINT, "paws")
    with pytest.raises(
        FingerprintMismatch, match=r"measured on 'paws' \(.*xxh3_128:0123\), not on 'quartz' \(xxh3_128:9"
    ):
        store.check_model("xxh3_128:9", "quartz")


def test_reading_needs_one_shard_alone(build):
    folder = build("a")
    store = open_store(folder)
    for name in store.manifest.files:
        if name != GRAM:
            (folder / name).unlink()
    assert store.sum("input_gram/encoder.q").shape == (5, 5)
    with pytest.raises(StoreCorrupt, match="block-00001"):
        store.sum("block/norm.weight")


def test_what_is_read_belongs_to_the_reader(build):
    store = open_store(build("a"))
    for key in store:
        before = store.sum(key)
        store.sum(key).add_(1.0)
        assert torch.equal(store.sum(key), before)


def test_a_sum_comes_on_the_device_asked_for(build, device):
    store = open_store(build("a"))
    found = store.sum("input_gram/encoder.q", device=device, dtype=torch.float64)
    assert found.device.type == device
    assert torch.equal(found.cpu(), store.sum("input_gram/encoder.q").double())


def test_an_open_store_travels_between_processes(build):
    store = pickle.loads(pickle.dumps(open_store(build("a"))))
    assert store.sum("input_gram/encoder.q").shape == (5, 5)


def test_verify_lists_all_faults_together(build):
    folder = build("a")
    flip_last_byte(folder / "diagonal-00001-of-00001.safetensors")
    (folder / GRAM).unlink()
    (folder / "stray.txt").write_text("x")

    def change(manifest):
        manifest["examples"] = 9
        manifest["layers"][0]["site"] = "encoder.k"
        manifest["layers"][0]["out_size"] = 7
        manifest["parameters"] = []

    edit_manifest(folder, change)
    faults = "\n".join(verify_store(folder))
    for expected in (
        "examples is 9, but 8 example ids",
        "site 'encoder.k', which is not listed",
        "output_gram/encoder.q has shape [3, 3], its record says [7, 7]",
        "block/norm.weight: no site, layer or parameter",
        "diagonal-00001-of-00001.safetensors: checksum",
        f"{GRAM}: missing",
        "stray.txt: not listed",
    ):
        assert expected in faults
    assert len(faults.splitlines()) >= 7


def test_verify_looks_at_the_numbers(build):
    folder = build("a")
    name = "diagonal-00001-of-00001.safetensors"
    content = bytearray((folder / name).read_bytes())
    content[-4:] = torch.tensor([-1.0]).numpy().tobytes()
    content[-8:-4] = torch.tensor([float("nan")]).numpy().tobytes()
    (folder / name).write_bytes(content)
    assert any("the sum ranges from nan" in fault for fault in verify_store(folder))
    with pytest.raises(NonFiniteStatistic, match=r"diagonal/norm\.weight: the sum ranges from nan"):
        open_store(folder).sum("diagonal/norm.weight")
    content[-8:-4] = torch.tensor([1.0]).numpy().tobytes()
    (folder / name).write_bytes(content)
    assert any("-1 on its diagonal; sums of squares are never negative" in fault for fault in verify_store(folder))
    assert verify_store(folder / "absent") == [f"{folder / 'absent'}: no such folder"]
