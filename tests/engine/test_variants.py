"""Several merges in one pass: each with the bytes it has alone, from inputs read once."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_merge_bytes import FILES, SHAPES, digests, make_models, request

from mats.engine import MergeRequest, merge, merge_variants
from mats.engine.inputs import MergeInputs
from mats.errors import OutputExists, RequestError
from mats.methods import AverageSettings, MatsSettings, TaskArithmeticSettings, TiesSettings
from mats.methods.settings import MethodSettingsBase

pytestmark = pytest.mark.usefixtures("light_report")
SETS: dict[str, list[MethodSettingsBase]] = {
    "scales of ties": [TiesSettings(density=0.3, scale=scale) for scale in (1.0, 0.4, -0.5)],
    "densities of ties": [TiesSettings(density=density) for density in (0.1, 0.5)],
    "scales of task arithmetic": [TaskArithmeticSettings(scale=scale) for scale in (0.1, 0.3)],
    "other methods": [AverageSettings(), TiesSettings(scale=0.5), TiesSettings(trim_scope="tensor"), TiesSettings()],
}


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    make_models(root)
    return root


def wanted(models: Path, output: Path, methods: list[MethodSettingsBase]) -> list[MergeRequest]:
    common = request(models, output, "average")
    return [replace(common, method=method, output=output / str(i)) for i, method in enumerate(methods)]


@pytest.mark.parametrize("methods", SETS.values(), ids=SETS)
def test_bytes_are_those_of_separate_merges(models: Path, tmp_path: Path, methods: list[MethodSettingsBase]) -> None:
    alone = [merge(each).path for each in wanted(models, tmp_path / "alone", methods)]
    together = [result.path for result in merge_variants(wanted(models, tmp_path / "together", methods))]
    found = [digests(path, *FILES) for path in together]
    assert found == [digests(path, *FILES) for path in alone]
    assert len({digest for digest, *_ in found}) == len(methods)


def test_inputs_are_read_once(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three scales of TIES: one pass for thresholds, one for votes, whatever the number of scales."""
    reads: list[tuple[int, str]] = []
    original = MergeInputs.read

    def read(self: MergeInputs, index: int, name: str) -> object:
        reads.append((index, name))
        return original(self, index, name)

    monkeypatch.setattr(MergeInputs, "read", read)
    merge_variants(wanted(models, tmp_path, SETS["scales of ties"]))
    assert len(reads) == 2 * 3 * len(SHAPES)
    reads.clear()
    merge_variants(wanted(models, tmp_path / "more", SETS["scales of task arithmetic"]))
    assert len(reads) == 3 * len(SHAPES)


def test_what_cannot_share_a_pass_is_refused(models: Path, tmp_path: Path) -> None:
    one, two = wanted(models, tmp_path, [AverageSettings(), TiesSettings()])
    with pytest.raises(RequestError, match="the list is empty"):
        merge_variants([])
    with pytest.raises(RequestError, match="differ in method settings and output alone"):
        merge_variants([one, replace(two, dtype="bfloat16")])
    with pytest.raises(RequestError, match="outputs must differ"):
        merge_variants([one, replace(two, output=one.output)])
    with pytest.raises(RequestError, match="method mats is no variant of a single pass"):
        merge_variants([one, replace(two, method=MatsSettings())])
    one.output.mkdir()
    with pytest.raises(OutputExists, match="exists already"):
        merge_variants([two, one])
    assert not two.output.exists()
