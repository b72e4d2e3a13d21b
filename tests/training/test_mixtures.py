"""Several datasets at once: one model for all, or a head for each on a common body."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy
from training_cases import Recorder, TinyBase, changed, distance, weights
from transformers import AutoModelForSequenceClassification

from mats.checkpoints import load_model
from mats.data import Example, load_examples, load_processor, make_batches
from mats.errors import RequestError
from mats.evaluation import evaluate
from mats.training import fine_tune, fine_tune_jointly, plan_training, read_report
from mats.training.examples import capped

Bases = Callable[[str], TinyBase]


def test_a_mixture_is_learnt_by_one_model(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("t5")
    request = base.request(
        tmp_path / "out", "colour", "mood", updates=40, batch_size=24, learning_rate=1e-2, evaluate_every=20
    )
    folder = fine_tune(request)
    report = read_report(folder)
    values = {name: entry["value"] for name, entry in report["evaluations"][-1]["results"].items()}
    assert values.keys() == {"colour", "mood"}
    assert min(values.values()) > 0.8
    assert report["evaluations"][-1]["score"] == pytest.approx(sum(values.values()) / 2)
    assert report["name"] == "colour+mood"
    spec = base.spec("mood")
    model = load_model(folder, spec.task)
    batches = make_batches(load_examples(spec, "validation"), spec, load_processor(folder, spec), 8)
    chosen = next(e for e in report["evaluations"] if e["updates"] == report["chosen"]["updates"])
    assert evaluate(model, batches).value == pytest.approx(chosen["results"]["mood"]["value"])


def test_joint_training_shares_the_body_and_keeps_the_heads_apart(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    request = base.request(tmp_path / "out", "colour", "mood", updates=60, batch_size=24, evaluate_every=60)
    specs = (base.spec("colour"), changed(base.spec("mood"), labels=("no", "yes", "maybe")))
    folders = fine_tune_jointly(replace(request, datasets=specs))
    assert folders == {name: tmp_path / "out" / name for name in ("colour", "mood")}
    one, two = (weights(folder) for folder in folders.values())
    body = [name for name in one if not name.startswith("classifier")]
    assert distance({name: one[name] for name in body}, {name: two[name] for name in body}) == 0.0
    assert one["classifier.weight"].shape[0] == 2
    assert two["classifier.weight"].shape[0] == 3
    report = read_report(tmp_path / "out")
    for spec in specs:
        model = load_model(folders[spec.name], spec.task)
        batches = make_batches(load_examples(spec, "validation"), spec, load_processor(base.base, spec), 8)
        score = evaluate(model, batches).value
        assert score > 0.8
        assert report["evaluations"][0]["results"][spec.name]["value"] == pytest.approx(score)


def test_a_joint_update_is_the_mean_over_all_examples(tiny_base: Bases, tmp_path: Path) -> None:
    """One update on everything, against gradients of the two heads' losses added by hand."""
    base = tiny_base("bert")
    request = base.request(
        tmp_path / "out",
        "colour",
        "mood",
        updates=1,
        batch_size=192,
        micro_batch_size=48,
        schedule="constant",
        clip=None,
    )
    joint = weights(fine_tune_jointly(request)["colour"])
    model = AutoModelForSequenceClassification.from_pretrained(base.base)
    optimizer = torch.optim.AdamW(model.bert.parameters(), lr=3e-3, weight_decay=0.0)
    for name in ("colour", "mood"):
        spec = base.spec(name)
        (batch,) = make_batches(load_examples(spec, "train"), spec, load_processor(base.base, spec), 96)
        (cross_entropy(model(**batch.inputs).logits, batch.labels, reduction="sum") / 192).backward()
    optimizer.step()
    found = {n: t for n, t in joint.items() if n.startswith("bert.") and "key.bias" not in n}
    expected = model.state_dict()
    assert distance(found, {name: expected[name] for name in found}) < 2e-5


def test_an_interrupted_joint_run_ends_with_the_same_weights(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    whole = base.request(tmp_path / "whole", "colour", "mood", evaluate_every=2, keep="last")
    stopped = replace(whole, output=tmp_path / "out")
    with pytest.raises(KeyboardInterrupt):
        fine_tune_jointly(stopped, Recorder(stop_after=3))
    first, second = fine_tune_jointly(whole), fine_tune_jointly(stopped)
    for name in first:
        assert distance(weights(first[name]), weights(second[name])) == 0.0


def test_one_head_for_unlike_labels_is_refused(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    request = base.request(tmp_path / "out", "colour", "mood")
    specs = (base.spec("colour"), changed(base.spec("mood"), labels=3))
    with pytest.raises(
        RequestError, match=r"colour is text_classification with 2 labels, mood is .* with 3; .* one per"
    ):
        fine_tune(replace(request, datasets=specs))
    with pytest.raises(RequestError, match="'colour' is given twice"):
        replace(request, datasets=(specs[0], specs[0]))
    with pytest.raises(RequestError, match="adapters have one head"):
        fine_tune_jointly(base.request(tmp_path / "out", "colour", "mood", tuning="lora"))
    with pytest.raises(RequestError, match="T5ForConditionalGeneration it has no head apart from its body"):
        fine_tune_jointly(tiny_base("t5").request(tmp_path / "out", "colour", "mood"))


def test_a_cap_draws_evenly_from_templates() -> None:
    """⌊10 ÷ 3⌋ of each of three templates, and one more from the first; the same ones every time."""
    examples = [Example(f"train:{row}:{template}") for row in range(20) for template in range(3)]
    drawn = capped(examples, 10, 3)
    assert Counter(example.example_id.rpartition(":")[2] for example in drawn) == {"0": 4, "1": 3, "2": 3}
    assert drawn == capped(examples, 10, 3)
    assert drawn == sorted(drawn, key=examples.index)
    assert [example.example_id for example in drawn] != [example.example_id for example in examples[:10]]


def test_templates_and_caps_decide_what_is_shown(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("t5")
    templates = ({"input": "{text} ?"}, {"input": "a {text}"}, {"input": "{text}"})
    spec = changed(base.spec(), template=None, templates=templates)

    def shown(**settings: object) -> list[str]:
        request = replace(base.request(tmp_path / "out", **settings), datasets=(spec,))
        return [example.text for _, example in plan_training(request).data.items]

    assert len(shown()) == len(shown(templates=1)) == 96
    assert all(text.startswith("a ") for text in shown(templates=1))
    assert len(shown(templates="all")) == 3 * 96
    assert len(shown(templates="all", cap=100)) == 100
    assert len(shown(examples=10)) == 10
    with pytest.raises(RequestError, match="no template 3; 0 to 2 would be right"):
        shown(templates=3)
