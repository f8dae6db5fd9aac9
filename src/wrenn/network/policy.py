"""What a sandbox may reach beyond what no sandbox may ever reach."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from typing import Final, Self

from wrenn.base.errors import InvalidRequest

NETWORK_LIMIT: Final = 1000
"""Most networks in one list: nft takes it in some milliseconds, and nobody writes more by hand."""


class EgressMode(StrEnum):
    """How the list of networks is meant."""

    ALLOW_EXCEPT = "allow_except"
    DENY_EXCEPT = "deny_except"


@dataclass(frozen=True, slots=True)
class EgressPolicy:
    """All destinations except the listed networks, or none except them. The default allows all.

    Protected destinations (the host, other sandboxes, metadata services) stay out of reach under any policy.
    """

    mode: EgressMode = EgressMode.ALLOW_EXCEPT
    networks: tuple[IPv4Network, ...] = ()

    @classmethod
    def allow_all(cls) -> Self:
        """Everything that is not protected."""
        return cls()

    @classmethod
    def deny_all(cls) -> Self:
        """Nothing; the host still reaches the sandbox."""
        return cls(EgressMode.DENY_EXCEPT)

    @classmethod
    def allow_only(cls, networks: Iterable[str]) -> Self:
        """Only these. Names are resolved by a server, which must be among them too.

        Raises:
            InvalidRequest: not an IPv4 address or network, or too many.
        """
        return cls(EgressMode.DENY_EXCEPT, _parse(networks))

    @classmethod
    def deny(cls, networks: Iterable[str]) -> Self:
        """Everything but these.

        Raises:
            InvalidRequest: not an IPv4 address or network, or too many.
        """
        return cls(EgressMode.ALLOW_EXCEPT, _parse(networks))


def _parse(texts: Iterable[str]) -> tuple[IPv4Network, ...]:
    networks: list[IPv4Network] = []
    for text in texts:
        try:
            networks.append(IPv4Network(text))
        except ValueError as error:
            raise InvalidRequest(
                f"{text!r} is not an IPv4 network: write it as 203.0.113.0/24, with no bits set after the prefix."
            ) from error
    if len(networks) > NETWORK_LIMIT:
        raise InvalidRequest(
            f"An egress list may have {NETWORK_LIMIT} networks; this one has {len(networks)}."
        )
    # nft refuses a set whose members overlap.
    return tuple(ipaddress.collapse_addresses(networks))
