"""Changes the network policy of a running or paused sandbox."""

from __future__ import annotations

from wrenn.base.errors import DeadlineExceeded, InvalidState, Unavailable
from wrenn.base.ids import SandboxId
from wrenn.control.audit import Actor
from wrenn.control.auth import Credential
from wrenn.control.db import Database, Hints, Transaction
from wrenn.control.hosts import HostClients, HostEndpoint
from wrenn.control.sandboxes import desired_state_store
from wrenn.control.sandboxes.lookup import Lookup
from wrenn.control.sandboxes.network_policy import SET_TIMEOUT_S, NetworkRules, host_policy
from wrenn.control.sandboxes.operations import network_store
from wrenn.control.sandboxes.records import Sandbox
from wrenn.control.sandboxes.types import SetNetwork


class Networks:
    """Changes network policies: first the row, then the host.

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
        """Change the policy of a running or paused sandbox; returns when it is in force. Absent fields keep their values.

        Not an activity. A change that changes nothing is told to the host all the same.

        Raises:
            InvalidRequest: a list is wrong; nothing was changed. InvalidState: it neither runs nor is paused, or it is being moved.
            Unavailable: its host does not answer; the change comes into force when it does.
        """
        found = await self._lookup.locate(credential, text_id)
        by, sandbox_id = found.caller.actor, found.sandbox.sandbox_id
        changed = await self._database.transaction(lambda tx: self._write(tx, sandbox_id, body, by))
        await self._send_to_host(changed, found.host)
        return changed

    async def _write(self, tx: Transaction, sandbox_id: SandboxId, body: SetNetwork, by: Actor) -> Sandbox:
        now = await desired_state_store.lock_to_change(
            tx, sandbox_id, only="the network of one that runs or is paused can be changed"
        )
        if now.is_moving:
            raise InvalidState(
                f"Sandbox {sandbox_id} is {now.state_text}: its network can be changed afterwards."
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

    async def _send_to_host(self, sandbox: Sandbox, host: HostEndpoint) -> None:
        client = self._clients.at(host)
        policy = host_policy(sandbox.network, sandbox.network_revision)
        try:
            await client.set_network(sandbox.sandbox_id, policy, timeout_s=SET_TIMEOUT_S)
        except (Unavailable, DeadlineExceeded) as error:
            raise Unavailable(
                f"The host of sandbox {sandbox.sandbox_id} does not answer now. Its new network policy is stored and comes"
                " into force as soon as the host answers.",
                context=error.context,
            ) from error
