"""Error responses for visitors: a page for browsers, the platform's error format for programs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from http import HTTPStatus
from typing import Final

from wrenn.base.errors import RateLimited, WrennError
from wrenn.protocol.api import REQUEST_ID_HEADER
from wrenn.relay import Headers

_PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem }}
small {{ color: #666 }}
</style>
<h1>{title}</h1>
<p>{message}</p>
{hint}<p><small>{code} · request {request_id}</small></p>
</html>
"""
_HINTS: Final = {
    "port_closed": "Start the program in the sandbox, then load this page again.",
    "invalid_state": "Its owner can resume it.",
    "host_unavailable": "Load this page again in a moment.",
}


def error_response(
    error: WrennError,
    *,
    request_id: str,
    as_page: bool,
    status: int | None = None,
    fields: Mapping[str, object] | None = None,
    message: str | None = None,
) -> tuple[int, Headers, bytes]:
    """Build status, headers and body of an error response: a page for browsers, JSON for programs.

    `status` and `fields` replace the status and the JSON of the platform's own format; `message` that of a page.
    """
    status = error.http_status if status is None else status
    if as_page:
        hint = _HINTS.get(error.code, "") if message is None else ""
        text = _PAGE.format(
            title=escape(HTTPStatus(status).phrase if status != 499 else "Cancelled"),
            message=escape(error.message if message is None else message),
            hint=f"<p>{escape(hint)}</p>\n" if hint else "",
            code=escape(error.code) if message is None else str(status),
            request_id=request_id,
        )
    else:
        ours = {"error": {"code": error.code, "message": error.message, **error.details}}
        text = json.dumps(ours if fields is None else dict(fields))
    body = text.encode()
    headers: Headers = [
        (b"content-type", b"text/html; charset=utf-8" if as_page else b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (b"cache-control", b"no-store"),
        (
            b"content-security-policy",
            b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'self'",
        ),
        (REQUEST_ID_HEADER.lower().encode(), request_id.encode()),
    ]
    if isinstance(error, RateLimited):
        headers.append((b"retry-after", str(error.retry_after_s).encode()))
    elif error.retryable:
        headers.append((b"retry-after", b"1"))
    return status, headers, body
