"""What models write, against a token-by-token loop over single examples; the same in batches of any size."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import chisquare
from tiny_texts import END, UNKNOWN, VOCABULARY, tiny_gpt2, tiny_t5, word_tokenizer, write_dataset

from mats.data import Example, as_processor, load_examples, make_batches
from mats.data.generation import GenerationSettings
from mats.errors import RequestError
from mats.evaluation import generate_texts
from mats.evaluation.generation import check_settings

STEPS = 7


@pytest.fixture
def causal(tmp_path: Path) -> Any:
    spec = write_dataset(
        tmp_path,
        "go_on",
        task="language_modeling",
        template={"input": "{text}", "target": "{answer}"},
        metrics=["exact_match"],
        generation={"max_new_tokens": STEPS},
    )
    model = tiny_gpt2().double()
    return model, spec, as_processor(word_tokenizer(), model.config.to_dict())


@pytest.fixture
def text_to_text(tmp_path: Path) -> Any:
    spec = write_dataset(
        tmp_path, "tell", task="text_to_text", template={"input": "{text}", "target": "{answer}"}, metrics=["squad"]
    )
    model = tiny_t5().double()
    return model, spec, as_processor(word_tokenizer("[END]"), model.config.to_dict())


def written(case: Any, size: int = 4, *, by_length: bool = True, **settings: Any) -> dict[str, str]:
    model, spec, processor = case
    prompts_only = spec.task == "language_modeling"
    examples = load_examples(spec, "test")
    batches = make_batches(examples, spec, processor, size, by_length=by_length, prompts_only=prompts_only)
    return generate_texts(model, batches, processor, GenerationSettings(max_new_tokens=STEPS, **settings))


def greedy_alone(model: Any, ids: list[int], *, start: list[int] | None, penalty: float = 1.0) -> list[int]:
    """Token by token, without cache, padding or `generate`; `start` begins an encoder–decoder's output."""
    output = list(ids) if start is None else list(start)
    begin = len(output)
    for _ in range(STEPS):
        tokens = torch.tensor([output])
        inputs = {"input_ids": tokens} if start is None else {"input_ids": torch.tensor([ids])}
        if start is not None:
            inputs["decoder_input_ids"] = tokens
        with torch.no_grad():
            scores = model(**inputs).logits[0, -1]
        for token in set(output):
            scores[token] = scores[token] / penalty if scores[token] > 0 else scores[token] * penalty
        output.append(int(scores.argmax()))
        if output[-1] == END:
            break
    return [token for token in output[begin:] if token != END]


def as_words(ids: list[int]) -> str:
    return " ".join(f"w{index}" for index in ids if index > UNKNOWN)


@pytest.mark.parametrize("penalty", [None, 1.7])
@pytest.mark.parametrize("kind", ["causal", "text_to_text"])
def test_greedy_equals_a_loop(kind: str, penalty: float | None, request: pytest.FixtureRequest) -> None:
    case = request.getfixturevalue(kind)
    model, spec, processor = case
    texts = written(case, 4, repetition_penalty=penalty)
    for example in load_examples(spec, "test"):
        ids = processor.tokenizer(example.text)["input_ids"]
        alone = greedy_alone(model, ids, start=None if kind == "causal" else [0], penalty=penalty or 1.0)
        assert texts[example.example_id] == as_words(alone)
    assert len(set(texts.values())) > 5  # no model that writes the same whatever it reads


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_beams": 3},
        {"do_sample": True, "seed": 5},
        {"do_sample": True, "temperature": 2.0, "top_p": 0.7},
        {"repetition_penalty": 1.5, "num_beams": 2},
        {"stop": ("w5", "w9 w")},
    ],
)
@pytest.mark.parametrize("kind", ["causal", "text_to_text"])
def test_batches_do_not_matter(kind: str, settings: dict[str, Any], request: pytest.FixtureRequest) -> None:
    case = request.getfixturevalue(kind)
    one = written(case, 1, by_length=False, **settings)
    for size, by_length in ((4, False), (4, True), (64, True)):
        assert written(case, size, by_length=by_length, **settings) == one


def test_beams_are_transformers_beams(causal: Any) -> None:
    model, spec, processor = causal
    texts = written(causal, 4, num_beams=3)
    for example in load_examples(spec, "test"):
        ids = torch.tensor([processor.tokenizer(example.text)["input_ids"]])
        alone = model.generate(ids, attention_mask=torch.ones_like(ids), num_beams=3, max_new_tokens=STEPS)
        assert texts[example.example_id] == as_words(alone[0, ids.shape[1] :].tolist())
    assert texts != written(causal, 4)


