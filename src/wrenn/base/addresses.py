"""Addresses in settings, as `HOST:PORT`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

from wrenn.base.errors import InvalidRequest

_OFF: Final = "off"


def host_and_port(text: str) -> tuple[str, int] | None:
    """Read `HOST:PORT`, an IPv6 address in brackets; None: it is something else."""
    try:
        parts = urlsplit(f"//{text}")
        if parts.hostname and parts.port is not None and not parts.path:
            return parts.hostname, parts.port
    except ValueError:
        pass  # not a port
    return None


@dataclass(frozen=True, slots=True)
class MetricsAddress:
    """Where metrics are served. Here, so that reading settings imports neither web server nor metrics.

    Attributes:
        host: empty: nowhere.
        port: 0: a free one.
        is_default: nobody chose it, so that a port which is taken is no reason not to start.
    """

    host: str
    port: int = 0
    is_default: bool = False

    @classmethod
    def parse(cls, name: str, text: str, *, default_port: int) -> MetricsAddress:
        """`HOST:PORT`, `off`, or empty for `default_port` of the loopback address; `name` is that of the setting.

        Raises:
            InvalidRequest: neither of them.
        """
        if not text:
            return cls("127.0.0.1", default_port, is_default=True)
        if text == _OFF:
            return cls("")
        if (found := host_and_port(text)) is None:
            raise InvalidRequest(f"{name} must be HOST:PORT, such as 127.0.0.1:{default_port}, or {_OFF}.")
        return cls(*found)
