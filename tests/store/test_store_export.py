from __future__ import annotations

import hashlib
import json
import subprocess

import pytest
import yaml

from mats.errors import OutputExists, RequestError, StoreCorrupt, WorkFailed
from mats.reporting.store_card import license_note, store_card
from mats.store import DataIdentity, ModelIdentity, compress_store, open_store, verify_store
from mats.store.export import export_store, public_name, publishable
from mats.store.hub import find_store, local_store

MODEL = ModelIdentity("paws", "/home/someone/models/paws", None, "xxh3_128:0123", "someone/base", "xxh3_128:4567")
DATA = DataIdentity(
    "paws",
    "validation",
    "{{a}}/{{b}}",
    {
        "source": {
            "format": "json_lines",
            "files": {
                "validation": ["/data/secret/paws.jsonl", "rows/more.jsonl", "/data/secret plans/all rows.jsonl"]
            },
        },
        "template": "/ask {{a}}",
        "labels": ["/s", "/", "~"],
        "prompts": "/home/someone/prompts.yaml",
    },
    None,
    "0" * 31 + "8",
)


@pytest.fixture(autouse=True)
def known_on_the_hub(tmp_path, monkeypatch):
    """A hub cache that holds the base and a model."""
    import huggingface_hub.constants

    for name in ("base", "model"):
        (tmp_path / "cache" / f"models--someone--{name}").mkdir(parents=True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def exported(build, tmp_path):
    def made(name="store", target="out", card=None, license_id="apache-2.0", **changes):
        store = build(name, **{"model": MODEL, "data": DATA, **changes})

        def write_card(manifest, run):
            return store_card(manifest, run, license_id=license_id, repository="someone/paws-metadata")

        export_store(store, tmp_path / target, card or write_card, license_note(license_id, "paws"))
        return tmp_path / target

    return made


@pytest.fixture
def cached(exported, tmp_path, monkeypatch):
    """An exported store in a hub cache, as `snapshot_download` lays it out, and no network."""
    import huggingface_hub.constants

    folder = exported()
    home = tmp_path / "cache" / "models--someone--paws-metadata"
    for commit, inside in (("a" * 40, ""), ("b" * 40, "halves/first")):
        place = home / "snapshots" / commit / inside
        place.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["cp", "-r", str(folder), str(place)], check=True)
    (home / "refs").mkdir()
    (home / "refs" / "main").write_text("a" * 40)
    (home / "refs" / "v2").write_text("b" * 40)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    return "someone/paws-metadata"


def test_an_export_is_a_store_with_a_card_and_checksums(exported):
    folder = exported()
    assert verify_store(folder) == []
    assert sorted(path.name for path in folder.iterdir())[:3] == [
        "LICENSE",
        "README.md",
        "block-00001-of-00001.safetensors",
    ]
    for line in (folder / "checksums.sha256").read_text().splitlines():
        digits, name = line.split("  ")
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digits
    assert "apache-2.0" in (folder / "LICENSE").read_text()


def test_no_path_of_this_machine_is_published(exported, tmp_path):
    folder = exported()
    manifest = open_store(folder).manifest
    assert (manifest.model.source, manifest.model.base) == ("paws", "someone/base")
    assert manifest.model.fingerprint == MODEL.fingerprint
    assert manifest.data.settings["source"]["files"] == {
        "validation": ["paws.jsonl", "rows/more.jsonl", "all rows.jsonl"]
    }
    assert manifest.data.settings["template"] == "/ask {{a}}", "a text is no path"
    assert manifest.data.settings["labels"] == ["/s", "/", "~"]
    assert manifest.data.settings["prompts"] == "prompts.yaml"
    assert manifest.data.template == "{{a}}/{{b}}"
    for path in folder.iterdir():
        if path.suffix != ".safetensors":
            text = path.read_text()
            assert not any(part in text for part in ("/home/", "/secret", str(tmp_path))), path.name
    with pytest.raises(WorkFailed, match=r"README\.md: would hold the local path"):
        exported("again", "leaking", card=lambda *_: f"{tmp_path.home()}/x")


def test_sources_keep_what_is_public():
    assert public_name("someone/base") == "someone/base"
    assert public_name("runs/seed-0/paws") == "paws"
    assert public_name("runs/paws") == "paws", "it may be a folder: the hub's cache does not know it"
    assert public_name("/x/merged with the head of paws") == "merged with the head of paws"


def test_the_card_says_what_it_is(exported):
    text = (exported() / "README.md").read_text()
    front = yaml.safe_load(text.split("---")[1])
    assert front["library_name"] == "mats"
    assert front["license"] == "apache-2.0"
    for expected in (
        "8 examples",
        "xxh3_128:0123",
        "metadata: someone/paws-metadata",
        "mats metadata verify",
        "## Limits",
    ):
        assert expected in text
    recipe = yaml.safe_load(text.split("```yaml\n")[1].split("```")[0])
    assert recipe["models"][0] == {"name": "paws", "path": "paws", "metadata": "someone/paws-metadata"}
    assert "48" in text.split("tokens")[1].splitlines()[0]


