"""Merges of models with different vocabularies: every token's row is what the definition says, and files agree."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor
from worded_models import SPECIAL, Worded, build, drop, expected_rows, save_tokenizer, word_tokenizer, worded

from mats.checkpoints.vocabulary import TokenRule, TokenSource, VocabularyChoice
from mats.engine import Heads, MergeRequest, merge, plan_merge
from mats.errors import CheckpointCorrupt, InputsMismatch, MatsError, RequestError
from mats.methods import AverageSettings, TaskArithmeticSettings, TiesSettings

EMBEDDINGS = {
    "llama": ("model.embed_tokens.weight", "lm_head.weight"),
    "bert": ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
    "gpt2": ("transformer.wte.weight",),
    "t5": ("shared.weight",),
}
FAMILIES = tuple(EMBEDDINGS)
SCALE = 0.4


@pytest.fixture(autouse=True)
def _light(light_report: None) -> None:
    """No plots."""


def three(root: Path, family: str = "llama", **changes: object) -> tuple[Worded, Worded, Worded]:
    """A base of five words with two rows of padding; a model with the words in another order and three more; a small
    model that shares two of these."""
    base = worded(root, "base", "abcde", family=family, padding=2, **changes)  # type: ignore[arg-type]
    grown = worded(root, "grown", "edcbafg", family=family, seed=1, added=["<chat>"], **changes)  # type: ignore[arg-type]
    small = worded(root, "small", "abxg", family=family, seed=2, **changes)  # type: ignore[arg-type]
    return base, grown, small


def wanted(output: Path, base: Worded | None, *models: Worded, **changes: object) -> MergeRequest:
    made = MergeRequest(
        tuple(model.input for model in models),
        TaskArithmeticSettings(scale=SCALE) if base is not None else AverageSettings(),
        output,
        base=None if base is None else str(base.path),
        device="cpu",
    )
    return replace(made, **changes)  # type: ignore[arg-type]


def by_hand(token: str, tensor: str, base: Worded | None, models: tuple[Worded, ...]) -> Tensor:
    """Task arithmetic, or without a base the average, of the rows that the definition gives each model."""
    rows = [row.double() for row in expected_rows(token, tensor, base, models)]
    if base is None:
        return torch.stack(rows).mean(dim=0)
    of_base = base.row(token, tensor)
    owned = [row for model in models if (row := model.row(token, tensor)) is not None]
    x0 = of_base.double() if of_base is not None else torch.stack(owned).double().mean(dim=0)
    return x0 + SCALE * sum(row - x0 for row in rows)


def check_rows(path: Path, family: str, base: Worded | None, models: tuple[Worded, ...]) -> dict[str, int]:
    """Every token of the written tokenizer has the row that the definition says; returns its ids."""
    ids: dict[str, int] = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    state = load_file(path / "model.safetensors")
    for tensor in EMBEDDINGS[family]:
        for token, row in ids.items():
            torch.testing.assert_close(state[tensor][row].double(), by_hand(token, tensor, base, models), msg=token)
    return ids


def loaded(path: Path, family: str) -> tuple[object, object]:
    """The output as transformers loads it."""
    import transformers as hf

    kinds = {"llama": "ForCausalLM", "gpt2": "ForCausalLM", "bert": "ForMaskedLM", "t5": "ForSeq2SeqLM"}
    model = getattr(hf, f"AutoModel{kinds[family]}").from_pretrained(path)
    return model, hf.AutoTokenizer.from_pretrained(path)


# -- base and union ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("vocab", ["base", "union"])
def test_every_token_has_the_row_of_the_definition(family: str, vocab: str, tmp_path: Path) -> None:
    base, grown, small = three(tmp_path, family)
    result = merge(wanted(tmp_path / "out", base, grown, small, vocab=vocab))
    ids = check_rows(result.path, family, base, (grown, small))
    beyond = {} if vocab == "base" else {"f": 8, "g": 9, "<chat>": 10, "x": 11}
    assert ids == {**base.tokens, **beyond}
    model, tokenizer = loaded(result.path, family)
    rows = 10 if vocab == "base" else 12  # padding keeps its size, or takes new tokens
    assert model.get_input_embeddings().weight.shape == (rows, 8)
    assert model.config.vocab_size == rows
    assert tokenizer.get_vocab() == ids
    expected = [ids["a"], ids["g"], ids["<chat>"]] if vocab == "union" else [ids["a"], 0, 0]
    assert tokenizer("a g <chat>")["input_ids"] == expected
    words = torch.tensor([expected])
    extra = {"decoder_input_ids": words} if family == "t5" else {}
    assert model(input_ids=words, **extra).logits.shape[-1] == rows


def test_the_report_tells_where_rows_come_from(tmp_path: Path) -> None:
    base, grown, small = three(tmp_path)
    told = merge(wanted(tmp_path / "base-out", base, grown, small, vocab="base")).report["vocabulary"]
    assert (told["rows"], told["shared"], told["from_base"], told["added"], told["padding"]) == (10, 5, 3, 0, 2)
    assert told["models"]["small"]["left_out_tokens"] == ["x", "g"]
    assert told["models"]["grown"]["left_out"] == 3
    report = merge(wanted(tmp_path / "union-out", base, grown, small, vocab="union")).report
    told = report["vocabulary"]
    assert (told["rows"], told["shared"], told["from_base"], told["added"]) == (12, 5, 3, 4)
    assert told["added_tokens"] == ["f", "g", "<chat>", "x"]
    assert told["models"]["small"] == {
        "rows": 7, "own": 7, "base": 3, "others": 2, "zero": 0, "mean": 0, "left_out": 0, "left_out_tokens": [],
    }  # fmt: skip
    assert "12 rows: 5 shared by all, 3 from the base" in report["notes"][0]
    assert "vocabulary" not in merge(wanted(tmp_path / "plain", base, base)).report


def test_models_in_another_order_merge_as_if_they_were_in_the_bases(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abcdef")
    shuffled = worded(tmp_path, "shuffled", "fbdaec", seed=3)
    straight = tmp_path / "straight"
    shutil.copytree(base.path, straight)
    state, order = shuffled.state, torch.tensor([shuffled.tokens[t] for t in sorted(base.tokens, key=base.tokens.get)])
    for tensor in EMBEDDINGS["llama"]:
        state[tensor] = state[tensor][order]
    save_file(state, straight / "model.safetensors", {"format": "pt"})
    plain = merge(wanted(tmp_path / "a", base, Worded("m", straight, base.tokens))).path
    matched = merge(wanted(tmp_path / "b", base, Worded("m", shuffled.path, {}), vocab="base")).path
    one, other = load_file(plain / "model.safetensors"), load_file(matched / "model.safetensors")
    assert all(torch.equal(one[name], other[name]) for name in one)
    wrong = load_file(shuffled.path / "model.safetensors")[EMBEDDINGS["llama"][0]]
    assert (state[EMBEDDINGS["llama"][0]] - wrong).abs().max() > 0.1  # by number they would have been other rows


@pytest.mark.parametrize("vocab", ["base", "union"])
def test_equal_vocabularies_merge_as_without_a_word(vocab: str, tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc", padding=3)
    one, two = (worded(tmp_path, name, "abc", padding=3, seed=seed) for seed, name in enumerate(("one", "two"), 1))
    plain = merge(wanted(tmp_path / "plain", base, one, two)).path
    same = merge(wanted(tmp_path / "same", base, one, two, vocab=vocab)).path
    assert (plain / "model.safetensors").read_bytes() == (same / "model.safetensors").read_bytes()
    assert (plain / "tokenizer.json").read_bytes() == (same / "tokenizer.json").read_bytes()


def test_without_a_base_the_first_models_tokens_come_first(tmp_path: Path) -> None:
    _, grown, small = three(tmp_path)
    path = merge(wanted(tmp_path / "out", None, small, grown, vocab="union")).path
    ids = check_rows(path, "llama", None, (small, grown))
    assert ids == {**small.tokens, "e": 7, "d": 8, "c": 9, "f": 10, "<chat>": 11}
    path = merge(wanted(tmp_path / "base-out", None, small, grown, vocab="base")).path
    assert check_rows(path, "llama", None, (small, grown)) == small.tokens


def test_a_lone_owners_token_keeps_its_row_and_a_missing_one_the_bases(tmp_path: Path) -> None:
    """Under any data-free method: the others' task vectors are zero there, in the base's dtype and in another."""
    base, grown, small = three(tmp_path)
    for number, method in enumerate((TaskArithmeticSettings(scale=0.7), TiesSettings(density=1.0, scale=1.0))):
        path = merge(wanted(tmp_path / f"out{number}", base, grown, small, vocab="union", method=method)).path
        rows = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
        torch.testing.assert_close(rows[8], grown.row("f", "model.embed_tokens.weight"))
        torch.testing.assert_close(rows[11], small.row("x", "model.embed_tokens.weight"))
    alone = merge(wanted(tmp_path / "alone", base, small, vocab="base")).path
    rows = load_file(alone / "model.safetensors")["model.embed_tokens.weight"]
    assert torch.equal(rows[base.tokens["d"]], base.row("d", "model.embed_tokens.weight"))


def test_a_base_in_more_digits_than_the_models_is_not_rounded(tmp_path: Path) -> None:
    """A bfloat16 model without a token takes the base's float32 row as it is, so its task vector is zero."""
    base = worded(tmp_path, "base", "abcde")
    small = worded(tmp_path, "small", "ab", seed=1, dtype=torch.bfloat16)
    path = merge(wanted(tmp_path / "out", base, small, vocab="base")).path
    rows = load_file(path / "model.safetensors")["model.embed_tokens.weight"]
    assert rows.dtype == torch.float32
    row = base.row("e", "model.embed_tokens.weight")
    assert torch.equal(rows[base.tokens["e"]], row)
    assert not torch.equal(row, row.bfloat16().float())  # a rounded row would have been seen


