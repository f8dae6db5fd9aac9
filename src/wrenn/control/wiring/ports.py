"""Builds the visits of ports."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.control.http import Rates
from wrenn.control.proxy import (
    AccessTokens,
    Links,
    LinkSigner,
    PortAccess,
    PublicVisits,
    SandboxLocations,
    SignedFiles,
    TrafficTokens,
)

from .auth import AuthParts
from .base import Base
from .sandboxes import SandboxParts


@dataclass(frozen=True, slots=True)
class PortParts:
    """What a visit of a port needs."""

    locations: SandboxLocations
    access: PortAccess
    links: Links
    signed_files: SignedFiles
    public_visits: PublicVisits


def build_ports(
    base: Base,
    auth: AuthParts,
    sandboxes: SandboxParts,
    rates: Rates,
    link_key: bytes,
    *,
    access_tokens: AccessTokens,
    traffic_tokens: TrafficTokens,
) -> PortParts:
    """Build visits of ports. `link_key` signs links, the same in all replicas."""
    signer = LinkSigner(link_key, base.clock)
    locations = SandboxLocations(
        database=base.database,
        clients=base.clients,
        running_sandboxes=sandboxes.running_sandboxes,
        clock=base.clock,
    )
    access = PortAccess(
        authenticator=auth.authenticator,
        locations=locations,
        lookup=sandboxes.lookup,
        signer=signer,
        clock=base.clock,
        tokens=auth.tokens,
        access_tokens=access_tokens,
        traffic_tokens=traffic_tokens,
    )
    links = Links(lookup=sandboxes.lookup, signer=signer, clock=base.clock)
    signed_files = SignedFiles(database=base.database, tokens=access_tokens, rates=rates, clock=base.clock)
    return PortParts(locations, access, links, signed_files, PublicVisits(base.database))
