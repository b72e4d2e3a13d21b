"""Rows matched by token, against a brute-force dictionary, on random vocabularies in random orders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from mats.checkpoints import Checkpoint, open_checkpoint
from mats.checkpoints.vocabulary_rows import Piece, RowPlan, TokenRows, disagreement, plan_rows
from mats.checkpoints.vocabulary_tensors import (
    counterpart,
    embedding_of,
    is_output_head,
    vocabulary_tensors,
    width_of,
    with_rows,
)
from mats.checkpoints.vocabulary_view import with_vocabulary

TENSORS = ("model.embed_tokens.weight", "lm_head.weight", "lm_head.bias", "final_logits_bias")
WIDTH = 3
ALPHABET = "abcdefghij"


def table(words: str, padding: int = 0, start: int = 0) -> TokenRows:
    return TokenRows({word: start + number for number, word in enumerate(words)}, len(words) + padding + start)


def saved(folder: Path, rows: int, seed: int, dtype: torch.dtype = torch.float32) -> Checkpoint:
    generator = torch.Generator().manual_seed(seed)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator).to(dtype)

    folder.mkdir(parents=True)
    tensors = dict(zip(TENSORS, (draw(rows, WIDTH), draw(rows, WIDTH), draw(rows), draw(1, rows)), strict=True))
    other = {"model.norm.weight": draw(WIDTH), "position_ids": torch.arange(rows)}
    save_file({**tensors, **other}, folder / "model.safetensors")
    return open_checkpoint(folder)


def brute_force(
    token: str | None, row: int, index: int, states: list[Tensor], tables: list[TokenRows], base: int | None
) -> Tensor | None:
    """The definition, for one input and one row [rows, …]; None: the mean of the other rows."""

    def own(number: int) -> Tensor | None:
        tokens = tables[number].tokens
        if token is not None:
            return states[number][tokens[token]] if token in tokens else None
        taken = row >= tables[number].rows or row in tokens.values()
        return None if taken else states[number][row]

    mine = own(index)
    if mine is not None:
        return mine
    if base is not None and own(base) is not None:
        return own(base)
    held = [found for number in range(len(tables)) if (found := own(number)) is not None]
    return torch.stack(held).mean(dim=0) if held else None


vocabularies = st.lists(st.sampled_from(ALPHABET), unique=True, min_size=1, max_size=8).map("".join)


@settings(max_examples=40)
@given(
    words=st.lists(vocabularies, min_size=2, max_size=4),
    paddings=st.lists(st.integers(0, 2), min_size=4, max_size=4),
    extra=vocabularies,
    spare=st.integers(0, 3),
    with_base=st.booleans(),
    part=st.tuples(st.integers(0, 20), st.integers(1, 9)),
)
def test_views_are_the_definition(
    words: list[str], paddings: list[int], extra: str, spare: int, with_base: bool, part: tuple[int, int]
) -> None:
    tables = [table(each, padding) for each, padding in zip(words, paddings, strict=False)]
    tokens = dict.fromkeys([*words[0], *extra])
    output = TokenRows({token: number for number, token in enumerate(tokens)}, len(tokens) + spare)
    base = 0 if with_base else None
    plan = plan_rows(output, tables, base=base, rules={})
    by_row = {row: token for token, row in output.tokens.items()}
    with TemporaryDirectory() as folder:
        held = [saved(Path(folder) / str(n), each.rows, n) for n, each in enumerate(tables)]
        for index in range(len(held)):
            view = with_vocabulary(held, plan, index)
            assert [name for name in view.tensors if view.tensors[name].shape != held[index].tensors[name].shape] == (
                [] if tables[index].rows == output.rows else list(vocabulary_tensors(held[index]))
            )
            for name in TENSORS:
                states = [each.read(name).view(each.tensors[TENSORS[0]].shape[0], -1) for each in held]
                wanted = [brute_force(by_row.get(row), row, index, states, tables, base) for row in range(output.rows)]
                known = torch.stack([row for row in wanted if row is not None]).mean(dim=0)
                expected = torch.stack([known if row is None else row for row in wanted])
                found = view.read(name)
                assert found.numel() == expected.numel()
                torch.testing.assert_close(found.view(output.rows, -1), expected.to(found.dtype))
                start = min(part[0], found.numel() - 1)  # any part costs its own rows alone, and is the same
                piece = torch.empty(min(part[1], found.numel() - start), dtype=found.dtype)
                view.place(name).file.load(name, start, piece)
                assert torch.equal(piece, found.view(-1)[start : start + piece.numel()])
            for name in ("model.norm.weight", "position_ids"):
                assert torch.equal(view.read(name), held[index].read(name))


@settings(max_examples=30)
@given(order=st.permutations(list(ALPHABET)), padding=st.integers(0, 3))
def test_a_permuted_vocabulary_comes_back_in_order(order: list[str], padding: int) -> None:
    tables = [table(ALPHABET, padding), table("".join(order), padding)]
    plan = plan_rows(tables[0], tables, base=0, rules={})
    assert plan.is_identity(0, tables[0].rows)
    with TemporaryDirectory() as folder:
        base = saved(Path(folder) / "base", tables[0].rows, 0)
        back = [order.index(word) for word in ALPHABET] + list(range(len(ALPHABET), tables[0].rows))
        moved = saved(Path(folder) / "moved", tables[1].rows, 1)
        view = with_vocabulary([base, moved], plan, 1)
        assert torch.equal(view.read(TENSORS[0]), moved.read(TENSORS[0])[back])
        assert torch.equal(view.read(TENSORS[2]), moved.read(TENSORS[2])[back])
        assert with_vocabulary([base, moved], plan, 0) is base
    assert (disagreement(*tables) is None) == (order == list(ALPHABET))


def test_pieces_are_as_few_as_can_be() -> None:
    plan = plan_rows(table("abcdef", 2), [table("abcdef", 2), table("cdxef")], base=0, rules={})
    assert plan.pieces(0) == [Piece(0, 8, ((0, 0),))]
    assert plan.pieces(1) == [
        Piece(0, 2, ((0, 0),)),
        Piece(2, 2, ((1, 0),)),
        Piece(4, 2, ((1, 3),)),
        Piece(6, 2, ((0, 6),)),
    ]


def test_rules_come_before_the_definition() -> None:
    output = table("abc")
    tables = [table("ab"), table("bc")]
    rules: Mapping[str, tuple[tuple[tuple[int, int], ...] | None, bool]] = {"a": ((), False), "b": (((1, 1),), True)}
    plan = plan_rows(output, tables, base=None, rules=rules)
    assert plan == RowPlan(
        3, ((0, -1, -1), (-1, -1, 1)), {0: (), 1: ((1, 1),), 2: ((1, 1),)}, frozenset({1}), frozenset()
    )


def test_tokens_that_share_a_row_and_rows_that_disagree() -> None:
    doubled = TokenRows({"a": 0, "A": 0, "b": 1}, 2)
    assert disagreement(doubled, TokenRows({"A": 0, "b": 1}, 2)) is None
    assert disagreement(doubled, TokenRows({"c": 0, "b": 1}, 2)) == (0, "A", "c")
    assert disagreement(doubled, TokenRows({"b": 0}, 2)) == (0, "A", "b")
    assert disagreement(doubled, TokenRows({"a": 0}, 5)) is None  # row 1 has a token in one of them alone
    plan = plan_rows(doubled, [table("bA")], base=None, rules={})
    assert plan.own == ((1, 0),)


@pytest.mark.parametrize(
    ("names", "embedding", "found"),
    [
        (
            {"shared.weight": (9, 4), "lm_head.weight": (9, 4), "encoder.embed_tokens.weight": (9, 4), "q": (9, 9)},
            "shared.weight",
            {"shared.weight", "lm_head.weight", "encoder.embed_tokens.weight"},
        ),
        (
            {
                "bert.embeddings.word_embeddings.weight": (9, 4),
                "bert.embeddings.position_embeddings.weight": (9, 4),
                "cls.predictions.decoder.weight": (9, 4),
                "cls.predictions.decoder.bias": (9,),
                "cls.predictions.bias": (9,),
                "bert.pooler.dense.weight": (9, 9),
            },
            "bert.embeddings.word_embeddings.weight",
            {
                "bert.embeddings.word_embeddings.weight",
                "cls.predictions.decoder.weight",
                "cls.predictions.decoder.bias",
                "cls.predictions.bias",
            },
        ),
        (
            {"transformer.wte.weight": (9, 4), "transformer.wpe.weight": (9, 4), "lm_head.weight": (7, 4)},
            "transformer.wte.weight",
            {"transformer.wte.weight"},  # a head of other rows is another vocabulary's
        ),
        ({"vit.embeddings.patch_embeddings.projection.weight": (4, 1, 2, 2), "classifier.weight": (3, 4)}, None, set()),
    ],
    ids=["t5", "bert", "gpt2", "vit"],
)
def test_tensors_with_an_axis_of_tokens(
    names: dict[str, tuple[int, ...]], embedding: str | None, found: set[str], tmp_path: Path
) -> None:
    save_file({name: torch.zeros(shape) for name, shape in names.items()}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert set(vocabulary_tensors(checkpoint)) == found
        info = embedding_of(checkpoint)
        assert (None if info is None else info.name) == embedding


def test_integers_are_no_embeddings_and_biases_may_have_a_leading_axis(tmp_path: Path) -> None:
    save_file({"wte.weight": torch.zeros(9, 4, dtype=torch.int8)}, tmp_path / "model.safetensors")
    with open_checkpoint(tmp_path) as checkpoint:
        assert embedding_of(checkpoint) is None
        assert counterpart("wte.weight", checkpoint) is None
    assert (width_of("bias", (1, 9)), width_of("bias", (9,)), width_of("w", (9, 4)), width_of("w", (1, 3))) == (
        1,
        1,
        4,
        3,
    )
    assert with_rows("final_logits_bias", (1, 9), 5) == (1, 5)
    assert (with_rows("lm_head.bias", (9,), 5), with_rows("lm_head.weight", (9, 4), 5)) == ((5,), (5, 4))
    assert not is_output_head("decoder.weight")


def test_a_body_saved_alone_has_the_counterpart_of_a_class_with_a_head(tmp_path: Path) -> None:
    inner, outer = "embeddings.word_embeddings.weight", "bert.embeddings.word_embeddings.weight"
    for name, tensors in (("body", (inner,)), ("whole", (outer, "cls.predictions.bias"))):
        (tmp_path / name).mkdir()
        state = {each: torch.randn(5, 2) if "word" in each else torch.randn(5) for each in tensors}
        save_file(state, tmp_path / name / "model.safetensors")
    with open_checkpoint(tmp_path / "body") as body, open_checkpoint(tmp_path / "whole") as whole:
        assert counterpart(inner, whole) == outer
        assert counterpart(outer, body) == inner
        assert counterpart("cls.predictions.bias", body) is None
        plan = plan_rows(table("abcde"), [table("abcde"), table("abcd", 1)], base=0, rules={})
        view = with_vocabulary([body, whole], plan, 1)
        bias, own = view.read("cls.predictions.bias"), whole.read("cls.predictions.bias")
        assert torch.equal(bias[:4], own[:4])
        torch.testing.assert_close(bias[4], own[:4].mean())  # the base has no such bias: the mean of what there is
