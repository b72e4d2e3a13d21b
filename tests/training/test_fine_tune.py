"""Fine-tuning end to end on tiny models: what comes out, again and again, whole or resumed."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from scipy.stats import pearsonr
from torch.nn.functional import cross_entropy
from training_cases import Recorder, TinyBase, changed, distance, weights
from transformers import AutoModelForSequenceClassification, AutoTokenizer

from mats.checkpoints import load_model
from mats.data import load_examples, load_processor, make_batches
from mats.errors import InputsMismatch, NonFiniteStatistic, OutputExists, RequestError
from mats.evaluation import evaluate
from mats.training import fine_tune, kept_checkpoint, read_report
from mats.training.checkpoints import mark_complete

Bases = Callable[[str], TinyBase]


@pytest.mark.parametrize("kind", ["bert", "t5", "vit"])
def test_a_task_is_learnt_and_the_report_tells_its_true_score(tiny_base: Bases, tmp_path: Path, kind: str) -> None:
    base = tiny_base(kind)
    rate = {"bert": 3e-3, "t5": 1e-2, "vit": 3e-3}[kind]
    progress = Recorder()
    folder = fine_tune(
        base.request(tmp_path / "out", updates=40, batch_size=24, learning_rate=rate, evaluate_every=10), progress
    )
    spec = base.spec()
    model = load_model(folder, spec.task)
    batches = make_batches(load_examples(spec, "validation"), spec, load_processor(folder, spec), 7)
    score = evaluate(model, batches).value
    report = read_report(folder)
    assert score > 0.9
    assert report["chosen"]["score"] == pytest.approx(score)
    assert [entry["updates"] for entry in report["evaluations"]] == [10, 20, 30, 40]
    assert progress.stages == [("training colour", 40)]
    assert progress.steps == 40
    assert len(progress.notes) == 4
    assert [path.name for path in tmp_path.iterdir()] == ["out"]  # nothing partial is left


def test_weights_equal_a_plain_loop(tiny_base: Bases, tmp_path: Path) -> None:
    """AdamW with linear decay, written out, on the same examples: the whole data in every update."""
    base = tiny_base("bert")
    settings = {"weight_decay": 0.1, "warmup": 0.5, "clip": 0.5, "keep": "last"}
    folder = fine_tune(base.request(tmp_path / "out", updates=4, batch_size=96, **settings))
    model = AutoModelForSequenceClassification.from_pretrained(base.base)
    plain = [p for n, p in model.named_parameters() if "bias" in n or "LayerNorm" in n]
    decayed = [p for n, p in model.named_parameters() if not ("bias" in n or "LayerNorm" in n)]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=3e-3)
    spec = base.spec()
    (batch,) = make_batches(load_examples(spec, "train"), spec, load_processor(base.base, spec), 96)
    model.train()
    for rate in (0.0, 0.5, 1.0, 0.5):  # two updates of warm-up, then down to 0 after the fourth
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * rate
        optimizer.zero_grad()
        cross_entropy(model(**batch.inputs).logits, batch.labels).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        optimizer.step()
    # The keys' biases have no gradient but rounding, which AdamW scales up to whole steps.
    found = {name: tensor for name, tensor in weights(folder).items() if "key.bias" not in name}
    expected = model.state_dict()
    assert distance(found, {name: expected[name] for name in found}) < 2e-5
    untouched = weights(base.base)
    assert distance(found, {name: untouched[name] for name in found}) > 1e-3  # and it did move


@pytest.mark.parametrize("kind", ["bert", "t5"])
def test_accumulation_changes_rounding_alone(tiny_base: Bases, tmp_path: Path, kind: str) -> None:
    base = tiny_base(kind)
    settings = {"learning_rate": 1e-3, "keep": "last"}
    whole = fine_tune(base.request(tmp_path / "whole", **settings))
    parts = fine_tune(base.request(tmp_path / "parts", micro_batch_size=2, **settings))
    other = fine_tune(base.request(tmp_path / "other", seed=4, **settings))
    assert distance(weights(whole), weights(parts)) < 1e-4
    assert distance(weights(whole), weights(other)) > 1e-3


@pytest.mark.parametrize("stop", [1, 4, 5])
def test_an_interrupted_run_ends_with_the_same_weights(tiny_base: Bases, tmp_path: Path, stop: int) -> None:
    base = tiny_base("bert")
    request = base.request(tmp_path / "out", updates=6, evaluate_every=2, keep="last")
    dropout = changed_config(base.base, tmp_path / "base", hidden_dropout_prob=0.2)
    request = replace(request, base=dropout)
    whole = fine_tune(replace(request, output=tmp_path / "whole"))
    with pytest.raises(KeyboardInterrupt):
        fine_tune(request, Recorder(stop_after=stop))
    assert not (tmp_path / "out").exists()
    progress = Recorder()
    resumed = fine_tune(request, progress)
    assert distance(weights(whole), weights(resumed)) == 0.0
    first, second = read_report(whole), read_report(resumed)
    assert [e["score"] for e in first["evaluations"]] == [e["score"] for e in second["evaluations"]]


def test_a_checkpoint_cut_short_is_not_used(tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What says that a checkpoint is complete is written last; without it the one before is taken."""
    base = tiny_base("bert")
    request = base.request(tmp_path / "out", evaluate_every=2, keep="all")
    whole = fine_tune(replace(request, output=tmp_path / "whole"))

    def killed(folder: Path, progress: dict[str, object]) -> None:
        if folder.name == "checkpoint-4":
            (folder / "weights.safetensors").write_bytes(b"half")
            raise KeyboardInterrupt
        mark_complete(folder, progress)

    with monkeypatch.context() as patched:
        patched.setattr("mats.training.trainer.mark_complete", killed)
        with pytest.raises(KeyboardInterrupt):
            fine_tune(request)
    progress = Recorder()
    assert distance(weights(whole), weights(fine_tune(request, progress))) == 0.0
    assert len(progress.notes) == 2  # after updates 4 and 6