def test_the_output_keeps_the_bases_dtype(tmp_path: Path) -> None:
    base, grown, small = three(tmp_path, dtype=torch.bfloat16)
    state = load_file(merge(wanted(tmp_path / "out", base, grown, small, vocab="union")).path / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.bfloat16}
    row = by_hand("g", "model.embed_tokens.weight", base, (grown, small))  # the mean of two owners, rounded once
    assert torch.equal(state["model.embed_tokens.weight"][9], row.bfloat16())


def test_a_named_models_vocabulary(tmp_path: Path) -> None:
    base, grown, small = three(tmp_path)
    config = json.loads((small.path / "config.json").read_text())
    (small.path / "config.json").write_text(json.dumps({**config, "pad_token_id": 2, "eos_token_id": 0}))
    choice = VocabularyChoice("small")
    path = merge(wanted(tmp_path / "out", base, grown, small, tokenizer=choice)).path
    assert check_rows(path, "llama", base, (grown, small)) == small.tokens
    model, tokenizer = loaded(path, "llama")
    assert (model.config.vocab_size, model.config.pad_token_id, model.config.eos_token_id) == (7, 2, 0)
    assert model.generation_config.pad_token_id == json.loads((small.path / "generation_config.json").read_text()).get(
        "pad_token_id"
    )
    assert len(tokenizer) == 7


