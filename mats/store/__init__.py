"""The metadata store: what was measured, on disk. Sums, never means, so that disjoint examples add."""

from mats.store.addition import add_stores, check_addable
from mats.store.compression import Compressed, compress_store
from mats.store.manifest import (
    MANIFEST_NAME,
    SCHEMA_VERSION,
    STATISTICS,
    DataIdentity,
    Manifest,
    ModelIdentity,
    TensorRecord,
    read_manifest,
)
from mats.store.naming import settings_digits, store_folder
from mats.store.packing import pack, packed_size, unpack
from mats.store.partial import PartialSums, Resumed, partial_folder, remove_partial
from mats.store.reading import MetadataStore, open_store
from mats.store.records import LayerRecord, SiteRecord, Sums
from mats.store.verification import verify_store
from mats.store.writing import MAX_SHARD_BYTES, write_store, write_store_locked

__all__ = [
    "MANIFEST_NAME",
    "MAX_SHARD_BYTES",
    "SCHEMA_VERSION",
    "STATISTICS",
    "Compressed",
    "DataIdentity",
    "LayerRecord",
    "Manifest",
    "MetadataStore",
    "ModelIdentity",
    "PartialSums",
    "Resumed",
    "SiteRecord",
    "Sums",
    "TensorRecord",
    "add_stores",
    "check_addable",
    "compress_store",
    "open_store",
    "pack",
    "packed_size",
    "partial_folder",
    "read_manifest",
    "remove_partial",
    "settings_digits",
    "store_folder",
    "unpack",
    "verify_store",
    "write_store",
    "write_store_locked",
]
