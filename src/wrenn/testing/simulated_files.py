"""Files of a simulated sandbox over HTTP, as an agent serves them."""

from __future__ import annotations

import asyncio
import io
import json
import os
import re
import tarfile
from collections.abc import AsyncGenerator
from pathlib import Path

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response, StreamingResponse

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.testing.simulated_box import Box

_CHUNK_B = 65536
_WAITING_LIMIT = 64
_SILENCE_S = 0.5


async def answer(box: Box, path: Path, kind: str, request: Request) -> Response:
    """Serve one transfer or watch."""
    match request.method, kind:
        case "GET", "files":
            return _content(path, request)
        case "PUT", "files":
            return await _write(path, request)
        case "GET", "files/tar":
            return _pack(path)
        case "PUT", "files/tar":
            return await _unpack(path, request)
        case "GET", "files/watch":
            return _watch(box, path)
        case _:
            raise NotFound("No such path.")


def _content(path: Path, request: Request) -> Response:
    if not path.is_file():
        raise NotFound("no such file")
    about = path.stat()
    tag, size, status = f'"{about.st_ino:x}-{about.st_ctime_ns:x}"', about.st_size, 200
    start, end = 0, size
    headers = {"etag": tag}
    wanted = re.fullmatch(r"bytes=(\d+)-(\d*)", request.headers.get("range", ""))
    if wanted and request.headers.get("if-range", tag) == tag:
        start, end = int(wanted[1]), min(size, int(wanted[2] or size) + 1)
        if start >= size:
            return Response(status_code=416, headers={"content-range": f"bytes */{size}"})
        status, headers["content-range"] = 206, f"bytes {start}-{end - 1}/{size}"

    async def chunks() -> AsyncGenerator[bytes]:
        with path.open("rb") as file:
            file.seek(start)
            left = end - start
            while chunk := file.read(min(left, _CHUNK_B)):
                left -= len(chunk)
                yield chunk

    return StreamingResponse(chunks(), status, {**headers, "content-length": str(end - start)})


async def _write(path: Path, request: Request) -> Response:
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_name(".part")  # as short as it must be beside the longest name
    try:
        with scratch.open("wb") as file:
            async for chunk in request.stream():
                file.write(chunk)
    except ClientDisconnect:
        scratch.unlink()
        raise
    if mode := request.query_params.get("mode"):
        scratch.chmod(int(mode, 8))
    scratch.rename(path)
    # What a folder of this machine cannot show is kept beside it.
    asked = {name: request.query_params[name] for name in ("owner", "atomic") if name in request.query_params}
    os.setxattr(path, "user.asked", json.dumps(asked).encode())
    return Response(status_code=204)


def _pack(path: Path) -> Response:
    if not path.is_dir():
        raise NotFound("no such directory")
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        tar.add(path, ".")
    return Response(archive.getvalue(), media_type="application/x-tar")


async def _unpack(path: Path, request: Request) -> Response:
    path.mkdir(parents=True, exist_ok=True)
    try:
        with tarfile.open(fileobj=io.BytesIO(await request.body())) as tar:
            tar.extractall(path, filter="tar")
    except tarfile.TarError as error:
        raise InvalidRequest(f"the archive is not valid: {error}") from error
    return Response(status_code=204)


def _watch(box: Box, path: Path) -> Response:
    if not path.is_dir():
        raise NotFound("no such directory")
    waiting = asyncio.Queue[dict[str, str]](_WAITING_LIMIT)

    async def lines() -> AsyncGenerator[bytes]:
        box.watches.append(waiting)
        try:
            yield _line({"kind": "started", "name": ""})
            while True:
                try:
                    async with asyncio.timeout(_SILENCE_S):
                        line = await waiting.get()
                except TimeoutError:
                    yield _line({"kind": "keepalive", "name": ""})
                    continue
                yield _line(line)
                if line["kind"] == "error":
                    return
        finally:
            box.watches.remove(waiting)

    return StreamingResponse(lines(), media_type="application/x-ndjson")


def _line(line: dict[str, str]) -> bytes:
    return json.dumps(line).encode() + b"\n"
