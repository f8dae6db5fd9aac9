"""Names of hosts in the allow lists of network policies, such as `example.com` and `*.example.com`."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, Self, TypeAlias

from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import NETWORKS_LIMIT, network_text, parse_network

HOST_PATTERN_LIMIT: Final = 255
"""Most characters of a pattern: a name of 253 and the prefix `*.`."""
_NAME_LIMIT: Final = 253
_LABEL: Final = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_IPV6: Final = re.compile(r"[0-9a-fA-F.]*:[0-9a-fA-F.:/]*")
_ANY_SUBDOMAIN: Final = "*."


@dataclass(frozen=True, slots=True)
class HostPattern:
    """A host name, or all names below one.

    Attributes:
        name: in lower case, without the prefix `*.`.
        subdomains: whether it stands for all names below `name`, at any depth, and not for `name` itself.
    """

    name: str
    subdomains: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Parse `example.com` or `*.example.com`.

        Raises:
            InvalidRequest: it is neither.
        """
        name = normal_host_name(text.removeprefix(_ANY_SUBDOMAIN))
        if name is None:
            raise InvalidRequest(
                f"{text[:60]!r} is not a host name: write it as example.com, or *.example.com for all names below it,"
                " and names with other letters than a to z in their form that begins with xn--."
            )
        return cls(name, text.startswith(_ANY_SUBDOMAIN))

    def matches(self, name: str) -> bool:
        """Whether a name in the form of `normal_host_name` is meant."""
        return name.endswith(f".{self.name}") if self.subdomains else name == self.name

    def __str__(self) -> str:
        return f"{_ANY_SUBDOMAIN}{self.name}" if self.subdomains else self.name


Destination: TypeAlias = IPv4Network | HostPattern
"""An entry of an allow list."""


def normal_host_name(text: str) -> str | None:
    """Return a host name in lower case and without a dot at the end; None if it is none.

    A name has at least two labels. An IPv4 address is not a name.
    """
    name = text.lower().removesuffix(".")
    labels = name.split(".")
    is_name = (
        text.isascii()
        and len(name) <= _NAME_LIMIT
        and len(labels) >= 2
        and all(_LABEL.fullmatch(label) for label in labels)
        # Otherwise programs may read it as an address, as they do with 127.1 and 0x7f.0.0.1.
        and not labels[-1][0].isdigit()
    )
    return name if is_name else None


def parse_destinations(texts: Iterable[str]) -> tuple[Destination, ...]:
    """Parse a list of networks and host names. Duplicates are removed; the order is preserved.

    Raises:
        InvalidRequest: one is neither, or there are too many.
    """
    destinations: dict[Destination, None] = {}
    for count, text in enumerate(texts, 1):
        if count > NETWORKS_LIMIT:
            raise InvalidRequest(f"A list of destinations may have at most {NETWORKS_LIMIT} entries.")
        destinations[HostPattern.parse(text) if _looks_like_name(text) else parse_network(text)] = None
    return tuple(destinations)


def destination_text(destination: Destination) -> str:
    """Format a destination so that `parse_destinations` reads it."""
    return network_text(destination) if isinstance(destination, IPv4Network) else str(destination)


def _looks_like_name(text: str) -> bool:
    return not _IPV6.fullmatch(text) and any(character.isalpha() or character == "*" for character in text)
