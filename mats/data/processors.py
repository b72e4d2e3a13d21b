"""The tokenizer of a checkpoint, with the few ids of its configuration that batches need."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mats.data.spec import DatasetSpec
from mats.errors import DataError, InputsMismatch, RequestError

VOCABULARY_FILES = ("tokenizer.json", "vocab.txt", "vocab.json", "tekken.json")  # or any *.model of sentencepiece


@dataclass(frozen=True)
class Processor:
    """What turns texts into token ids for one model.

    Attributes:
        tokenizer: A transformers tokenizer.
        pad_id: Id at padding; masked everywhere, so its value is without effect on any result.
        decoder_start_id: First decoder input of encoder–decoder models.
        vocabulary_size: Rows of the model's embedding, where known; an id beyond them belongs to another model.
    """

    tokenizer: Any
    pad_id: int
    decoder_start_id: int
    vocabulary_size: int | None = None

    def check_ids(self, rows: Iterable[Sequence[int]], where: str = "") -> None:
        """An id without an embedding would end in an index error deep inside the model, or stop the GPU.

        Args:
            rows: Token ids of some texts.
            where: What the message begins with.

        Raises:
            InputsMismatch: the tokenizer makes an id that the model does not have.
        """
        largest = max((max(row) for row in rows if row), default=0)
        if self.vocabulary_size is not None and largest >= self.vocabulary_size:
            raise InputsMismatch(
                f"{where}token id {largest} is beyond the model's vocabulary of {self.vocabulary_size}; "
                "the tokenizer of this very model would be right"
            )


def load_processor(path: str | Path, spec: DatasetSpec, *, fallback: str | Path | None = None) -> Processor | None:
    """The processor of the checkpoint at `path` (folder or hub id); None for images, which the spec normalises.

    Tokenizer and configuration are each taken from the first that has one: the checkpoint, `fallback`, and the base
    that a PEFT adapter names.

    Args:
        path: The checkpoint.
        spec: The dataset it is for.
        fallback: Another checkpoint, usually the base, to take the tokenizer from when `path` has none.

    Raises:
        RequestError: neither has a tokenizer.
    """
    if spec.task == "image_classification":
        return None
    places = [str(place) for place in (path, fallback, _adapter_base(Path(path))) if place is not None]
    tokenizer = _load_tokenizer(list(dict.fromkeys(places)))
    configs = (_read_config(place) for place in places)
    return as_processor(tokenizer, next((config for config in configs if config), None))


def as_processor(tokenizer: Any, config: dict[str, Any] | None = None) -> Processor:
    """A `Processor` from a tokenizer and the values of the model's `config.json`, where known.

    The padding id is the configuration's, else the tokenizer's, else its end token: sequence classifiers of
    decoder-only models find the last token by the configuration's. The decoder start falls back to it, as for T5.
    """
    if isinstance(tokenizer, Processor):
        return tokenizer
    config = config or {}
    candidates = (config.get("pad_token_id"), tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    pad_id = next(int(candidate) for candidate in candidates if candidate is not None)
    start = config.get("decoder_start_token_id")
    return Processor(tokenizer, pad_id, int(start) if start is not None else pad_id, config.get("vocab_size"))


def _load_tokenizer(places: list[str]) -> Any:
    from transformers import AutoTokenizer

    reasons = []
    for place in places:
        if fault := _folder_fault(Path(place)):
            reasons.append(f"{place}: {fault}")
            continue
        try:
            return AutoTokenizer.from_pretrained(place)
        except (OSError, ValueError, KeyError, TypeError) as error:
            lines = str(error).strip().splitlines() or [type(error).__name__]
            reasons.append(f"{place}: {lines[0]}")
    raise RequestError(f"no tokenizer found ({'; '.join(reasons)}); a folder with tokenizer.json would be right")


def _folder_fault(path: Path) -> str | None:
    """Why a local path has no tokenizer. transformers 5 makes an *empty* one for a folder that has only a model."""
    if path.is_file():
        return "is a file"
    if not path.is_dir():
        return None  # perhaps a hub id
    if any(file.name in VOCABULARY_FILES or file.suffix == ".model" for file in path.iterdir()):
        return None
    return "the folder has no tokenizer files"


def _adapter_base(path: Path) -> str | None:
    """The base that an adapter folder names."""
    base = _read_json(path / "adapter_config.json").get("base_model_name_or_path")
    return str(base) if base else None


def _read_config(place: str) -> dict[str, Any]:
    """The model configuration at a folder or hub id; empty where there is none."""
    if Path(place).exists() or Path(place).is_absolute():
        return _read_json(Path(place) / "config.json")
    from transformers import AutoConfig

    try:
        values: dict[str, Any] = AutoConfig.from_pretrained(place).to_dict()
    except (OSError, ValueError):  # an adapter, or a tokenizer alone
        return {}
    return values


def _read_json(path: Path) -> dict[str, Any]:
    """A JSON object; empty where there is no such file."""
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: no readable configuration ({error}); a JSON object would be right") from error
    return content if isinstance(content, dict) else {}
