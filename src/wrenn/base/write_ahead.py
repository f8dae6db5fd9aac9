"""Servers that read on while their clients take what they were sent."""

from __future__ import annotations

import asyncio
from typing import Final, cast

AHEAD_B: Final = 1024 * 1024
"""Of one connection. With the usual 64 KiB each chunk of a download waits until the one before is nearly gone."""


class WriteAhead(asyncio.Protocol):
    """A mixin for a server's protocol: up to `AHEAD_B` may wait to be sent before the writer has to wait."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        super().connection_made(transport)
        cast("asyncio.Transport", transport).set_write_buffer_limits(high=AHEAD_B)
