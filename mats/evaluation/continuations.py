"""`mats generate --text`: many sampled continuations of one fixed prompt, as the unlearning experiments score them.

PEM composition (arXiv 2306.14870) draws 1000 texts of 128 tokens, prompt included, from one prompt with one seed.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.data.generation import GenerationSettings
from mats.errors import RequestError
from mats.evaluation.exports import SCHEMA_VERSION, settings_file
from mats.evaluation.exports_decoding import generation_settings, tokenise_prompt
from mats.evaluation.exports_partial import partial_answers
from mats.evaluation.exports_prompts import WRAPPERS
from mats.evaluation.exports_run import Writer, refuse_existing, write_all
from mats.evaluation.versions import library_versions
from mats.files import write_bytes_atomically, write_json_atomically
from mats.progress import Progress

PLAIN = "plain"
assert PLAIN in WRAPPERS


@dataclass(frozen=True)
class ContinuationRequest:
    """What to continue, and how often.

    Attributes:
        writer: The model.
        prompt: The text that every sample begins with.
        output: JSON lines to write; `<output>.settings.json` beside them says how they were made.
        samples: How many.
        length: Most tokens of prompt and continuation together (of the continuation, for a text-to-text model).
        temperature: Divides the logits.
        top_p: Draw from this mass only; None: from all.
        repetition_penalty: Above 1: repeats become unlikely.
        seed: Of the draws.
        overwrite: Replace an output that exists.
    """

    writer: Writer
    prompt: str
    output: Path
    samples: int
    length: int = 128
    temperature: float = 1.0
    top_p: float | None = None
    repetition_penalty: float | None = None
    seed: int = 42
    overwrite: bool = False


def sample_continuations(request: ContinuationRequest, progress: Progress | None = None) -> dict[str, Any]:
    """Draw the samples and write one line each: `sample`, `prompt`, `continuation`, `finished`.

    Sample i depends on the seed and on i alone. A run that was killed goes on, and writes the same file.

    Returns:
        Ready for JSON: `output`, `samples`, `unfinished`, `settings`, `versions`.

    Raises:
        RequestError: a wrong value, or a prompt as long as the samples are to be; before a model is loaded.
        OutputExists: the output exists, or an unfinished run of another request is beside it.
        MatsError: as `load_model`.
    """
    request.writer.check()
    refuse_existing(request.output, overwrite=request.overwrite)
    if request.samples < 1:
        raise RequestError(f"samples {request.samples}; 1 or more would be right")
    processor = request.writer.processor()
    settings = _settings(request, _prompt_length(request, processor))
    made_of = {
        "prompt": request.prompt,
        "generation": settings.model_dump(mode="json"),
        **request.writer.identity(),
        "samples": request.samples,
    }
    prompts = [(str(sample), request.prompt) for sample in range(request.samples)]
    with partial_answers(request.output, made_of, overwrite=request.overwrite) as partial:
        written = write_all(request.writer, processor, prompts, settings, PLAIN, partial, progress)
        rows = [
            {"sample": int(w.key), "prompt": request.prompt, "continuation": w.text, "finished": w.finished}
            for w in written
        ]
        summary = {
            "schema_version": SCHEMA_VERSION,
            "output": str(request.output),
            "samples": len(rows),
            "unfinished": sum(not w.finished for w in written),
            "settings": made_of,
            "versions": library_versions("torch", "transformers"),
        }
        write_json_atomically(settings_file(request.output), summary)
        text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        write_bytes_atomically(request.output, text.encode())
        partial.remove()
    return summary


def _prompt_length(request: ContinuationRequest, processor: Any) -> int:
    """Tokens of the prompt that count towards the length."""
    if not request.writer.facts().decoder_only:
        return 0
    return len(tokenise_prompt("0", request.prompt, processor, decoder_only=True, special=True).ids)


def _settings(request: ContinuationRequest, prompt_length: int) -> GenerationSettings:
    if request.length <= prompt_length:
        raise RequestError(
            f"length {request.length}: the prompt alone has {prompt_length} tokens; more than that would be right"
        )
    return generation_settings(
        max_new_tokens=request.length - prompt_length,
        do_sample=True,
        temperature=request.temperature,
        top_p=request.top_p,
        repetition_penalty=request.repetition_penalty,
        seed=request.seed,
    )
