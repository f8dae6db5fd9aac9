"""Whether the machine at the other end of a connection still acknowledges what is sent to it.

The kernel's own limit, TCP_USER_TIMEOUT, does not serve: it also breaks a connection whose peer only does not read, because the time of
a closed window counts, though the peer's machine answers each probe of it (`tcp_probe_timer` of Linux).
"""

from __future__ import annotations

import asyncio
import socket
import struct
from typing import Final

_INFO: Final = struct.Struct("=3xB20xI16xI8xI")
"""Of the kernel's `tcp_info`: probes without an answer, segments without an acknowledgement, milliseconds since data was sent last (also
again), and since the last acknowledgement."""
_LOST_PROBES: Final = 3
"""Of a closed window. One may be lost, and the next follows up to two minutes later; the first two may come too soon for an answer each."""


def is_unanswered(transport: asyncio.BaseTransport, *, for_s: float) -> bool:
    """Return whether what was sent last waits for any acknowledgement, and none has arrived for so long.

    It may have been sent just now, after a long silence. False for a transport without a socket.
    """
    own = transport.get_extra_info("socket")
    if own is None:
        return False
    try:
        # What uvloop returns has no options to read.
        same = socket.socket(fileno=own.fileno())
    except (OSError, ValueError):  # it was closed
        return False
    try:
        info = same.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, _INFO.size)
    except OSError:
        return False
    finally:
        same.detach()
    probes, segments, sent_ms, acknowledged_ms = _INFO.unpack(info)
    # A peer whose buffers are full acknowledges former data again, each time that more is sent in vain, which is done ever less often.
    waits = probes >= _LOST_PROBES or (segments > 0 and acknowledged_ms > sent_ms)
    return waits and acknowledged_ms >= for_s * 1000
