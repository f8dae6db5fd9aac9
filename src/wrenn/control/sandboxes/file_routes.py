"""Endpoints for files of a sandbox. Contents are streamed both ways."""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.http import DownloadResponse, body_of, refusals
from wrenn.control.sandboxes.files import Files
from wrenn.control.sandboxes.types import Entries, Entry, ListFiles, Move, PathOf
from wrenn.protocol.api import UPLOAD_LIMIT_B

router = APIRouter(prefix="/{sandbox_id}/files", tags=["files"])

_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The content",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
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
                        "file": {"type": "string", "format": "binary"},
                    },
                }
            }
        },
    }
}


async def _files(request: Request) -> Files:
    return request.app.state.files


Service = Annotated[Files, Depends(_files)]


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


@router.post("/read", response_class=Response, responses=_CONTENT | refusals(404, 409, 502))
async def read_file(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """The content of a file."""
    return DownloadResponse(await files.open(credential, sandbox_id, body))


@router.post("/stream/read", response_class=Response, responses=_CONTENT | refusals(404, 409, 502))
async def read_file_stream(
    sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service
) -> Response:
    """The content of a file; the same as `read`, which streams too."""
    return DownloadResponse(await files.open(credential, sandbox_id, body))


@router.post("/list", response_model=Entries, responses=refusals(404, 409, 502))
async def list_files(sandbox_id: str, body: ListFiles, credential: CredentialOf, files: Service) -> Response:
    """What is in a directory, down to `depth` levels."""
    return JSONResponse({"entries": await files.list(credential, sandbox_id, body)})


@router.post("/stat", response_model=Entry, responses=refusals(404, 409, 502))
async def stat_file(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """What is known about one path."""
    return JSONResponse({"entry": await files.stat(credential, sandbox_id, body)})


@router.post("/mkdir", response_model=Entry, responses=refusals(404, 409, 502, 507))
async def make_dir(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """Make a directory and its parents; 409 when there is something at this path."""
    return JSONResponse({"entry": await files.make_dir(credential, sandbox_id, body)})


@router.post("/remove", status_code=204, responses=refusals(404, 409, 502))
async def remove_file(sandbox_id: str, body: PathOf, credential: CredentialOf, files: Service) -> Response:
    """Remove a file, or a directory with all that is in it; nothing there is fine."""
    await files.remove(credential, sandbox_id, body)
    return Response(status_code=204)


@router.post("/move", response_model=Entry, responses=refusals(404, 409, 502))
async def move_file(sandbox_id: str, body: Move, credential: CredentialOf, files: Service) -> Response:
    """Give a file or directory another path; parents of the new one must exist."""
    return JSONResponse({"entry": await files.move(credential, sandbox_id, body)})
