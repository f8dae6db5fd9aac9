"""The network policy of a sandbox: what a request may ask for, and changing it while the sandbox is there."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network
from typing import Final

from wrenn.base.errors import DeadlineExceeded, InvalidRequest, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.base.networks import (
    PRIVATE_NETWORKS,
    PROTECTED_NETWORKS,
    collapsed,
    is_within,
    network_text,
    parse_networks,
)
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import HostClients
from wrenn.control.sandboxes import network_store, wish_store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.records import NetworkPolicy, Sandbox
from wrenn.control.sandboxes.types import SetNetwork
from wrenn.protocol.host import host_pb as pb

SET_TIMEOUT_S: Final = 15.0
"""A change takes 25 ms; one of a sandbox that is being paused or resumed waits for that."""
_PROTECTED: Final = collapsed(PROTECTED_NETWORKS)
_NOT_PUBLIC: Final = collapsed([*PROTECTED_NETWORKS, *PRIVATE_NETWORKS])


@dataclass(frozen=True, slots=True)
class NetworkRules:
    """Which policies make sense on this installation.

    Attributes:
        private_networks: parts of private networks that the operator opens to sandboxes. The hosts enforce it; here it is
            known so that a request that cannot have an effect is refused.
    """

    private_networks: tuple[IPv4Network, ...] = ()

    def policy(self, *, allow_internet: bool, allow: Sequence[str], deny: Sequence[str]) -> NetworkPolicy:
        """The policy of a request.

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


def network_message(policy: NetworkPolicy, revision: int) -> pb.NetworkPolicy:
    """The policy as hosts are told it."""
    return pb.NetworkPolicy(
        allow_internet=policy.allow_internet,
        allow=list(policy.allow),
        deny=list(policy.deny),
        revision=revision,
    )


class Networks:
    """Changes network policies: first the row, which says what should be, then the host.

    A host that misses a change is told again by the comparison, which sees its older revision.
    """

    def __init__(
        self, *, database: Database, hints: Hints, clients: HostClients, lookup: Lookup, rules: NetworkRules
    ) -> None:
        self._database = database
        self._hints = hints
        self._clients = clients
        self._lookup = lookup
        self._rules = rules

    async def set_network(self, credential: Credential, text_id: str, body: SetNetwork) -> Sandbox:
        """Change the policy of a running or paused sandbox; returns when it is in force. What is absent stays.

        Not an activity. A change that changes nothing is told to the host all the same.

        Raises:
            InvalidRequest: a list is wrong; nothing was changed. InvalidState: it neither runs nor is paused.
            Unavailable: its host does not answer; the change comes into force when it does.
        """
        found = await self._lookup.locate(credential, text_id)
        by, sandbox_id = found.caller.actor, found.sandbox.sandbox_id
        changed = await self._database.transaction(lambda tx: self._write(tx, sandbox_id, body, by))
        await self._tell(changed, found.address)
        return changed

    async def _write(self, tx: Transaction, sandbox_id: SandboxId, body: SetNetwork, by: Actor) -> Sandbox:
        now = await wish_store.lock_to_change(
            tx, sandbox_id, only="the network of one that runs or is paused can be changed"
        )
        policy = self._rules.policy(
            allow_internet=(
                now.network.allow_internet if body.allow_internet is None else body.allow_internet
            ),
            allow=now.network.allow if body.allow is None else body.allow,
            deny=now.network.deny if body.deny is None else body.deny,
        )
        if policy == now.network:
            return now
        return await network_store.write_network(tx, self._hints, sandbox_id, policy, by=by)

    async def _tell(self, sandbox: Sandbox, address: str) -> None:
        client = self._clients.at(address)
        request = pb.SetNetworkRequest(
            sandbox_id=str(sandbox.sandbox_id),
            network=network_message(sandbox.network, sandbox.network_revision),
        )
        try:
            await client.call(client.rpc.set_network, request, timeout_s=SET_TIMEOUT_S)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                f"The host of sandbox {sandbox.sandbox_id} does not answer now. Its new network policy is stored and comes"
                " into force as soon as the host answers.",
                context=error.context,
            ) from error
