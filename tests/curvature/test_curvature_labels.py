"""Labels drawn from the model, and expectations over its labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from curvature_comparison import errors, largest_difference
from curvature_models import (
    classification_batch,
    image_batch,
    language_batch,
    padded,
    seq2seq_batch,
    shifted,
    tiny_bert,
    tiny_gpt2,
    tiny_t5,
    tiny_vit,
)
from curvature_oracle import oracle, relative_error, written_out_loss
from hypothesis import given, strategies
from torch import Tensor

from mats.curvature import CollectionSettings, collect
from mats.curvature.labels import draw, draw_labels, uniforms
from mats.curvature.losses import example_losses, scored_positions
from mats.curvature.passes import choice_log_probabilities, passes, with_choice
from mats.curvature.settings import STATISTICS
from mats.data.batch import Batch
from mats.errors import RequestError

EVERYTHING = CollectionSettings(statistics=STATISTICS, accumulate_dtype="float64")


def drawn_labels(model: torch.nn.Module, batch: Batch, seed: int = 0) -> dict[str, list[int]]:
    """Labels that a sampled pass scores, per example and without padding."""
    model.eval()
    with torch.no_grad():
        logits, labels = scored_positions(batch, model(**batch.inputs).logits)
    drawn = draw_labels(logits, labels, seed, batch.example_ids)
    return {name: row[row != -100].tolist() for name, row in zip(batch.example_ids, drawn, strict=True)}


# -- draws -------------------------------------------------------------------------------------------------------------


@given(strategies.integers(0, 2**31), strategies.text(max_size=20), strategies.integers(1, 40))
def test_uniforms_depend_on_seed_example_and_position_alone(seed: int, name: str, positions: int) -> None:
    alone = uniforms(seed, [name], positions)
    among = uniforms(seed, ["other", name, "another"], positions + 5)
    assert torch.equal(alone[0], among[1, :positions])
    assert bool((alone >= 0).all())
    assert bool((alone < 1).all())
    assert not torch.equal(alone, uniforms(seed + 1, [name], positions))
    assert not torch.equal(alone, uniforms(seed, [name + "'"], positions))


def test_uniforms_are_uniform() -> None:
    values = uniforms(0, [f"example-{n}" for n in range(200)], 200).flatten()
    counts = torch.histc(values, 20, 0, 1)
    chi_squared = float(((counts - 2000) ** 2 / 2000).sum())
    assert chi_squared < 43.8, "19 degrees of freedom, one in a thousand"
    assert abs(float(torch.corrcoef(torch.stack([values[:-1], values[1:]]))[0, 1])) < 0.02


def test_draws_invert_the_cumulative_distribution(device: str) -> None:
    probabilities = torch.tensor([0.1, 0.0, 0.4, 0.5, 0.0], dtype=torch.float64, device=device)
    points = torch.tensor(
        [0.0, 0.05, 0.0999, 0.1001, 0.4999, 0.5001, 0.999999999999], dtype=torch.float64, device=device
    )
    logits = probabilities.log().expand(len(points), -1)
    assert draw(logits, points).tolist() == [0, 0, 0, 2, 2, 3, 3]


def test_what_has_no_probability_is_never_drawn(device: str) -> None:
    logits = torch.tensor([-torch.inf, 0.0, -torch.inf, 0.0, -torch.inf], device=device)
    points = torch.tensor([0.0, 0.5, 1 - 2**-53], dtype=torch.float64, device=device)
    assert draw(logits.expand(3, -1), points).tolist() == [1, 3, 3]


def test_draws_follow_the_models_distribution() -> None:
    logits = torch.tensor([1.0, 0.0, -2.0, 3.0])
    points = uniforms(5, ["a"], 20000)[0]
    counts = torch.bincount(draw(logits.expand(20000, -1), points), minlength=4) / 20000
    assert torch.allclose(counts, logits.softmax(0), atol=0.01)


# -- sampled labels ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make_model", "make_batch"),
    [(tiny_bert, classification_batch), (tiny_t5, seq2seq_batch), (tiny_gpt2, language_batch), (tiny_vit, image_batch)],
)
def test_sampled_labels_are_the_same_in_every_batch(make_model, make_batch) -> None:
    model = make_model()
    together = drawn_labels(model, make_batch(9))
    apart = {}
    for first in (0, 4, 8):
        apart |= drawn_labels(model, make_batch(min(4, 9 - first), first))
    assert together == apart
    assert together != drawn_labels(model, make_batch(9), seed=1)
    settings = replace(EVERYTHING, labels="sampled", seed=3)
    whole = collect(model, [make_batch(9)], settings)[1]
    parts = collect(model, [make_batch(4), make_batch(5, 4)], settings)[1]
    assert largest_difference(parts, whole) < 1e-5
    key = next(key for key in whole.tensors if key.startswith("output_gram") and "encoder" not in key)
    empirical = collect(model, [make_batch(9)], EVERYTHING)[1]
    assert relative_error(whole.tensors[key], empirical.tensors[key]) > 1e-2


def test_sampled_labels_do_not_move_with_left_padding() -> None:
    model = tiny_gpt2()
    right = drawn_labels(model, language_batch(9))
    left = drawn_labels(model, language_batch(9, left=True))
    assert left == right
    lengths = {name: len(row) for name, row in right.items()}
    assert lengths["example-0"] == 2, "three tokens: the first is not predicted"


def test_next_tokens_are_drawn_at_the_position_that_predicts_them() -> None:
    model = tiny_gpt2()
    with torch.no_grad():
        # All probability on one token: that of id t + 1 after id t.
        model.transformer.wpe.weight.zero_()
        for block in model.transformer.h:
            block.attn.c_proj.weight.zero_()
            block.mlp.c_proj.weight.zero_()
            block.attn.c_proj.bias.zero_()
            block.mlp.c_proj.bias.zero_()
        model.transformer.ln_f.weight.fill_(1)
        model.transformer.ln_f.bias.zero_()
        normalised = torch.nn.functional.layer_norm(model.transformer.wte.weight, (12,))
        target = torch.linalg.pinv(normalised) @ torch.eye(23, dtype=torch.float64).roll(1, 1) * 4000
        model.lm_head.weight = torch.nn.Parameter(target.T.contiguous())
        best = (normalised @ target).argmax(1)
    batch = language_batch(4)
    drawn = drawn_labels(model, batch)
    for n, name in enumerate(batch.example_ids):
        ids = batch.inputs["input_ids"][n][batch.input_mask[n]]
        assert drawn[name] == best[ids[:-1]].tolist()


def test_sampled_classes_average_to_the_expectation() -> None:
    model = tiny_vit()
    batch = image_batch(32)
    key = "output_gram/classifier"
    exact = collect(model, [batch], replace(EVERYTHING, labels="exact"))[1].tensors[key]
    total = torch.zeros_like(exact)
    for seed in range(30):
        total += collect(model, [batch], CollectionSettings(("output_gram",), "sampled", seed=seed))[1].tensors[key]
    assert relative_error(total / 30, exact) < 0.1


# -- exact labels ------------------------------------------------------------------------------------------------------


def every_class(batch: Batch, logits: Tensor) -> Iterator[tuple[float, Tensor]]:
    probabilities = logits.detach()[0].softmax(0)
    for label, probability in enumerate(probabilities):
        yield float(probability), written_out_loss(replace(batch, labels=torch.tensor([label])), logits)


@pytest.mark.parametrize(("make_model", "make_batch"), [(tiny_bert, classification_batch), (tiny_vit, image_batch)])
def test_exact_classes_equal_the_weighted_sum_over_classes(make_model, make_batch, device: str) -> None:
    model = make_model()
    truth = oracle(model, [(1.0, make_batch(1, n)) for n in range(6)], every_class)
    settings = replace(EVERYTHING, labels="exact")
    plan, sums = collect(model.to(device), [make_batch(4), make_batch(2, 4)], settings)
    found = errors(plan, sums, truth)
    assert set(found) == set(STATISTICS)
    assert max(found.values()) < 1e-6, found
    for layer in plan.layers:
        expected = truth.output_fourth[layer.weight, layer.kind]
        assert sums.fourth_moments[f"layer:{layer.name}"] == pytest.approx(expected, rel=1e-6)


def test_exact_choices_equal_the_weighted_sum_over_choices() -> None:
    model = tiny_t5()
    batch = seq2seq_batch(5, choices=3)
    scores = choice_log_probabilities(model.eval(), batch)
    weighted = [
        (float(p), example)
        for n in range(5)
        for p, example in zip(scores[n].softmax(0), single_choices(batch, n), strict=False)
    ]
    truth = oracle(model, weighted)
    plan, sums = collect(model, [batch.select([0, 1, 2]), batch.select([3, 4])], replace(EVERYTHING, labels="exact"))
    found = errors(plan, sums, truth)
    assert set(found) == set(STATISTICS)
    assert max(found.values()) < 1e-6, found
    encoder = "site:encoder.block.0.layer.0.SelfAttention.q"
    assert sums.tokens[encoder] == pytest.approx(float(batch.input_mask.sum()))


def single_choices(batch: Batch, n: int) -> list[Batch]:
    """Example n with each of its choices as the target, unpadded."""
    found = []
    ids = batch.inputs["input_ids"][n][batch.input_mask[n]]
    for choice in batch.choices[n]:
        labels, mask = padded([choice[choice != -100]], -100)
        if labels.numel() == 0:
            continue
        inputs = {
            "input_ids": ids[None],
            "attention_mask": torch.ones(1, len(ids), dtype=torch.int64),
            "decoder_input_ids": shifted(labels),
        }
        full = torch.ones(1, len(ids), dtype=torch.bool)
        found.append(Batch(inputs, (batch.example_ids[n],), "text_to_text", full, mask, labels))
    return found


def test_choice_scores_are_summed_log_probabilities() -> None:
    model = tiny_t5().eval()
    batch = seq2seq_batch(4, choices=3)
    scores = choice_log_probabilities(model, batch)
    for n in range(4):
        for k, example in enumerate(single_choices(batch, n)):
            expected = -written_out_loss(example, model(**example.inputs).logits, "sum")
            assert float(scores[n, k]) == pytest.approx(expected.item(), rel=1e-6)
    missing = (batch.choices == -100).all(-1)
    assert missing.any()
    assert torch.equal(scores == -torch.inf, missing)


def test_long_choices_do_not_underflow() -> None:
    model = tiny_t5().eval()
    model.lm_head.weight.data *= 3000
    scores = choice_log_probabilities(model, seq2seq_batch(4, choices=3))
    assert float(scores.max(1).values.min()) < -750, "exp() of these sums is 0 in float64"
    probabilities = scores.softmax(-1)
    assert torch.allclose(probabilities.sum(1), torch.ones(4, dtype=torch.float64))


def test_a_drawn_choice_becomes_target_and_decoder_input() -> None:
    model = tiny_t5()
    batch = seq2seq_batch(40, choices=3)
    settings = replace(EVERYTHING, labels="sampled", seed=2)
    whole = {
        run.batch.example_ids[n]: run.batch.labels[n]
        for run in passes(model.eval(), batch, settings)
        for n in range(40)
    }
    picked = Counter()
    for n, name in enumerate(batch.example_ids):
        (alone,) = passes(model, batch.select([n]), settings)
        assert torch.equal(alone.batch.labels[0], whole[name])
        picked[next(k for k in range(3) if torch.equal(batch.choices[n, k], whole[name]))] += 1
    assert len(picked) == 3
    chosen = with_choice(model, batch, torch.ones(40, dtype=torch.int64))
    assert torch.equal(chosen.inputs["decoder_input_ids"], shifted(batch.choices[:, 1]))
    assert torch.equal(chosen.target_mask, batch.choices[:, 1] != -100)


def test_sampled_choice_measures_the_drawn_target() -> None:
    model = tiny_t5()
    batch = seq2seq_batch(5, choices=3)
    settings = replace(EVERYTHING, labels="sampled", seed=2)
    (run,) = passes(model.eval(), batch, settings)
    plan, sums = collect(model, [batch], settings)
    examples = []
    for n in range(5):
        labels = run.batch.labels[n]
        answered = [e for e in single_choices(batch, n) if e.labels[0].tolist() == labels[labels != -100].tolist()]
        examples.append((1.0, answered[0]))
    assert max(errors(plan, sums, oracle(model, examples)).values()) < 1e-6


def test_exact_labels_are_refused_where_there_are_too_many() -> None:
    with pytest.raises(
        RequestError, match="needs classes or answer choices, got task language_modeling; use 'sampled'"
    ):
        collect(tiny_gpt2(), [language_batch(3)], replace(EVERYTHING, labels="exact"))
    with pytest.raises(RequestError, match=r"over 3 classes; at most exact_limit = 2"):
        collect(tiny_bert(), [classification_batch(3)], replace(EVERYTHING, labels="exact", exact_limit=2))
    with pytest.raises(RequestError, match=r"over 3 choices; at most exact_limit = 2"):
        collect(tiny_t5(), [seq2seq_batch(3, choices=3)], replace(EVERYTHING, labels="exact", exact_limit=2))


# -- losses ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["mean", "sum"])
def test_losses_do_not_depend_on_neighbours(loss: str) -> None:
    model = tiny_t5().eval()
    batch = seq2seq_batch(6)
    losses = example_losses(*scored_positions(batch, model(**batch.inputs).logits), loss)
    for n in range(6):
        alone = seq2seq_batch(1, n)
        expected = written_out_loss(alone, model(**alone.inputs).logits, loss)
        assert losses[n].item() == pytest.approx(expected.item(), rel=1e-6)
