"""Every ablation that ships parses and expands to the points it promises."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from mats.recipes.requests import reads_metadata
from mats.sweeps.loading import load_sweep
from mats.sweeps.snapshots import group_points

ROOT = Path(__file__).parents[2]
ABLATIONS = ROOT / "configs" / "ablations"
POINTS_AND_MERGES = {
    "anchor": (54, 54),
    "dare_drop_rates": (78, 78),
    "dare_one_model": (256, 256),
    "dare_pairs": (336, 336),
    "dare_rescale": (28, 28),
    "dem_constants": (24, 24),
    "digits_anchor": (8, 8),
    "digits_dare": (15, 15),
    "digits_position": (10, 10),
    "initialization_iterations_objective": (160, 16),
    "labels": (6, 6),
    "metadata_examples": (21, 21),
    "number_of_models": (186, 186),
    "off_diagonal": (22, 22),
    "pairs": (168, 168),
    "position": (18, 18),
    "scales_mats_paper": (33, 33),
    "scales_ties_paper": (28, 28),
    "scaling": (12, 12),
    "shrinkage": (14, 14),
    "ties_scales": (79, 79),
    "ties_scales_ia3": (79, 79),
    "ties_scales_parts": (164, 164),
}


def test_all_are_found() -> None:
    assert {path.stem for path in ABLATIONS.rglob("*.yaml")} == set(POINTS_AND_MERGES)


@pytest.mark.parametrize("name", POINTS_AND_MERGES)
def test_a_shipped_ablation_expands(name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    if name.startswith("digits"):  # its data are what `mats demo` writes into the working folder
        monkeypatch.chdir(tmp_path)
        _write_digits(tmp_path)
    loaded = load_sweep(ABLATIONS / f"{name}.yaml")
    assert (len(loaded.points), len(group_points(loaded.points))) == POINTS_AND_MERGES[name]
    assert len({point.digest for point in loaded.points}) == len(loaded.points)
    assert loaded.sweep.report is not None
    assert loaded.sweep.report.split != loaded.sweep.select.split
    assert {point.recipe.curvature.split for point in loaded.points} == {"validation"}


def _write_digits(folder: Path) -> None:
    recipe = yaml.safe_load((ROOT / "configs" / "recipes" / "digits.yaml").read_text())
    for name, model in recipe["models"].items():
        path = folder / model["data"]
        path.parent.mkdir(parents=True, exist_ok=True)
        source = {"format": "arrays", "files": {"test": "x.npz", "validation": "y.npz"}}
        path.write_text(
            yaml.safe_dump({"name": name, "task": "image_classification", "labels": 10, "image": {}, "source": source})
        )


def test_scales_are_the_published_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    points = load_sweep(ABLATIONS / "scales_ties_paper.yaml").points
    scales = {
        method: [point.columns["merge.scale"] for point in points if point.columns["method"] == method]
        for method in ("task arithmetic", "TIES")
    }
    assert scales["task arithmetic"] == [round(0.1 * step, 1) for step in range(1, 11)]
    assert scales["TIES"] == [round(0.1 * step, 1) for step in range(8, 26)]
    assert not any(reads_metadata(point.recipe) for point in points)


def test_metadata_are_shared_by_what_does_not_change_them(monkeypatch: pytest.MonkeyPatch) -> None:
    from mats.sweeps.measuring import missing_stores

    monkeypatch.chdir(ROOT)
    counts = {"metadata_examples": 7 * 8, "labels": 3 * 7, "scales_ties_paper": 0}
    for name, count in counts.items():
        loaded = load_sweep(ABLATIONS / f"{name}.yaml", ["curvature.store=nowhere"])
        assert len(missing_stores([point.recipe for point in loaded.points])) == count, name
