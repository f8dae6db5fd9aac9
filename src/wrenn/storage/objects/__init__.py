"""Images and saved states as chunks: what is put into the object store and made of it again."""

from wrenn.protocol.chunk_frames import DamagedChunk, compress, decompress
from wrenn.storage.objects.chunks import ChunkReader, ChunkWriter, SparseReader, SparseWriter
from wrenn.storage.objects.saved_state import (
    BASE,
    LAYERS,
    SNAPSHOTS,
    StateReader,
    StateTable,
    StateWriter,
    StoredBase,
    StoredFile,
)

__all__ = [
    "BASE",
    "LAYERS",
    "SNAPSHOTS",
    "ChunkReader",
    "ChunkWriter",
    "DamagedChunk",
    "SparseReader",
    "SparseWriter",
    "StateReader",
    "StateTable",
    "StateWriter",
    "StoredBase",
    "StoredFile",
    "compress",
    "decompress",
]
