"""Which token stands for which row of an embedding, read from the tokenizer files beside the weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from mats.errors import CheckpointCorrupt
from mats.files import explain_os_error, read_json_object

FAST_FILE = "tokenizer.json"
SETTINGS_FILE = "tokenizer_config.json"
SLOW_FILES = ("vocab.json", "vocab.txt", "merges.txt", "added_tokens.json", "bpe.codes", "*.model", "*.spm")
MARKS_OF_A_TOKENIZER = ("vocab.json", "vocab.txt", "*.model", "*.spm")


@dataclass(frozen=True)
class TokenizerFiles:
    """The tokenizer in a model folder, read when it is first asked for.

    Attributes:
        folder: where it lies.
        names: the files that decide its tokens, sorted.
    """

    folder: Path
    names: tuple[str, ...]

    @cached_property
    def digest(self) -> str:
        """Equal for equal files: two models that share a tokenizer need not be compared token by token."""
        total = hashlib.sha256()
        for name in self.names:
            try:
                total.update(name.encode() + b"\0" + (self.folder / name).read_bytes())
            except OSError as error:
                raise explain_os_error(error, self.folder / name) from error
        return total.hexdigest()

    @cached_property
    def definition(self) -> dict[str, Any] | None:
        """The content of its `tokenizer.json`, made from the other files where there is none; None if it has no such.

        Raises:
            CheckpointCorrupt: not a tokenizer.
        """
        if FAST_FILE not in self.names:
            backend = getattr(self._by_transformers, "backend_tokenizer", None)
            return None if backend is None else json.loads(backend.to_str())
        return read_json_object(self.folder / FAST_FILE)

    @cached_property
    def tokens(self) -> dict[str, int]:
        """Token → id, added tokens included.

        Raises:
            CheckpointCorrupt: not a tokenizer, or one that transformers cannot load.
        """
        if FAST_FILE in self.names:
            return tokens_of((self.folder / FAST_FILE).read_text(encoding="utf-8"), self.folder / FAST_FILE)
        return {str(token): int(number) for token, number in self._by_transformers.get_vocab().items()}

    @cached_property
    def _by_transformers(self) -> Any:
        from transformers import AutoTokenizer

        try:
            return AutoTokenizer.from_pretrained(str(self.folder), local_files_only=True)
        except Exception as error:  # transformers raises whatever the file format at hand does
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise CheckpointCorrupt(
                f"{self.folder}: its tokenizer cannot be loaded ({reason}); a tokenizer.json would be right"
            ) from error


def tokens_of(definition: str, where: Path) -> dict[str, int]:
    """Token → id of a tokenizer given as the text of a `tokenizer.json`.

    Raises:
        CheckpointCorrupt: not a tokenizer; `where` is for the message.
    """
    from tokenizers import Tokenizer

    try:
        return dict(Tokenizer.from_str(definition).get_vocab(with_added_tokens=True))
    except Exception as error:  # the library raises bare exceptions
        raise CheckpointCorrupt(f"{where}: not a tokenizer ({error})") from error


def tokenizer_files(path: Path, config: Mapping[str, Any] | None) -> TokenizerFiles | None:
    """The tokenizer of the checkpoint at `path`; None for a lone file of weights, and where there is none."""
    if config is None or not path.is_dir():
        return None
    if (path / FAST_FILE).is_file():
        return TokenizerFiles(path, (FAST_FILE,))
    if any(any(path.glob(pattern)) for pattern in MARKS_OF_A_TOKENIZER):
        return TokenizerFiles(path, tuple(sorted(found.name for found in _slow_files(path))))
    return None


def _slow_files(folder: Path) -> Iterator[Path]:
    for pattern in SLOW_FILES:
        yield from folder.glob(pattern)
