"""The HTTP client of a relay: adds no headers, does not decompress, follows no redirects, and stores no cookies."""

from __future__ import annotations

from typing import Final

import aiohttp

from wrenn.base.units import KIB
from wrenn.relay.connections import IgnoredCookies

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_S: Final = 3600.0
"""Longest silence before or within a response. A server-sent event stream with no events sends comments to
stay open."""
READ_AHEAD_B: Final = 256 * KIB
"""Bytes read ahead of a slow reader; up to twice as many are delivered at once."""
HEAD_LINE_LIMIT_B: Final = 32 * KIB
"""Longest line in the head of a response."""
HEADER_LIMIT: Final = 128
"""Most headers of a response."""


def new_session(
    connector: aiohttp.BaseConnector, *, connect_timeout_s: float | None = None
) -> aiohttp.ClientSession:
    """Create a client that uses and owns `connector`. `connect_timeout_s` limits the wait for one of its connections too."""
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=IgnoredCookies(),
        timeout=aiohttp.ClientTimeout(
            total=None, connect=connect_timeout_s, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S
        ),
        trust_env=False,
        read_bufsize=READ_AHEAD_B,
        max_line_size=HEAD_LINE_LIMIT_B,
        max_field_size=HEAD_LINE_LIMIT_B,
        max_headers=HEADER_LIMIT,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )
