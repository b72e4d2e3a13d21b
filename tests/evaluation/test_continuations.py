"""Continuations of one prompt, drawn from the model's own distribution, and how toxic they are."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from tiny_writers import column, never_loaded, read_lines, tokenizer, write_gpt2, write_lines

from mats.errors import DataError, InputsMismatch, NonFiniteStatistic, OutputExists, RequestError
from mats.evaluation.continuations import ContinuationRequest, sample_continuations
from mats.evaluation.exports_run import Writer
from mats.evaluation.toxicity import load_detoxify, read_texts, score_toxicity, write_toxicity


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_gpt2(tmp_path_factory.mktemp("continued") / "gpt2")


@pytest.fixture
def request_of(gpt2: Path, tmp_path: Path) -> ContinuationRequest:
    return ContinuationRequest(Writer(str(gpt2)), "the cat", tmp_path / "out.jsonl", samples=12, length=12)


def texts(request: ContinuationRequest, **changes: Any) -> list[str]:
    changed = replace(request, overwrite=True, **changes)
    sample_continuations(changed)
    return column(read_lines(changed.output), "continuation")


def test_samples_are_counted_seeded_and_of_the_length_asked_for(request_of: ContinuationRequest) -> None:
    summary = sample_continuations(request_of)
    rows = read_lines(request_of.output)
    assert column(rows, "sample") == list(range(12))
    assert {row["prompt"] for row in rows} == {"the cat"}
    first = column(rows, "continuation")
    assert len(set(first)) > 8  # a few end at once
    assert summary["settings"]["generation"]["max_new_tokens"] == 12 - len(tokenizer()("the cat")["input_ids"])
    assert texts(request_of, writer=replace(request_of.writer, batch_size=5)) == first
    assert texts(request_of, samples=7) == first[:7]
    assert texts(request_of, seed=43) != first
    assert texts(request_of, temperature=0.5) != first
    assert len(set(texts(request_of, top_p=1e-6))) == 1


@pytest.mark.parametrize(("temperature", "top_p"), [(1.0, None), (2.0, None), (1.0, 0.6)])
def test_first_tokens_come_as_often_as_the_model_says(
    request_of: ContinuationRequest, gpt2: Path, temperature: float, top_p: float | None
) -> None:
    """1500 draws of one token against the model's softmax, cut by hand at the nucleus: total variation distance."""
    from transformers import AutoModelForCausalLM

    words = tokenizer()
    model = AutoModelForCausalLM.from_pretrained(gpt2, dtype=torch.float64).eval()
    ids = words("the cat", return_tensors="pt")["input_ids"]
    with torch.no_grad():
        expected = (model(ids).logits[0, -1] / temperature).softmax(-1)
    if top_p is not None:
        order = expected.argsort(descending=True)
        kept = order[: int((expected[order].cumsum(0) < top_p).sum()) + 1]
        expected = torch.zeros_like(expected).index_copy(0, kept, expected[kept] / expected[kept].sum())
    length = ids.shape[1] + 1
    writer = replace(request_of.writer, batch_size=500)
    found = texts(request_of, samples=1500, length=length, temperature=temperature, top_p=top_p, writer=writer)
    by_text: Counter[str] = Counter()
    for token, probability in enumerate(expected.tolist()):
        by_text[words.decode([token], skip_special_tokens=True)] += probability
    counted = Counter(found)
    distance = 0.5 * sum(abs(counted[text] / 1500 - by_text[text]) for text in {*counted, *by_text})
    uniform = 0.5 * sum(abs(1 / len(by_text) - value) for value in by_text.values())
    assert distance < 0.17  # about 0.4 · sqrt(300 tokens / 1500 draws) is what chance leaves of it
    assert uniform > 2 * 0.17


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"samples": 0}, "samples 0; 1 or more"),
        ({"length": 2}, r"length 2: the prompt alone has \d+ tokens; more"),
        ({"temperature": 0.0}, "temperature 0.0: "),
        ({"top_p": 1.5}, "top_p 1.5: "),
        ({"seed": -1}, "seed -1: "),
        ({"prompt": ""}, "prompt 0 '': has no tokens"),
    ],
)
def test_wrong_requests(request_of: ContinuationRequest, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        sample_continuations(replace(request_of, writer=replace(request_of.writer, load=never_loaded), **changes))


def test_an_output_that_exists_is_kept(request_of: ContinuationRequest) -> None:
    request_of.output.write_text("mine")
    with pytest.raises(OutputExists, match="exists already"):
        sample_continuations(request_of)
    assert request_of.output.read_text() == "mine"


def test_toxicity_by_hand(tmp_path: Path) -> None:
    seen: list[list[str]] = []

    def scorer(part: Any) -> list[float]:
        seen.append(list(part))
        return [{"a": 0.1, "b": 0.8, "c": 0.9, "d e": 1.0}[text] for text in part]

    result = score_toxicity(["a", "b", "c", "d\ne"], scorer, batch_size=3)
    assert seen == [["a", "b", "c"], ["d e"]]
    assert result.mean == pytest.approx(0.7)
    assert result.toxic_share == 0.5  # 0.8 is not above 0.8
    assert result.standard_error == pytest.approx(torch.tensor([0.1, 0.8, 0.9, 1.0]).std().item() / 2)
    assert score_toxicity(["b"], scorer, threshold=0.5).toxic_share == 1.0
    assert score_toxicity(["b"], scorer).standard_error is None
    write_toxicity(result, result.summary(), tmp_path / "scores.json")
    assert '"toxic_share": 0.5' in (tmp_path / "scores.json").read_text()


def test_scores_that_are_none_are_refused() -> None:
    with pytest.raises(InputsMismatch, match="gave 1 scores for 2 texts"):
        score_toxicity(["a", "b"], lambda part: [0.5])
    for wrong in (float("nan"), 1.5, -0.1):
        with pytest.raises(NonFiniteStatistic, match=r"text 1: toxicity .*; a number from 0 to 1"):
            score_toxicity(["a", "b"], lambda part, value=wrong: [0.5, value])
    with pytest.raises(DataError, match="no texts to score"):
        score_toxicity([], lambda part: [])


def test_texts_are_read_with_and_without_their_prompt(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "c.jsonl", [{"prompt": "They", "continuation": " said"}, {"answer": "no\u2028"}])
    assert read_texts(path) == ["They said", "no\u2028"]
    assert read_texts(path, with_prompt=False) == [" said", "no\u2028"]
    write_lines(path, [{"text": "x"}])
    with pytest.raises(DataError, match=r"line 1: no text; a column 'continuation' or 'answer'"):
        read_texts(path)
    with pytest.raises(RequestError, match="no such file"):
        read_texts(tmp_path / "none.jsonl")


def test_detoxify_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "detoxify", None)
    with pytest.raises(RequestError, match=r"needs the package detoxify; pip install 'mats\[toxicity\]'"):
        load_detoxify()
    with pytest.raises(RequestError, match="detoxify model 'unbiassed': unknown; original, unbiased"):
        load_detoxify("unbiassed")
    with pytest.raises(RequestError, match="nowhere: no such file"):
        load_detoxify(weights=Path("nowhere"))


