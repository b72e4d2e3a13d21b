"""`--vocab` on the command line: refused with a way out, matched by token, and checked beforehand."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

Run = Callable[..., Any]
Told = Callable[..., tuple[int, str]]
NAME = "model.embed_tokens.weight"


def saved(folder: Path, words: str) -> torch.Tensor:
    """A bare embedding with a tokenizer of one-letter words."""
    folder.mkdir()
    model = {"type": "WordLevel", "vocab": {word: n for n, word in enumerate(words)}, "unk_token": words[0]}
    (folder / "tokenizer.json").write_text(json.dumps({"version": "1.0", "model": model, "added_tokens": []}))
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", "vocab_size": len(words)}))
    rows = torch.randn(len(words), 3)
    save_file({NAME: rows, "model.norm.weight": torch.ones(3)}, folder / "model.safetensors", {"format": "pt"})
    return rows


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    for name, words in (("base", "abc"), ("one", "cbad"), ("two", "abc")):
        saved(tmp_path / name, words)
    file = tmp_path / "recipe.yaml"
    file.write_text(f"base: {tmp_path}/base\nmodels: [{tmp_path}/one, {tmp_path}/two]\nmerge: average\n")
    return file


@pytest.fixture
def run(run_mats: Run) -> Callable[..., tuple[int, str]]:
    """Exit status, and everything that was printed, on one line."""

    def told(*arguments: object) -> tuple[int, str]:
        ended = run_mats(*arguments)
        return ended.status, " ".join(f"{ended.out} {ended.err}".split())

    return told


def test_other_vocabularies_are_refused_with_a_way_out(recipe: Path, run: Told, tmp_path: Path) -> None:
    for arguments in (("merge", recipe, tmp_path / "out"), ("check", recipe, tmp_path / "out")):
        status, output = run(*arguments)
        assert status == 3
        assert "model.embed_tokens.weight has 4 rows" in output
        assert "(--vocab union) all of them" in output
    assert not (tmp_path / "out").exists()
    status, output = run("merge", recipe, tmp_path / "out", "--vocab", "both")
    assert status == 2
    assert "'error', 'base' or 'union' would be right" in output


def test_a_union_by_the_option_is_matched_by_token_and_told_in_a_line(recipe: Path, run: Told, tmp_path: Path) -> None:
    out = tmp_path / "out"
    status, output = run("merge", recipe, out, "--vocab", "union")
    assert status == 0, output
    assert (
        "vocabulary (union): 4 rows: 3 shared by all, 0 from the base where a model lacks the token, 1 added" in output
    )
    rows = {name: load_file(tmp_path / name / "model.safetensors")[NAME] for name in ("one", "two")}
    merged = load_file(out / "model.safetensors")[NAME]
    expected = torch.stack([rows["one"][2] + rows["two"][0], rows["one"][1] + rows["two"][1]]) / 2
    torch.testing.assert_close(merged[:2], expected)
    assert torch.equal(merged[3], rows["one"][3])
    assert "vocab: union" in (out / "recipe.yaml").read_text()


def test_what_is_left_out_is_named_before_and_after(recipe: Path, run: Told, tmp_path: Path) -> None:
    status, output = run("check", recipe, tmp_path / "out", "vocab=base")
    assert status == 0, output
    status, output = run("merge", recipe, tmp_path / "out", "--vocab", "base", "--dry-run")
    assert status == 0
    assert "tokens of one that the output does not have: 'd'; vocab: union keeps them" in output
    status, output = run("merge", recipe, tmp_path / "out", "--vocab", "base")
    assert status == 0
    assert "1 tokens of models left out" in output
