"""The bridge to lm-evaluation-harness: what it is asked, what is kept, and a real run where it is installed."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from tiny_writers import tokenizer, write_gpt2, write_lines

from mats.errors import OutputExists, RequestError, WorkFailed
from mats.evaluation.harness import HarnessRequest, plain_json, run_harness

TASK = """
task: tiny_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {file}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: gold
doc_to_choice: choices
metric_list: [{{metric: acc, aggregation: mean, higher_is_better: true}}]
metadata: {{version: 1.0}}
"""
ROWS = [{"question": f"the cat {index}", "choices": ["sat", "mat."], "gold": index % 2} for index in range(10)]


class FakeTasks:
    """An index that knows one task."""

    def __init__(self, include_path: str | None = None) -> None:
        self.all_tasks = ["tiny_choice"]
        self.include_path = include_path

    def match_tasks(self, tasks: list[str]) -> list[str]:
        return [task for task in tasks if task in self.all_tasks]


class FakeHarness:
    """Stands for `simple_evaluate`; keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def __call__(self, **options: Any) -> dict[str, Any]:
        self.asked.append(options)
        value = np.float64(0.5)
        return {
            "results": {"tiny_choice": {"acc,none": value, "acc_stderr,none": float("nan"), "alias": "tiny_choice"}},
            "config": {"dtype": torch.float32, "shape": np.arange(2), "names": {"x"}},
        }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeHarness:
    harness = FakeHarness()
    package: Any = ModuleType("lm_eval")
    package.tasks = ModuleType("lm_eval.tasks")
    package.tasks.TaskManager = FakeTasks
    package.simple_evaluate = harness
    monkeypatch.setitem(sys.modules, "lm_eval", package)
    monkeypatch.setitem(sys.modules, "lm_eval.tasks", package.tasks)
    return harness


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("harness") / "gpt2")


@pytest.fixture
def request_of(gpt2: Path, tmp_path: Path) -> HarnessRequest:
    return HarnessRequest((str(gpt2),), ("tiny_choice",), tmp_path / "results", limit=6, seed=7)


def test_what_the_harness_is_asked(fake: FakeHarness, request_of: HarnessRequest, gpt2: Path) -> None:
    summary = run_harness(replace(request_of, num_fewshot=2, batch_size="auto", trust_remote_code=True))
    (asked,) = fake.asked
    assert asked.pop("task_manager").include_path is None
    assert asked == {
        "model": "hf",
        "model_args": {"pretrained": str(gpt2), "dtype": "auto", "trust_remote_code": True},
        "tasks": ["tiny_choice"],
        "num_fewshot": 2,
        "batch_size": "auto",
        "device": "cpu",
        "limit": 6,
        "log_samples": False,
        "apply_chat_template": False,
        **dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 7),
    }
    written = json.loads((request_of.output / "gpt2.json").read_text())
    assert written["results"]["results"]["tiny_choice"]["acc,none"] == 0.5
    assert written["results"]["config"] == {"dtype": "torch.float32", "shape": "[0 1]", "names": ["x"]}
    assert {"mats", "lm_eval", "torch", "transformers", "vllm"} <= set(written["versions"])
    assert summary["models"][0]["results"]["tiny_choice"]["acc_stderr,none"] is None


def test_vllm_is_asked_for_tensor_parallelism(
    fake: FakeHarness, request_of: HarnessRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    spread = replace(request_of, backend="vllm", tensor_parallel_size=4)
    with pytest.raises(RequestError, match="backend vllm: the package vllm is not installed"):
        run_harness(spread)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    run_harness(spread)
    assert fake.asked[0]["model"] == "vllm"
    assert fake.asked[0]["device"] is None
    arguments = fake.asked[0]["model_args"]
    assert (arguments["tensor_parallel_size"], arguments["seed"]) == (4, 7)


def test_adapters_name_their_base(fake: FakeHarness, request_of: HarnessRequest, gpt2: Path, tmp_path: Path) -> None:
    folder = write_adapter(gpt2, tmp_path / "lora")
    run_harness(replace(request_of, models=(str(folder),)))
    arguments = fake.asked[0]["model_args"]
    assert (arguments["pretrained"], arguments["peft"]) == (str(gpt2), str(folder))
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(json.dumps({**config, "base_model_name_or_path": None}))
    with pytest.raises(RequestError, match="the adapter names no base"):
        run_harness(replace(request_of, models=(str(folder),)))


def write_adapter(gpt2: Path, folder: Path) -> Path:
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["c_attn"], fan_in_fan_out=True)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(gpt2), config)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    model.save_pretrained(folder)
    return folder


