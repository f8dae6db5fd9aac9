"""The counters of a network link."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from wrenn.linux.kernel_files import read_kernel_file

_LINKS: Final = "/sys/class/net"


@dataclass(frozen=True, slots=True)
class LinkCounters:
    """Bytes that a link received and sent since it was created."""

    received_b: int
    sent_b: int


def read_counters(link: str) -> LinkCounters | None:
    """Return the counters of the link in this network namespace; None if there is none of this name."""
    try:
        return LinkCounters(
            int(read_kernel_file(f"{_LINKS}/{link}/statistics/rx_bytes")),
            int(read_kernel_file(f"{_LINKS}/{link}/statistics/tx_bytes")),
        )
    except OSError:  # also when it vanishes between opening and reading
        return None