# -- single tokens and padding -----------------------------------------------------------------------------------------


def test_single_tokens_take_the_rows_they_are_given(tmp_path: Path) -> None:
    base, grown, small = three(tmp_path)
    name = "model.embed_tokens.weight"
    rules = {
        "<zero>": TokenRule(TokenSource(None)),
        "<end>": TokenRule(TokenSource("grown", "<chat>")),
        "<third>": TokenRule(TokenSource("base", row=3)),
        "c": TokenRule(TokenSource("grown"), force=True),
        "d": TokenRule(TokenSource("grown")),
        "<chat>": TokenRule(),
    }
    request = wanted(tmp_path / "out", base, grown, small, tokenizer=VocabularyChoice("base", rules))
    result = merge(request)
    ids = Tokenizer.from_file(str(result.path / "tokenizer.json")).get_vocab()
    rows = load_file(result.path / "model.safetensors")[name]
    assert ids == {**base.tokens, "<zero>": 8, "<end>": 9, "<third>": 10, "<chat>": 11}
    assert torch.equal(rows[8], torch.zeros(8))
    torch.testing.assert_close(rows[9], grown.row("<chat>", name))
    torch.testing.assert_close(rows[10], base.state[name][3])
    torch.testing.assert_close(rows[11], grown.row("<chat>", name))
    torch.testing.assert_close(rows[ids["c"]], grown.row("c", name))  # forced upon the base, too
    start, moved = base.row("d", name), grown.row("d", name)
    torch.testing.assert_close(rows[ids["d"]], start + SCALE * 2 * (moved - start))  # small lacks it, and takes grown's
    tokenizer = loaded(result.path, "llama")[1]
    assert tokenizer("a <end>")["input_ids"] == [ids["a"], ids["<end>"]]


