"""Statistics over tokens follow the rows: a model in another order of tokens merges as if it were in the base's."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from engine_families import RawStore, draw_store, write_raw
from safetensors.torch import load_file, save_file
from torch import Tensor
from worded_models import SPECIAL, Worded, save_tokenizer, word_tokenizer, worded

from mats.engine import MergeRequest, merge
from mats.engine.vocabulary_statistics import over_tokens, rearranged
from mats.errors import InputsMismatch
from mats.methods import AverageSettings, FisherSettings, MatsSettings, RegMeanSettings, SolverChoice
from mats.methods.grams import GramSums

FEW = SolverChoice(name="cg", max_iterations=15, precision="float64")  # iterates are as invariant as solutions
TOKENS = {  # family → tensors with rows of tokens, and statistics with the axes that are tokens
    "gpt2": (
        ("transformer.wte.weight",),
        {"input_gram/transformer.wte": 1, "output_gram/lm_head": 2, "diagonal/transformer.wte.weight": 1},
    ),
    "bert": (
        ("bert.embeddings.word_embeddings.weight", "cls.predictions.bias"),
        {
            "input_gram/bert.embeddings.word_embeddings": 1,
            "output_gram/cls.predictions.decoder": 2,
            "diagonal/cls.predictions.bias": 1,
            "block/cls.predictions.bias": 2,
            "diagonal/bert.embeddings.word_embeddings.weight": 1,
        },
    ),
    "llama": (
        ("model.embed_tokens.weight", "lm_head.weight"),
        {
            "input_gram/model.embed_tokens": 1,
            "output_gram/lm_head": 2,
            "diagonal/model.embed_tokens.weight": 1,
            "diagonal/lm_head.weight": 1,
        },
    ),
}
WORDS = "abcdefgh"
SHUFFLED = "hcafbegd"


@pytest.fixture(autouse=True)
def _light(light_report: None) -> None:
    """No plots."""


def measured(model: Worded, family: str, seed: int) -> tuple[RawStore, list[str]]:
    """Random sums for a model on disk, with a diagonal for the matrices of tokens as well."""
    import transformers as hf

    loaded = (hf.AutoModelForMaskedLM if family == "bert" else hf.AutoModelForCausalLM).from_pretrained(model.path)
    raw, parameters, _ = draw_store(loaded, seed)
    for key in TOKENS[family][1]:
        statistic, _, name = key.partition("/")
        if statistic == "diagonal" and name in model.state and model.state[name].dim() == 2:
            generator = torch.Generator().manual_seed(seed)
            raw.sums.tensors[key] = torch.rand(model.state[name].shape, generator=generator, dtype=torch.float64)
            parameters.append(name)
    return raw, parameters


def shuffle(model: Worded, raw: RawStore, family: str, words: str) -> tuple[Worded, RawStore]:
    """The same model and statistics with the words in another order (or fewer of them)."""
    tokenizer = word_tokenizer([*SPECIAL, *words])
    ids = tokenizer.get_vocab()
    order = torch.tensor([model.tokens[token] for token in sorted(ids, key=ids.__getitem__)])
    state = {k: v[order] if k in TOKENS[family][0] else v for k, v in model.state.items()}
    folder = model.path.parent / f"{model.name}-{words}"
    folder.mkdir()
    config = (model.path / "config.json").read_text()
    (folder / "config.json").write_text(
        config.replace(f'"vocab_size": {len(model.tokens)}', f'"vocab_size": {len(ids)}')
    )
    save_file({k: v.contiguous() for k, v in state.items()}, folder / "model.safetensors", {"format": "pt"})
    save_tokenizer(folder, tokenizer)
    moved = deepcopy(raw)
    for key, axes in TOKENS[family][1].items():
        total = moved.sums.tensors[key]
        moved.sums.tensors[key] = total[order] if axes == 1 else total[order][:, order]
    return Worded(model.name, folder, ids), moved


def merged(
    root: Path, method: object, base: Worded, models: list[tuple[Worded, RawStore, list[str]]], vocab: str = "error"
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The merged tensors, and each one's rule."""
    root.mkdir()
    inputs = []
    for model, raw, parameters in models:
        write_raw(root / f"store-{model.name}", raw, model.path, parameters)
        inputs.append(replace(model.input, metadata=root / f"store-{model.name}"))
    request = MergeRequest(
        tuple(inputs),
        method,
        root / "out",
        base=str(base.path),
        device="cpu",
        vocab=vocab,  # type: ignore[arg-type]
    )
    report = merge(request).report
    return load_file(root / "out" / "model.safetensors"), {each["name"]: each["rule"] for each in report["layers"]}


METHODS = {
    "mats": MatsSettings(fallback=("kfac", "block", "init"), anchor=0.1, solver=FEW),
    "regmean": RegMeanSettings(anchor=0.1),
    "fisher": FisherSettings(),
}


@pytest.mark.parametrize(
    ("family", "method"), [("gpt2", "mats"), ("bert", "mats"), ("llama", "regmean"), ("bert", "fisher")]
)
def test_another_order_of_tokens_changes_nothing(family: str, method: str, tmp_path: Path) -> None:
    base = worded(tmp_path, "base", WORDS, family=family)
    one, two = (worded(tmp_path, name, WORDS, family=family, seed=seed) for seed, name in ((1, "one"), (2, "two")))
    raws = [measured(model, family, 10 + number) for number, model in enumerate((one, two))]
    straight = [(one, *raws[0]), (two, *raws[1])]
    expected, rules = merged(tmp_path / "straight", METHODS[method], base, straight)
    moved, moved_raw = shuffle(two, raws[1][0], family, SHUFFLED)
    found, same = merged(
        tmp_path / "moved", METHODS[method], base, [(one, *raws[0]), (moved, moved_raw, raws[1][1])], "base"
    )
    assert rules == same
    embedding = TOKENS[family][0][0]
    wanted = {"mats": "kfac", "fisher": "diagonal"}.get(method, rules[embedding])
    assert rules[embedding] == wanted
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-5, atol=1e-6, msg=name)
    if method == "regmean":
        return  # input Grams of heads have no axis of tokens, and it leaves lookup tables alone
    forgotten = [(one, *raws[0]), (moved, *raws[1])]  # the negative control: rows moved, statistics not
    wrong, _ = merged(tmp_path / "wrong", METHODS[method], base, forgotten, "base")
    assert (wrong[embedding] - expected[embedding]).abs().max() > 1e-3


