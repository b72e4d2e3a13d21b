"""How right a written answer is, by the rules that the published systems read their models' texts with."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction

from mats.data.metric_names import TEXT_METRICS
from mats.evaluation.gsm8k import final_number
from mats.evaluation.latex import final_expression, last_boxed, normalise_expression
from mats.evaluation.metrics import unknown_metric


def text_scores(names: Sequence[str], text: str, gold: Sequence[str]) -> dict[str, float]:
    """Each metric's score of one text, from 0 to 1, against the best of its gold answers.

    Args:
        names: Of exact_match (equal but for surrounding white space), squad_exact_match and squad_f1 (after SQuAD's
            normalisation: case, punctuation, articles, white space), squad (their mean), gsm8k (the final number),
            math (the final LaTeX expression). An answer that is missing equals nothing, not even a missing one.
        text: What the model wrote.
        gold: One right answer or more.

    Raises:
        RequestError: a name is unknown, or is no metric of texts.
    """
    squad = _squad(text, gold) if any(name.startswith("squad") for name in names) else {}
    scores = {}
    for name in names:
        if name in squad:
            scores[name] = squad[name]
        elif name == "exact_match":
            scores[name] = float(any(text.strip() == answer.strip() for answer in gold))
        elif name == "gsm8k":
            number = final_number(text)
            scores[name] = float(number is not None and number in [_gold_number(answer) for answer in gold])
        elif name == "math":
            expression = extracted_answer(name, text)
            scores[name] = float(expression is not None and expression in [_gold_expression(answer) for answer in gold])
        else:
            raise unknown_metric(name)
    return scores


def extracted_answer(name: str, text: str) -> str | None:
    """The part of a text that the metric compares (gsm8k, math); the whole text for the others."""
    if name == "gsm8k":
        number = final_number(text)
        return None if number is None else str(number)
    if name == "math":
        expression = final_expression(text)
        return normalise_expression(expression) or None if expression is not None else None
    assert name in TEXT_METRICS
    return text


def _gold_number(answer: str) -> Fraction | None:
    return final_number(answer, needs_cue=False)


def _gold_expression(answer: str) -> str:
    """A gold answer is a solution with a box, or the bare expression."""
    boxed = last_boxed(answer)
    return normalise_expression(boxed if boxed is not None else answer)


def _squad(text: str, gold: Sequence[str]) -> dict[str, float]:
    from torchmetrics.functional.text import squad

    target = {"answers": {"answer_start": [0] * len(gold), "text": list(gold)}, "id": "0"}
    found = squad([{"prediction_text": text, "id": "0"}], [target])
    exact, overlap = float(found["exact_match"]) / 100, float(found["f1"]) / 100
    return {"squad_exact_match": exact, "squad_f1": overlap, "squad": (exact + overlap) / 2}
