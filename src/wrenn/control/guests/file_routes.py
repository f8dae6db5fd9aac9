"""Endpoints for files of a sandbox. Contents are streamed both ways."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.guests.files import Files
from wrenn.control.guests.types import Entries, Entry, ListFiles, Move, PathOf, UnpackTo, WatchOf
from wrenn.control.guests.views import file_json
from wrenn.control.http import DownloadResponse, EventsResponse, body_of, refusals, service
from wrenn.protocol.api import UPLOAD_LIMIT_B

router = APIRouter(prefix="/{sandbox_id}/files", tags=["files"])

_BINARY: Final = {"type": "string", "format": "binary"}
_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The content", "content": {"application/octet-stream": {"schema": _BINARY}}},
    206: {
        "description": "The part that the header `Range` names, unless `If-Range` has another `ETag` than the file",
        "content": {"application/octet-stream": {"schema": _BINARY}},
    },
}
_ARCHIVE: Final[dict[int | str, dict[str, Any]]] = {
    200: {"description": "The archive", "content": {"application/x-tar": {"schema": _BINARY}}}
}
_ARCHIVE_IN: Final[dict[str, Any]] = {
    "requestBody": {"required": True, "content": {"application/x-tar": {"schema": _BINARY}}}
}
_EVENTS: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "Server-sent events, JSON each: `started`; then `event` with `event` (`create`, `write`, `remove`, "
        "`rename`, `chmod`, `overflow`), `path` and `name`; `error` with `code` and `message` is the last",
        "content": {"text/event-stream": {"schema": {"type": "string"}}},
    }
}
_UPLOAD: Final[dict[str, Any]] = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["path", "file"],
                    "properties": {
                        "path": {"type": "string", "description": "Absolute; must stand before `file`"},
                        "user": {
                            "type": "string",
                            "default": "root",
                            "description": "Must stand before `file`",
                        },
                        "mode": {"type": "string", "description": "Octal digits; before `file`"},
                        "owner": {"type": "string", "description": "`user` or `user:group`; before `file`"},
                        "atomic": {
                            "type": "string",
                            "enum": ["true", "false"],
                            "default": "false",
                            "description": "Take the old file's place as a whole or not at all; before `file`",
                        },
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


Service = Annotated[Files, service(Files)]


@router.post("/write", status_code=204, responses=refusals(404, 409, 413, 502, 507), openapi_extra=_UPLOAD)
async def write_file(request: Request, sandbox_id: str, credential: CredentialOf, files: Service) -> Response:
    """Write a file of at most 100 MiB: parents are made, an existing file is replaced."""
    await _write(request, sandbox_id, credential, files, limit_b=UPLOAD_LIMIT_B)
    return Response(status_code=204)


@router.post("/stream/write", status_code=204, responses=refusals(404, 409, 502, 507), openapi_extra=_UPLOAD)
async def write_file_stream(
    request: Request, sandbox_id: str, credential: CredentialOf, files: Service
) -> Response:
    """Write a file of any size."""
    await _write(request, sandbox_id, credential, files, limit_b=None)
    return Response(status_code=204)


async def _write(
    request: Request, sandbox_id: str, credential: CredentialOf, files: Service, *, limit_b: int | None
) -> None:
    announced = request.headers.get("content-length", "")
    await files.write(
        credential,
        sandbox_id,
        request.headers.get("content-type", ""),
        body_of(request),
        announced_b=int(announced[:19]) if announced.isdigit() else 0,
        limit_b=limit_b,
    )


@router.post("/read", response_class=Response, responses=_CONTENT | refusals(404, 409, 416, 502))
async def read_file(
    request: Request, sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service
) -> Response:
    """The content of a file, or with the header `Range` a part of it."""
    return DownloadResponse(files.open(credential, sandbox_id, body, request.headers))


@router.post("/stream/read", response_class=Response, responses=_CONTENT | refusals(404, 409, 416, 502))
async def read_file_stream(
    request: Request, sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service
) -> Response:
    """The content of a file; the same as `read`, which streams too."""
    return DownloadResponse(files.open(credential, sandbox_id, body, request.headers))


@router.post("/tar/read", response_class=Response, responses=_ARCHIVE | refusals(404, 409, 502))
async def read_tree(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """A directory with all that is in it, as a tar archive whose names are below it.

    Sockets are left out, and what is in views of the kernel like `/proc`. When something cannot be read to its end, the
    answer breaks off.
    """
    return DownloadResponse(files.open_tree(credential, sandbox_id, body), "application/x-tar")


@router.post("/tar/write", status_code=204, responses=refusals(404, 409, 502, 507), openapi_extra=_ARCHIVE_IN)
async def write_tree(
    request: Request,
    sandbox_id: str,
    where: Annotated[UnpackTo, Query()],
    credential: CredentialOf,
    files: Service,
) -> Response:
    """Unpack a tar archive of any size below a directory, which is made when it is missing.

    Files are replaced, directories merged. Names that lead outside are refused, also through links. What was unpacked
    before an error stays.
    """
    await files.write_tree(credential, sandbox_id, where, body_of(request))
    return Response(status_code=204)


@router.get("/watch", response_class=Response, responses=_EVENTS | refusals(404, 409, 502))
async def watch_files(
    sandbox_id: str, what: Annotated[WatchOf, Query()], credential: CredentialOf, files: Service
) -> Response:
    """The changes in a directory, as they happen.

    `started` says that none is missed from now on, `overflow` that some were: look again. Listening is no use of the
    sandbox, which may be paused by its time-out; that ends the watch with an `error`.
    """
    return EventsResponse(files.watch(credential, sandbox_id, what))


@router.post("/list", response_model=Entries, responses=refusals(404, 409, 502))
async def list_files(sandbox_id: str, body: ListFiles, credential: CredentialOf, files: Service) -> Response:
    """What is in a directory, down to `depth` levels."""
    return JSONResponse(
        {"entries": [file_json(file) for file in await files.list(credential, sandbox_id, body)]}
    )


@router.post("/stat", response_model=Entry, responses=refusals(404, 409, 502))
async def stat_file(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """What is known about one path."""
    return JSONResponse({"entry": file_json(await files.stat(credential, sandbox_id, body))})


@router.post("/mkdir", response_model=Entry, responses=refusals(404, 409, 502, 507))
async def make_dir(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """Make a directory and its parents; 409 when there is something at this path."""
    return JSONResponse({"entry": file_json(await files.make_dir(credential, sandbox_id, body))})


@router.post("/remove", status_code=204, responses=refusals(404, 409, 502))
async def remove_file(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """Remove a file, or a directory with all that is in it; nothing there is fine."""
    await files.remove(credential, sandbox_id, body)
    return Response(status_code=204)


@router.post("/move", response_model=Entry, responses=refusals(404, 409, 502, 507))
async def move_file(sandbox_id: str, body: Move, credential: CredentialOf, files: Service) -> Response:
    """Give a file or directory another path; missing parents of the new one are made."""
    return JSONResponse({"entry": file_json(await files.move(credential, sandbox_id, body))})
