"""The demo, scaled down: every stage for real, with fewer steps, fewer candidates, one seed."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from mats.data import load_examples, load_spec
from mats.demo import run_demo
from mats.demo.candidates import CANDIDATES, METHODS, best_of_each_method
from mats.demo.domains import DOMAINS, load_digits, rotate, write_dataset
from mats.demo.specialists import Schedule
from mats.errors import OutputExists, RequestError

pytest.importorskip("sklearn", reason="the demo's digits come with scikit-learn")


def test_splits_hold_every_digit_once_and_differ_between_seeds() -> None:
    first, second = load_digits(0), load_digits(1)
    assert [len(split.labels) for split in first.values()] == [1000, 300, 497]
    assert not np.array_equal(first["train"].labels, second["train"].labels)
    total = sum(split.images.sum() for split in first.values())
    assert total == pytest.approx(sum(split.images.sum() for split in second.values()), rel=1e-5)


def test_turning_by_a_right_angle_moves_pixels_only() -> None:
    """The outermost ring is left out: rounding puts it a hair outside the picture, where paper is."""
    images = load_digits(0)["test"].images[:5]
    inside = np.s_[:, 1:-1, 1:-1]
    assert np.allclose(rotate(images, 90.0)[inside], np.rot90(images, -1, axes=(1, 2))[inside], atol=1e-5)
    assert np.allclose(rotate(images, -90.0)[inside], np.rot90(images, 1, axes=(1, 2))[inside], atol=1e-5)
    assert not np.allclose(rotate(images, 90.0)[inside], rotate(images, -90.0)[inside], atol=0.1)


def test_every_domain_changes_the_pictures_and_keeps_their_range(tmp_path: Path) -> None:
    digits = load_digits(0)
    for domain, change in DOMAINS.items():
        shown = change(digits["test"].images)
        assert shown.shape == digits["test"].images.shape
        assert shown.min() >= -1e-6
        assert shown.max() <= 1 + 1e-6
        assert np.abs(shown - digits["test"].images).mean() > 0.02, domain
    spec = load_spec(write_dataset(tmp_path, "negative", digits))
    assert len(load_examples(spec, "validation")) == 300


def test_the_best_candidate_of_each_method_is_chosen_on_validation() -> None:
    scores = {candidate.label: 0.5 for candidate in CANDIDATES}
    favourite = [candidate for candidate in CANDIDATES if candidate.method == "mats"][-1]
    chosen = best_of_each_method({**scores, favourite.label: 0.6})
    assert tuple(chosen) == METHODS
    assert chosen["mats"] == favourite
    assert chosen["ties"] == next(candidate for candidate in CANDIDATES if candidate.method == "ties")


def test_a_folder_that_is_not_a_demo_is_never_cleared(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(OutputExists, match="choose an empty or new folder"):
        run_demo(tmp_path, 1, overwrite=True)
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_no_seed_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="seeds: 0"):
        run_demo(tmp_path, 0)


def test_the_whole_story_in_small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    few = {method: next(c for c in CANDIDATES if c.method == method) for method in METHODS}
    monkeypatch.setattr("mats.demo.specialists.BASE_SCHEDULE", Schedule(steps=40, learning_rate=1.5e-3))
    monkeypatch.setattr("mats.demo.specialists.SPECIALIST_SCHEDULE", Schedule(steps=25, learning_rate=1e-3))
    for module in ("candidates", "seed_run", "story"):
        monkeypatch.setattr(f"mats.demo.{module}.CANDIDATES", tuple(few.values()))
    result = run_demo(tmp_path / "demo", 1)
    assert result.scores.normalised("specialists") == pytest.approx(1.0)
    assert 0.1 < result.scores.mean("base") < result.scores.mean("specialists")
    written = json.loads((tmp_path / "demo" / "scores.json").read_text())
    assert written["test_accuracy"]["mats"].keys() == DOMAINS.keys()
    assert all(candidate.label in written["validation_share_of_specialists"] for candidate in few.values())
    page = (tmp_path / "demo" / "README.md").read_text()
    assert all(f"| {method} |" in page or f"**{method}**" in page for method in METHODS)
    assert (tmp_path / "demo" / "scores.png").stat().st_size > 10_000
    for candidate in few.values():
        assert (tmp_path / "demo" / "seed-0" / "merged" / candidate.folder_name / "report.html").is_file()
    with pytest.raises(OutputExists, match="--overwrite"):
        run_demo(tmp_path / "demo", 1)
