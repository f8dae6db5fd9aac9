"""Network options of e2b as requests of the platform's own services."""

from __future__ import annotations

from ipaddress import ip_network

from wrenn.base.errors import InvalidRequest
from wrenn.control.e2b.errors import NotSupported
from wrenn.control.e2b.sandbox_types import EgressRules, NetworkConfig


def egress(rules: EgressRules, *, allow_internet: bool) -> dict[str, object]:
    """Return what a sandbox may reach, as the platform's own API takes it.

    Raises:
        NotSupported: a rule needs what this platform does not have. InvalidRequest: a denied entry is no network.
    """
    if rules.egress_proxy:
        raise NotSupported("network.egressProxy is not supported on this platform.")
    if rules.rules:
        raise NotSupported("network.rules is not supported on this platform.")
    if isinstance(rules, NetworkConfig) and rules.https_ports:
        raise NotSupported("network.httpsPorts is not supported on this platform.")
    for entry in rules.deny_out:
        if not _is_network(entry):
            raise InvalidRequest(f"network.denyOut: {entry[:100]!r} is not an IP address or network.")
    return {"allow_internet": allow_internet, "allow": rules.allow_out, "deny": rules.deny_out}


def ingress(config: NetworkConfig) -> dict[str, object]:
    """Return how the ports of a sandbox are visited, as the platform's own API takes it."""
    return {"all_ports_public": config.allow_public_traffic, "request_host": config.mask_request_host}


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
