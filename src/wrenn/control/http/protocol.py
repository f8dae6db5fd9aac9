"""The server's HTTP/1.1 protocol with bounds on what comes before the application sees a request.

The parser has none: a head of any size, a header without an end, or one that trickles in for ever would be kept.
"""

from __future__ import annotations

import asyncio
import json
from typing import Any, ClassVar, Final

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

HEAD_LIMIT_B: Final = 64 * 1024
"""Request line and headers together; the largest of ours is a path of 4 KiB, escaped."""
HEADERS_LIMIT: Final = 100
HEAD_TIMEOUT_S: Final = 20.0
"""From the first byte of a connection, or of its next request, to the end of the head."""

_MESSAGE: Final = (
    f"The head of the request has more than {HEAD_LIMIT_B // 1024} KiB or {HEADERS_LIMIT} headers."
)


class _TooMuchError(Exception):
    """The head is above its limits; the parser turns it into its own error."""


class BoundedHttp(HttpToolsProtocol):
    """See the module head."""

    head_timeout_s: ClassVar = HEAD_TIMEOUT_S

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._head_b = 0
        # Bytes since the parser has last given something that was let go of: a head, or a part of a body.
        self._held_b = 0
        self._too_much = False
        self._head_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first head."""
        super().connection_made(transport)
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._head_came()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse, unless too much is held back."""
        self._held_b += len(data)
        super().data_received(data)
        if self.transport.is_closing():
            return
        if self._held_b > HEAD_LIMIT_B:
            self._refuse()
        elif self._is_idle():
            self._expect_head()

    def on_message_begin(self) -> None:
        """A head begins."""
        super().on_message_begin()
        self._head_b = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request line."""
        self._count(len(url))
        super().on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        """A whole header, or a trailer."""
        self._count(len(name) + len(value))
        if len(self.headers) >= HEADERS_LIMIT:
            self._count(HEAD_LIMIT_B)
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """The application may begin."""
        self._head_came()
        self._held_b = 0
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._held_b = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The next head may begin."""
        self._held_b = 0
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        """Refuse what the parser refused: because of us, or because it is not HTTP."""
        if self._too_much:
            self._refuse()
        elif not self.transport.is_closing():
            super().send_400_response(msg)

    def _count(self, size_b: int) -> None:
        self._head_b += size_b
        if self._head_b > HEAD_LIMIT_B:
            self._too_much = True
            raise _TooMuchError

    def _refuse(self) -> None:
        """Answer 431, if no answer has begun, and close."""
        if self._is_idle():
            body = json.dumps({"error": {"code": "too_large", "message": _MESSAGE}}).encode()
            head = (
                "HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-type: application/json\r\n"
                f"content-length: {len(body)}\r\nconnection: close\r\n\r\n"
            )
            self.transport.write(head.encode() + body)
        self.transport.close()

    def _is_idle(self) -> bool:
        """No answer is under way."""
        return not self.cycle or self.cycle.response_complete

    def _expect_head(self) -> None:
        if self._head_timer is None:
            self._head_timer = self.loop.call_later(self.head_timeout_s, self._head_late)

    def _head_came(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_late(self) -> None:
        self._head_timer = None
        if not self.transport.is_closing():
            self.transport.close()
