"""Sends images and saved states to the store and fetches them, in chunks (docs/design/store.md).

The control plane is asked for signed URLs; the bytes go to and from the store. A URL that expired, a connection that broke and
a store that failed cost a repetition of that chunk with a new URL.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, ParamSpec, TypeVar, cast

import aiohttp

from wrenn.agent.enrolment import Credentials
from wrenn.agent.enrolment.control_client import ControlClient
from wrenn.base.errors import (
    AgentFailure,
    Conflict,
    DeadlineExceeded,
    InternalError,
    InvalidRequest,
    RateLimited,
    StorageFull,
    StoreUnavailable,
    Unavailable,
    WrennError,
)
from wrenn.base.ids import ImageId
from wrenn.base.units import KIB
from wrenn.linux.disk_space import free_b
from wrenn.linux.threads import wait_ended
from wrenn.protocol.image_manifest import (
    CHUNK_STORED_LIMIT_B,
    DIGESTS_A_CALL,
    MANIFEST_LIMIT_B,
    Manifest,
    digest_of,
)
from wrenn.protocol.sealed_objects import SEALED_EXTRA_B, CannotOpen, ObjectKey
from wrenn.relay import CONNECT_TIMEOUT_S, read_bounded
from wrenn.storage.objects import (
    ChunkReader,
    ChunkWriter,
    DamagedChunk,
    SparseReader,
    SparseWriter,
    compress,
    decompress,
)

_P = ParamSpec("_P")
_T = TypeVar("_T")
_log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Is told how many bytes of how many are done; all zeros are not counted."""

_AT_ONCE: Final = 4
"""Chunks under way at the same time: each has up to 2 MiB in memory."""
_REQUEST_TIMEOUT_S: Final = 60.0
_LEAST_RATE_B: Final = 256 * KIB
"""A large object may take as much more time as this rate needs."""
_ATTEMPTS: Final = 6
"""Attempts for one request, over about 15 s."""
_FIRST_PAUSE_S: Final = 0.5
_LONGEST_PAUSE_S: Final = 15.0
_TURN_LIMIT_S: Final = 600.0
"""How long an upload waits while others of the same team use what its quota permits. Less than the control plane waits without progress."""
_DAMAGED_ATTEMPTS: Final = 2
"""A chunk that is damaged is fetched once more: it may have been damaged on the way."""
_UPLOAD_ROUNDS: Final = 3
"""How often all chunks are looked at when the control plane says that one is missing."""
_SPACE_CHECK: Final = 64
"""Chunks between two looks at the free space, which others use too."""
_INSUFFICIENT_STORAGE: Final = 507
_WRITE_HEADERS: Final = {
    "Content-Type": "application/octet-stream",
    # Azure refuses a new object without it; others ignore it.
    "x-ms-blob-type": "BlockBlob",
}
_RETRIED: Final = (Unavailable, DeadlineExceeded, RateLimited)


@dataclass(frozen=True, slots=True)
class TransferSettings:
    """How images are transferred.

    Attributes:
        control_url: base URL of the control plane's API; empty: that of the credentials.
        control_ca: CA certificates for that URL; None: those of the system.
        disk_reserve_b: free space that a fetched image must leave.
    """

    control_url: str
    control_ca: Path | None
    disk_reserve_b: int


