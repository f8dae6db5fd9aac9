"""The HTTP client of a relay: nothing added, nothing unpacked, nothing followed, nothing remembered."""

from __future__ import annotations

from typing import Final

import aiohttp

from wrenn.base.units import KIB
from wrenn.relay.connections import NoCookies

CONNECT_TIMEOUT_S: Final = 5.0
SILENCE_S: Final = 3600.0
"""Longest that a program may take to answer, or be silent within its answer; a server of events that has none says so."""
READ_AHEAD_B: Final = 256 * KIB
"""Read ahead of a slow reader; up to twice as much is handed on at once."""
HEAD_LINE_LIMIT_B: Final = 32 * KIB
"""Longest line of an answer's head."""
HEADER_LIMIT: Final = 128
"""Most headers of an answer."""


def new_session(connector: aiohttp.BaseConnector) -> aiohttp.ClientSession:
    """A client on these connections, which it owns."""
    return aiohttp.ClientSession(
        connector=connector,
        auto_decompress=False,
        cookie_jar=NoCookies(),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_S),
        trust_env=False,
        read_bufsize=READ_AHEAD_B,
        max_line_size=HEAD_LINE_LIMIT_B,
        max_field_size=HEAD_LINE_LIMIT_B,
        max_headers=HEADER_LIMIT,
        skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
    )
