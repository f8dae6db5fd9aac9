"""The object store: S3, Google Cloud Storage, Azure Blob Storage, or a folder, all through `obstore`.

Credentials come from the environment variables of each (`AWS_*`, `GOOGLE_*`, `AZURE_*`). What goes wrong is told without
them: neither URLs with signatures nor answers of the store are in a message.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, Self, TypeVar, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore.exceptions import BaseError, PermissionDeniedError, UnauthenticatedError
from obstore.store import AzureStore, GCSStore, LocalStore, S3Store, from_url

from wrenn.base.errors import InvalidRequest, NotFound, StorageFull, StoreUnavailable, TooLarge
from wrenn.base.units import KIB, MIB
from wrenn.control.objects.keys import StoreKeys
from wrenn.control.objects.signing import UrlSigner
from wrenn.protocol.sealed_objects import SEALED_EXTRA_B

T = TypeVar("T")

_DRAFT: Final = re.compile(r"#[0-9]+$")
"""The end of the name of a file that is not written to its end."""
_CONNECT_TIMEOUT_S: Final = 5.0
_CALL_TIMEOUT_S: Final = 20.0
_TIMEOUT_S: Final = 30.0
"""Longest for one call, with its repetitions."""
_RETRIES: Final = 2
_AT_ONCE: Final = 32
"""Calls that are made at the same time."""
_PAGE: Final = 1000
_LISTED_FROM: Final = 4096
_PART_B: Final = 8 * MIB
"""Larger objects are read and written in parts, each within `_CALL_TIMEOUT_S`."""
_LEAST_RATE_B: Final = 512 * KIB
"""A large object may take as much more time as this rate needs."""
_PIECE_B: Final = 128 * KIB
"""Of an object that is sent on while it is read."""
_CAUSE_LIMIT: Final = 500
_QUERY: Final = re.compile(r"\?[^\s\"')]*")
_BODY: Final = re.compile(r" Debug source:|<")
_ALLOW_HTTP: Final = ("AWS_ALLOW_HTTP", "AZURE_ALLOW_HTTP", "GOOGLE_ALLOW_HTTP")
_SCHEMES: Final = ("s3", "gs", "az", "file")

_library: Final = cast("Any", obstore)
"""The types of its functions that list are known whole only where Arrow is installed."""

Method = Literal["GET", "PUT"]
_Remote = S3Store | GCSStore | AzureStore


class ObjectMissing(NotFound):
    """There is no object with this key."""


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """Where objects are stored.

    Attributes:
        url: `s3://BUCKET/PREFIX`, `gs://…`, `az://…` or `file:///FOLDER`.
        allow_http: a store that is reached without TLS is permitted.
        keys: with which objects are encrypted.
    """

    url: str
    allow_http: bool = False
    keys: StoreKeys = field(default_factory=StoreKeys)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], data_dir: Path) -> Self:
        """Read `WRENN_STORE` and `WRENN_STORE_KEY`; the default is the folder `store` of the data folder, without encryption.

        Raises:
            InvalidRequest: it cannot be used.
        """
        url = environment.get("WRENN_STORE") or (data_dir / "store").as_uri()
        parts = urlsplit(url)
        if parts.scheme not in _SCHEMES:
            raise InvalidRequest("WRENN_STORE must begin with s3://, gs://, az:// or file:///.")
        if parts.query or parts.fragment or "@" in parts.netloc:
            raise InvalidRequest("WRENN_STORE must not contain credentials or options.")
        if parts.scheme == "file" and (parts.netloc or not parts.path.startswith("/")):
            raise InvalidRequest("WRENN_STORE must name a folder as file:///FOLDER.")
        if parts.scheme != "file" and not parts.netloc:
            raise InvalidRequest("WRENN_STORE must name a bucket.")
        return cls(
            url,
            any(environment.get(name, "").lower() in ("1", "true") for name in _ALLOW_HTTP),
            StoreKeys.from_file(environment.get("WRENN_STORE_KEY", "")),
        )


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the store lists it."""

    key: str
    size_b: int
    modified_at: datetime


