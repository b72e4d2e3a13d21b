"""`mats generate`: a model's answers to a file of instructions, or many continuations of one text."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from mats.cli.arguments import JsonOption, OverwriteOption, TrustOption
from mats.errors import RequestError

ModelArgument = Annotated[str, typer.Argument(metavar="MODEL", help="Checkpoint, adapter, or hub id.")]
OutputOption = Annotated[Path, typer.Option("--output", "-o", metavar="FILE", help="File to write.")]
DEVICE_HELP = "auto, cpu, cuda or cuda:N."
DTYPE_HELP = "float32, bfloat16 or float16. Default: as stored."
DEFAULT_LENGTH, DEFAULT_SEED = 128, 42
WITH_TEXT: dict[str, Any] = {"length": None}
WITH_DATA: dict[str, Any] = {
    "file_format": "answers",
    "split": "test",
    "start": 0,
    "end": None,
    "prompt": None,
    "beams": None,
    "max_new_tokens": None,
    "stop": None,
    "name": None,
}
"""Options that belong to one of the two, with their defaults."""


def register(app: typer.Typer) -> None:
    """Add the command to the program."""
    app.command("generate", short_help="Write a model's answers or continuations to a file.")(generate)


def generate(
    model: ModelArgument,
    output: OutputOption,
    data: Annotated[
        Path | None, typer.Option("--data", metavar="FILE", help="Dataset file (.yaml), .json, .jsonl or .jsonl.gz.")
    ] = None,
    text: Annotated[
        str | None, typer.Option("--text", metavar="TEXT", help="Instead of --data: continue this text.")
    ] = None,
    file_format: Annotated[
        str, typer.Option("--format", metavar="NAME", help="answers, alpaca_eval, human_eval or mbpp.")
    ] = "answers",
    split: Annotated[str, typer.Option("--split", metavar="NAME", help="Split of a dataset file.")] = "test",
    start: Annotated[int, typer.Option("--start", metavar="N", min=0, help="First item, counted from 0.")] = 0,
    end: Annotated[
        int | None, typer.Option("--end", metavar="N", min=1, help="One behind the last item. Default: all.")
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Option("--prompt", metavar="NAME", help="plain, alpaca, vicuna, chat, or a text with {instruction}."),
    ] = None,
    samples: Annotated[int, typer.Option("--samples", metavar="N", min=1, help="Answers to each prompt.")] = 1,
    temperature: Annotated[
        float | None, typer.Option("--temperature", help="Draw tokens, logits divided by this. Default: greedy.")
    ] = None,
    top_p: Annotated[
        float | None, typer.Option("--top-p", help="Draw from the likeliest tokens with this mass.")
    ] = None,
    beams: Annotated[int | None, typer.Option("--beams", metavar="N", help="Beams, instead of drawing.")] = None,
    max_new_tokens: Annotated[
        int | None,
        typer.Option("--max-new-tokens", metavar="N", help="Most tokens of an answer. Default: the format's."),
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", metavar="N", help="--text: tokens with the prompt's. Default: 128.")
    ] = None,
    repetition_penalty: Annotated[
        float | None, typer.Option("--repetition-penalty", help="Above 1: repeats become unlikely.")
    ] = None,
    stop: Annotated[
        list[str] | None, typer.Option("--stop", metavar="TEXT", help="An answer ends before this; may be repeated.")
    ] = None,
    seed: Annotated[
        int | None, typer.Option("--seed", metavar="N", help="Of what is drawn. Default: 42 for --text, else 0.")
    ] = None,
    batch_size: Annotated[int, typer.Option("--batch-size", metavar="N", min=1, help="Prompts at once.")] = 8,
    name: Annotated[
        str | None, typer.Option("--name", help="The model's name in the file. Default: its folder's.")
    ] = None,
    base: Annotated[
        str | None, typer.Option("--base", metavar="PATH", help="Base weights, for an adapter or a lone weight file.")
    ] = None,
    device: Annotated[str, typer.Option("--device", metavar="DEVICE", help=DEVICE_HELP)] = "auto",
    dtype: Annotated[str | None, typer.Option("--dtype", metavar="NAME", help=DTYPE_HELP)] = None,
    overwrite: OverwriteOption = False,
    trust_remote_code: TrustOption = False,
    as_json: JsonOption = False,
) -> None:
    """Write a model's answers to instructions in the format of a benchmark's tool, or continuations of one text.

    Code in answers is cut out and written down, never run. A run that is stopped goes on where it was, and writes the
    same file.

    \b
    Examples:
      mats generate exp_out/merged --data HumanEval.jsonl.gz --format human_eval -o human_eval.jsonl
      mats generate exp_out/merged --text "They said that" --samples 1000 --seed 42 -o continuations.jsonl
    """
    options = dict(locals())
    from mats.cli.printing import print_json, print_lines
    from mats.cli.progress_display import progress_display

    if (data is None) == (text is None):
        raise RequestError("--data or --text: exactly one of the two would be right")
    _refuse_useless(options)
    with progress_display(as_json=as_json) as progress:
        summary = (_continue_text if data is None else _answer_data)(options, progress)
    if as_json:
        print_json(summary)
        return
    count = summary.get("items", 1) * summary["samples"]
    print_lines([f"{summary['output']}: {count} texts, {summary['unfinished']} of them cut by the length limit"])
    if "read_with" in summary:
        print_lines([f"the bigcode harness reads it with {summary['read_with']}"])


def _refuse_useless(options: dict[str, Any]) -> None:
    """Options that would be without effect are mistakes."""
    for key, default in (WITH_TEXT if options["data"] is not None else WITH_DATA).items():
        if options[key] not in (default, []):
            option = f"--{key.removeprefix('file_').replace('_', '-')}"
            raise RequestError(
                f"{option} {options[key]}: goes with {'--text' if options['text'] is None else '--data'}"
            )


def _writer(options: dict[str, Any]) -> Any:
    """The model of the command, its device found."""
    from mats.engine.devices import DTYPES, resolve_device
    from mats.evaluation.exports_run import Writer

    if options["dtype"] is not None and options["dtype"] not in DTYPES:
        raise RequestError(f"--dtype {options['dtype']!r}: unknown; {', '.join(DTYPES)} would be right")
    return Writer(
        options["model"],
        base=options["base"],
        batch_size=options["batch_size"],
        device=str(resolve_device(options["device"])),
        dtype=DTYPES[options["dtype"]] if options["dtype"] else None,
        trust_remote_code=options["trust_remote_code"],
    )


def _continue_text(options: dict[str, Any], progress: Any) -> dict[str, Any]:
    from mats.evaluation.continuations import ContinuationRequest, sample_continuations

    request = ContinuationRequest(
        _writer(options),
        options["text"],
        options["output"],
        samples=options["samples"],
        length=options["length"] or DEFAULT_LENGTH,
        temperature=1.0 if options["temperature"] is None else options["temperature"],
        top_p=options["top_p"],
        repetition_penalty=options["repetition_penalty"],
        seed=DEFAULT_SEED if options["seed"] is None else options["seed"],
        overwrite=options["overwrite"],
    )
    return sample_continuations(request, progress)


def _answer_data(options: dict[str, Any], progress: Any) -> dict[str, Any]:
    from mats.evaluation.exports import ExportRequest, export_answers

    request = ExportRequest(
        _writer(options),
        options["data"],
        options["output"],
        format=options["file_format"],
        split=options["split"],
        start=options["start"],
        end=options["end"],
        generation=_generation(options),
        wrapper=options["prompt"],
        samples=options["samples"],
        generator=options["name"],
        overwrite=options["overwrite"],
    )
    return export_answers(request, progress)


def _generation(options: dict[str, Any]) -> dict[str, Any]:
    """What the options say about writing; the rest is the dataset file's or the format's."""
    given = {
        "max_new_tokens": options["max_new_tokens"],
        "num_beams": options["beams"],
        "temperature": options["temperature"],
        "top_p": options["top_p"],
        "repetition_penalty": options["repetition_penalty"],
        "seed": options["seed"],
        "stop": tuple(options["stop"]) if options["stop"] else None,
        "do_sample": True if options["temperature"] is not None else None,
    }
    return {name: value for name, value in given.items() if value is not None}