def test_the_card_of_a_proxy_and_of_a_hub_dataset(exported):
    text = (exported("p", "proxy", estimator={"proxy": "task_vector_gram", "of": "arXiv:1"}) / "README.md").read_text()
    assert "**proxy**" in text
    assert "8 examples" not in text
    hub = DataIdentity("paws", "test", None, {"source": {"format": "hub", "dataset": "someone/paws"}})
    model = ModelIdentity("paws", "someone/model", "v1", "xxh3_128:0123")
    front = yaml.safe_load((exported("h", "hub", data=hub, model=model) / "README.md").read_text().split("---")[1])
    assert (front["datasets"], front["base_model"]) == (["someone/paws"], ["someone/model"])
    assert "license" not in yaml.safe_load(
        (exported("n", "none", license_id=None) / "README.md").read_text().split("---")[1]
    )
    assert "No license was named" in license_note(None, "paws")


def test_an_export_is_refused_rather_than_half_made(exported, build, tmp_path):
    folder = exported()
    with pytest.raises(OutputExists, match="out: exists already"):
        exported("other")
    store = build("broken")
    with pytest.raises(OutputExists, match="out: exists already"):
        export_store(store / "no such store", tmp_path / "out", lambda *_: "", "")  # said before a byte is read
    shard = next(store.glob("diagonal-*"))
    content = bytearray(shard.read_bytes())
    content[-1] ^= 1
    shard.write_bytes(content)
    with pytest.raises(StoreCorrupt, match="checksum"):
        export_store(store, tmp_path / "bad", lambda *_: "", "")
    assert not (tmp_path / "bad").exists()
    assert verify_store(folder) == []


def test_a_compressed_store_is_exported_with_its_loss(exported, build, tmp_path):
    compress_store(build("exact"), tmp_path / "small", "bfloat16")
    manifest = open_store(tmp_path / "small").manifest
    card = store_card(publishable(manifest), {}, license_id=None, repository="a/b")
    assert "bfloat16, relative error at most" in card


@pytest.mark.parametrize(
    ("suffix", "commit", "inside"), [("", "a", ""), ("@main", "a", ""), ("@v2:halves/first", "b", "halves/first")]
)
def test_a_hub_id_is_found_in_the_cache(cached, suffix, commit, inside):
    store = open_store(cached + suffix)
    assert store.path.as_posix().rstrip("/").endswith(f"snapshots/{commit * 40}/{inside}".rstrip("/"))
    assert store.examples == 8
    assert verify_store(cached + suffix) == []


def test_what_the_hub_does_not_have_is_told_in_one_line(cached):
    with pytest.raises(RequestError, match=r"^someone/nothing: no such folder here, and not in the hub cache"):
        open_store("someone/nothing")
    with pytest.raises(RequestError, match=r"not in the hub cache at revision v9"):
        open_store(f"{cached}@v9")
    with pytest.raises(RequestError, match=r"no metadata store, .*; someone/paws-metadata:halves/first would be right"):
        open_store(f"{cached}@v2")
    assert verify_store("someone/nothing")[0].startswith("someone/nothing: no such folder")


def test_a_store_on_the_hub_is_told_from_a_checkpoint(cached, tmp_path):
    assert find_store(cached) == local_store(cached)
    assert find_store(f"{cached}@v2:halves/first") == local_store(f"{cached}@v2:halves/first")
    (tmp_path / "cache" / "models--someone--model" / "snapshots" / ("c" * 40)).mkdir(parents=True)
    (tmp_path / "cache" / "models--someone--model" / "refs").mkdir()
    (tmp_path / "cache" / "models--someone--model" / "refs" / "main").write_text("c" * 40)
    assert find_store("someone/model") is None, "a repository without a manifest"
    assert find_store("someone/nothing") is None
    assert find_store(str(tmp_path)) is None
    assert find_store(str(tmp_path / "out")) == tmp_path / "out"
    with pytest.raises(RequestError, match="not in the hub cache at revision v9"):
        find_store(f"{cached}@v9")


def test_a_folder_wins_over_a_hub_id(cached, build, tmp_path):
    (tmp_path / "someone").mkdir()
    assert str(local_store("someone/absent")) == "someone/absent", "its parent is a folder here: meant as a path"
    build("someone/paws-metadata")
    assert str(local_store("someone/paws-metadata")) == "someone/paws-metadata"


def test_the_manifest_of_an_export_parses_alone(exported):
    content = json.loads((exported() / "manifest.json").read_text())
    assert "compression" not in content
