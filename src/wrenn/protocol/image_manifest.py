"""Manifest of an image in the store: which chunks its file consists of (docs/design/store.md). Written by hosts, read by both sides.

The parser is for input of others: everything is bounded and checked, and what is not as `Manifest.encode` writes it is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Self, cast

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import ImageId
from wrenn.base.units import GIB, MIB

FORMAT: Final = 1
CHUNK_B: Final = MIB
"""Bytes of an image in one chunk. The last one may be shorter."""
CHUNK_STORED_LEAST_B: Final = 9
"""Smallest object that can be a chunk: a zstd frame has at least a header and a block."""
CHUNK_STORED_LIMIT_B: Final = CHUNK_B + CHUNK_B // 128
"""Largest object of a chunk: a zstd frame adds less than 1 % to data that cannot be compressed."""
IMAGE_LIMIT_B: Final = 256 * GIB
MANIFEST_LIMIT_B: Final = 20 * MIB
"""Size of a manifest: of 262,144 chunks with 67 bytes each it has 17.6 MB."""
ARCHIVE_LIMIT_B: Final = 100 * MIB
"""The longest archive that is uploaded for a build."""
DIGESTS_A_CALL: Final = 256
"""Chunks for which a host may ask URLs in one call."""

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_FIELDS: Final = frozenset({"format", "image_id", "size_b", "chunk_b", "chunks"})


def is_digest(text: object) -> bool:
    """Whether this is a SHA-256 digest in lower-case hexadecimal digits."""
    return isinstance(text, str) and _DIGEST.fullmatch(text) is not None


@dataclass(frozen=True, slots=True)
class Manifest:
    """The chunks of an image.

    Attributes:
        size_b: of the file.
        chunks: the SHA-256 digest of the uncompressed bytes of each chunk; None: all zeros.
    """

    image_id: ImageId
    size_b: int
    chunks: Sequence[str | None]

    @property
    def digests(self) -> set[str]:
        """The digests of all chunks that are stored."""
        return {digest for digest in self.chunks if digest is not None}

    def chunk_size_b(self, index: int) -> int:
        """Return the size of the uncompressed chunk."""
        return min(CHUNK_B, self.size_b - index * CHUNK_B)

    def encode(self) -> bytes:
        """Return the bytes that are stored. The same manifest always gives the same bytes."""
        content = {
            "format": FORMAT,
            "image_id": str(self.image_id),
            "size_b": self.size_b,
            "chunk_b": CHUNK_B,
            "chunks": list(self.chunks),
        }
        return json.dumps(content, separators=(",", ":")).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self:
        """Parse a manifest.

        Raises:
            InvalidRequest: it is not a manifest of this format, or breaks a limit.
        """
        if len(data) > MANIFEST_LIMIT_B:
            raise InvalidRequest(f"The manifest has more than {MANIFEST_LIMIT_B // MIB} MiB.")
        content = _object(data)
        if _whole(content.get("format")) != FORMAT:
            raise InvalidRequest(f"The manifest is not of format {FORMAT}.")
        if content.keys() != _FIELDS:
            raise InvalidRequest("The manifest lacks a field, or has one that is not known.")
        size_b, chunks = _whole(content["size_b"]), content["chunks"]
        if not 0 < size_b <= IMAGE_LIMIT_B:
            raise InvalidRequest(f"The size of the image is not between 1 and {IMAGE_LIMIT_B} bytes.")
        if _whole(content["chunk_b"]) != CHUNK_B:
            raise InvalidRequest(f"The chunks of the manifest do not have {CHUNK_B} bytes.")
        if not isinstance(chunks, list) or len(cast("list[object]", chunks)) != -(-size_b // CHUNK_B):
            raise InvalidRequest("The number of chunks does not fit the size of the image.")
        for digest in cast("list[object]", chunks):
            if digest is not None and not is_digest(digest):
                raise InvalidRequest("A chunk of the manifest is neither null nor a SHA-256 digest.")
        image_id = content["image_id"]
        if not isinstance(image_id, str):
            raise InvalidRequest("The manifest does not name its image.")
        return cls(ImageId.parse(image_id), size_b, tuple(cast("list[str | None]", chunks)))


def digest_of(data: bytes) -> str:
    """Return the SHA-256 digest of bytes as the store names it."""
    return hashlib.sha256(data).hexdigest()


def _object(data: bytes) -> dict[str, Any]:
    def no_constant(name: str) -> object:
        raise ValueError(name)

    try:
        content = json.loads(data, parse_constant=no_constant)
    except (ValueError, RecursionError) as error:
        raise InvalidRequest("The manifest is not valid JSON.") from error
    if not isinstance(content, dict):
        raise InvalidRequest("The manifest is not a JSON object.")
    return cast("dict[str, Any]", content)


def _whole(value: object) -> int:
    """Return a whole number; True and 1.0 are none."""
    if type(value) is not int:
        raise InvalidRequest("A size in the manifest is not a whole number.")
    return value
