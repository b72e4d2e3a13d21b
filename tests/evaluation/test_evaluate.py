"""Against a loop over single examples without padding, whatever the batch size and padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mats.data import Batch
from mats.errors import DataError, InputsMismatch, NonFiniteStatistic, RequestError
from mats.evaluation import evaluate, evaluating, sequence_log_probability

LABELS = [0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2]
GOLD = [0, 1, 2, 0, 1, 2, 0, 1, 2, 0, 1]
CLOSE = {"atol": 1e-5, "rtol": 1e-5}  # scores are rounded to float32


def scores_of(result: Any) -> torch.Tensor:
    return torch.tensor([entry["scores"] for entry in result.predictions])


def class_scores_alone(model: Any, rows: list[list[int]], device: str) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model(input_ids=torch.tensor([row], device=device)).logits.cpu() for row in rows]).float()


def choice_scores_alone(
    model: Any, rows: list[list[int]], choices: Any, device: str, *, mean: bool = False
) -> torch.Tensor:
    """By transformers' own mean loss of one prompt and one choice at a time."""
    model.eval()
    table = []
    with torch.no_grad():
        for row, options in zip(rows, choices, strict=True):
            ids = torch.tensor([row], device=device)
            losses = [
                float(model(input_ids=ids, labels=torch.tensor([option], device=device)).loss) for option in options
            ]
            table.append([-loss * (1 if mean else len(option)) for loss, option in zip(losses, options, strict=True)])
    return torch.tensor(table)


@pytest.mark.parametrize(("size", "extra"), [(1, 0), (3, 0), (4, 5), (64, 2)])
def test_classification_equals_one_by_one(
    bert: Any, prompts: list[list[int]], make_classification: Any, device: str, size: int, extra: int
) -> None:
    alone = class_scores_alone(bert, prompts, device)
    result = evaluate(bert, make_classification(prompts, LABELS, size, extra))
    torch.testing.assert_close(scores_of(result), alone, **CLOSE)
    right = [int(row.argmax()) == label for row, label in zip(alone, LABELS, strict=True)]
    assert result.value == pytest.approx(sum(right) / len(right))
    assert result.examples == len(prompts)
    assert [entry["example_id"] for entry in result.predictions] == [f"test:{n}" for n in range(len(prompts))]


@pytest.mark.parametrize("normalised", [False, True])
@pytest.mark.parametrize(("size", "extra"), [(1, 0), (3, 0), (4, 5), (64, 2)])
def test_rank_classification_equals_one_by_one(
    t5: Any, prompts: Any, choices: Any, make_ranked: Any, device: str, size: int, extra: int, normalised: bool
) -> None:
    alone = choice_scores_alone(t5, prompts, choices, device, mean=normalised)
    batches = make_ranked(prompts, choices, GOLD, size, extra)
    result = evaluate(t5.train(), batches, length_normalization=normalised)
    torch.testing.assert_close(scores_of(result), alone, **CLOSE)
    assert [entry["prediction"] for entry in result.predictions] == alone.argmax(dim=1).tolist()
    assert result.value == pytest.approx(float((alone.argmax(dim=1) == torch.tensor(GOLD)).double().mean()))


def test_adapters_are_scored_too(t5: Any, prompts: Any, choices: Any, make_ranked: Any, device: str) -> None:
    from peft import IA3Config, get_peft_model

    bare = scores_of(evaluate(t5, make_ranked(prompts, choices, GOLD, 4)))
    config = IA3Config(task_type="SEQ_2_SEQ_LM", target_modules=["k", "v", "wo"], feedforward_modules=["wo"])
    adapted = get_peft_model(t5, config).to(torch.float64)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "ia3_l" in name:
                parameter.copy_(1 + 0.5 * torch.randn_like(parameter))
    result = evaluate(adapted, make_ranked(prompts, choices, GOLD, 4))
    torch.testing.assert_close(scores_of(result), choice_scores_alone(adapted, prompts, choices, device), **CLOSE)
    assert (scores_of(result) - bare).abs().max() > 0.1


def test_length_normalisation_changes_the_ranking(t5: Any, prompts: Any, choices: Any, make_ranked: Any) -> None:
    batches = make_ranked(prompts, choices, GOLD, 4)
    by_sum, by_mean = (evaluate(t5, batches, length_normalization=value) for value in (False, True))
    assert [e["prediction"] for e in by_sum.predictions] != [e["prediction"] for e in by_mean.predictions]


def without_mask(batch: Batch) -> Batch:
    return replace(batch, inputs={**batch.inputs, "attention_mask": torch.ones_like(batch.inputs["attention_mask"])})


def test_counting_padding_differs(
    bert: Any, t5: Any, prompts: Any, choices: Any, make_classification: Any, make_ranked: Any
) -> None:
    """The negative control: prompts whose padding is looked at, and choices whose padding is scored."""
    batches = make_classification(prompts, LABELS, 4)
    wrong = evaluate(bert, [without_mask(batch) for batch in batches])
    assert (scores_of(wrong) - scores_of(evaluate(bert, batches))).abs().max() > 0.1
    ranked = make_ranked(prompts, choices, GOLD, 4)
    right = scores_of(evaluate(t5, ranked))
    assert (scores_of(evaluate(t5, [without_mask(batch) for batch in ranked])) - right).abs().max() > 0.1
    scored = [replace(batch, choices=batch.choices.clamp(min=0)) for batch in ranked]
    assert (scores_of(evaluate(t5, scored)) - right).abs().max() > 0.1