def changed_config(base: Path, folder: Path, **values: float) -> Path:
    """The base with other values in its configuration."""
    import shutil

    shutil.copytree(base, folder)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **values}))
    return folder


def test_a_finished_run_is_not_repeated(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    request = base.request(tmp_path / "out")
    folder = fine_tune(request)
    before = (folder / "model.safetensors").stat().st_mtime_ns
    progress = Recorder()
    assert fine_tune(request, progress) == folder
    assert progress.stages == []
    assert (folder / "model.safetensors").stat().st_mtime_ns == before
    with pytest.raises(OutputExists, match=r"made with seed 3, wanted 5\); choose another output or pass --overwrite"):
        fine_tune(base.request(tmp_path / "out", seed=5))
    fine_tune(base.request(tmp_path / "out", seed=5, request={"overwrite": True}))
    assert read_report(folder)["settings"]["seed"] == 5


def test_work_under_other_settings_is_not_taken_up(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    with pytest.raises(KeyboardInterrupt):
        fine_tune(base.request(tmp_path / "out", seed=9), Recorder(stop_after=5))
    resumed = fine_tune(base.request(tmp_path / "out"))
    assert distance(weights(resumed), weights(fine_tune(base.request(tmp_path / "fresh")))) == 0.0


def test_a_head_of_another_size_is_drawn_by_the_seed(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    spec = changed(base.spec(), labels=("no", "yes", "maybe"))
    request = replace(base.request(tmp_path / "out"), datasets=(spec,))
    folder = fine_tune(request)
    again = fine_tune(replace(request, output=tmp_path / "again"))
    config = json.loads((folder / "config.json").read_text())
    assert config["id2label"] == {"0": "no", "1": "yes", "2": "maybe"}
    assert weights(folder)["classifier.weight"].shape == (3, 32)
    assert read_report(folder)["model"]["fresh"] == ["classifier.bias", "classifier.weight"]
    assert distance(weights(folder), weights(again)) == 0.0
    assert AutoTokenizer.from_pretrained(folder)("red cat")["input_ids"]


def test_a_head_that_fits_is_kept_unless_a_fresh_one_is_asked_for(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    still = {"learning_rate": 1e-12, "updates": 1}
    kept = weights(fine_tune(base.request(tmp_path / "kept", **still)))["classifier.weight"]
    fresh = weights(fine_tune(base.request(tmp_path / "fresh", fresh_head=True, **still)))["classifier.weight"]
    own = weights(base.base)["classifier.weight"]
    assert torch.allclose(kept, own, atol=1e-6)
    assert not torch.allclose(fresh, own, atol=1e-2)
    assert 0.05 < float(fresh.std()) < 0.15  # the configuration's initializer_range is 0.1


def test_only_a_head_may_be_new(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    config = changed_config(base.base, tmp_path / "wider", intermediate_size=64)
    with pytest.raises(
        InputsMismatch, match=r"has no bert\.encoder\.layer\.0\.intermediate\.dense\.bias and .* only a head"
    ):
        fine_tune(replace(base.request(tmp_path / "out"), base=config))
    assert [path.name for path in tmp_path.iterdir()] == ["wider"]


def test_the_head_has_a_rate_of_its_own(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    settings = {"learning_rate": 1e-5, "head_learning_rate": 1e-2, "schedule": "constant", "updates": 1}
    moved = weights(fine_tune(base.request(tmp_path / "out", **settings)))
    before = weights(base.base)
    # AdamW's first step is the learning rate in every entry that has a gradient.
    steps = {name: float((moved[name] - before[name]).abs().max()) for name in moved}
    assert steps["classifier.weight"] == pytest.approx(1e-2, rel=1e-3)
    assert steps["bert.encoder.layer.1.output.dense.weight"] == pytest.approx(1e-5, rel=1e-2)


def test_patience_ends_a_run_that_no_longer_improves(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    settings = {"updates": 40, "evaluate_every": 2, "patience": 3, "learning_rate": 1e-12}  # nothing changes
    report = read_report(fine_tune(base.request(tmp_path / "out", **settings)))
    assert report["stopped_early"]
    assert [entry["updates"] for entry in report["evaluations"]] == [2, 4, 6, 8]
    assert report["chosen"]["updates"] == 2


def test_checkpoints_are_kept_and_found_again(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    folder = fine_tune(base.request(tmp_path / "out", updates=5, evaluate_every=2, keep="all"))
    kept = [kept_checkpoint(folder, updates=updates) for updates in (2, 4, 5)]
    assert kept_checkpoint(folder, index=0) == kept[0]
    assert kept_checkpoint(folder, index=-1) == kept[2]
    chosen = read_report(folder)["chosen"]["updates"]
    assert distance(weights(folder), weights(kept_checkpoint(folder, updates=chosen))) == 0.0
    assert distance(weights(kept[0]), weights(kept[2])) > 0.0
    load_model(kept[0], "text_classification")
    with pytest.raises(RequestError, match="no checkpoint after 3 updates; 2, 4, 5 are there"):
        kept_checkpoint(folder, updates=3)
    with pytest.raises(RequestError, match="no checkpoint 3; there are 3"):
        kept_checkpoint(folder, index=3)
    with pytest.raises(RequestError, match="no checkpoints were kept"):
        kept_checkpoint(base.base, index=0)


def test_a_loss_that_is_no_number_ends_the_run(tiny_base: Bases, tmp_path: Path) -> None:
    base = tiny_base("bert")
    with pytest.raises(NonFiniteStatistic, match=r"update \d+: the training loss is (nan|inf); a lower learning_rate"):
        fine_tune(base.request(tmp_path / "out", learning_rate=1e30, clip=None, updates=20, evaluate_every=20))
    assert not (tmp_path / "out").exists()


def test_random_generators_are_left_as_they_were(tiny_base: Bases, tmp_path: Path) -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    fine_tune(tiny_base("bert").request(tmp_path / "out", updates=2))
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"batch_size": 10, "micro_batch_size": 4},
            "batch_size 10 is no multiple of micro_batch_size 4 × 1 processes; 8 would",
        ),
        ({"split": "nope"}, "nope"),
    ],
)
def test_bad_requests_are_refused_before_a_model_is_loaded(
    tiny_base: Bases, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, object], message: str
) -> None:
    monkeypatch.setattr("mats.training.fine_tuning.build", lambda _: pytest.fail("a model was loaded"))
    with pytest.raises(RequestError, match=message):
        fine_tune(tiny_base("bert").request(tmp_path / "out", **settings))


def test_numbers_are_learnt_by_least_squares(tiny_base: Bases, tmp_path: Path) -> None:
    """text_regression: one output, drawn anew; the report's correlation is SciPy's of the model's own outputs."""
    base = tiny_base("bert")
    spec = changed(base.spec(), task="text_regression", labels=None, metrics=("pearson",))
    settings = {"updates": 60, "batch_size": 24, "evaluate_every": 30}
    folder = fine_tune(replace(base.request(tmp_path / "out", **settings), datasets=(spec,)))
    config = json.loads((folder / "config.json").read_text())
    assert config["problem_type"] == "regression"
    assert weights(folder)["classifier.weight"].shape == (1, 32)
    model = load_model(folder, spec.task)
    examples = load_examples(spec, "validation")
    (batch,) = make_batches(examples, spec, load_processor(folder, spec), len(examples))
    with torch.no_grad():
        told = model(**batch.inputs).logits[:, 0]
    correlation = pearsonr(told.numpy(), batch.labels.numpy()).statistic
    assert correlation > 0.9
    report = read_report(folder)
    assert report["chosen"]["score"] == pytest.approx(correlation, abs=1e-5)
    losses = [entry["training_loss"] for entry in report["evaluations"]]
    assert losses[1] < 0.05 < losses[0]  # of squares of differences between 0 and 1
