"""Endpoints for links with which a browser downloads a file."""

from __future__ import annotations

from typing import Annotated, Any, Final
from urllib.parse import quote

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from wrenn.control.auth import CredentialOf
from wrenn.control.guests.downloads import Downloads
from wrenn.control.guests.types import DownloadLinkView, MakeDownloadLink
from wrenn.control.http import Browsers, DownloadResponse, refusals, service, wire_time
from wrenn.protocol.api import DOWNLOADS_PREFIX

router = APIRouter(prefix="/{sandbox_id}/files", tags=["files"])
link_router = APIRouter(tags=["files"])

_CONTENT: Final[dict[int | str, dict[str, Any]]] = {
    200: {
        "description": "The file",
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}
_HEADERS: Final = {
    # It comes from a program in a sandbox, under the host name of the dashboard: it is stored and never shown.
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
    # The link is in the address.
    "Referrer-Policy": "no-referrer",
}

Service = Annotated[Downloads, service(Downloads)]


@router.post(
    "/download-link",
    status_code=201,
    response_model=DownloadLinkView,
    responses=refusals(404, 409, 502),
)
async def create_download_link(
    request: Request,
    sandbox_id: str,
    body: MakeDownloadLink,
    credential: CredentialOf,
    *,
    downloads: Service,
    browsers: Annotated[Browsers, service(Browsers)],
) -> Response:
    """Make a link with which a browser downloads a file to its disk. It works once, for a minute, without a credential."""
    link = await downloads.create(credential, sandbox_id, body)
    url = f"{browsers.base_url(request)}{DOWNLOADS_PREFIX}/{link.token.reveal()}"
    answer = {"url": url, "expires_at": wire_time(link.expires_at)}
    return JSONResponse(answer, 201, {"Cache-Control": "no-store"})


@link_router.get("/{token}", response_class=Response, responses=_CONTENT | refusals(404, 409, 502))
async def download(token: str, downloads: Service) -> Response:
    """The file of a link that `download-link` made, which is used up. Needs no credential."""
    opened = await downloads.use(token)
    headers = {**_HEADERS, "Content-Disposition": _attachment(opened.name)}
    return DownloadResponse(downloads.open(opened), headers=headers)


def _attachment(name: str) -> str:
    """Return the header that makes a browser store a file under this name, which a program in a sandbox has chosen.

    What cannot be seen, for instance a change of the direction of writing, is replaced.
    """
    name = "".join(c if c.isprintable() else "_" for c in name)
    plain = "".join(c if c.isascii() and (c.isalnum() or c in "._- ") else "_" for c in name)[:200]
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(name, safe='', errors='replace')}"
