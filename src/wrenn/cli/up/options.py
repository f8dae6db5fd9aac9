"""The `--listen` option."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import typer

DEFAULT_LISTEN = "127.0.0.1:8000"

ListenOption = Annotated[
    str | None,
    typer.Option(
        "--listen", metavar="HOST:PORT", help=f"Address on which the API listens. [default: {DEFAULT_LISTEN}]"
    ),
]


@dataclass(frozen=True, slots=True)
class Address:
    """Address on which the API listens. An IPv6 host has no brackets."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The URL from this machine; a wildcard address is replaced by loopback."""
        host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(self.host, self.host)  # noqa: S104 - compared, not bound
        return f"http://{Address(host, self.port)}"


def parse_listen(text: str | None) -> Address:
    """Parse HOST:PORT.

    Raises:
        typer.BadParameter: it has another form.
    """
    host, _, port = (text or DEFAULT_LISTEN).rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise typer.BadParameter(f"--listen wants HOST:PORT with a port from 1 to 65535, not {text!r}.")
    return Address(host, int(port))
