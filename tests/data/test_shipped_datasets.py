"""Every shipped dataset file on made-up rows in the hub's columns: splits carved, every template rendered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from sample_rows import HUB_ROWS, ROWS

from mats.data import DatasetSpec, Example, load_examples, load_mixture, load_spec
from mats.data.rows import read_rows
from mats.data.sources import CsvSource, HubSource
from mats.data.split_rules import CUTS
from mats.errors import DataError, RecipeError

CONFIGS = Path(__file__).parents[2] / "configs"
FILES = [path for path in sorted((CONFIGS / "datasets").rglob("*.yaml")) if path.parent.name != "mixtures"]
MIXTURES = sorted((CONFIGS / "datasets" / "mixtures").glob("*.yaml"))
FROM_ELSEWHERE = [path for path in FILES if path.parent.name != "datasets"]


def rows_for(spec: DatasetSpec) -> list[dict[str, Any]]:
    """The sample rows of the dataset that `spec` reads."""
    if isinstance(spec.source, CsvSource):
        return ROWS["story_cloze/2016"]
    assert isinstance(spec.source, HubSource)
    return HUB_ROWS[" ".join(part for part in (spec.source.id, spec.source.config) if part)]


def source_splits(spec: DatasetSpec) -> set[str]:
    """Every split of the source that the file names or cuts."""
    named = spec.source.names if isinstance(spec.source, HubSource) else ()
    own = spec.source.files
    uncut = {name for name in (*named, *own) if name not in spec.splits}
    return uncut | {rule.of for rule in spec.splits.values()}


def local(path: Path, folder: Path, rows: list[dict[str, Any]] | None = None) -> DatasetSpec:
    """The dataset file with sample rows in place of its source."""
    spec = load_spec(path)
    chosen = rows if rows is not None else rows_for(spec)
    many = (chosen * enough(spec))[: enough(spec)]
    (folder / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in many), encoding="utf-8")
    files = dict.fromkeys(sorted(source_splits(spec)), "rows.jsonl")
    return load_spec(path, root=folder, source={"format": "json_lines", "files": files})


def enough(spec: DatasetSpec) -> int:
    """Rows that suffice for the largest cut, and for every sample row in what is left."""
    cuts = [getattr(rule, cut) for rule in spec.splits.values() for cut in CUTS]
    return 40 + max([cut for cut in cuts if isinstance(cut, int)], default=0)


def test_all_files_are_found() -> None:
    specs = [load_spec(path) for path in FILES]
    assert len(specs) == 88
    assert len({spec.name for spec in specs}) == len(specs)
    assert len(MIXTURES) == 11
    assert all({"train", "test"} & set(spec.split_names) for spec in specs)
    assert not any(spec.source.verified for spec in specs if isinstance(spec.source, HubSource))


@pytest.mark.parametrize("path", FROM_ELSEWHERE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_template_of_every_file_renders(path: Path, tmp_path: Path) -> None:
    spec = local(path, tmp_path)
    rows = len(rows_for(load_spec(path)))
    shown = spec.with_template("all") if spec.known_templates else spec
    for split in spec.splits or spec.split_names:
        examples = load_examples(shown, split, limit=rows)
        per_row = max(1, len(spec.known_templates))
        assert len(examples) % per_row == 0
        assert all(is_complete(spec, example) for example in examples)
    assert spec.template_names == load_spec(path).template_names


def is_complete(spec: DatasetSpec, example: Example) -> bool:
    """Whether an example has all that its task needs."""
    if spec.task == "text_classification":
        return isinstance(example.label, int) and bool(example.text)
    if spec.task == "text_regression":
        return isinstance(example.label, float) and bool(example.text_pair)
    if spec.task == "text_to_text" and spec.has_choices:
        return example.choices[example.label or 0] == example.target and len(example.choices) >= 2
    if spec.task == "text_to_text":
        return bool(example.answers) and bool(example.target)
    if spec.generation is not None and spec.metrics:
        return bool(example.answers) and bool(example.text)
    return set(example.kept) == set(spec.columns.keep)


@pytest.mark.parametrize("path", FROM_ELSEWHERE, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_missing_column_is_named(path: Path, tmp_path: Path) -> None:
    """The negative control: a column that the file relies on is taken away, then told by name."""
    spec = load_spec(path)
    sample = rows_for(spec)
    column = next(name for name in RELIED_ON if name in sample[0])
    rows = [{name: value for name, value in row.items() if name != column} for row in sample]
    broken = local(path, tmp_path, rows)
    broken = broken.with_template("all") if broken.known_templates else broken
    with pytest.raises(DataError, match=f"'{column}'"):
        load_examples(broken, next(iter(broken.splits or broken.split_names)), limit=len(rows))


RELIED_ON = (
    *(
        "toxicity",
        "sentence1",
        "input_sentence_1",
        "premise",
        "question",
        "question1",
        "sentence",
        "context",
        "background",
    ),
    *("ctx", "instruction", "problem", "prompt", "test_list", "content", "text"),
)


def published_sizes() -> dict[str, tuple[int, int]]:
    """Rows that the published MaTS code leaves for train, of 40 more than it takes from the end for validation."""
    few = {"quartz": 200, "qasc": 500, "cb": 100, "copa": 100, "wsc": 100, "wnli": 200}
    return {path.stem: (40, few.get(path.stem, 1000)) for path in FROM_ELSEWHERE if path.parent.name == "p3"}


@pytest.mark.parametrize(("task", "sizes"), published_sizes().items())
def test_p3_splits_are_the_published_ones(task: str, sizes: tuple[int, int], tmp_path: Path) -> None:
    spec = local(CONFIGS / "datasets" / "p3" / f"{task}.yaml", tmp_path)
    assert (len(read_rows(spec, "train")), len(read_rows(spec, "validation"))) == sizes


@pytest.mark.parametrize(
    ("task", "count"),
    {
        "rte": 10,
        "cb": 15,
        "winogrande": 5,
        "wic": 10,
        "wsc": 10,
        "copa": 8,
        "story_cloze": 5,
        "anli-r1": 15,
        "mnli": 15,
        "qnli": 5,
        "qqp": 5,
        "cola": 5,
        "mrpc": 5,
        "sst2": 5,
        "wnli": 5,
        "boolq": 10,
        "multirc": 10,
        "h-swag": 7,
    }.items(),
)
def test_number_of_templates_is_the_published_one(task: str, count: int) -> None:
    assert len(load_spec(CONFIGS / "datasets" / "p3" / f"{task}.yaml").template_names) == count


@pytest.mark.parametrize("path", MIXTURES, ids=lambda path: path.stem)
def test_mixtures(path: Path) -> None:
    mixture = load_mixture(path)
    assert mixture.name == path.stem
    counts = {"p3_eight_qa": 8, "p3_ties": 7, "ties_t5": 7, "ties_t0_held_out": 11, "glue": 8, "dare_decoders": 5}
    assert len(mixture.datasets) == counts.get(mixture.name, 2)


def test_faults_of_a_mixture_are_told_at_once(tmp_path: Path) -> None:
    good = "name: a\ntask: text_classification\nsource: {format: json_lines, files: {test: x}}\nlabels: 2\n"
    (tmp_path / "a.yaml").write_text(good)
    (tmp_path / "b.yaml").write_text("name: b\ntask: nothing\n")
    (tmp_path / "mix.yaml").write_text("name: m\ndatasets: [a.yaml, a.yaml, b.yaml]\n")
    with pytest.raises(RecipeError, match="'a' is given twice") as caught:
        load_mixture(tmp_path / "mix.yaml")
    assert any("b.yaml: task" in fault for fault in caught.value.faults)
    (tmp_path / "mix.yaml").write_text("name: m\ndataset: [a.yaml]\n")
    with pytest.raises(RecipeError, match="unknown key; nearest: datasets"):
        load_mixture(tmp_path / "mix.yaml")