def test_encoder_runs_once_per_batch(t5: Any, prompts: Any, choices: Any, make_ranked: Any) -> None:
    seen: list[int] = []
    handle = t5.get_encoder().register_forward_hook(lambda module, args, output: seen.append(output[0].shape[0]))
    evaluate(t5, make_ranked(prompts, choices, GOLD, 4))
    handle.remove()
    assert seen == [4, 4, 3]


def test_images(vit: Any, device: str) -> None:
    images, labels = torch.randn(7, 1, 4, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2, 0])
    batches = [
        Batch(
            {"pixel_values": images[a:b]},
            tuple(f"test:{n}" for n in range(a, b)),
            "image_classification",
            None,
            None,
            labels[a:b],
        )
        for a, b in ((0, 3), (3, 7))
    ]
    result = evaluate(vit, batches)
    with torch.no_grad():
        alone = torch.cat([vit(pixel_values=image[None].to(device)).logits.cpu() for image in images]).float()
    torch.testing.assert_close(scores_of(result), alone, **CLOSE)
    assert result.value == pytest.approx(float((alone.argmax(1) == labels).double().mean()))


class Constant(torch.nn.Module):
    """Gives the same scores to every example."""

    def __init__(self, scores: list[float]) -> None:
        super().__init__()
        self.scores = torch.nn.Parameter(torch.tensor(scores))

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> Any:
        from types import SimpleNamespace

        return SimpleNamespace(logits=self.scores.expand(len(input_ids), -1))


def test_ties_go_to_the_first(make_classification: Any) -> None:
    result = evaluate(Constant([0.0, 1.0, 1.0, 1.0]), make_classification([[3], [4]], [1, 3], 2))
    assert [entry["prediction"] for entry in result.predictions] == [1, 1]
    assert result.value == 0.5
    assert result.standard_error == pytest.approx((0.25 / 2) ** 0.5)


def test_other_metrics_by_hand(make_classification: Any) -> None:
    batches = make_classification([[3]] * 4, [1, 1, 1, 0], 2)
    result = evaluate(Constant([0.0, 1.0]), batches, metrics=("f1_macro", "accuracy", "matthews_correlation"))
    assert result.metric == "f1_macro"
    assert result.metrics == pytest.approx({"f1_macro": (6 / 7) / 2, "accuracy": 0.75, "matthews_correlation": 0.0})
    assert result.standard_error is None
    with pytest.raises(RequestError, match="metric 'acuracy' is unknown; accuracy"):
        evaluate(Constant([0.0, 1.0]), batches, metrics=("acuracy",))


def test_what_cannot_be_scored_is_refused(
    make_classification: Any, prompts: Any, choices: Any, make_ranked: Any
) -> None:
    with pytest.raises(InputsMismatch, match=r"example test:1: label 3, but the model has 2 classes"):
        evaluate(Constant([0.0, 1.0]), make_classification([[3], [4]], [1, 3], 2))
    with pytest.raises(NonFiniteStatistic, match=r"example test:0: the model's score is NaN"):
        evaluate(Constant([float("nan"), 1.0]), make_classification([[3], [4]], [1, 0], 2))
    with pytest.raises(DataError, match="no batches"):
        evaluate(Constant([0.0, 1.0]), [])
    with pytest.raises(RequestError, match="text_to_text without answer choices cannot be scored"):
        evaluate(Constant([0.0]), [replace(batch, choices=None) for batch in make_ranked(prompts, choices, GOLD, 4)])


def test_modes_are_restored_even_after_an_error(t5: Any) -> None:
    t5.encoder.block[0].eval()
    before = [module.training for module in t5.modules()]
    assert len(set(before)) == 2
    inside: list[bool] = []

    def fail() -> None:
        with evaluating(t5):
            inside.extend(module.training for module in t5.modules())
            raise KeyError("inside")

    with pytest.raises(KeyError, match="inside"):
        fail()
    assert not any(inside)
    assert [module.training for module in t5.modules()] == before


@settings(deadline=None)
@given(st.integers(1, 4), st.integers(1, 5), st.integers(2, 6), st.integers(0, 10_000))
def test_log_probability_of_a_row_is_the_log_of_the_product(rows: int, length: int, vocabulary: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, length, vocabulary, generator=generator)
    labels = torch.randint(-1, vocabulary, (rows, length), generator=generator)
    labels[labels == -1] = -100
    probabilities = logits.double().softmax(-1)
    for row in range(rows):
        product = 1.0
        for position in range(length):
            if labels[row, position] != -100:
                product *= float(probabilities[row, position, labels[row, position]])
        assert float(sequence_log_probability(logits, labels)[row].exp()) == pytest.approx(product, rel=1e-4)
