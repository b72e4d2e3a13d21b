"""`mats generate --data`: a model's answers to a file of instructions, in the format that a benchmark's tool reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mats.data import load_spec
from mats.data.generation import GenerationSettings
from mats.errors import RequestError
from mats.evaluation.exports_decoding import generation_settings
from mats.evaluation.exports_formats import FORMATS, MBPP_TEST, Answered, ExportFormat, Item
from mats.evaluation.exports_partial import partial_answers
from mats.evaluation.exports_prompts import check_wrapper, wrap
from mats.evaluation.exports_rows import is_dataset_file, read_instructions, read_prompts
from mats.evaluation.exports_run import Writer, refuse_existing, write_all
from mats.evaluation.generation import check_settings
from mats.evaluation.versions import library_versions
from mats.files import checksum_file, write_bytes_atomically, write_json_atomically
from mats.progress import Progress

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class ExportRequest:
    """What to answer, and how it is written down.

    Attributes:
        writer: The model.
        data: Dataset file, or a benchmark's JSON (lines).
        output: The file to write; `<output>.settings.json` beside it says how it was made.
        format: Of `FORMATS`.
        split: Of a dataset file.
        start: First item, counted from 0.
        end: One behind the last item; None: to the end.
        generation: Values of `GenerationSettings` that replace the dataset file's, and the format's (greedy).
        wrapper: Prompt around each instruction (`mats.evaluation.exports_prompts`); None: the format's.
        samples: Answers to each item; more than one must be drawn.
        generator: The model's name in the file; None: the last part of its path.
        overwrite: Replace an output that exists.
    """

    writer: Writer
    data: Path
    output: Path
    format: str = "answers"
    split: str = "test"
    start: int = 0
    end: int | None = None
    generation: Mapping[str, Any] = field(default_factory=dict)
    wrapper: str | None = None
    samples: int = 1
    generator: str | None = None
    overwrite: bool = False


def export_answers(request: ExportRequest, progress: Progress | None = None) -> dict[str, Any]:
    """Have the model answer, and write the file. A run that was killed goes on, and writes the same file.

    Returns:
        Ready for JSON: `output`, `format`, `generator`, `items`, `samples`, `unfinished` (answers cut by the length
        limit), `settings` (all that the answers depend on), `versions`, and for mbpp `read_with`: the options with
        which the harness reads this slice.

    Raises:
        RequestError: a wrong value, a path that is not there, or an unknown format; before a model is loaded.
        OutputExists: the output exists, or an unfinished run of another request is beside it.
        DataError: the data lack a column, or have no rows.
        MatsError: as `load_model`.
    """
    layout = _layout(request)
    wrapper = request.wrapper or layout.wrapper
    check_wrapper(wrapper)
    request.writer.check()
    refuse_existing(request.output, overwrite=request.overwrite)
    items = _items(request, layout)
    settings = _settings(request, layout)
    check_settings(settings)
    _check_samples(request, layout, settings)
    processor = request.writer.processor()
    prompts = [wrap(item.instruction, wrapper, processor.tokenizer) for item in items]
    made_of = _made_of(request, settings, wrapper)
    keyed = [
        (_sample_key(item, sample), prompt)
        for item, prompt in zip(items, prompts, strict=True)
        for sample in range(request.samples)
    ]
    with partial_answers(request.output, made_of, overwrite=request.overwrite) as partial:
        written = write_all(request.writer, processor, keyed, settings, wrapper, partial, progress)
        groups = [written[first : first + request.samples] for first in range(0, len(written), request.samples)]
        answers = [
            Answered(item, prompt, tuple(w.text for w in group), tuple(w.finished for w in group))
            for item, prompt, group in zip(items, prompts, groups, strict=True)
        ]
        summary = _summary(request, answers, made_of)
        write_json_atomically(settings_file(request.output), summary)
        write_bytes_atomically(request.output, layout.render(answers, summary["generator"]))
        partial.remove()
    return summary


def settings_file(output: Path) -> Path:
    """Where it is said how `output` was made."""
    return output.with_name(f"{output.name}.settings.json")


def _layout(request: ExportRequest) -> ExportFormat:
    if request.format not in FORMATS:
        raise RequestError(f"format {request.format!r}: unknown; {', '.join(FORMATS)} would be right")
    return FORMATS[request.format]


def _items(request: ExportRequest, layout: ExportFormat) -> list[Item]:
    """The slice of items that is asked for; a dataset file's own templates make the prompts of plain answers."""
    by_template = request.format == "answers" and is_dataset_file(request.data)
    rows = (read_prompts if by_template else read_instructions)(request.data, request.split)
    items = layout.items(rows)
    end = len(items) if request.end is None else request.end
    if not 0 <= request.start < end <= len(items):
        raise RequestError(
            f"{request.data}: start {request.start}, end {end}, but there are {len(items)} items;"
            f" 0 <= start < end <= {len(items)} would be right"
        )
    return items[request.start : end]


def _settings(request: ExportRequest, layout: ExportFormat) -> GenerationSettings:
    """The request's values over those of the dataset file, if it has some, over the format's."""
    own = load_spec(request.data).generation if is_dataset_file(request.data) else None
    values = {"max_new_tokens": layout.max_new_tokens} if own is None else own.model_dump()
    return generation_settings(**{**values, **request.generation})


def _check_samples(request: ExportRequest, layout: ExportFormat, settings: GenerationSettings) -> None:
    if request.samples < 1:
        raise RequestError(f"samples {request.samples}; 1 or more would be right")
    if request.samples > 1 and not layout.takes_samples:
        raise RequestError(f"samples {request.samples}: format {request.format} holds one answer to each instruction")
    if request.samples > 1 and not settings.do_sample:
        raise RequestError(
            f"samples {request.samples}: would all be equal; a temperature, to draw them, would be right"
        )


def _sample_key(item: Item, sample: int) -> str:
    """The first sample has the item's own key: one answer is the first of many."""
    return item.key if sample == 0 else f"{item.key}#{sample}"


def _made_of(request: ExportRequest, settings: GenerationSettings, wrapper: str) -> dict[str, Any]:
    """Everything that the answers depend on."""
    return {
        "format": request.format,
        "data": str(request.data),
        "data_checksum": checksum_file(request.data),
        "split": request.split if is_dataset_file(request.data) else None,
        "start": request.start,
        "end": request.end,
        "samples": request.samples,
        "prompt": wrapper,
        "generation": settings.model_dump(mode="json"),
        **request.writer.identity(),
    }


def _summary(request: ExportRequest, answers: Sequence[Answered], made_of: dict[str, Any]) -> dict[str, Any]:
    summary = {
        "schema_version": SCHEMA_VERSION,
        "output": str(request.output),
        "format": request.format,
        "generator": request.generator or Path(request.writer.model).name,
        "items": len(answers),
        "samples": request.samples,
        "unfinished": sum(not finished for answered in answers for finished in answered.finished),
        "settings": made_of,
        "versions": library_versions("torch", "transformers"),
    }
    if request.format == "mbpp":
        first = int(answers[0].item.key) - MBPP_TEST[0]
        summary["read_with"] = f"--load_generations_path {request.output} --limit_start {first} --limit {len(answers)}"
    return summary
