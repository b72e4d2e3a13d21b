"""Training recipes: the shipped ones, what they resolve to, and faults told where they are."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mats.errors import RecipeError, RequestError
from mats.recipes.training import load_training_recipe, settings_of
from mats.recipes.training_reference import training_tables
from mats.recipes.training_requests import check_data, training_requests

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "training.md").read_text()
SHIPPED = sorted((ROOT / "configs" / "training").rglob("*.yaml"))


def test_all_shipped_recipes_are_here() -> None:
    assert len(SHIPPED) == 22
    outputs = [load_training_recipe(path).output for path in SHIPPED]
    assert len(set(outputs)) == 22  # no two recipes write to one place


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_a_shipped_recipe_resolves(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    recipe = load_training_recipe(path.relative_to(ROOT))
    requests = training_requests(recipe)
    assert len(requests) == len(recipe.runs.root)
    assert len({request.output for request in requests}) == len(requests)
    assert recipe.output.startswith("exp_out/train/")


@pytest.mark.parametrize(
    ("name", "run", "expected"),
    [
        # reference/mats_ties.md A2, A6
        ("mats_p3_eight_qa", "ropes", {"learning_rate": 1e-4, "batch_size": 1024, "updates": 5000, "patience": 5}),
        (
            "mats_p3_eight_qa_ia3",
            "paws",
            {"learning_rate": 5e-3, "evaluate_every": 100, "seed": 42, "schedule": "constant"},
        ),
        ("mats_multitask", "p3_eight_qa", {"updates": 10000, "templates": "all", "clip": None}),
        # B1
        ("ties_t5_large", "wsc", {"updates": 75000, "micro_batch_size": 64, "batch_size": 1024, "templates": 0}),
        ("ties_ia3", "copa", {"updates": 10000, "batch_size": 128, "evaluate_every": 1000, "learning_rate": 1e-4}),
        # reference/dare_pem_dem.md 1.5, 2.4
        ("dare_glue_bert", "stsb", {"learning_rate": 5e-5, "epochs": 10, "warmup": 0.06, "weight_decay": 0.01}),
        ("dare_glue_roberta", "stsb", {"learning_rate": 1e-5, "batch_size": 16}),
        ("pem_halves_lora", "rte_half_1", {"split": "half_1", "betas": (0.9, 0.98), "epsilon": 1e-6}),
        ("pem_multitask", "rte_ia3", {"updates": 150, "epochs": None, "learning_rate": 5e-4}),
        ("pem_toxic", "ia3", {"learning_rate": 5e-3, "epochs": 10}),
    ],
)
def test_published_hyperparameters(name: str, run: str, expected: dict[str, object]) -> None:
    settings = settings_of(load_training_recipe(ROOT / "configs" / "training" / f"{name}.yaml"), run)
    assert {key: getattr(settings, key) for key in expected} == expected


def test_halves_share_the_start_of_their_adapters() -> None:
    recipe = load_training_recipe(ROOT / "configs" / "training" / "pem_halves_lora.yaml")
    starts = {settings_of(recipe, run).tuning.adapter_initialisation for run in recipe.runs.root}  # type: ignore[union-attr]
    assert starts == {42}


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe of two runs, beside the dataset file of one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "one.jsonl").write_text('{"text": "a", "label": 0}\n')
    (tmp_path / "one.yaml").write_text(
        "name: one\ntask: text_classification\nlabels: 2\nsource: {format: json_lines, files: {train: one.jsonl}}\n"
    )
    path = tmp_path / "recipe.yaml"
    path.write_text(
        "base: base\ntrain: {epochs: 4, tuning: {method: lora, rank: 4}, validation: null}\nruns:\n"
        "  one: one.yaml\n  two: {data: [one.yaml], train: {updates: 7, tuning: {method: lora, alpha: 2}}}\n"
    )
    return path


def test_a_run_lays_its_settings_over_the_common_ones(written: Path) -> None:
    recipe = load_training_recipe(written, ["train.learning_rate=1e-3", "runs.one.train.seed=5", "train.tuning.rank=3"])
    one, two = (settings_of(recipe, name) for name in ("one", "two"))
    assert (one.epochs, one.updates, one.seed, one.learning_rate) == (4, None, 5, 1e-3)
    assert (two.epochs, two.updates, two.seed, two.learning_rate) == (None, 7, 0, 1e-3)
    assert (one.tuning.rank, one.tuning.alpha) == (3, 16)  # type: ignore[union-attr]
    assert (two.tuning.rank, two.tuning.alpha) == (3, 2)  # type: ignore[union-attr]
    requests = training_requests(recipe, ["two"])
    assert [(request.name, request.output) for request in requests] == [("two", Path("exp_out/train/two"))]


def test_a_bare_word_is_a_tuning_with_its_defaults(written: Path) -> None:
    recipe = load_training_recipe(written, ["train.tuning=ia3", "runs.two.train.tuning=full"])
    assert settings_of(recipe, "one").tuning.method == "ia3"
    assert settings_of(recipe, "two").tuning.method == "full"


@pytest.mark.parametrize(
    ("overrides", "faults"),
    [
        (
            ["train.learning_rat=1"],
            ["command line: train.learning_rat: unknown key 'learning_rat'; did you mean 'learning_rate'?"],
        ),
        (
            ["train.learning_rate=-1"],
            ["command line: train.learning_rate: received -1; a number above 0 would be right"],
        ),
        (["runs.three.train.seed=1"], ["command line: runs.three.train.seed: unknown key 'three'; known: one, two"]),
        (["train.schedule=linaer"], ["did you mean 'linear'?"]),
        (["train.patience=2"], ["patience needs a validation split; name one, or leave patience out"]),
        (["train.tuning=lor"], ["train.tuning.method: received 'lor'; one of full, lora, ia3 would be right"]),
        (["train.nothing=1", "base="], ["unknown key 'nothing'", "base: received"]),
    ],
)
def test_faults_are_told_where_they_are(written: Path, overrides: list[str], faults: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        load_training_recipe(written, overrides)
    assert len(caught.value.faults) >= len(faults)
    for fault in faults:
        assert any(fault in line for line in caught.value.faults), caught.value.faults


def test_faults_of_all_runs_are_told_at_once(written: Path) -> None:
    recipe = load_training_recipe(written, ["runs.one.data=[nope.yaml]"])
    with pytest.raises(RecipeError, match=r"runs\.one: nope\.yaml: no such file"):
        training_requests(recipe)
    two = load_training_recipe(written, ["runs.two.train.split=test", "runs.one.train.split=dev"])
    with pytest.raises(RecipeError) as caught:
        check_data(training_requests(two))
    assert [fault.partition(":")[0] for fault in caught.value.faults] == ["runs.one", "runs.two"]
    assert "no split 'test'; one of train would be right" in caught.value.faults[1]
    with pytest.raises(RequestError, match="run 'three': not in the recipe; one of one, two would be right"):
        training_requests(recipe, ["three"])


def test_a_mixture_file_stands_for_its_datasets_and_its_cap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (request,) = training_requests(load_training_recipe("configs/training/mats_multitask.yaml"), ["p3_eight_qa"])
    assert len(request.datasets) == 8
    assert request.settings.cap == 500_000


def test_the_page_ends_with_the_tables_of_the_schema() -> None:
    message = "python -m mats.recipes.training_reference prints the tables anew"
    assert PAGE.rstrip().endswith(training_tables().rstrip()), message


def test_the_example_of_the_page_is_valid(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    (block,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    path = tmp_path / "recipe.yaml"
    path.write_text(block)
    rte, mrpc, both = training_requests(load_training_recipe(path))
    assert (rte.settings.learning_rate, mrpc.settings.learning_rate) == (5e-5, 5e-5)
    assert [spec.name for spec in both.datasets] == ["glue_rte", "glue_mrpc"]
    assert both.heads == "per_dataset"
