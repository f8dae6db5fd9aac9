"""Chunks as they are stored: each is one zstd frame (docs/design/store.md). What comes from the store is input of others."""

from __future__ import annotations

import hmac
from typing import Final

import zstandard

from wrenn.base.errors import AgentFailure
from wrenn.protocol.image_manifest import CHUNK_B, digest_of

_LEVEL: Final = 3
"""Higher levels take several times as long for a few per cent."""


class DamagedChunk(AgentFailure):
    """An object of the store is not the chunk that its name says."""


def compress(data: bytes) -> bytes:
    """Return one zstd frame with the data."""
    return zstandard.ZstdCompressor(level=_LEVEL, write_content_size=True).compress(data)


def decompress(frame: bytes, *, digest: str, size_b: int | None = None) -> bytes:
    """Return the data of a chunk, which has `size_b` bytes (None: no more than any chunk) and this digest. Never allocates more than that.

    Raises:
        DamagedChunk: it is another one, or no frame at all.
    """
    try:
        # Trusting the size that the frame names would let it fill the memory.
        named_b = zstandard.get_frame_parameters(frame).content_size
        if size_b is None and 0 < named_b <= CHUNK_B:
            size_b = named_b
        if size_b is None or named_b != size_b:
            raise DamagedChunk(f"The chunk {digest} in the store has another size than its image says.")
        data = zstandard.ZstdDecompressor().decompress(frame, max_output_size=size_b)
    except zstandard.ZstdError as error:
        raise DamagedChunk(f"The chunk {digest} in the store cannot be decompressed.") from error
    if not hmac.compare_digest(digest_of(data), digest):
        raise DamagedChunk(f"The chunk {digest} in the store has other content than its name says.")
    return data
