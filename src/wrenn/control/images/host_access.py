"""What hosts do with images in the store: find them, and get signed URLs of their chunks.

A host of the platform may read the images of all owners, a team's own host those of its team and of the platform. Only the
host that a pending image names may upload it.
"""

from __future__ import annotations

import asyncio
import logging
import math
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Final

from wrenn.base.clock import Clock
from wrenn.base.errors import (
    Conflict,
    DeadlineExceeded,
    Forbidden,
    InvalidRequest,
    NotFound,
    RateLimited,
    TooLarge,
)
from wrenn.base.faults import fault_point
from wrenn.base.ids import HostId, ImageId, TeamId
from wrenn.base.units import KIB, MIB
from wrenn.control.auth import Tokens
from wrenn.control.db import Database
from wrenn.control.hosts import credential_store
from wrenn.control.http.buckets import Buckets, Rate
from wrenn.control.images import store
from wrenn.control.images.records import ImageStatus, StoredImage, chunk_key, manifest_key
from wrenn.control.objects import Method, ObjectMissing, ObjectStore
from wrenn.protocol.chunk_frames import DamagedChunk, decompress
from wrenn.protocol.image_manifest import (
    CHUNK_B,
    CHUNK_STORED_LEAST_B,
    CHUNK_STORED_LIMIT_B,
    MANIFEST_LIMIT_B,
    Manifest,
    digest_of,
)
from wrenn.protocol.sealed_objects import SEALED_EXTRA_B, CannotOpen, ObjectKey

_log = logging.getLogger(__name__)

URL_LIFE_S: Final = 900.0
_STORED_LIMIT_B: Final = CHUNK_STORED_LIMIT_B + SEALED_EXTRA_B
_CALLS: Final = Rate(per_s=20, burst=100)
"""Calls of one host about images: each is for up to 256 MiB."""
_MANIFESTS: Final = 64
"""Manifests that this replica receives at once, each of up to 20 MiB, into temporary files; those of a team's own hosts count twice."""
_MANIFESTS_OF_HOST: Final = 2
_MANIFESTS_OF_TEAM: Final = 4
"""Of all hosts of a team that it runs itself."""
_CHECKED: Final = 8
"""Manifests that are checked at once, and in memory."""
_IN_MEMORY_B: Final = 256 * KIB
_RECEIVED_TIMEOUT_S: Final = 60.0
_CHECK_TIMEOUT_S: Final = 60.0
_CHECKED_RATE_B: Final = 64 * KIB
"""A large manifest may take as much more time as this rate needs: a second for 1,000 chunks."""
_BUCKETS: Final = 20_000


@dataclass(frozen=True, slots=True)
class CallingHost:
    """A host that has shown its token.

    Attributes:
        team_id: whose it is; None: the platform's.
        opens_sealed: its release can encrypt and decrypt objects.
    """

    host_id: HostId
    team_id: TeamId | None
    opens_sealed: bool


