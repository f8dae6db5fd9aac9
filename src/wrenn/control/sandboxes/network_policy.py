"""Which network policies this installation accepts, and the form in which hosts get them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import (
    PRIVATE_NETWORKS,
    PROTECTED_NETWORKS,
    collapse_networks,
    is_within,
    network_text,
    parse_networks,
)
from wrenn.control.hosts import HostNetworkPolicy
from wrenn.control.sandboxes.records import NetworkPolicy

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
            InvalidRequest: a list holds what is no IPv4 network, or too much; or it allows what no sandbox can reach.
        """
        allowed = _parsed("allow", allow)
        for network in allowed:
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
            tuple(map(network_text, allowed)),
            tuple(map(network_text, _parsed("deny", deny))),
        )


def _parsed(field: str, texts: Sequence[str]) -> tuple[IPv4Network, ...]:
    try:
        return parse_networks(texts)
    except InvalidRequest as error:
        raise InvalidRequest(f"network.{field}: {error.message}") from error


def host_policy(policy: NetworkPolicy, revision: int) -> HostNetworkPolicy:
    """Convert a policy to the form that hosts get."""
    return HostNetworkPolicy(policy.allow_internet, policy.allow, policy.deny, revision)
