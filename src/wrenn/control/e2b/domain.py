"""The host name of the e2b API, and the domain that its clients are told."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Annotated, Final

from fastapi import Depends, Request

from wrenn.control.http import PortDomain, domain_of, service

_API: Final = "api."
_LOCAL: Final = "localhost"


def is_api_host(setting: str, host: str) -> bool:
    """Whether a request with this `Host` is for the e2b API: `api.` before the domain of ports, which is `localhost` if none is set."""
    return _name_of(host) == f"{_API}{_name_of(setting) or _LOCAL}"


def _name_of(host: str) -> str:
    return host.partition(":")[0].lower().rstrip(".")


async def _domain(request: Request, domain: Annotated[PortDomain, service(PortDomain)]) -> str | None:
    host = request.headers.get("host", "")
    own = host[len(_API) :] if is_api_host(domain.setting, host) else host
    found = domain_of(domain.setting, own)
    try:
        ip_address(found.rpartition(":")[0].strip("[]") or found)
    except ValueError:
        return found
    return None


ClientDomainOf = Annotated[str | None, Depends(_domain)]
"""The `domain` of sandboxes in answers: clients make the host names of ports from it. None where the API was called by an IP
address, which has no names below it: clients then use what they are configured with."""