class HostImages:
    """Serves the hosts' calls about images.

    `granted_limit_b`: how much a team's own host may write for one image. `left_mb`: what a team has left of its quota of
    storage (None: no limit), which all its own hosts together may write for more than one.
    """

    def __init__(
        self,
        *,
        database: Database,
        objects: ObjectStore,
        tokens: Tokens,
        clock: Clock,
        granted_limit_b: int,
        left_mb: Callable[[TeamId], Awaitable[int | None]],
    ) -> None:
        self._granted_limit_b = granted_limit_b
        self._left_mb = left_mb
        self._database = database
        self._objects = objects
        self._tokens = tokens
        self._putting: Counter[HostId | TeamId] = Counter()
        self._checks = asyncio.Semaphore(_CHECKED)
        self._calls = Buckets(_CALLS, clock, most=_BUCKETS)

    async def caller(
        self, host_token: str | None, text_id: str, *, opens_sealed: bool = False
    ) -> CallingHost:
        """Return which host calls; to be asked before its body is read.

        Raises:
            Unauthorized: no valid host token. Forbidden: it is another host's. HostDeleted. RateLimited: it calls too often.
        """
        token = self._tokens.read_host(host_token or "")
        if str(token.host_id) != text_id:
            raise Forbidden("This token belongs to another host.")
        # By token: one that was revoked must not use up what the host may do with its present one.
        wait_s = self._calls.take(token.refresh_id.bytes)
        if wait_s:
            raise RateLimited("This host calls too often.", retry_after_s=math.ceil(wait_s))
        team_id = await credential_store.owner_of_caller(self._database, token.host_id, token.refresh_id)
        return CallingHost(token.host_id, team_id, opens_sealed)

    async def manifest_url(self, host: CallingHost, text_id: str) -> tuple[str, str, ObjectKey | None]:
        """Return a URL of an image's manifest, the digest that it must have, and the key with which the image is encrypted.

        Raises:
            NotFound: there is no image that the host may read. StoreKeyMissing.
            InvalidRequest: the host is of a release that cannot decrypt it.
        """
        image = await self._readable(host, text_id)
        assert image.manifest_digest is not None, "looked at"
        key = manifest_key(image.owner, image.image_id, image.manifest_digest)
        owner_key = self._key_for(host, image)
        (url,) = await self._objects.sign("GET", [key], expires_s=URL_LIFE_S)
        return url, image.manifest_digest, owner_key

    async def chunk_urls(self, host: CallingHost, text_id: str, digests: Sequence[str]) -> dict[str, str]:
        """Return URLs to read chunks of the image's owner.

        Raises:
            NotFound: there is no image that the host may read.
        """
        image = await self._readable(host, text_id)
        return await self._signed("GET", image, digests)

    async def remove_damaged(self, host: CallingHost, text_id: str, digests: Sequence[str]) -> int:
        """Delete those of these chunks that are damaged, so that the next upload writes them again; returns how many.

        What the host says is not relied on: each is read and compared.

        Raises:
            NotFound: there is no image that the host may read. StoreKeyMissing.
        """
        image = await self._readable(host, text_id)
        key = self._objects.keys.of(image.owner, image.key_id)
        deleted = 0
        for digest in digests:
            object_key = self._chunk_key(image, digest)
            async with self._checks:
                try:
                    frame = await self._objects.get_stored(object_key, limit_b=_STORED_LIMIT_B)
                    is_whole = await asyncio.to_thread(_is_chunk, frame, digest, key)
                except ObjectMissing:
                    continue
                except TooLarge:
                    is_whole = False
            if not is_whole:
                await self._objects.delete([object_key])
                _log.warning("damaged chunk deleted", extra={"owner": image.owner, "digest": digest})
                deleted += 1
        return deleted

    async def upload_urls(
        self, host: CallingHost, text_id: str, digests: Sequence[str]
    ) -> tuple[dict[str, str], ObjectKey | None]:
        """Return URLs to write those of these chunks that the store lacks, and the key with which they are to be encrypted.

        Raises:
            NotFound: the image is not pending on this host. StoreKeyMissing.
            InvalidRequest: the host is of a release that cannot encrypt them.
            TooLarge: a team's own host was given URLs for more than an image can have.
            RateLimited: the team's own hosts have got URLs for more than its quota of storage has room for, for several images.
        """
        image = await self._uploadable(host, text_id)
        key = self._key_for(host, image)
        there = await self._objects.sizes_of(self._chunk_key(image, digest) for digest in digests)
        # What cannot be a chunk, as a file is after a power failure, is written again.
        missing = [
            digest for digest in digests if not _can_be_chunk(there.get(self._chunk_key(image, digest), 0))
        ]
        is_trusted = host.team_id is None
        if missing and not is_trusted:
            await self._grant(host, image, len(missing))
        return await self._signed("PUT", image, missing, is_bounded=not is_trusted), key

    async def _grant(self, host: CallingHost, image: StoredImage, chunks: int) -> None:
        """Count what a host is about to write. A chunk that it asks for again counts again."""
        left_mb = None if image.team_id is None else await self._left_mb(image.team_id)
        more_b = chunks * CHUNK_B
        if await store.add_granted(
            self._database,
            image.image_id,
            host.host_id,
            granted_b=more_b,
            limit_b=self._granted_limit_b,
            together_b=None if left_mb is None else left_mb * MIB,
        ):
            return
        if await store.granted_b(self._database, image.image_id) + more_b > self._granted_limit_b:
            raise TooLarge(f"No image has more than {self._granted_limit_b // MIB} MiB.")
        # One at a time is never held up: chunks count as they are before compression, and a host must be able to be emptied.
        raise RateLimited(
            "The team's own hosts upload another image, and both may have more than the team's storage has room for. Try again."
        )

    async def put_manifest(self, host: CallingHost, text_id: str, pieces: AsyncIterator[bytes]) -> int:
        """Write the manifest of an image whose chunks are all in the store; returns their size there. May be repeated.

        The image stays pending: whoever began it makes it ready.

        Raises:
            InvalidRequest: of the manifest. NotFound: the image is not pending on this host. Conflict: chunks are missing.
            RateLimited: of this host, of its team or of all others are under way. DeadlineExceeded.
        """
        image = await self._uploadable(host, text_id)
        with self._place(host), tempfile.SpooledTemporaryFile(_IN_MEMORY_B) as received:
            try:
                # A host sends as slowly as it likes: it has none of the places for checks meanwhile.
                async with asyncio.timeout(_RECEIVED_TIMEOUT_S):
                    await _receive(pieces, received)
                async with (
                    asyncio.timeout(_CHECK_TIMEOUT_S + received.tell() / _CHECKED_RATE_B),
                    self._checks,
                ):
                    received.seek(0)
                    return await self._put_manifest(host, image, received.read())
            except TimeoutError as error:
                raise DeadlineExceeded("The manifest was not received and checked in time.") from error

    @contextmanager
    def _place(self, host: CallingHost) -> Generator[None]:
        """Hold a place of this host, and of its team. Raises RateLimited."""
        limits: dict[HostId | TeamId, int] = {host.host_id: _MANIFESTS_OF_HOST}
        if host.team_id is not None:
            limits[host.team_id] = _MANIFESTS_OF_TEAM
        if self._putting.total() >= _MANIFESTS or any(
            self._putting[id_] >= most for id_, most in limits.items()
        ):
            raise RateLimited("Other manifests are sent at this moment. Try again.")
        self._putting.update(limits.keys())
        try:
            yield
        finally:
            self._putting.subtract(limits.keys())
            # Whoever sends none any more.
            self._putting += Counter()

    async def _put_manifest(self, host: CallingHost, image: StoredImage, data: bytes) -> int:
        manifest, digest = await asyncio.to_thread(lambda: (Manifest.decode(data), digest_of(data)))
        if manifest.image_id != image.image_id:
            raise InvalidRequest("The manifest is that of another image.")
        sizes = await self._objects.sizes_of(self._chunk_key(image, chunk) for chunk in manifest.digests)
        missing = len(manifest.digests) - sum(_can_be_chunk(size_b) for size_b in sizes.values())
        if missing:
            raise Conflict(f"The store lacks {missing} chunks of this image: upload them first.")
        key = manifest_key(image.owner, image.image_id, digest)
        await self._objects.put_sealed(key, data, image.key_id)
        await fault_point("control.image.after_manifest")
        stored_b = sum(sizes.values())
        if not await store.record_manifest(
            self._database, image.image_id, host.host_id, digest=digest, stored_b=stored_b
        ):
            raise _not_found(str(image.image_id))
        return stored_b

    def _chunk_key(self, image: StoredImage, digest: str) -> str:
        name = self._objects.keys.chunk_name(image.owner, image.key_id, digest)
        return chunk_key(image.owner, name, image.key_id)

    def _key_for(self, host: CallingHost, image: StoredImage) -> ObjectKey | None:
        key = self._objects.keys.of(image.owner, image.key_id)
        if key is not None and not host.opens_sealed:
            raise InvalidRequest(
                "The store is encrypted, which the release of wrenn on this host does not know: upgrade the host."
            )
        return key

    async def _signed(
        self, method: Method, image: StoredImage, digests: Sequence[str], *, is_bounded: bool = False
    ) -> dict[str, str]:
        keys = [self._chunk_key(image, digest) for digest in digests]
        urls = await self._objects.sign(method, keys, expires_s=URL_LIFE_S, is_bounded=is_bounded)
        return dict(zip(digests, urls, strict=True))

    async def _readable(self, host: CallingHost, text_id: str) -> StoredImage:
        image = await store.find_visible(self._database, ImageId.parse(text_id), team_id=host.team_id)
        # One that is being removed may still be used by a sandbox that its host starts again.
        if image is None or image.status is ImageStatus.PENDING or image.manifest_digest is None:
            raise _not_found(text_id)
        return image

    async def _uploadable(self, host: CallingHost, text_id: str) -> StoredImage:
        image = await store.find_visible(self._database, ImageId.parse(text_id), team_id=host.team_id)
        if image is None or image.status is not ImageStatus.PENDING or image.host_id != host.host_id:
            raise _not_found(text_id)
        return image


def _is_chunk(frame: bytes, digest: str, key: ObjectKey | None) -> bool:
    try:
        decompress(frame if key is None else key.open(frame, digest), digest=digest)
    except (CannotOpen, DamagedChunk):
        return False
    return True


def _can_be_chunk(size_b: int) -> bool:
    return CHUNK_STORED_LEAST_B <= size_b <= CHUNK_STORED_LIMIT_B


async def _receive(pieces: AsyncIterator[bytes], received: IO[bytes]) -> None:
    async for piece in pieces:
        if received.tell() + len(piece) > MANIFEST_LIMIT_B:
            raise TooLarge(f"The manifest has more than {MANIFEST_LIMIT_B // MIB} MiB.")
        await asyncio.to_thread(received.write, piece)


def _not_found(text_id: str) -> NotFound:
    return NotFound(f"There is no image {text_id[:64]} for this host.")
