"""The domain below which ports of sandboxes are reached: the setting, or the name by which the API itself was called."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from typing import Annotated, Final
from urllib.parse import urlsplit

from fastapi import Depends, Request

from wrenn.control.http.services import service

_LOCAL: Final = "localhost"
"""Browsers and curl take every name below it for this machine."""


def domain_of(setting: str, host: str) -> str:
    """Return `host[:port]` below which ports are reached, for a client that called the API by this `Host`.

    An address has no names below it: for one of this machine it is `localhost`; under any other one the ports are reached by
    headers only.
    """
    if setting:
        return setting
    try:
        parts = urlsplit(f"//{host}")
        name, port = parts.hostname or _LOCAL, parts.port
    except ValueError:
        return _LOCAL
    try:
        if ipaddress.ip_address(name).is_loopback:
            name = _LOCAL
    except ValueError:
        pass  # a name
    return name if port is None else f"{name}:{port}"


def are_ports_below_pages(setting: str, public_url: str | None) -> bool:
    """Whether programs in sandboxes have host names below that of the dashboard, so that their pages can set cookies for it."""
    pages = urlsplit(public_url or "").hostname or _LOCAL
    ports = urlsplit(f"//{domain_of(setting, pages)}").hostname or _LOCAL
    return pages != _LOCAL and (ports == pages or ports.endswith(f".{pages}"))


@dataclass(frozen=True, slots=True)
class PortDomain:
    """The setting for the domain of ports; empty: the name by which the API was called."""

    setting: str


async def _domain(request: Request, domain: Annotated[PortDomain, service(PortDomain)]) -> str:
    return domain_of(domain.setting, request.headers.get("host", ""))


DomainOf = Annotated[str, Depends(_domain)]
