"""Which network policies this installation accepts, and the form in which hosts get them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final, TypeVar

from wrenn.base.errors import InvalidRequest
from wrenn.base.host_names import HostPattern, destination_text, parse_destinations
from wrenn.base.networks import (
    EVERYTHING,
    PRIVATE_NETWORKS,
    PROTECTED_NETWORKS,
    collapse_networks,
    is_within,
    network_text,
    parse_networks,
)
from wrenn.control.hosts import HostNetworkPolicy
from wrenn.control.sandboxes.records import NetworkPolicy

_T = TypeVar("_T")

SET_TIMEOUT_S: Final = 15.0
"""A change takes 25 ms; one of a sandbox that is being paused or resumed waits for that."""
_PROTECTED: Final = collapse_networks(PROTECTED_NETWORKS)
_NOT_PUBLIC: Final = collapse_networks([*PROTECTED_NETWORKS, *PRIVATE_NETWORKS])


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """Which network policies may be requested on this installation.

    Attributes:
        private_networks: parts of private networks that the operator opens to sandboxes. The hosts enforce it; here it is
            known so that a request that cannot have an effect is refused.
    """

    private_networks: tuple[IPv4Network, ...] = ()

    def policy(self, *, allow_internet: bool, allow: Sequence[str], deny: Sequence[str]) -> NetworkPolicy:
        """Check the requested lists and return the policy.

        Raises:
            InvalidRequest: a list holds what is no IPv4 network or host name, or too much; or it allows what no sandbox can
                reach; or names while everything is allowed.
        """
        allowed = _parsed("allow", allow, parse_destinations)
        denied = _parsed("deny", deny, parse_networks)
        names = [entry for entry in allowed if isinstance(entry, HostPattern)]
        if names and allow_internet and not is_within(EVERYTHING, collapse_networks(denied)):
            # To connect by name, each connection to the ports of HTTP and TLS has to tell its server's name.
            raise InvalidRequest(
                f"network.allow: the name {names[0]} has an effect only if all else is denied: set allow_internet to false, or"
                " deny 0.0.0.0/0."
            )
        for network in allowed:
            if isinstance(network, HostPattern):
                continue
            if is_within(network, _PROTECTED):
                raise InvalidRequest(
                    f"network.allow: {network_text(network)} is never reachable from a sandbox: it belongs to the host, to"
                    " other sandboxes, to a metadata service, or is reserved."
                )
            if is_within(network, _NOT_PUBLIC) and not any(
                network.overlaps(opened) for opened in self.private_networks
            ):
                raise InvalidRequest(
                    f"network.allow: {network_text(network)} is not a public network. Only the operator can open it, with"
                    " the setting WRENN_GUEST_PRIVATE_NETWORKS."
                )
        return NetworkPolicy(
            allow_internet,
            tuple(map(destination_text, allowed)),
            tuple(map(network_text, denied)),
        )


def _parsed(field: str, texts: Sequence[str], parse: Callable[[Sequence[str]], _T]) -> _T:
    try:
        return parse(texts)
    except InvalidRequest as error:
        raise InvalidRequest(f"network.{field}: {error.message}") from error


def host_policy(policy: NetworkPolicy, revision: int) -> HostNetworkPolicy:
    """Convert a policy to the form that hosts get."""
    allowed = parse_destinations(policy.allow)
    return HostNetworkPolicy(
        policy.allow_internet,
        [network_text(entry) for entry in allowed if not isinstance(entry, HostPattern)],
        policy.deny,
        revision,
        [str(entry) for entry in allowed if isinstance(entry, HostPattern)],
    )
