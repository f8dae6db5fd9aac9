"""Converts the network policies of `host.proto` to the agent's values."""

from __future__ import annotations

from wrenn.network import EgressPolicy
from wrenn.protocol.host import host_pb as pb


def policy_of(policy: pb.NetworkPolicy | None) -> EgressPolicy:
    """Return the egress policy of a message; the default one if there is none.

    Raises:
        InvalidRequest: a destination is neither a network nor a host name.
    """
    if policy is None:
        return EgressPolicy()
    return EgressPolicy.parse(
        allow_internet=policy.allow_internet,
        allow=[*policy.allow, *policy.allow_names],
        deny=policy.deny,
    )