def test_results_of_the_same_settings_are_kept(fake: FakeHarness, request_of: HarnessRequest) -> None:
    run_harness(request_of)
    assert run_harness(request_of)["models"][0]["kept"] is True
    assert len(fake.asked) == 1
    with pytest.raises(OutputExists, match=r"gpt2\.json: is there, made by other settings"):
        run_harness(replace(request_of, limit=5))
    assert run_harness(replace(request_of, limit=5, overwrite=True))["models"][0]["kept"] is False
    assert len(fake.asked) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tasks": ("tiny_chioce",)}, "task 'tiny_chioce' is unknown to the harness; near: tiny_choice"),
        ({"tasks": ()}, "no task"),
        ({"models": ()}, "no model"),
        ({"models": ("/nowhere",)}, "/nowhere: no such file or folder"),
        ({"backend": "vlm"}, "backend 'vlm': unknown; hf or vllm"),
        ({"tensor_parallel_size": 2}, "tensor_parallel_size 2: only the backend vllm"),
        ({"tensor_parallel_size": 0}, "tensor_parallel_size 0; 1 or more"),
        ({"limit": 0}, "limit 0; a number of examples"),
        ({"batch_size": 0}, "batch_size 0; 1 or more, or auto"),
        ({"include_path": Path("/nowhere")}, "/nowhere: no such folder"),
    ],
)
def test_wrong_requests(fake: FakeHarness, request_of: HarnessRequest, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        run_harness(replace(request_of, **changes))
    assert fake.asked == []


def test_two_models_of_one_name_are_refused(fake: FakeHarness, request_of: HarnessRequest) -> None:
    with pytest.raises(RequestError, match="model name 'gpt2' is given twice"):
        run_harness(replace(request_of, models=request_of.models * 2))


def test_failures_of_the_harness_are_one_line(fake: FakeHarness, request_of: HarnessRequest) -> None:
    def fail(**_: Any) -> Any:
        raise ValueError("first line\nsecond line")

    with pytest.raises(WorkFailed, match=r"gpt2: the harness failed: ValueError: first line$"):
        run_harness(request_of, evaluate=fail)
    with pytest.raises(WorkFailed, match="the harness gave no results"):
        run_harness(request_of, evaluate=lambda **_: None)
    assert not (request_of.output / "gpt2.json").exists()


def test_missing_harness_is_said_in_one_line(request_of: HarnessRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    with pytest.raises(RequestError, match=r"needs lm-evaluation-harness .*; pip install 'mats\[eval\]'"):
        run_harness(request_of)


def test_plain_json_keeps_numbers_and_texts() -> None:
    value = {1: (np.int64(3), float("inf"), None, True), "x": {"y": np.float32(0.5), "z": {2}}}
    assert plain_json(value) == {"1": [3, None, None, True], "x": {"y": 0.5, "z": [2]}}


def test_a_real_run_on_a_local_task(
    request_of: HarnessRequest, gpt2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Accuracy of the harness against log-likelihoods summed by hand; an adapter changes what is scored."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: the real harness did not run")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "tasks"
    folder.mkdir()
    (folder / "tiny_choice.yaml").write_text(TASK.format(file=write_lines(folder / "rows.jsonl", ROWS)))
    adapter = write_adapter(gpt2, tmp_path / "lora")
    models = (str(gpt2), str(adapter))
    request = replace(request_of, models=models, include_path=folder, limit=None, dtype="float32", log_samples=True)
    plain, adapted = run_harness(request)["models"]
    by_hand = [choice_scores(gpt2, row) for row in ROWS]
    right = [scores.index(max(scores)) == row["gold"] for scores, row in zip(by_hand, ROWS, strict=True)]
    assert plain["results"]["tiny_choice"]["acc,none"] == pytest.approx(sum(right) / len(ROWS))
    for entry, same in ((plain, True), (adapted, False)):
        samples = json.loads(Path(entry["file"]).read_text())["results"]["samples"]["tiny_choice"]
        samples.sort(key=lambda sample: sample["doc_id"])
        found = [[float(answer[0]) for answer in sample["filtered_resps"]] for sample in samples]
        assert (np.abs(np.array(found) - np.array(by_hand)).max() < 1e-3) is np.bool_(same)


def choice_scores(folder: Path, row: dict[str, Any]) -> list[float]:
    """Log-likelihood of each choice after the question and a space, one forward pass each."""
    from transformers import AutoModelForCausalLM

    words = tokenizer()
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    scores = []
    for choice in row["choices"]:
        whole = words(f"{row['question']} {choice}")["input_ids"]
        start = len(words(row["question"])["input_ids"])
        with torch.no_grad():
            logits = model(torch.tensor([whole])).logits[0].log_softmax(-1)
        scores.append(sum(logits[place - 1, whole[place]].item() for place in range(start, len(whole))))
    return scores
