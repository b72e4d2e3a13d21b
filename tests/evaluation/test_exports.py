"""Answers of tiny models written to files: right, in any batch and slice, and the same after a run was killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_writers import (
    column,
    continue_alone,
    instructions,
    never_loaded,
    read_lines,
    write_gpt2,
    write_lines,
    write_t5,
)

from mats.checkpoints import load_model
from mats.errors import InputsMismatch, OutputExists, RequestError
from mats.evaluation import exports_decoding, exports_run
from mats.evaluation.exports import ExportRequest, export_answers, settings_file
from mats.evaluation.exports_run import Writer

LENGTH = {"max_new_tokens": 9}


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("writers") / "gpt2")


@pytest.fixture
def request_of(gpt2: Path, tmp_path: Path) -> ExportRequest:
    """Eleven instructions to answer, greedily, in batches of four."""
    data = write_lines(tmp_path / "data.jsonl", instructions(11))
    return ExportRequest(Writer(str(gpt2), batch_size=4), data, tmp_path / "out.jsonl", generation=LENGTH)


def drawn(request: ExportRequest, **settings: Any) -> ExportRequest:
    return replace(request, generation={**LENGTH, "do_sample": True, "temperature": 1.0, **settings})


def answers(request: ExportRequest, name: str = "again.jsonl", **changes: Any) -> list[str]:
    """The texts of a request written to another file."""
    changed = replace(request, output=request.output.with_name(name), overwrite=True, **changes)
    export_answers(changed)
    return column(read_lines(changed.output), "answer")


def test_greedy_answers_equal_the_plainest_loop(request_of: ExportRequest, gpt2: Path) -> None:
    summary = export_answers(request_of)
    rows = read_lines(request_of.output)
    assert column(rows, "answer") == [
        continue_alone(gpt2, row["instruction"], LENGTH["max_new_tokens"]) for row in instructions(11)
    ]
    assert column(rows, "key") == [str(index) for index in range(11)]
    assert (summary["items"], summary["samples"], summary["generator"]) == (11, 1, "gpt2")
    assert json.loads(settings_file(request_of.output).read_text())["settings"] == summary["settings"]
    assert set(summary["versions"]) == {"mats", "torch", "transformers"}
    left = {path.name for path in request_of.output.parent.iterdir()}
    assert left == {"data.jsonl", "out.jsonl", "out.jsonl.settings.json", ".out.jsonl.lock"}


@pytest.mark.parametrize("sampling", [False, True], ids=["greedy", "drawn"])
def test_neither_batches_nor_slices_change_an_answer(request_of: ExportRequest, sampling: bool) -> None:
    request = drawn(request_of) if sampling else request_of
    whole = answers(request, "whole.jsonl")
    assert answers(request, writer=replace(request.writer, batch_size=1)) == whole
    assert answers(request, end=5) + answers(request, start=5) == whole
    assert len(set(whole)) > 3


def test_looking_at_padding_differs(request_of: ExportRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The negative control: without the mask, batches do change answers."""
    whole = answers(request_of, writer=replace(request_of.writer, batch_size=1))
    monkeypatch.setattr(
        exports_decoding, "real_positions", lambda rows, side: torch.ones(len(rows), max(map(len, rows)))
    )
    assert answers(request_of, writer=replace(request_of.writer, batch_size=11)) != whole


def test_draws_follow_seed_temperature_and_top_p(request_of: ExportRequest) -> None:
    greedy = answers(request_of)
    first = answers(drawn(request_of))
    assert answers(drawn(request_of)) == first
    assert answers(drawn(request_of, seed=1)) != first
    assert answers(drawn(request_of, temperature=3.0)) != first
    assert answers(drawn(request_of, top_p=0.5)) != first
    assert first != greedy
    assert answers(drawn(request_of, temperature=1e-4)) == greedy
    assert answers(drawn(request_of, top_p=1e-6)) == greedy


def test_the_first_of_many_samples_is_the_only_one_of_one(request_of: ExportRequest) -> None:
    one = answers(drawn(request_of))
    rows_file = request_of.output.with_name("many.jsonl")
    export_answers(replace(drawn(request_of), samples=3, output=rows_file))
    rows = read_lines(rows_file)
    assert column(rows, "sample") == [0, 1, 2] * 11
    assert column(rows[::3], "answer") == one
    assert any(len({row["answer"] for row in rows[first : first + 3]}) == 3 for first in range(0, 33, 3))


def test_stop_texts_end_an_answer(request_of: ExportRequest) -> None:
    plain = answers(drawn(request_of))
    letter = next(text for text in plain if len(text) > 4)[2]
    stopped_file = request_of.output
    export_answers(drawn(request_of, stop=(letter,)))
    for before, row in zip(plain, read_lines(stopped_file), strict=True):
        assert row["answer"] == before.split(letter)[0]
        assert row["finished"] or letter not in before