def test_draws_follow_the_distribution(causal: Any) -> None:
    """First tokens of 3000 draws from one prompt, against softmax of the logits; and against another temperature."""
    model, spec, processor = causal
    prompt = "w3 w4 w5"
    examples = [Example(f"test:{number}", text=prompt, answers=("w3",)) for number in range(3000)]
    batches = make_batches(examples, spec, processor, 500, prompts_only=True)
    settings = GenerationSettings(max_new_tokens=1, do_sample=True, temperature=1.5)
    texts = generate_texts(model, batches, processor, settings)
    counts = Counter(texts.values())
    with torch.no_grad():
        logits = model(torch.tensor([processor.tokenizer(prompt)["input_ids"]])).logits[0, -1]

    def p_value(temperature: float) -> float:
        expected = (logits / temperature).softmax(-1) * len(examples)
        likely = [token for token in range(3, VOCABULARY) if expected[token] >= 5]
        observed = [counts[f"w{token}"] for token in likely]
        rest = len(examples) - sum(observed)
        means = [float(expected[token]) for token in likely]
        return float(chisquare([*observed, rest], [*means, len(examples) - sum(means)]).pvalue)

    assert p_value(1.5) > 0.01
    assert p_value(1.0) < 1e-6


def test_top_p_leaves_out_the_unlikely(causal: Any) -> None:
    model, spec, processor = causal
    examples = [Example(f"test:{number}", text="w3 w4", answers=("w3",)) for number in range(300)]
    batches = make_batches(examples, spec, processor, 100, prompts_only=True)
    settings = GenerationSettings(max_new_tokens=1, do_sample=True, top_p=0.5)
    seen = set(generate_texts(model, batches, processor, settings).values())
    with torch.no_grad():
        logits = model(torch.tensor([processor.tokenizer("w3 w4")["input_ids"]])).logits[0, -1]
    order = logits.argsort(descending=True).tolist()
    mass = logits.softmax(-1)[order].cumsum(0)
    kept = order[: int((mass < 0.5).sum()) + 1]
    assert seen == {as_words([token]) for token in kept}


def test_seeds_differ_and_repeat(causal: Any) -> None:
    first = written(causal, do_sample=True, seed=1)
    assert written(causal, do_sample=True, seed=1) == first
    assert written(causal, do_sample=True, seed=2) != first


def test_stop_texts_end_the_answer(causal: Any) -> None:
    whole = written(causal)
    stop = Counter(word for text in whole.values() for word in text.split()).most_common(1)[0][0]
    cut = written(causal, stop=(stop,))
    assert cut == {name: text.split(stop)[0] for name, text in whole.items()}
    assert cut != whole


def test_a_stopped_row_costs_no_further_steps(causal: Any) -> None:
    model, _, _ = causal
    calls: list[int] = []
    handle = model.register_forward_hook(lambda *_: calls.append(1))
    written(causal, 64)
    whole = len(calls)
    written(causal, 64, stop=("w",))  # every word begins so
    handle.remove()
    assert whole == STEPS
    assert len(calls) - whole == 1


def test_right_padding_would_differ(causal: Any) -> None:
    """The negative control: batches of language modelling are padded on the right, and a prompt cannot go on there."""
    model, spec, processor = causal
    examples = load_examples(spec, "test")
    bare = [Example(e.example_id, text=e.text, answers=e.answers) for e in examples if len(e.text.split()) > 1]
    wrong = make_batches(bare, spec, processor, 64)
    texts = generate_texts(model, wrong, processor, GenerationSettings(max_new_tokens=STEPS))
    right = written(causal, 64)
    assert sum(texts[name] != right[name] for name in texts) >= 5


def test_counting_padding_as_a_repetition_would_differ(causal: Any) -> None:
    """Padding with a real token: transformers' own penalty would punish it in padded rows alone."""
    model, spec, processor = causal
    from dataclasses import replace

    plain = written(causal, 1, by_length=False, repetition_penalty=3.0)
    favourite = Counter(word for text in written(causal).values() for word in text.split()).most_common(1)[0][0]
    other = replace(processor, pad_id=int(favourite[1:]))
    batched = written((model, spec, other), 64, repetition_penalty=3.0)
    assert batched == plain


def test_the_checkpoints_own_settings_do_not_count(causal: Any) -> None:
    model, _, _ = causal
    before = written(causal)
    model.generation_config.update(do_sample=True, temperature=3.0, top_k=3, num_beams=4, min_length=20, max_length=3)
    kept = model.generation_config
    assert written(causal) == before
    assert model.generation_config is kept


def test_adapters_write_too(causal: Any) -> None:
    from peft import LoraConfig, get_peft_model

    model, spec, processor = causal
    before = written(causal)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", target_modules=["c_attn"], r=2)).double()
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.normal_(std=1.0)
    texts = written((adapted, spec, processor))
    assert texts != before
    for example in load_examples(spec, "test")[:4]:
        ids = processor.tokenizer(example.text)["input_ids"]
        assert texts[example.example_id] == as_words(greedy_alone(adapted.double(), ids, start=None))


def test_beams_are_not_drawn_from() -> None:
    with pytest.raises(RequestError, match="do_sample with num_beams 4"):
        check_settings(GenerationSettings(max_new_tokens=1, do_sample=True, num_beams=4))
