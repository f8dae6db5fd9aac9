"""How a stream of the guest agent ends for a client behind a TLS proxy when it breaks off, for example because the sandbox is killed.

A client that is connected directly sees that its connection is cut. Common releases of Caddy and HAProxy end a response of HTTP/2 that
broke off as if it were whole. So for clients behind a proxy the stream ends with an error of its own protocol, unless it breaks off in
the middle of a message.
"""

from __future__ import annotations

import json
import struct
from collections.abc import MutableMapping
from typing import Any, Final

from wrenn.relay import Head, IncompleteResponse, Scope, Send, header_value

_STREAM: Final = b"application/connect+"
_HEAD: Final = struct.Struct(">BI")
_END_FLAG: Final = 0x02
_FORWARDED: Final = frozenset({b"x-forwarded-for", b"x-forwarded-proto", b"forwarded", b"via"})
_ERROR: Final = json.dumps(
    {"error": {"code": "unavailable", "message": "The connection to the sandbox broke off."}}
).encode()
_END: Final = _HEAD.pack(_END_FLAG, len(_ERROR)) + _ERROR


class StreamEnd:
    """Passes the messages of a response on, and ends a stream that broke off, if its client is behind a proxy."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self._send = send
        self._is_behind_proxy = any(name in _FORWARDED for name, _ in scope["headers"])
        self._is_stream = False
        self._unread = bytearray()
        self._missing_b = 0
        self._has_ended = False

    def begin(self, head: Head) -> None:
        """Look at the head of the response."""
        kind = header_value(head.headers, b"content-type") or b""
        self._is_stream = self._is_behind_proxy and head.status == 200 and kind.startswith(_STREAM)

    async def send(self, message: MutableMapping[str, Any]) -> None:
        """Send a message of the response."""
        if self._is_stream and message["type"] == "http.response.body":
            self._follow(message.get("body", b""))
        await self._send(message)

    def _follow(self, body: bytes) -> None:
        """Count where messages begin: each has a flag and its length before it."""
        position = 0
        while position < len(body):
            if self._missing_b:
                step = min(self._missing_b, len(body) - position)
                self._missing_b -= step
            else:
                step = min(_HEAD.size - len(self._unread), len(body) - position)
                self._unread += body[position : position + step]
                if len(self._unread) == _HEAD.size:
                    flags, self._missing_b = _HEAD.unpack(self._unread)
                    self._has_ended = self._has_ended or bool(flags & _END_FLAG)
                    self._unread.clear()
            position += step

    async def finish(self, error: IncompleteResponse) -> None:
        """End a response that broke off.

        Raises:
            IncompleteResponse: it cannot be ended so that its client notices; its connection is to be cut.
        """
        if not self._is_stream or self._unread or self._missing_b or self._has_ended:
            raise error
        await self._send({"type": "http.response.body", "body": _END})