class Killed(BaseException):
    """Stands for a signal that no one catches."""


def stop_after(batches: int, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Let writing fail after so many batches; returns the sizes of the batches that were written."""
    inner, sizes = exports_run.write_after, []

    def write(*arguments: Any) -> Any:
        if len(sizes) == batches:
            raise Killed("now")
        sizes.append(len(arguments[2]))
        return inner(*arguments)

    monkeypatch.setattr(exports_run, "write_after", write)
    return sizes


def test_a_killed_run_goes_on_and_writes_the_same_file(
    request_of: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = drawn(request_of)
    answers(request, "whole.jsonl")
    with monkeypatch.context() as patch:
        stop_after(2, patch)
        with pytest.raises(Killed, match="now"):
            export_answers(request)
    assert not request.output.exists()
    partial = request.output.with_name(".out.jsonl.partial") / "answers.jsonl"
    with open(partial, "ab") as file:
        file.write(b'{"key": "10", "text": "half a li')  # the kill came while a line was being written
    with monkeypatch.context() as patch:
        sizes = stop_after(9, patch)
        export_answers(request)
    assert sizes == [3]  # only the batch that was missing
    assert request.output.read_bytes() == request.output.with_name("whole.jsonl").read_bytes()
    assert not partial.parent.exists()


@pytest.mark.slow  # a process of its own; the test above is its twin
def test_sigkill_leaves_what_is_finished(request_of: ExportRequest) -> None:
    script = (
        "import os, signal, sys\nfrom mats.evaluation import exports_partial\nfrom mats.cli.main import main\n"
        "inner = exports_partial.PartialAnswers.add\n"
        "def add(self, rows):\n    inner(self, rows)\n    os.kill(os.getpid(), signal.SIGKILL)\n"
        "exports_partial.PartialAnswers.add = add\nsys.exit(main(sys.argv[1:]))\n"
    )
    line = ["generate", request_of.writer.model, "--data", str(request_of.data), "-o", str(request_of.output)]
    options = ["--max-new-tokens", "9", "--batch-size", "4", "--device", "cpu"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    run = [sys.executable, "-c", script, *line, *options]
    killed = subprocess.run(run, env=environment, check=False, capture_output=True, timeout=120)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    assert not request_of.output.exists()
    notes: list[str] = []
    export_answers(request_of, Notes(notes))
    assert notes == ["4 of 11 answers are there from an unfinished run"]
    assert column(read_lines(request_of.output), "answer") == answers(request_of)


class Notes:
    """A progress that keeps the notes."""

    def __init__(self, notes: list[str]) -> None:
        self._notes = notes

    def start(self, description: str, total: int | None) -> None: ...

    def advance(self, steps: int = 1) -> None: ...

    def note(self, message: str) -> None:
        self._notes.append(message)


def test_an_unfinished_run_of_another_request_is_not_mixed_in(
    request_of: ExportRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        stop_after(1, patch)
        with pytest.raises(Killed, match="now"):
            export_answers(request_of)
    other = replace(request_of, generation={"max_new_tokens": 3})
    with pytest.raises(OutputExists, match=r"an unfinished run with generation .*9.* is here, now it is .*3"):
        export_answers(other)
    write_lines(request_of.data, instructions(12))
    with pytest.raises(OutputExists, match="unfinished run with data_checksum"):
        export_answers(request_of)
    assert export_answers(replace(other, overwrite=True))["items"] == 12


def test_an_encoder_decoder_by_its_dataset_file(tmp_path: Path) -> None:
    folder = write_t5(tmp_path / "t5")
    write_lines(tmp_path / "rows.jsonl", [{"text": f"the cat {'sat ' * index}", "gold": "x"} for index in range(5)])
    spec = {"name": "rows", "task": "text_to_text", "template": {"input": "{text}?", "target": "{gold}"}}
    spec |= {"source": {"format": "json_lines", "files": {"test": "rows.jsonl"}}, "generation": {"max_new_tokens": 6}}
    (tmp_path / "rows.yaml").write_text(json.dumps(spec))
    writer = Writer(str(folder), batch_size=3)
    request = ExportRequest(writer, tmp_path / "rows.yaml", tmp_path / "out.jsonl")
    summary = export_answers(request)
    assert summary["settings"]["generation"]["max_new_tokens"] == 6
    rows = read_lines(request.output)
    assert column(rows, "key") == [f"test:{index}" for index in range(5)]
    assert rows[1]["prompt"] == "the cat sat ?"
    assert column(rows, "answer") == answers(request, writer=replace(writer, batch_size=1))
    assert len(set(column(rows, "answer"))) > 1
    shorter = answers(request, generation={"max_new_tokens": 2})
    assert all(long.startswith(short.rstrip("�")) for short, long in zip(shorter, column(rows, "answer"), strict=True))


def test_a_text_to_text_dataset_is_continued_by_a_causal_model(gpt2: Path, tmp_path: Path) -> None:
    write_lines(tmp_path / "rows.jsonl", [{"text": "the cat", "gold": "x"}])
    spec = {"name": "rows", "task": "text_to_text", "template": {"input": "{text}", "target": "{gold}"}}
    spec |= {"source": {"format": "json_lines", "files": {"test": "rows.jsonl"}}}
    (tmp_path / "rows.yaml").write_text(json.dumps(spec))
    request = ExportRequest(Writer(str(gpt2)), tmp_path / "rows.yaml", tmp_path / "out.jsonl", generation=LENGTH)
    export_answers(request)
    assert column(read_lines(request.output), "answer") == [continue_alone(gpt2, "the cat", LENGTH["max_new_tokens"])]


def test_answers_stay_within_the_model_s_positions(tmp_path: Path) -> None:
    folder = write_gpt2(tmp_path / "short", positions=40)
    data = write_lines(tmp_path / "data.jsonl", [{"prompt": "the cat"}, {"prompt": "sat on the mat"}])
    request = ExportRequest(Writer(str(folder)), data, tmp_path / "out.jsonl", generation={"max_new_tokens": 500})
    assert export_answers(request)["unfinished"] == 2
    write_lines(data, [{"prompt": "xyz" * 40}])
    refused = replace(request, output=tmp_path / "other.jsonl", writer=Writer(str(folder), load=never_loaded))
    with pytest.raises(RequestError, match=r"prompt 0: \d+ tokens, but model short has 40 positions"):
        export_answers(refused)


def test_a_tokenizer_of_another_model_is_refused(gpt2: Path, tmp_path: Path) -> None:
    config = json.loads((gpt2 / "config.json").read_text())
    folder = tmp_path / "small"
    folder.mkdir()
    for file in gpt2.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "config.json").write_text(json.dumps({**config, "vocab_size": 20}))
    data = write_lines(tmp_path / "data.jsonl", instructions(1))
    with pytest.raises(InputsMismatch, match=r"token id \d+ is beyond the model's vocabulary of 20"):
        export_answers(ExportRequest(Writer(str(folder), load=never_loaded), data, tmp_path / "out.jsonl"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": "alpaca"}, "format 'alpaca': unknown; answers, alpaca_eval, human_eval, mbpp"),
        ({"wrapper": "vicunia"}, "prompt 'vicunia': unknown"),
        ({"start": 5, "end": 5}, r"start 5, end 5, but there are 11 items"),
        ({"end": 12}, r"start 0, end 12, but there are 11 items; 0 <= start < end <= 11"),
        ({"samples": 2}, "samples 2: would all be equal; a temperature"),
        ({"format": "alpaca_eval", "samples": 2}, "format alpaca_eval holds one answer"),
        ({"generation": {"top_p": 0.5}}, "top_p without do_sample"),
        ({"generation": {"temperature": -1.0, "do_sample": True}}, "temperature -1.0: "),
        ({"generation": {"do_sample": True, "num_beams": 2}}, "do_sample with num_beams 2"),
        ({"data": Path("nowhere.json")}, "nowhere.json: no such file"),
    ],
)
def test_wrong_requests_are_refused_before_a_model_is_loaded(
    request_of: ExportRequest, changes: dict[str, Any], message: str
) -> None:
    writer = replace(request_of.writer, load=never_loaded)
    with pytest.raises(RequestError, match=message):
        export_answers(replace(request_of, writer=writer, **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "/nowhere/model"}, "/nowhere/model: no such file or folder"),
        ({"base": "/nowhere/base"}, "/nowhere/base: no such file or folder"),
        ({"batch_size": 0}, "batch_size 0; 1 or more"),
    ],
)
def test_wrong_writers_are_refused(request_of: ExportRequest, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        export_answers(replace(request_of, writer=replace(request_of.writer, load=never_loaded, **changes)))


def test_an_output_that_exists_is_kept(request_of: ExportRequest) -> None:
    request_of.output.write_text("mine")
    with pytest.raises(OutputExists, match=r"out\.jsonl: exists already"):
        export_answers(replace(request_of, writer=replace(request_of.writer, load=never_loaded)))
    assert request_of.output.read_text() == "mine"
    with pytest.raises(OutputExists, match="is a folder"):
        export_answers(replace(request_of, output=request_of.output.parent, overwrite=True))


def test_adapters_write_too(gpt2: Path, request_of: ExportRequest, tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    plain = answers(request_of)
    model = load_model(gpt2, "language_modeling", dtype=torch.float64)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    adapted = get_peft_model(model, config)
    for name, parameter in adapted.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    adapted.save_pretrained(tmp_path / "adapter")
    writer = replace(request_of.writer, model=str(tmp_path / "adapter"), base=str(gpt2))
    adapted_answers = answers(request_of, writer=writer)
    assert adapted_answers != plain
    assert adapted_answers == answers(request_of, writer=replace(writer, batch_size=2))
