"""`mats merge --from-ties`: published merge strings as merges, one or several."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
import yaml
from cli_files import Ended, random_tensors, write_checkpoint
from safetensors.torch import load_file

Run = Callable[..., Ended]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def test_a_string_with_one_scale_is_the_recipe_with_those_settings(workplace: Path, run_mats: Run) -> None:
    assert run_mats("merge", "recipe.yaml", "a", "--from-ties", "topk50_mass_dis-sum_mergelist+0.5").status == 0
    keys = ("merge.method=ties", "merge.density=0.5", "merge.aggregate=disjoint_sum", "merge.scale=0.5")
    assert run_mats("merge", "recipe.yaml", "b", *keys).status == 0
    assert run_mats("merge", "recipe.yaml", "c", *keys[:3]).status == 0
    named, plain, other = (weights(workplace / name) for name in "abc")
    assert all(torch.equal(named[name], plain[name]) for name in plain)
    assert any(not torch.equal(named[name], other[name]) for name in plain)  # the scale counts
    assert run_mats("merge", "a/recipe.yaml", "again").status == 0
    assert (workplace / "a/model.safetensors").read_bytes() == (workplace / "again/model.safetensors").read_bytes()


def test_several_scales_are_several_merges(workplace: Path, run_mats: Run) -> None:
    ended = run_mats("merge", "recipe.yaml", "out", "--from-ties", "task-vector_linear+0.25+1.01+0.25", "--json")
    assert ended.status == 0
    assert [merge["output"] for merge in ended.value["merges"]] == [f"out/scale-{s}" for s in (0.25, 0.5, 0.75, 1.0)]
    base = load_file(workplace / "base" / "model.safetensors")
    one, two = random_tensors(1), random_tensors(2)
    for scale in (0.25, 1.0):
        for name, merged in weights(workplace / f"out/scale-{scale}").items():
            torch.testing.assert_close(merged, base[name] + scale * (one[name] + two[name] - 2 * base[name]))


def test_scales_merged_in_one_pass_have_the_bytes_they_have_alone(workplace: Path, run_mats: Run) -> None:
    write_checkpoint(workplace / "multitask", random_tensors(7))
    for word, beside in (("topk40_mass_dis-mean", ()), ("oracle_nf0.6_median", ("merge.oracle=multitask",))):
        string = f"{word}_mergelist+"
        assert run_mats("merge", "recipe.yaml", word, "--from-ties", f"{string}0.5,2", *beside).status == 0
        for scale in (0.5, 2.0):
            alone = f"{word}-alone-{scale}"
            assert run_mats("merge", "recipe.yaml", alone, "--from-ties", f"{string}{scale}", *beside).status == 0
            files = [workplace / word / f"scale-{scale}", workplace / alone]
            first, second = ((folder / "model.safetensors").read_bytes() for folder in files)
            assert first == second


def test_the_same_command_goes_on_where_it_was(workplace: Path, run_mats: Run) -> None:
    command = ("merge", "recipe.yaml", "out", "--from-ties", "topk20_mass_dis-mean_mergelist+1,2")
    assert run_mats(*command).status == 0
    second = workplace / "out/scale-2.0"
    second.rename(workplace / "moved")
    first = (workplace / "out/scale-1.0/model.safetensors").stat().st_mtime_ns
    assert run_mats(*command).status == 0
    assert (second / "model.safetensors").read_bytes() == (workplace / "moved/model.safetensors").read_bytes()
    assert (workplace / "out/scale-1.0/model.safetensors").stat().st_mtime_ns == first
    assert "every merge has been done already" in run_mats(*command).out
    other = run_mats("merge", "recipe.yaml", "out", "--from-ties", "topk30_mass_dis-mean_mergelist+1,2")
    assert other.status != 0
    assert "out/scale-1.0: exists already, from another merge" in other.err


def test_weights_themselves_are_merged_by_basic_words(workplace: Path, run_mats: Run) -> None:
    one, two = random_tensors(1), random_tensors(2)
    assert run_mats("merge", "recipe.yaml", "sum", "--from-ties", "basic_sum").status == 0
    assert run_mats("merge", "recipe.yaml", "median", "--from-ties", "basic_median").status == 0
    for name, merged in weights(workplace / "sum").items():
        torch.testing.assert_close(merged, one[name] + two[name])
        torch.testing.assert_close(weights(workplace / "median")[name], torch.minimum(one[name], two[name]))


def test_an_oracle_is_named_beside_the_string(workplace: Path, run_mats: Run) -> None:
    string = ("--from-ties", "oracle_none_dis-mean_mergelist+1")
    missing = run_mats("merge", "recipe.yaml", "out", *string)
    assert missing.status == 2
    assert "elect: oracle needs a model to ask; oracle: PATH" in missing.err
    write_checkpoint(workplace / "multitask", random_tensors(7))
    assert run_mats("merge", "recipe.yaml", "out", *string, "merge.oracle=multitask").status == 0
    saved = yaml.safe_load((workplace / "out/recipe.yaml").read_text())["merge"]
    assert (saved["elect"], saved["oracle"]) == ("oracle", "multitask")


def test_what_is_wrong_is_said_before_anything_is_made(workplace: Path, run_mats: Run) -> None:
    for arguments, message in (
        (("--from-ties", "top20_mass_dis-mean_mergelist+1"), "topkN, stdX, nfX or none would be right"),
        (("--from-ties", "topk20_mass_dis-mean_mergelist+1", "merge.scale=2"), "settles merge.scale"),
    ):
        ended = run_mats("merge", "recipe.yaml", "out", *arguments)
        assert ended.status == 2
        assert message in ended.err
    assert not (workplace / "out").exists()
    plan = run_mats("merge", "recipe.yaml", "out", "--from-ties", "task-vector_mergelist+1,2", "--dry-run")
    assert plan.out.count("would write out/scale-") == 2
