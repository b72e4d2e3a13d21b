"""The files of a report: schema, same bytes for the same report, and nothing but what the report says."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser

import pytest
import yaml
from reports import merge_report, streamed_report

from mats.errors import RequestError
from mats.reporting import validate_report, write_report
from mats.reporting.card import looks_like_hub_id

HOSTILE = '<script>alert("$x^2$")</script> & | `'


class Reader(HTMLParser):
    """Collects what the tests ask about a page: text, and every attribute that could load something."""

    def __init__(self):
        super().__init__()
        self.text, self.loads, self.tags = [], [], []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.loads += [v for k, v in attributes if k in {"src", "href", "xlink:href", "action", "srcset", "data"} and v]

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with the files of `merge_report`, to be read only."""
    folder = tmp_path_factory.mktemp("report")
    write_report(merge_report(), folder, title="A merge")
    return folder


def page_of(folder):
    reader = Reader()
    reader.feed((folder / "report.html").read_text())
    return reader


def test_everything_is_written_and_nothing_differs_between_runs(tmp_path):
    contents = []
    for name in ("first", "second"):
        folder = tmp_path / name
        folder.mkdir()
        files = write_report(merge_report(), folder, run={"seconds": 1.5, "peak_memory_bytes": 10})
        assert sorted(files) == sorted(path.name for path in folder.iterdir())
        contents.append({path.name: path.read_bytes() for path in folder.iterdir()})
    assert contents[0] == contents[1]
    expected = {"report.json", "run.json", "report.html", "layers.svg", "layers.png", "README.md"}
    assert set(contents[0]) == expected
    for name in expected - {"run.json", "layers.png"}:
        assert b"peak_memory" not in contents[0][name]


def test_report_json_is_the_report(tmp_path):
    report = merge_report()
    report["layers"][0]["relative_residual"] = float("nan")
    write_report(report, tmp_path)
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["layers"][0]["relative_residual"] is None
    report["layers"][0]["relative_residual"] = None
    assert read == report
    assert validate_report(read) == report


def test_the_page_needs_nothing_from_outside(written):
    page = page_of(written)
    assert all(target.startswith("#") for target in page.loads)
    source = (written / "report.html").read_text()
    assert "default-src 'none'" in source
    assert not re.search(r"@import|url\((?!#)", source)


def test_the_page_tells_each_layer(written):
    text = " ".join(page_of(written).text)
    for layer in merge_report()["layers"]:
        assert layer["name"] in text
    for wanted in ("0.02 → 0.01", "max iterations", "kfac", "too wide for an output Gram", "−50.0 %", "2.5e-09"):
        assert wanted in text, wanted


@pytest.mark.parametrize("place", ["model", "layer", "reason", "base", "note"])
def test_names_from_outside_stay_text(tmp_path, place):
    report = merge_report()
    if place == "model":
        report["models"][0]["name"] = HOSTILE
        for layer in report["layers"]:
            for key in ("loss_before", "loss_after"):
                if layer.get(key):
                    layer[key][HOSTILE] = layer[key].pop("paws")
    elif place == "layer":
        report["layers"][0]["name"] = HOSTILE
    elif place == "reason":
        report["layers"][-1]["fallback_reason"] = HOSTILE
    elif place == "base":
        report["base"] = HOSTILE
    else:
        report["notes"] = [HOSTILE]
    write_report(report, tmp_path)
    page = page_of(tmp_path)
    assert page.tags.count("script") == 1
    assert HOSTILE in "".join(page.text)
    ElementTree.parse(tmp_path / "layers.svg")
    front = (tmp_path / "README.md").read_text().split("---\n")[1]
    assert HOSTILE not in yaml.safe_load(front).get("base_model", [])


def test_a_streamed_merge_has_no_picture_and_says_so(tmp_path):
    files = write_report(streamed_report(), tmp_path)
    assert "layers.png" not in files
    assert "No system was solved" in (tmp_path / "report.html").read_text()
    assert "layers.png" not in (tmp_path / "README.md").read_text()


def test_picture_follows_the_text_colour_of_its_page(written):
    assert "currentColor" in (written / "layers.svg").read_text()
    assert (written / "layers.png").read_bytes().startswith(b"\x89PNG")


def test_model_card_has_the_front_matter_of_the_hub(written):
    card = (written / "README.md").read_text()
    _, front, body = card.split("---\n", 2)
    metadata = yaml.safe_load(front)
    assert metadata == {
        "base_model": ["google-t5/t5-small", "someone/t5-paws"],  # the other model is a local folder
        "base_model_relation": "merge",
        "library_name": "transformers",
        "tags": ["mats", "merge"],
    }
    assert body.startswith("\n# A merge\n")
    for wanted in ("arXiv:2312.04339", "| paws | 0.06 | 0.03 | −50.0 % |", "method: mats", "`exp_out/train/quartz`"):
        assert wanted in body, wanted


@pytest.mark.parametrize(
    ("path", "is_id"),
    [
        ("bert-base-uncased", True),
        ("google/t5-large-lm-adapt", True),
        *(
            (path, False)
            for path in ("/models/a", "./a", "../a/b", "exp_out/train", "a/b/c", "models/best.pt", "C:\\a")
        ),
    ],
)
def test_only_hub_ids_are_named_as_such(path, is_id):
    assert looks_like_hub_id(path) is is_id


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda report: report.update(schema_version=99), "schema_version is 99, this version of mats reads 1"),
        (lambda report: report.pop("method"), "method: Field required"),
        (lambda report: report["layers"][0].update(iterations="many"), r"layers.0.iterations: .*received 'many'"),
    ],
)
def test_what_is_not_a_report_is_refused(tmp_path, spoil, message):
    report = merge_report()
    spoil(report)
    with pytest.raises(RequestError, match=message):
        write_report(report, tmp_path)
    assert list(tmp_path.iterdir()) == []