class ImageTransfer:
    """Transfers images between this host and the store. `credentials` returns those that the host has now.

    Attributes:
        first_pause_s: before a request is repeated; twice as long before each further attempt.
    """

    def __init__(self, settings: TransferSettings, credentials: Callable[[], Credentials]) -> None:
        self._settings = settings
        self._credentials = credentials
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wrenn-image")
        self.first_pause_s = _FIRST_PAUSE_S

    def close(self) -> None:
        """Let no more transfers begin. Those that run must have been cancelled."""
        self._threads.shutdown(wait=True, cancel_futures=True)

    async def upload(self, image_id: ImageId, rootfs: Path, progress: Progress) -> int:
        """Bring the file `rootfs` into the store as the image; as `upload_chunks`."""
        with SparseReader(rootfs) as reader:
            return await self.upload_chunks(image_id, reader, progress)

    async def upload_chunks(self, image_id: ImageId, reader: ChunkReader, progress: Progress) -> int:
        """Bring all chunks into the store as the image. Returns how many bytes were sent; chunks that were there cost none.

        The image's row must be pending and name this host. May be repeated, also after a crash; a cancellation leaves chunks
        in the store, which the next attempt uses.

        Raises:
            NotFound: the control plane does not expect this image (any more) from this host.
            StorageFull: the store is full. Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        async with self._connected() as connection:
            manifest = await self._manifest_of(image_id, reader)
            upload = _Upload(
                connection,
                image_id=image_id,
                reader=reader,
                manifest=manifest,
                progress=progress,
                in_thread=self._in_thread,
            )
            for attempt in range(1, _UPLOAD_ROUNDS + 1):
                await upload.send_missing()
                try:
                    await connection.patiently(
                        lambda: connection.control.put_manifest(
                            *connection.identity, str(image_id), manifest.encode()
                        )
                    )
                    break
                except Conflict:
                    if attempt == _UPLOAD_ROUNDS:
                        raise
            return upload.sent_b

    async def fetch(self, image_id: ImageId, rootfs: Path, progress: Progress) -> None:
        """Write the image from the store to the new file `rootfs`, sparsely; it is on the disk when this returns.

        The caller makes the folder (a draft), and renames it when all is there. On an error and after a cancellation the file
        is removed.

        Raises:
            NotFound: there is no such image that this host may have.
            StorageFull: less than the disk's reserve would be free.
            DamagedChunk: an object in the store is not what the image needs, also when it was fetched again.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        async with self._connected() as connection:
            manifest, key = await self._fetch_manifest(connection, image_id)
            try:
                with SparseWriter(rootfs, manifest.size_b) as writer:
                    stored = StoredChunks(
                        connection,
                        manifest,
                        key,
                        in_thread=self._in_thread,
                        reserve_b=self._settings.disk_reserve_b,
                    )
                    await stored.write(range(len(manifest.chunks)), writer, rootfs.parent, progress)
                    await self._in_thread(writer.sync)
            except BaseException:
                rootfs.unlink(missing_ok=True)
                raise

    @contextlib.asynccontextmanager
    async def open(self, image_id: ImageId) -> AsyncGenerator[StoredChunks]:
        """Open an image in the store, to fetch some of its chunks.

        Raises:
            NotFound: there is no such image that this host may have. DamagedChunk: its manifest is not what it was.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """
        async with self._connected() as connection:
            manifest, key = await self._fetch_manifest(connection, image_id)
            yield StoredChunks(
                connection,
                manifest,
                key,
                in_thread=self._in_thread,
                reserve_b=self._settings.disk_reserve_b,
            )

    async def _fetch_manifest(
        self, connection: _Connection, image_id: ImageId
    ) -> tuple[Manifest, ObjectKey | None]:
        """Return the manifest, and the key with which the image is encrypted."""
        found = await self._manifest_bytes(connection, image_id) or await self._manifest_bytes(
            connection, image_id
        )
        if found is None:
            raise DamagedChunk("The manifest of the image in the store has other content than it had.")
        data, key = found
        try:
            manifest = await self._in_thread(Manifest.decode, data)
        except InvalidRequest as error:
            raise DamagedChunk(f"The image in the store cannot be read: {error.message}") from error
        if manifest.image_id != image_id:
            raise DamagedChunk("The manifest in the store is that of another image.")
        return manifest, key

    async def download(self, url: str, limit_b: int) -> bytes:
        """Read an object of the store by its signed URL.

        Raises:
            StoreUnavailable: it does not answer, or has no such object. AgentFailure: it is longer than `limit_b`.
        """
        async with self._connected() as connection:
            return await connection.patiently(partial(connection.get, url, limit_b))

    async def _manifest_bytes(
        self, connection: _Connection, image_id: ImageId
    ) -> tuple[bytes, ObjectKey | None] | None:
        """Read the manifest, and the key of the image; None: it is not the one that the control plane accepted."""
        found = await connection.patiently(
            lambda: connection.control.image(*connection.identity, str(image_id))
        )
        url, digest, key = found.get("manifest_url"), found.get("manifest_digest"), key_of(found)
        if not isinstance(url, str) or not isinstance(digest, str):
            raise AgentFailure("The control plane's answer does not say where the image is.")
        data = await connection.patiently(partial(connection.get, url, MANIFEST_LIMIT_B + SEALED_EXTRA_B))
        if key is not None:
            try:
                data = await self._in_thread(key.open, data, digest)
            except CannotOpen:
                return None
        return (data, key) if digest_of(data) == digest else None

    async def _manifest_of(self, image_id: ImageId, reader: ChunkReader) -> Manifest:
        """Compute the digests of all chunks."""
        chunks: list[str | None] = [None] * reader.chunk_count

        def hash_chunk(index: int) -> None:
            data = reader.read(index)
            chunks[index] = digest_of(data) if data else None

        await for_each(
            await self._in_thread(lambda: list(reader.data_chunks())),
            lambda index: self._in_thread(hash_chunk, index),
        )
        return Manifest(image_id, reader.size_b, tuple(chunks))

    async def _in_thread(self, work: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Run `work` in a thread; a cancellation is raised after its end, as it uses a file that is closed then."""
        future = asyncio.get_running_loop().run_in_executor(self._threads, partial(work, *args, **kwargs))
        try:
            return await asyncio.shield(future)
        except asyncio.CancelledError:
            await wait_ended(future)
            raise

    @contextlib.asynccontextmanager
    async def _connected(self) -> AsyncGenerator[_Connection]:
        url = self._settings.control_url or self._credentials().control_url
        async with (
            ControlClient(url, self._settings.control_ca) as control,
            # The store may be reached only through the proxy of the network, as the control plane.
            aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar(), trust_env=True) as session,
        ):
            yield _Connection(control, session, self._credentials, self.first_pause_s)


_InThread = Callable[..., Awaitable[Any]]


class _Connection:
    """The control plane and the store, as one transfer uses them."""

    def __init__(
        self,
        control: ControlClient,
        session: aiohttp.ClientSession,
        credentials: Callable[[], Credentials],
        first_pause_s: float,
    ) -> None:
        self._first_pause_s = first_pause_s
        self.control = control
        self._session = session
        self._credentials = credentials

    @property
    def identity(self) -> tuple[str, str]:
        """The id of this host and its token, which is renewed now and then."""
        credentials = self._credentials()
        return credentials.host_id, credentials.token

    async def get(self, url: str, limit_b: int) -> bytes:
        """Read an object. Raises StoreUnavailable, or AgentFailure if it is longer than `limit_b`."""
        return await self._request("GET", url, None, limit_b)

    async def put(self, url: str, data: bytes) -> None:
        """Write an object. Raises StoreUnavailable, StorageFull."""
        await self._request("PUT", url, data, CHUNK_STORED_LIMIT_B)

    async def patiently(self, work: Callable[[], Awaitable[_T]], *, turn_until: float = 0.0) -> _T:
        """Call `work` until it succeeds; after `_ATTEMPTS` that fail because somebody does not answer, raise what the last one raised.

        RateLimited counts as such an attempt only after `turn_until`, a time of the event loop.
        """
        pause_s = self._first_pause_s
        failed = 0
        while True:
            try:
                return await work()
            except _RETRIED as error:
                waits = isinstance(error, RateLimited) and asyncio.get_running_loop().time() < turn_until
                failed = 0 if waits else failed + 1
                if failed == _ATTEMPTS:
                    raise
                _log.debug("transfer of an image repeated", extra={"cause": error.message})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    async def _request(self, method: str, url: str, data: bytes | None, limit_b: int) -> bytes:
        is_ours = url.startswith("/")
        try:
            async with self._session.request(
                method,
                self.control.base_url + url if is_ours else url,
                data=None if data is None else io.BytesIO(data),
                headers=None if data is None else _WRITE_HEADERS,
                # A redirect would lead an agent wherever the store, or somebody in between, wants.
                allow_redirects=False,
                ssl=self.control.tls if is_ours else True,
                timeout=aiohttp.ClientTimeout(
                    total=_REQUEST_TIMEOUT_S + limit_b / _LEAST_RATE_B,
                    sock_connect=CONNECT_TIMEOUT_S,
                    sock_read=_REQUEST_TIMEOUT_S,
                ),
            ) as response:
                if response.status == _INSUFFICIENT_STORAGE:
                    raise StorageFull("The store is full.")
                if not 200 <= response.status < 300:
                    raise StoreUnavailable(
                        "The store refused a part of the image.", context={"status": response.status}
                    )
                return await read_bounded(response, limit_b, sender="store")
        except TimeoutError as error:
            raise StoreUnavailable(f"The store did not answer within {_REQUEST_TIMEOUT_S:.0f} s.") from error
        except (aiohttp.ClientError, OSError) as error:
            # The text of the library's error may contain the signed URL.
            raise StoreUnavailable(
                "The store cannot be reached.", context={"cause": type(error).__name__}
            ) from None


class _Upload:
    """The chunks of one image on their way to the store.

    Attributes:
        sent_b: bytes that were sent.
    """

    def __init__(
        self,
        connection: _Connection,
        *,
        image_id: ImageId,
        reader: ChunkReader,
        manifest: Manifest,
        progress: Progress,
        in_thread: _InThread,
    ) -> None:
        self._connection = connection
        self._image_id = image_id
        self._reader = reader
        self._progress = progress
        self._in_thread = in_thread
        self._index_of = {digest: index for index, digest in enumerate(manifest.chunks) if digest is not None}
        self._size_of = {digest: manifest.chunk_size_b(index) for digest, index in self._index_of.items()}
        self._total_b = sum(self._size_of.values())
        self._done: set[str] = set()
        self._done_b = 0
        self._key: ObjectKey | None = None
        self._answered_at = asyncio.get_running_loop().time()
        self.sent_b = 0

    async def send_missing(self) -> None:
        """Send the chunks that the store lacks. May be repeated."""
        self._done.clear()
        self._done_b = 0
        self._progress(0, self._total_b)
        for batch in batches(list(self._index_of)):
            urls = await self._urls(batch)
            for digest in batch:
                if digest not in urls:
                    self._finish(digest)
            await for_each(list(urls), lambda digest, urls=urls: self._send(digest, urls[digest]))

    async def _urls(self, digests: Sequence[str]) -> Mapping[str, str]:
        control = self._connection.control
        answer = await self._connection.patiently(
            lambda: control.upload_urls(*self._connection.identity, str(self._image_id), digests),
            turn_until=self._answered_at + _TURN_LIMIT_S,
        )
        self._answered_at = asyncio.get_running_loop().time()
        self._key = key_of(answer)
        return urls_of(answer, digests)

    async def _send(self, digest: str, first_url: str) -> None:
        frame = cast("bytes", await self._in_thread(self._frame, digest))
        url: str | None = first_url

        async def send() -> bool:
            nonlocal url
            if url is None:
                # Whatever failed, the URL may have expired meanwhile; and the former attempt may have arrived.
                url = (await self._urls([digest])).get(digest)
            if url is None:
                return False
            used, url = url, None
            await self._connection.put(used, frame)
            return True

        if await self._connection.patiently(send):
            self.sent_b += len(frame)
        self._finish(digest)

    def _frame(self, digest: str) -> bytes:
        data = self._reader.read(self._index_of[digest])
        if digest_of(data) != digest:
            raise InternalError("The image was altered while it was uploaded.")
        frame = compress(data)
        return frame if self._key is None else self._key.seal(frame, digest)

    def _finish(self, digest: str) -> None:
        if digest not in self._done:
            self._done.add(digest)
            self._done_b += self._size_of[digest]
            self._progress(self._done_b, self._total_b)


class StoredChunks:
    """An image in the store, of which chunks are fetched.

    Attributes:
        size_b: of all its chunks.
    """

    def __init__(
        self,
        connection: _Connection,
        manifest: Manifest,
        key: ObjectKey | None,
        *,
        in_thread: _InThread,
        reserve_b: int,
    ) -> None:
        self._connection = connection
        self._manifest = manifest
        self._key = key
        self._in_thread = in_thread
        self._reserve_b = reserve_b
        self.size_b = manifest.size_b

    async def first(self) -> bytes:
        """Return the first chunk. Raises as `write`."""
        chunk = _OneChunk()
        await self._run([0], chunk, lambda _needed_b: None, lambda _done_b, _total_b: None)
        return chunk.data

    async def write(
        self, indexes: Sequence[int], writer: ChunkWriter, folder: Path, progress: Progress
    ) -> None:
        """Write these chunks; those that are all zeros are left out.

        Raises:
            StorageFull: less than the disk's reserve would be free below `folder`.
            DamagedChunk: an object in the store is not what the image needs, also when it was fetched again.
            Unavailable, DeadlineExceeded: store or control plane did not answer for a while.
        """

        def check_space(needed_b: int) -> None:
            if free_b(folder) - needed_b < self._reserve_b:
                raise StorageFull("The host's disk has no space for the image.")

        try:
            await self._run(indexes, writer, check_space, progress)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("The host's disk has no space for the image.") from error
            raise

    async def _run(
        self,
        indexes: Sequence[int],
        writer: ChunkWriter,
        check_space: Callable[[int], None],
        progress: Progress,
    ) -> None:
        fetch = _Fetch(
            self._connection,
            manifest=self._manifest,
            key=self._key,
            indexes=indexes,
            writer=writer,
            progress=progress,
            in_thread=self._in_thread,
            check_space=check_space,
        )
        await fetch.run()


class _OneChunk:
    """Keeps a chunk. Implements `ChunkWriter`."""

    data = b""

    def write(self, index: int, data: bytes) -> None:
        """Keep it."""
        del index
        self.data = data


class _Fetch:
    """Chunks of one image on their way to this host."""

    def __init__(
        self,
        connection: _Connection,
        *,
        manifest: Manifest,
        key: ObjectKey | None,
        indexes: Sequence[int],
        writer: ChunkWriter,
        progress: Progress,
        in_thread: _InThread,
        check_space: Callable[[int], None],
    ) -> None:
        self._connection = connection
        self._manifest = manifest
        self._key = key
        self._writer = writer
        self._progress = progress
        self._in_thread = in_thread
        self._check_space = check_space
        self._places: dict[str, list[int]] = {}
        for index in indexes:
            digest = manifest.chunks[index]
            if digest is not None:
                self._places.setdefault(digest, []).append(index)
        self._total_b = sum(
            manifest.chunk_size_b(index) for places in self._places.values() for index in places
        )
        self._done_b = 0

    async def run(self) -> None:
        """Fetch and write all chunks."""
        self._progress(0, self._total_b)
        self._check_space(self._total_b)
        for batch in batches(list(self._places)):
            urls = await self._urls(batch)
            for part in batches(batch, _SPACE_CHECK):
                self._check_space(sum(map(self._written_b, part)))
                await for_each(part, lambda digest, urls=urls: self._fetch(digest, urls.get(digest)))

    def _written_b(self, digest: str) -> int:
        return sum(map(self._manifest.chunk_size_b, self._places[digest]))

    async def _urls(self, digests: Sequence[str]) -> Mapping[str, str]:
        control, image_id = self._connection.control, str(self._manifest.image_id)
        answer = await self._connection.patiently(
            lambda: control.chunk_urls(*self._connection.identity, image_id, digests)
        )
        return urls_of(answer, digests)

    async def _fetch(self, digest: str, first_url: str | None) -> None:
        url = first_url
        damaged = 0

        async def fetch() -> None:
            nonlocal url, damaged
            used = url or (await self._urls([digest])).get(digest)
            url = None
            if used is None:
                raise StoreUnavailable("The control plane gave no URL for a part of the image.")
            try:
                frame = await self._connection.get(used, CHUNK_STORED_LIMIT_B)
                await self._in_thread(self._write, digest, frame)
            except AgentFailure as error:
                damaged += 1
                if damaged >= _DAMAGED_ATTEMPTS:
                    await self._report(digest)
                    raise
                raise StoreUnavailable(error.message) from error

        await self._connection.patiently(fetch)
        self._done_b += self._written_b(digest)
        self._progress(self._done_b, self._total_b)

    async def _report(self, digest: str) -> None:
        """Have a damaged chunk looked at, so that the next upload can replace it. Nothing depends on it."""
        image_id = str(self._manifest.image_id)
        try:
            await self._connection.control.report_damaged_chunk(*self._connection.identity, image_id, digest)
        except WrennError as error:
            _log.warning("damaged chunk not reported", extra={"image_id": image_id, "cause": error.message})

    def _write(self, digest: str, frame: bytes) -> None:
        places = self._places[digest]
        if self._key is not None:
            try:
                frame = self._key.open(frame, digest)
            except CannotOpen as error:
                raise DamagedChunk(f"The chunk {digest} cannot be used: {error.message}") from error
        data = decompress(frame, digest=digest, size_b=self._manifest.chunk_size_b(places[0]))
        for index in places:
            self._writer.write(index, data)


async def for_each(items: Collection[_T], work: Callable[[_T], Awaitable[None]]) -> None:
    """Do the work for all items, `_AT_ONCE` at the same time. Raises the first error; the others are cancelled."""
    iterator = iter(items)

    async def worker() -> None:
        for item in iterator:
            await work(item)

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(_AT_ONCE, len(items))):
                group.create_task(worker())
    except BaseExceptionGroup as errors:
        raise errors.exceptions[0] from None


def batches(items: Sequence[_T], size: int = DIGESTS_A_CALL) -> Sequence[Sequence[_T]]:
    """Split a list into parts of at most `size` items."""
    return [items[start : start + size] for start in range(0, len(items), size)]


def key_of(answer: Mapping[str, Any]) -> ObjectKey | None:
    """Return the key of an answer with which an image is encrypted. Raises AgentFailure if it cannot be read."""
    try:
        return ObjectKey.from_json(answer.get("key"))
    except InvalidRequest as error:
        raise AgentFailure(error.message) from error


def urls_of(answer: Mapping[str, Any], digests: Collection[str]) -> Mapping[str, str]:
    """Return the URLs of an answer by digest. Raises AgentFailure if it cannot be read."""
    urls = answer.get("urls")
    if not isinstance(urls, dict):
        raise AgentFailure("The control plane's answer contains no URLs.")
    wanted = set(digests)
    found: dict[str, str] = {}
    for digest, url in cast("dict[str, object]", urls).items():
        if (
            digest not in wanted
            or not isinstance(url, str)
            or not url.startswith(("/", "https://", "http://"))
        ):
            raise AgentFailure("The control plane's answer contains a URL that cannot be used.")
        found[digest] = url
    return found
