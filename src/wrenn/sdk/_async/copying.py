"""Copies files and directories between the local machine and a sandbox."""

from __future__ import annotations

import contextlib
import os
import secrets
import stat
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from wrenn.sdk._aio import Source, chunks_of, in_thread, to_end_in_thread
from wrenn.sdk._async.api import AsyncApi
from wrenn.sdk._paths import Progress, RemotePath, Resumed, message_of
from wrenn.sdk._tar import Packed, Unpacker, create_private
from wrenn.sdk.errors import InvalidRequestError
from wrenn.sdk.types import FileEntry

if TYPE_CHECKING:
    from wrenn.sdk._async.files import AsyncFiles


async def upload(
    files: AsyncFiles,
    api: AsyncApi,
    source: str | os.PathLike[str],
    path: RemotePath,
    *,
    owner: str | None,
    atomic: bool | None,
    user: str | None,
    on_progress: Progress | None,
) -> None:
    """Copy a local file or directory into the sandbox: the implementation of `files.upload`."""
    origin = Path(source)
    try:
        about = origin.stat()
        if stat.S_ISDIR(about.st_mode):
            if atomic:
                raise InvalidRequestError("A directory cannot be replaced as a whole: leave atomic out.")
            params = message_of(path, user) | ({} if owner is None else {"owner": owner})
            content = _counted(Packed(origin), None, on_progress)
            await api.upload(
                files.tree_url("write"), content, content_type="application/x-tar", params=params
            )
            return
        with await in_thread(_opened, origin) as file:
            await files.write(
                path,
                _counted(file, about.st_size, on_progress),
                mode=stat.S_IMODE(about.st_mode) & 0o777,
                owner=owner,
                atomic=atomic,
                user=user,
            )
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or origin} cannot be read: {error.strerror}.") from error


async def write_file(
    files: AsyncFiles,
    source: os.PathLike[str],
    path: RemotePath,
    *,
    mode: int | None,
    owner: str | None,
    atomic: bool | None,
    user: str | None,
) -> None:
    """Write one local file into the sandbox: the implementation of `files.write` for paths."""
    origin = Path(source)
    try:
        with await in_thread(_opened, origin) as file:
            await files.write(path, file, mode=mode, owner=owner, atomic=atomic, user=user)
    except OSError as error:
        raise InvalidRequestError(f"{error.filename or origin} cannot be read: {error.strerror}.") from error


def _opened(path: Path) -> BinaryIO:
    return path.open("rb")


async def _counted(source: Source, total: int | None, on_progress: Progress | None) -> AsyncIterator[bytes]:
    passed = 0
    async for chunk in chunks_of(source):
        yield chunk
        passed += len(chunk)
        if on_progress is not None:
            on_progress(passed, total)


async def download(
    files: AsyncFiles,
    api: AsyncApi,
    path: RemotePath,
    target: str | os.PathLike[str],
    *,
    user: str | None,
    on_progress: Progress | None,
    on_resume: Resumed | None,
) -> None:
    """Copy a file or directory of the sandbox to the local machine: the implementation of `files.download`."""
    place = Path(target)
    entry = await files.stat(path, user=user)
    # A link counts as its target, whose type only an attempt shows.
    is_tree = entry.type == "directory" or (entry.type == "symlink" and await _is_tree(files, path, user))
    # Write to a temporary name first: a transfer that fails leaves the previous file unchanged.
    temporary = place.with_name(f".{secrets.token_hex(8)}.part")
    merged = is_tree and place.is_dir()
    if merged and place.is_symlink() and not os.fspath(target).endswith("/"):
        # A former download may have made it: then what is in the sandbox would choose where files are written.
        raise InvalidRequestError(
            f"{place} is a symbolic link: remove it, or write {place}/ to download into the directory that it leads to."
        )
    try:
        if is_tree:
            stream = await api.open("POST", files.tree_url("read"), json=message_of(path, user))
            try:
                await _unpack(stream.chunks(), place if merged else temporary, on_progress)
            finally:
                await stream.close()
        else:
            chunks = files.read_stream(path, user=user, on_resume=on_resume)
            await _save(chunks, temporary, entry, on_progress)
        if not merged:
            await to_end_in_thread(temporary.replace, place)
    except OSError as error:
        raise InvalidRequestError(
            f"{place} cannot be written: {error.strerror or error} ({error.filename or place})."
        ) from error
    finally:
        with contextlib.suppress(OSError, RecursionError):  # what failed before it is what matters
            await to_end_in_thread(_remove, temporary)


async def _is_tree(files: AsyncFiles, path: RemotePath, user: str | None) -> bool:
    try:
        await files.list(path, user=user)
    except InvalidRequestError:
        return False
    return True


async def _unpack(chunks: AsyncIterator[bytes], top: Path, on_progress: Progress | None) -> None:
    unpacker = Unpacker(top)
    passed = 0
    try:
        async for chunk in chunks:
            await to_end_in_thread(unpacker.feed, chunk)
            passed += len(chunk)
            if on_progress is not None:
                on_progress(passed, None)
        unpacker.finish()
    finally:
        unpacker.close()


async def _save(
    chunks: AsyncIterator[bytes], path: Path, entry: FileEntry, on_progress: Progress | None
) -> None:
    total = entry.size if entry.kind == "file" else None
    passed = 0
    with create_private(path) as file:
        async for chunk in chunks:
            await to_end_in_thread(file.write, chunk)
            passed += len(chunk)
            if on_progress is not None:
                on_progress(passed, total)
    path.chmod(entry.mode & 0o777)
    modified_at = entry.modified_at.timestamp()
    os.utime(path, (modified_at, modified_at))


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        import shutil  # noqa: PLC0415 - imports all archive formats

        shutil.rmtree(path, onerror=_remove_closed)
    else:
        path.unlink()


def _remove_closed(function: Callable[..., object], path: str, _error: object) -> None:
    """Remove what is in a directory with a mode that does not permit it: the sandbox chose the mode."""
    for closed in (Path(path).parent, Path(path)):
        if closed.is_dir() and not closed.is_symlink():
            closed.chmod(0o700)
    if function in (os.unlink, os.rmdir):
        function(path)
    elif Path(path).is_dir():
        import shutil  # noqa: PLC0415 - imports all archive formats

        shutil.rmtree(path)
