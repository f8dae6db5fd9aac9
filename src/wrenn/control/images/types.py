"""Messages between agents and the control plane about images."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, Field, StringConstraints

from wrenn.control.http import RequestBody
from wrenn.protocol.image_manifest import DIGESTS_A_CALL

Digest = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Chunks(RequestBody):
    """Chunks for which URLs are asked."""

    digests: list[Digest] = Field(
        min_length=1,
        max_length=DIGESTS_A_CALL,
        description="SHA-256 of the uncompressed bytes of each chunk",
    )


class DamagedChunks(RequestBody):
    """Chunks that a host found to be damaged. Each is read again."""

    digests: list[Digest] = Field(min_length=1, max_length=8)


class RemovedChunks(BaseModel):
    """What came of a report of damaged chunks."""

    removed: int


class OwnerKey(BaseModel):
    """The key with which the objects of an image's owner are encrypted."""

    id: str = Field(description="Of the key of the store that it was derived from")
    secret: str = Field(description="AES-256, in hexadecimal digits")


class ChunkUrls(BaseModel):
    """Signed URLs by digest. One that begins with `/` is of the control plane itself."""

    urls: dict[str, str]
    key: OwnerKey | None = Field(
        default=None, description="Of what is uploaded; without it, it is not encrypted"
    )


class SignedUrl(BaseModel):
    """The query of a signed URL."""

    expires: str = Field(max_length=16, description="Unix time at which it expires")
    signature: str = Field(max_length=128)


class ImageManifest(BaseModel):
    """Where the manifest of an image is."""

    id: str
    manifest_url: str = Field(description="Signed. One that begins with `/` is of the control plane itself")
    manifest_digest: str = Field(description="SHA-256 that the manifest must have, once it is decrypted")
    key: OwnerKey | None = Field(
        default=None, description="Of manifest and chunks; without it, they are not encrypted"
    )


class UploadedImage(BaseModel):
    """An image that is in the store."""

    id: str
    stored_bytes: int = Field(description="Of its chunks, with those that other images of its owner share")
