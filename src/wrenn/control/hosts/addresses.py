"""Addresses at which agents are reached, as they name them at their registration."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from typing import Final, Self

from wrenn.base.errors import InvalidRequest
from wrenn.base.ids import HostId

ADDRESS_LIMIT: Final = 260
_SCHEME: Final = "https://"
_LABEL: Final = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
_NAME_LIMIT: Final = 253
_PORT: Final = re.compile(r"[1-9][0-9]{0,4}")
_WRONG: Final = "address: must be IP:PORT or NAME:PORT, an IPv6 address in brackets."


@dataclass(frozen=True, slots=True)
class HostAddress:
    """Where an agent serves. `host` is an IP address or a DNS name in lower case."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `IP:PORT` or `NAME:PORT`.

        Raises:
            InvalidRequest: something else, or an address at which nothing can be called.
        """
        host, colon, port = text.rpartition(":")
        if len(text) > ADDRESS_LIMIT or not colon or _PORT.fullmatch(port) is None or int(port) > 65_535:
            raise InvalidRequest(_WRONG)
        return cls(_ip_of(host) or _name_of(host), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def url(self) -> str:
        """The form in which the database stores it."""
        return f"{_SCHEME}{self}"

    def check_remote(self) -> None:
        """Return if this can be the address of a machine of somebody else, whom the control plane must not help to call itself.

        Raises:
            InvalidRequest: it is a loopback, link-local or unspecified address.
        """
        if _is_local_name(self.host) or is_own_machine(self.host):
            raise InvalidRequest("address: must not be a loopback, link-local or unspecified address.")


def is_own_machine(ip: str) -> bool:
    """Whether an IP address is a loopback, link-local or unspecified one; False: another one, or a name."""
    return any(each.is_loopback or each.is_link_local or each.is_unspecified for each in _forms_of(ip))


def address_of(url: str) -> str:
    """Return `HOST:PORT` of a stored address; empty: there is none."""
    return url.removeprefix(_SCHEME)


def _ip_of(text: str) -> str | None:
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        ip = ipaddress.ip_address(bare)
    except ValueError:
        return None
    is_v6 = isinstance(ip, ipaddress.IPv6Address)
    if is_v6 != (bare != text) or "%" in bare:
        raise InvalidRequest(_WRONG)
    if any(each.is_unspecified or each.is_multicast for each in _forms_of(bare)):
        raise InvalidRequest("address: must be the address of one machine, not of any or of several.")
    return str(ip)


def _forms_of(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Return an IP address and the IPv4 address that is mapped into it; empty: it is a name."""
    try:
        ip = ipaddress.ip_address(host)
    except ValueError:
        return []
    mapped = ip.ipv4_mapped if isinstance(ip, ipaddress.IPv6Address) else None
    return [ip] if mapped is None else [ip, mapped]


def _is_local_name(name: str) -> bool:
    return name == "localhost" or name.endswith(".localhost")


def check_no_host_id(name: str) -> None:
    """Return if a DNS name may be in a certificate beside the id of its host.

    Raises:
        InvalidRequest: it begins as the ids of hosts do, by which the control plane identifies agents.
    """
    if name.lower().startswith(HostId.PREFIX):
        raise InvalidRequest(
            f"address: must not be a name that begins with {HostId.PREFIX}, as ids of hosts do."
        )


def _name_of(text: str) -> str:
    name = text.lower()
    check_no_host_id(name)
    labels = name.split(".")
    # A last label of digits would be read as an IP address by some.
    is_numeric = labels[-1].isdigit() or labels[-1].startswith("0x")
    if len(name) > _NAME_LIMIT or is_numeric or not all(_LABEL.fullmatch(label) for label in labels):
        raise InvalidRequest(_WRONG)
    return name