@pytest.mark.parametrize(("multiple", "rows"), [(1, 8), (16, 16)])
def test_padding_is_the_mean_of_real_rows_where_it_is_asked_for(multiple: int, rows: int, tmp_path: Path) -> None:
    base, grown, small = three(tmp_path)
    choice = VocabularyChoice("base", pad_to_multiple_of=multiple)
    path = merge(wanted(tmp_path / "out", base, grown, small, tokenizer=choice)).path
    for tensor in EMBEDDINGS["llama"]:
        merged = load_file(path / "model.safetensors")[tensor]
        assert merged.shape == (rows, 8)
        torch.testing.assert_close(merged[8:], merged[:8].mean(dim=0).expand(rows - 8, 8))
    assert loaded(path, "llama")[0].config.vocab_size == rows
    check_rows(path, "llama", base, (grown, small))


@pytest.mark.parametrize("vocab", ["error", "base", "union"])
def test_r13_padded_vocab_kept(vocab: str, tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc", padding=10)
    model = worded(tmp_path, "model", "abc", padding=10, seed=1)
    merged = load_file(merge(wanted(tmp_path / "out", base, model, vocab=vocab)).path / "model.safetensors")
    before, after = base.state["model.embed_tokens.weight"], model.state["model.embed_tokens.weight"]
    assert merged["model.embed_tokens.weight"].shape == (16, 8)
    torch.testing.assert_close(merged["model.embed_tokens.weight"][6:], before[6:] + SCALE * (after - before)[6:])


def test_r12_vocab_report(tmp_path: Path) -> None:
    """32000 and 32007 rows, scaled down: seven tokens more, none lost, and every row accounted for."""
    words = [f"w{number}" for number in range(317)]
    base = worded(tmp_path, "base", words)
    more = worded(tmp_path, "more", words, added=[f"<more{number}>" for number in range(7)], seed=1)
    with pytest.raises(InputsMismatch, match=r"model more: .* has 327 rows, the base base has 320.*--vocab union"):
        plan_merge(wanted(tmp_path / "out", base, more))
    result = merge(wanted(tmp_path / "out", base, more, vocab="union"))
    told = result.report["vocabulary"]
    assert (told["rows"], told["shared"], told["added"]) == (327, 320, 7)
    assert told["models"]["more"]["own"] == 327
    check_rows(result.path, "llama", base, (more,))
    result = merge(wanted(tmp_path / "small", base, more, vocab="base"))
    assert result.report["vocabulary"]["models"]["more"]["left_out"] == 7
    assert any("<more6>" in note or "… (7)" in note for note in result.report["notes"])


def test_the_output_has_one_chat_template(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    base = worded(tmp_path, "base", "ab")
    models = [worded(tmp_path, name, "ab", seed=1) for name in ("one", "two")]
    talk = [{"role": "user", "content": "a"}]
    text = "{{ 'SAID ' + messages[0]['content'] }}"
    for model in models:
        save_tokenizer(model.path, word_tokenizer([*SPECIAL, "a", "b"]), chat_template=text)
    for number, (given, said) in enumerate((("chatml", "<|im_start|>user\na<|im_end|>\n"), ("auto", "SAID a"))):
        path = merge(wanted(tmp_path / f"out{number}", base, *models, chat_template=given)).path
        tokenizer = AutoTokenizer.from_pretrained(path)
        assert tokenizer.apply_chat_template(talk, tokenize=False) == said
    plain = merge(wanted(tmp_path / "plain", base, *models)).path
    assert AutoTokenizer.from_pretrained(plain).chat_template is None  # the base's tokenizer has none


# -- tied and untied heads ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", ["gpt2", "t5", "llama"])
@pytest.mark.parametrize("vocab", ["error", "union"])
def test_r11_tied_not_duplicated(family: str, vocab: str, tmp_path: Path) -> None:
    words = "abcd" if vocab == "union" else "abc"
    base = worded(tmp_path, "base", "abc", family=family, tie_word_embeddings=True)
    model = worded(tmp_path, "model", words, family=family, seed=1, tie_word_embeddings=True)
    path = merge(wanted(tmp_path / "out", base, model, vocab=vocab)).path
    stored = load_file(path / "model.safetensors")
    assert not any("lm_head" in name for name in stored)
    assert set(stored) == set(base.state)
    made = loaded(path, family)[0]
    assert made.get_output_embeddings().weight.data_ptr() == made.get_input_embeddings().weight.data_ptr()
    grown = (len(words) - 3) * 8
    assert made.num_parameters() == loaded(base.path, family)[0].num_parameters() + grown


@pytest.mark.parametrize("base_is_tied", [True, False])
def test_r11_tied_and_untied_together_give_an_untied_result(base_is_tied: bool, tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc", tie_word_embeddings=base_is_tied)
    one = worded(tmp_path, "one", "abc", seed=1, tie_word_embeddings=not base_is_tied)
    assert ("lm_head.weight" in base.state) is not base_is_tied
    result = merge(wanted(tmp_path / "out", base, one))
    heads = [each.state.get("lm_head.weight", each.state["model.embed_tokens.weight"]) for each in (base, one)]
    merged = load_file(result.path / "model.safetensors")
    torch.testing.assert_close(merged["lm_head.weight"], heads[0] + SCALE * (heads[1] - heads[0]))
    model = loaded(result.path, "llama")[0]
    assert torch.equal(model.lm_head.weight, merged["lm_head.weight"])
    assert torch.equal(model.model.embed_tokens.weight, merged["model.embed_tokens.weight"])
    assert model.config.tie_word_embeddings is False
    assert any("no lm_head.weight of its own" in note for note in result.report["notes"])
    assert result.report["missing"] == result.report["extra"] == {}


def test_a_tied_model_among_untied_ones_of_other_vocabularies(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc")
    tied = worded(tmp_path, "tied", "cbad", seed=1, tie_word_embeddings=True)
    path = merge(wanted(tmp_path / "out", base, tied, vocab="union")).path
    head = load_file(path / "model.safetensors")["lm_head.weight"]
    for token in "abc":
        start, own = base.row(token, "lm_head.weight"), tied.row(token, "model.embed_tokens.weight")
        torch.testing.assert_close(head[base.tokens[token]], start + SCALE * (own - start))
    torch.testing.assert_close(head[6], tied.row("d", "model.embed_tokens.weight"))


# -- heads of tasks ----------------------------------------------------------------------------------------------------


def test_heads_of_tasks_are_kept_on_a_body_of_another_vocabulary(tmp_path: Path) -> None:
    import transformers as hf

    from mats.checkpoints import load_model

    base = worded(tmp_path, "base", "abc", family="bert")
    models = []
    for number, words in enumerate(("cabd", "ba")):
        made = word_tokenizer([*SPECIAL, *words])
        config = build("bert", len(made.get_vocab()), number).config
        config.num_labels = 2 + number
        torch.manual_seed(number)
        hf.BertForSequenceClassification(config).save_pretrained(tmp_path / f"m{number}")
        save_tokenizer(tmp_path / f"m{number}", made)
        models.append(Worded(f"m{number}", tmp_path / f"m{number}", made.get_vocab()))
    path = merge(wanted(tmp_path / "out", base, *models, vocab="union", heads=Heads())).path
    ids = Tokenizer.from_file(str(path / "tokenizer.json")).get_vocab()
    assert ids == {**base.tokens, "d": 6}
    for number in range(2):
        model = load_model(path, "text_classification", head=f"m{number}")
        assert (model.config.vocab_size, model.config.num_labels) == (7, 2 + number)
        assert model(input_ids=torch.tensor([[3, 6]])).logits.shape == (1, 2 + number)


# -- refusals, each before any tensor is read --------------------------------------------------------------------------


def refused(request: MergeRequest, error: type[MatsError], line: str) -> None:
    with pytest.raises(error, match=line):
        merge(request)
    assert not request.output.exists()


def test_the_same_words_in_another_order_are_refused(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abcd")
    other = worded(tmp_path, "other", "abdc", seed=1)
    line = r"model other: row 5 of model.embed_tokens.weight is the token 'd', in the base base it is 'c'.*--vocab base"
    refused(wanted(tmp_path / "out", base, other), InputsMismatch, line)
    same = worded(tmp_path, "same", "abcd", seed=1)
    assert merge(wanted(tmp_path / "out", base, same)).path.exists()  # the negative control


def test_a_token_in_a_row_that_is_padding_elsewhere_is_told(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc", padding=2)
    model = worded(tmp_path, "model", "abc", added=["<pad2>"], padding=1, seed=1)
    notes = plan_merge(wanted(tmp_path / "out", base, model)).notes
    assert notes == ("model model has tokens in rows without one in the base base: '<pad2>'; vocab: union keeps them",)


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc")
    bare = worded(tmp_path, "bare", "abc", seed=1, tokenizer=False)
    assert plan_merge(wanted(tmp_path / "out", base, bare)).notes == ()
    plan = plan_merge(wanted(tmp_path / "out", base, bare, vocab="union"))
    assert "bare has no tokenizer; its 6 rows are taken to be in the order of base" in plan.notes
    odd = worded(tmp_path, "odd", "abcd", seed=1, tokenizer=False)
    line = r"vocab: union: model odd has 7 rows and no tokenizer beside its weights, nor has any input with as many"
    refused(wanted(tmp_path / "out", base, odd, vocab="union"), InputsMismatch, line)
    (bare.path / "tokenizer.json").write_text("{}")
    refused(wanted(tmp_path / "out", base, bare, vocab="union"), CheckpointCorrupt, "bare/tokenizer.json: not a tokeni")


def test_wrong_words(tmp_path: Path) -> None:
    base, grown, small = three(tmp_path)

    def asks(choice: VocabularyChoice) -> MergeRequest:
        return wanted(tmp_path / "out", base, grown, small, tokenizer=choice)

    with pytest.raises(RequestError, match=r"tokenizer.source: 'grow'; base, union or a model \(grown, small\)"):
        asks(VocabularyChoice("grow"))
    with pytest.raises(RequestError, match=r"vocab: base, and tokenizer\.source: union; one of them"):
        replace(asks(VocabularyChoice("union")), vocab="base")
    with pytest.raises(RequestError, match=r"vocab: 'both'; error, base or union"):
        wanted(tmp_path / "out", base, grown, vocab="both")
    with pytest.raises(RequestError, match=r"tokenizer.tokens.x: model 'large'; one of base, grown, small"):
        asks(VocabularyChoice("union", {"x": TokenRule(TokenSource("large"))}))
    with pytest.raises(RequestError, match=r"tokenizer.tokens.x: force without a source"):
        asks(VocabularyChoice("union", {"x": TokenRule(force=True)}))
    refused(asks(VocabularyChoice("base", {"<new>": TokenRule()})), RequestError, "<new>: no input has this token")
    lost = TokenRule(TokenSource("small", "<chat>"))
    refused(asks(VocabularyChoice("base", {"<new>": lost})), RequestError, "small does not have the token '<chat>'")
    lost = TokenRule(TokenSource("small", row=7))
    refused(asks(VocabularyChoice("base", {"<new>": lost})), RequestError, "small does not have row 7 of 7")


def test_what_has_no_words_has_no_vocabulary(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", "abc")
    other = worded(tmp_path, "other", "abc", seed=1)
    drop(other.path, "model.embed_tokens.weight")
    line = "vocab: union: other has no input embedding among its tensors; vocab: error would be right"
    refused(wanted(tmp_path / "out", base, other, vocab="union"), RequestError, line)