class ObjectStore:
    """The objects of this installation, by key. No call takes longer than `timeout_s`, but for objects of many MiB.

    `keys`: with which they are encrypted.

    Every call raises `StoreUnavailable` if the store does not answer or refuses it, and `StorageFull` if it has no space.
    """

    def __init__(self, settings: StoreSettings, signer: UrlSigner, *, timeout_s: float = _TIMEOUT_S) -> None:
        """Connects to nothing yet.

        Raises:
            InvalidRequest: the settings cannot be used.
        """
        self._signer = signer
        self.keys = settings.keys
        self._timeout_s = timeout_s
        self._threads = ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="wrenn-store")
        self._remote: _Remote | None = None
        self._folder: Path | None = None
        try:
            if urlsplit(settings.url).scheme == "file":
                folder = Path(unquote(urlsplit(settings.url).path))
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._store: _Remote | LocalStore = LocalStore(folder)
                self._folder = folder
            else:
                self._store = self._remote = cast(
                    "_Remote",
                    from_url(
                        settings.url,
                        client_options={
                            "allow_http": settings.allow_http,
                            "connect_timeout": timedelta(seconds=_CONNECT_TIMEOUT_S),
                            "timeout": timedelta(seconds=min(_CALL_TIMEOUT_S, timeout_s)),
                        },
                        retry_config={
                            "max_retries": _RETRIES,
                            "retry_timeout": timedelta(seconds=timeout_s),
                        },
                    ),
                )
        except (BaseError, OSError, ValueError) as error:
            raise InvalidRequest(f"WRENN_STORE cannot be used: {_cause(error)}") from error

    async def get(self, key: str, *, limit_b: int) -> bytes:
        """Return the content of an object that `put` wrote.

        Raises:
            ObjectMissing. TooLarge: it has more than `limit_b` bytes. StoreKeyMissing: it is encrypted with a key that is not here.
        """
        return self.keys.open(key, await self.get_stored(key, limit_b=limit_b + SEALED_EXTRA_B))

    async def get_stored(self, key: str, *, limit_b: int) -> bytes:
        """Return an object as it is stored. Raises as `get`."""

        def get() -> bytes | int:
            found = self._store.get(key)
            size_b = found.meta["size"]
            if size_b > limit_b:
                raise TooLarge("The object in the store is larger than it can be.")
            return bytes(found.bytes()) if size_b <= _PART_B else size_b

        found = await self._call("read an object", get)
        if isinstance(found, bytes):
            return found
        # In parts, each with its own deadline: a large object takes as long as its size needs.
        content = bytearray()
        for begin in range(0, found, _PART_B):
            end = min(begin + _PART_B, found)
            content += await self._call("read an object", partial(self._range, key, begin, end))
        return bytes(content)

    async def open_stored(self, key: str, *, limit_b: int) -> tuple[int, AsyncIterator[bytes]]:
        """Return the size of an object as it is stored, and its bytes in pieces. It must not be written meanwhile.

        Raises:
            ObjectMissing. TooLarge: it has more than `limit_b` bytes.
        """
        size_b = await self._call("look for an object", lambda: int(self._store.head(key)["size"]))
        if size_b > limit_b:
            raise TooLarge("The object in the store is larger than it can be.")
        return size_b, self._pieces(key, size_b)

    async def _pieces(self, key: str, size_b: int) -> AsyncIterator[bytes]:
        for begin in range(0, size_b, _PIECE_B):
            end = min(begin + _PIECE_B, size_b)
            yield await self._call("read an object", partial(self._range, key, begin, end))

    def _range(self, key: str, begin: int, end: int) -> bytes:
        return bytes(self._store.get_range(key, start=begin, end=end))

    async def put(self, key: str, data: bytes) -> None:
        """Write an object, encrypted with the current key, whole or not at all."""
        await self.put_sealed(key, data, self.keys.current)

    async def put_sealed(self, key: str, data: bytes, key_id: str | None) -> None:
        """Write an object, encrypted with this key of the store, or (None) as it is. Raises StoreKeyMissing."""
        await self.put_stored(key, self.keys.seal(key, data, key_id))

    async def put_stored(self, key: str, data: bytes) -> None:
        """Write an object as it is, whole or not at all."""
        is_large = len(data) > _PART_B

        def put() -> None:
            if self._folder is not None:
                _write_durably(self._folder / key, data)
                return
            self._store.put(key, data, use_multipart=is_large, chunk_size=_PART_B, max_concurrency=2)

        await self._call("write an object", put, more_s=len(data) / _LEAST_RATE_B if is_large else 0.0)

    async def size_of(self, key: str) -> int | None:
        """Return the size of an object in bytes; None: there is none."""
        try:
            return await self._call("look for an object", lambda: self._store.head(key)["size"])
        except ObjectMissing:
            return None

    async def sizes_of(self, keys: Iterable[str]) -> dict[str, int]:
        """Return the sizes of those objects that exist."""
        sizes: dict[str, int] = {}
        wanted = dict.fromkeys(keys)
        # Of many objects that share their folders a list of these is faster, however many others they have.
        is_listed = len(wanted) >= _LISTED_FROM
        pending = iter({key.rpartition("/")[0] for key in wanted} if is_listed else wanted)

        async def look() -> None:
            for key in pending:
                if is_listed:
                    async for page in self.pages(key):
                        sizes.update({found.key: found.size_b for found in page if found.key in wanted})
                elif (size_b := await self.size_of(key)) is not None:
                    sizes[key] = size_b

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(_AT_ONCE):
                    group.create_task(look())
        except BaseExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return sizes

    async def pages(self, prefix: str) -> AsyncIterator[Sequence[StoredObject]]:
        """Yield the objects whose keys begin with the folder `prefix`, in pages."""
        pages = await self._call(
            "list objects", lambda: iter(_library.list(self._store, prefix, chunk_size=_PAGE))
        )
        while True:
            page = await self._call("list objects", lambda: next(pages, None))
            if page is None:
                return
            yield [StoredObject(str(item["path"]), int(item["size"]), item["last_modified"]) for item in page]

    async def folders(self, prefix: str | None = None) -> list[str]:
        """Return the names of the folders directly below `prefix`, or of the first level."""
        found = await self._call(
            "list objects", lambda: _library.list_with_delimiter(self._store, prefix)["common_prefixes"]
        )
        return [str(folder).rstrip("/").rsplit("/", 1)[-1] for folder in found]

    async def delete(self, keys: Collection[str]) -> None:
        """Delete objects; one that does not exist is a success. When this returns or raises, no deletion is under way."""
        if not keys:
            return
        try:
            await self._delete(list(keys))
        except ObjectMissing:
            # A folder tells of the first one that does not exist, and leaves the others.
            for key in keys:
                await self._delete_one(key)

    async def _delete_one(self, key: str) -> None:
        with contextlib.suppress(ObjectMissing):
            await self._delete(key)

    async def _delete(self, keys: str | list[str]) -> None:
        # To its end, which the deadlines of the library bound: nothing may be deleted when nobody expects it any more.
        await self._call("delete objects", lambda: self._store.delete(keys), to_end=True)

    async def delete_drafts(self, before: datetime) -> int:
        """Delete what writes that were killed before that time left of a folder's objects; returns how many there were."""
        folder = self._folder
        if folder is None:
            return 0
        return await self._call("delete drafts", lambda: _delete_drafts(folder, before), to_end=True)

    async def sign(
        self, method: Method, keys: Sequence[str], *, expires_s: float, is_bounded: bool = False
    ) -> list[str]:
        """Return a URL for each object by which it can be read or written for so long without any credential.

        URLs of a folder are paths of the control plane (`/v1/store/…`), and so are those that are to be bounded: what is written by
        another one may be as large as the store takes.
        """
        if not keys:
            return []
        remote = None if is_bounded else self._remote
        if remote is None:
            return [self._signer.sign(method, key, expires_s) for key in keys]
        expires_in = timedelta(seconds=expires_s)
        return await self._call(
            "sign URLs", lambda: list(obstore.sign(remote, method, list(keys), expires_in))
        )

    @property
    def signs(self) -> bool:
        """Whether the store itself serves signed URLs."""
        return self._remote is not None

    async def close(self) -> None:
        """Wait for the calls that are still under way."""
        await asyncio.to_thread(self._threads.shutdown, cancel_futures=True)

    async def _call(
        self, what: str, work: Callable[[], T], *, more_s: float = 0.0, to_end: bool = False
    ) -> T:
        """Call the library in a thread, bound the wait, and translate its errors.

        Its asynchronous functions are not used: they drop Python objects in threads of their own, which aborts a program
        that ends at that moment. A thread outlives the wait by the library's own deadlines at most.
        """
        future = asyncio.get_running_loop().run_in_executor(self._threads, work)
        try:
            async with asyncio.timeout(None if to_end else self._timeout_s + more_s):
                return await future
        except TimeoutError as error:
            raise StoreUnavailable(
                f"The store could not {what}: it did not answer within {self._timeout_s + more_s:.0f} s."
            ) from error
        except FileNotFoundError as error:
            raise ObjectMissing("There is no such object in the store.") from error
        except (PermissionDeniedError, UnauthenticatedError, PermissionError) as error:
            raise StoreUnavailable(
                f"The store could not {what}: it refuses the control plane's credentials.",
                context={"cause": _cause(error)},
            ) from error
        except (BaseError, OSError) as error:
            cause = _cause(error)
            if "No space left" in cause or "Disk quota exceeded" in cause:
                raise StorageFull("The store is full.", context={"cause": cause}) from error
            raise StoreUnavailable(
                f"The store could not {what}: it cannot be reached, or it failed.", context={"cause": cause}
            ) from error


def _write_durably(path: Path, data: bytes) -> None:
    """Write a file, whole or not at all, also if the power fails: whoever finds an object relies on its content."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    # The library does not list files with such names; `_DRAFT` finds them.
    draft = path.with_name(f"{path.name}#{secrets.randbits(60)}")
    try:
        with draft.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        draft.rename(path)
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    for folder in (path.parent, path.parent.parent):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _delete_drafts(folder: Path, before: datetime) -> int:
    deleted = 0
    for root, _, names in os.walk(folder):
        for name in names:
            draft = Path(root, name)
            if not _DRAFT.search(name):
                continue
            # It may be renamed at this moment, as what is written to the store takes no day.
            with contextlib.suppress(FileNotFoundError):
                if draft.stat().st_mtime < before.timestamp():
                    draft.unlink()
                    deleted += 1
    return deleted


def _cause(error: BaseException) -> str:
    """Return an error's text for the log: on one line, without the body that the store sent and the queries of URLs."""
    text = _BODY.split(" ".join(str(error).split()))[0]
    return _QUERY.sub("?…", text)[:_CAUSE_LIMIT]
