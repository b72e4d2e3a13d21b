"""Merge files of mergekit (YAML), read strictly and turned into requests of this program; see docs/mergekit.md."""

from mats.recipes.mergekit.importing import Options, merge_file_request
from mats.recipes.mergekit.overriding import with_overrides
from mats.recipes.mergekit.schema import is_merge_file, read_merge_file

__all__ = ["Options", "is_merge_file", "merge_file_request", "read_merge_file", "with_overrides"]
