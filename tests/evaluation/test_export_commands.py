"""`mats generate`, `mats toxicity` and `mats harness` as a user calls them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
from tiny_writers import instructions, read_lines, write_gpt2, write_lines

from mats.cli.main import main


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("commands") / "gpt2")


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A command in an empty working folder: exit status, stdout, stderr."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: object) -> tuple[int, str, str]:
        status = main([str(argument) for argument in arguments])
        return (status, *capsys.readouterr())

    return call


def test_answers_in_the_format_of_a_tool(run: Any, gpt2: Path) -> None:
    write_lines(Path("data.jsonl"), instructions(3))
    options = ["--format", "alpaca_eval", "--max-new-tokens", 4, "--name", "merged", "--device", "cpu"]
    status, out, err = run("generate", gpt2, "--data", "data.jsonl", "-o", "out/a.json", *options)
    assert status == 0, err
    assert out.startswith("out/a.json: 3 texts, ")
    rows = json.loads(Path("out/a.json").read_text())
    assert [row["instruction"] for row in rows] == [row["instruction"] for row in instructions(3)]
    assert {row["generator"] for row in rows} == {"merged"}
    settings = json.loads(Path("out/a.json.settings.json").read_text())["settings"]
    assert (settings["prompt"], settings["generation"]["max_new_tokens"]) == ("vicuna", 4)


def test_a_slice_of_mbpp_says_how_to_read_it(run: Any, gpt2: Path) -> None:
    rows = [{"task_id": task, "text": "Do.", "test_list": ["assert f(1) == 1"]} for task in range(1, 20)]
    write_lines(Path("mbpp.jsonl"), rows)
    options = ["--format", "mbpp", "--start", 2, "--end", 5, "--max-new-tokens", 3, "--device", "cpu"]
    status, out, err = run("generate", gpt2, "--data", "mbpp.jsonl", "-o", "slice.json", *options)
    assert status == 0, err
    assert "--load_generations_path slice.json --limit_start 2 --limit 3" in out
    assert [len(group) for group in json.loads(Path("slice.json").read_text())] == [1, 1, 1]


def test_options_reach_the_model(run: Any, gpt2: Path) -> None:
    write_lines(Path("data.jsonl"), instructions(1))
    options = ["--temperature", 0.7, "--top-p", 0.9, "--seed", 3, "--stop", "x", "--repetition-penalty", 1.2]
    options += ["--samples", 2, "--max-new-tokens", 3, "--dtype", "float32", "--device", "cpu", "--json"]
    status, out, err = run("generate", gpt2, "--data", "data.jsonl", "-o", "out.jsonl", *options)
    assert status == 0, err
    summary = json.loads(out)
    expected = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3, "stop": ["x"], "max_new_tokens": 3}
    assert {key: summary["settings"]["generation"][key] for key in expected} == expected
    assert summary["settings"]["generation"]["repetition_penalty"] == 1.2
    assert summary["settings"]["dtype"] == "float32"


def test_continuations_and_their_toxicity(run: Any, gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    options = ["--samples", 3, "--length", 8, "--seed", 1, "--device", "cpu"]
    assert run("generate", gpt2, "--text", "the cat", "-o", "c.jsonl", *options)[0] == 0
    written = [row["prompt"] + row["continuation"] for row in read_lines(Path("c.jsonl"))]
    monkeypatch.setitem(sys.modules, "detoxify", None)
    status, _, err = run("toxicity", "c.jsonl")
    assert (status, err.count("\n")) == (2, 1)
    assert "needs the package detoxify" in err
    package: Any = ModuleType("detoxify")
    seen: list[str] = []
    package.Detoxify = lambda *_, **__: SimpleNamespace(
        predict=lambda part: seen.extend(part) or {"toxicity": [0.9, 0.1, 0.8][: len(part)]}
    )
    monkeypatch.setitem(sys.modules, "detoxify", package)
    status, out, err = run("toxicity", "c.jsonl", "-o", "scores.json", "--device", "cpu")
    assert status == 0, err
    assert out.splitlines() == ["c.jsonl: 3 texts, mean toxicity 0.600, 33.3% above 0.8", "scores.json"]
    assert seen == [" ".join(text.split("\n")) for text in written]
    assert json.loads(Path("scores.json").read_text())["scores"] == [0.9, 0.1, 0.8]
    assert run("toxicity", "c.jsonl", "-o", "scores.json")[0] == 2


def test_missing_harness_is_one_line(run: Any, gpt2: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    status, _, err = run("harness", gpt2, "--tasks", "gsm8k", "-o", "results", "--device", "cpu")
    assert (status, err.count("\n")) == (2, 1)
    assert "needs lm-evaluation-harness" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--data or --text: exactly one"),
        (["--data", "d.jsonl", "--text", "x"], "--data or --text: exactly one"),
        (["--data", "d.jsonl", "--length", "9"], "--length 9: goes with --text"),
        (["--text", "x", "--format", "mbpp"], "--format mbpp: goes with --data"),
        (["--text", "x", "--start", "3"], "--start 3: goes with --data"),
        (["--text", "x", "--dtype", "float8"], "--dtype 'float8': unknown; float32"),
        (["--text", "x", "--temperature", "0"], "temperature 0.0: "),
        (["--data", "nowhere.yaml"], "nowhere.yaml: no such file"),
        (["--data", "d.jsonl", "--top-p", "0.5"], "top_p without do_sample"),
    ],
)
def test_wrong_command_lines(run: Any, gpt2: Path, arguments: list[str], message: str) -> None:
    write_lines(Path("d.jsonl"), instructions(1))
    status, out, err = run("generate", gpt2, "-o", "out.jsonl", *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert message in err
    assert not Path("out.jsonl").exists()


def test_a_dataset_file_says_how_to_write(run: Any, gpt2: Path) -> None:
    write_lines(Path("rows.jsonl"), [{"text": "the cat"}])
    spec = {"name": "rows", "task": "language_modeling", "generation": {"max_new_tokens": 3}}
    spec["source"] = {"format": "json_lines", "files": {"test": "rows.jsonl"}}
    Path("rows.yaml").write_text(json.dumps(spec))
    options = ["--data", "rows.yaml", "-o", "out.jsonl", "--device", "cpu"]
    assert run("generate", gpt2, *options)[0] == 0
    assert read_lines(Path("out.jsonl"))[0]["prompt"] == "the cat"
    assert json.loads(Path("out.jsonl.settings.json").read_text())["settings"]["generation"]["max_new_tokens"] == 3


def test_batch_sizes_of_the_harness(run: Any, gpt2: Path) -> None:
    status, _, err = run("harness", gpt2, "--tasks", "gsm8k", "-o", "results", "--batch-size", "many")
    assert status == 2
    assert "--batch-size 'many': a number, or auto" in err
