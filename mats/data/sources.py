"""Where a dataset's rows lie: the `source` of a dataset file."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from mats.data.strict import Strict

Paths = tuple[str, ...]
Names = tuple[str, ...]


class FileSource(Strict):
    """Rows in files beside the dataset file, or under `root`."""

    files: dict[str, Paths] = Field(min_length=1, description="Split → file or list of files, read one after another.")

    @field_validator("files", mode="before")
    @classmethod
    def _one_or_many(cls, value: Any) -> Any:
        """A single path where a list is meant."""
        return {k: [v] if isinstance(v, str) else v for k, v in value.items()} if isinstance(value, dict) else value


class JsonLinesSource(FileSource):
    """One JSON object per line, UTF-8."""

    format: Literal["json_lines"]


class CsvSource(FileSource):
    """Separated values with a quote character; the first line names the columns unless `header` does."""

    format: Literal["csv"]
    delimiter: str = Field(default=",", min_length=1, max_length=1, description="Between values; a tab for TSV.")
    quoting: bool = Field(default=True, description="Whether double quotes hold a value together.")
    header: Names | None = Field(
        default=None, description="Names of the columns, for files without a first line of names, or with others."
    )
    skip: int = Field(default=0, ge=0, description="Lines before the rows (or before the names) that are passed over.")
    numbers: Names = Field(default=(), description="Columns that hold numbers. Default: every value is a text.")


class ArraySource(FileSource):
    """Arrays in .npz files, one array per column, rows along the first axis. Pickled arrays are refused."""

    format: Literal["arrays"]


class HubSource(Strict):
    """A dataset of the Hugging Face Hub (or a local folder of data files), read by `datasets`; never by a script."""

    BUILDERS: ClassVar[dict[str, str]] = {".json": "json", ".jsonl": "json", ".csv": "csv", ".parquet": "parquet"}

    format: Literal["hub"]
    id: str = Field(min_length=1, description="Dataset id, as `paws`.")
    config: str | None = Field(default=None, description="Configuration, as `labeled_final`.")
    revision: str | None = Field(default=None, description="Commit, tag or branch. Default: the newest.")
    names: dict[str, str] = Field(default={}, description="Split → the hub's name for it. Default: the same name.")
    files: dict[str, str] = Field(
        default={}, description="Split → its JSON, CSV or Parquet file, where the repository does not say so itself."
    )
    verified: bool = Field(default=False, description="Whether id and columns were tried against the hub.")

    @model_validator(mode="after")
    def _known_files(self) -> HubSource:
        for split, file in self.files.items():
            if PurePosixPath(file).suffix not in self.BUILDERS:
                raise ValueError(f"files.{split}: {file}; one of {', '.join(self.BUILDERS)} would be right")
        if self.files and self.config is not None:
            raise ValueError("files and config are given; files stand for themselves, so no config would be right")
        return self


Source = Annotated[JsonLinesSource | CsvSource | ArraySource | HubSource, Field(discriminator="format")]