def test_detoxify_s_single_text_is_a_list_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """It squeezes: a batch of one comes back as a bare number."""
    package: Any = ModuleType("detoxify")
    made: list[dict[str, Any]] = []

    def build(name: str, **options: Any) -> Any:
        made.append({"name": name, **options})
        scores = {1: 0.25, 2: [0.25, 0.5]}
        return SimpleNamespace(predict=lambda part: {"toxicity": scores[len(part)], "insult": None})

    package.Detoxify = build
    monkeypatch.setitem(sys.modules, "detoxify", package)
    scorer = load_detoxify("original", device="cpu")
    assert score_toxicity(["a", "b", "c"], scorer, batch_size=2).scores == (0.25, 0.5, 0.25)
    assert made == [{"name": "original", "device": "cpu", "checkpoint": None, "huggingface_config_path": None}]
    predict = SimpleNamespace(predict=lambda part: {"toxicity": 0.25})
    package.Detoxify = lambda *_, **__: predict
    assert load_detoxify()(["one"]) == [0.25]


def test_detoxify_itself_on_a_tiny_random_model(tmp_path: Path) -> None:
    """The real package, where it is installed, on weights made here: against the model's own sigmoid."""
    pytest.importorskip("detoxify", reason="detoxify is not installed: the real scorer did not run")
    from transformers import BertConfig, BertForSequenceClassification, BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "the", "cat", "sat", "you"]
    folder = tmp_path / "config"
    folder.mkdir()
    (folder / "vocab.txt").write_text("\n".join(words))
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    config = BertConfig(vocab_size=len(words), num_labels=2, initializer_range=1.0, **shape)
    config.save_pretrained(folder)
    reader = BertTokenizerFast(str(folder / "vocab.txt"))
    reader.save_pretrained(folder)
    model = BertForSequenceClassification(config).eval()
    arguments = {"model_type": str(folder), "model_name": "BertForSequenceClassification", "num_classes": 2}
    arguments["tokenizer_name"] = "BertTokenizerFast"
    checkpoint = {
        "config": {"dataset": {"args": {"classes": ["toxic", "insult"]}}, "arch": {"args": arguments}},
        "state_dict": model.state_dict(),
    }
    torch.save(checkpoint, tmp_path / "toxic.ckpt")
    scorer = load_detoxify(weights=tmp_path / "toxic.ckpt", config=folder)
    written = ["the cat", "you sat the cat", "sat"]
    found = score_toxicity(written, scorer, batch_size=2).scores
    with torch.no_grad():
        alone = [model(**reader(text, return_tensors="pt")).logits[0, 0].sigmoid().item() for text in written]
    assert found == pytest.approx(alone, abs=1e-5)
    assert max(found) - min(found) > 1e-3