@pytest.mark.parametrize("family", ["bert", "llama"])
def test_a_model_has_no_say_about_tokens_that_it_does_not_have(family: str, tmp_path: Path) -> None:
    """Under the diagonal Fisher, two models, the second without `h`: row `h` is the first model's."""
    base = worded(tmp_path, "base", WORDS, family=family)
    one, two = (worded(tmp_path, name, WORDS, family=family, seed=seed) for seed, name in ((1, "one"), (2, "two")))
    raws = [measured(model, family, 10 + number) for number, model in enumerate((one, two))]
    fewer, fewer_raw = shuffle(two, raws[1][0], family, "gfbedca")
    models = [(one, *raws[0]), (fewer, fewer_raw, raws[1][1])]
    method = FisherSettings(anchor=0.0, damping=0.0)
    found, _ = merged(tmp_path / "fewer", method, base, models, "base")
    both, _ = merged(tmp_path / "both", method, base, [(one, *raws[0]), (two, *raws[1])])
    row = base.tokens["h"]
    for name in TOKENS[family][0]:
        torch.testing.assert_close(found[name][row], one.row("h", name), rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[name][:row], both[name][:row], rtol=1e-5, atol=1e-6)
        assert (both[name][row] - found[name][row]).abs().max() > 1e-2


def test_a_token_of_one_model_alone(tmp_path: Path) -> None:
    """A union: every model has that row, by definition, so it is the result where curvature keeps rows apart."""
    base = worded(tmp_path, "base", "abcdefg", family="gpt2")
    one = worded(tmp_path, "one", WORDS, family="gpt2", seed=1)
    two = worded(tmp_path, "two", "gfedcba", family="gpt2", seed=2)
    models = [(model, *measured(model, "gpt2", seed)) for seed, model in enumerate((one, two))]
    apart = METHODS["mats"].model_copy(update={"fallback": ("input_gram", "init")})  # an output Gram couples rows
    found, rules = merged(tmp_path / "out", apart, base, models, "union")
    name = "transformer.wte.weight"
    assert rules[name] == "input_gram"
    torch.testing.assert_close(found[name][one.tokens["h"]], one.row("h", name), rtol=1e-4, atol=1e-5)
    average = MergeRequest(
        (one.input, two.input), AverageSettings(), tmp_path / "avg", base=str(base.path), vocab="union"
    )
    plain = load_file(merge(average).path / "model.safetensors")[name]
    assert (plain[3:10] - found[name][3:10]).abs().max() > 1e-2


def test_statistics_of_another_checkpoint_must_be_in_the_outputs_order(tmp_path: Path) -> None:
    base = worded(tmp_path, "base", WORDS, family="gpt2")
    one = worded(tmp_path, "one", SHUFFLED, family="gpt2", seed=1)
    early = worded(tmp_path, "early", SHUFFLED, family="gpt2", seed=3)
    raw, parameters = measured(early, "gpt2", 7)
    write_raw(tmp_path / "store", raw, early.path, parameters)
    model = replace(one.input, metadata=tmp_path / "store", measured_on=str(early.path))
    method = METHODS["mats"]
    request = MergeRequest((model,), method, tmp_path / "out", base=str(base.path), device="cpu", vocab="base")
    with pytest.raises(InputsMismatch, match=r"measured_on .*early: row 3 is the token 'h', in the output 'a'"):
        merge(request)
    fitting = worded(tmp_path, "fitting", WORDS, family="gpt2", seed=3)
    raw, parameters = measured(fitting, "gpt2", 7)
    write_raw(tmp_path / "fitting-store", raw, fitting.path, parameters)
    model = replace(one.input, metadata=tmp_path / "fitting-store", measured_on=str(fitting.path))
    assert merge(replace(request, models=(model,))).path.exists()


def test_sums_over_tokens() -> None:
    own = torch.tensor([2, -1, 0])
    counts = GramSums(torch.tensor([5.0, 6.0, 7.0, 8.0]), 26.0, 26.0)
    kept, outputs = over_tokens(counts, None, own, lookup=True)
    assert kept.total.tolist() == [7.0, 0.0, 5.0]
    assert (kept.tokens, outputs) == (26.0, None)
    x = torch.randn(50, 4, dtype=torch.float64)
    gram = GramSums(x.T @ x, 50.0, float(x.square().sum(1).square().sum()))
    inputs, found = over_tokens(gram, gram, own, lookup=False)
    assert inputs is gram
    assert found is not None
    picked = torch.stack([x[:, 2], torch.zeros(50, dtype=torch.float64), x[:, 0]], dim=1)
    torch.testing.assert_close(found.total, picked.T @ picked)
    everything, same = over_tokens(gram, gram, torch.tensor([3, 1, 0, -1, 2]), lookup=False)
    assert same is not None
    assert same.fourth_moment == pytest.approx(gram.fourth_moment)
    assert found.fourth_moment < gram.fourth_moment  # type: ignore[operator]
    assert torch.equal(rearranged(torch.arange(6.0).reshape(3, 2), own, (0,))[1], torch.zeros(2))
    assert everything is gram
