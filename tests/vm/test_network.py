"""Network policies of real sandboxes: from the first instruction on, and across all that becomes of a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from tests.vm.kit import DEFAULT_SHAPE, created, new_spec, output
from wrenn.agent.sandboxes import NetworkSettings, RunningSandbox
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import running_agent
from wrenn.base.ids import SnapshotId
from wrenn.linux.command import run
from wrenn.linux.namespaces import create_namespace, in_namespace, remove_namespace
from wrenn.linux.netlink import AddAddress, AddVeth, BringUp, RemoveLink, send_all
from wrenn.network import EgressPolicy

_NAMESPACE = "wrenn-test-outside"
_LINK = "wrtest0"
_SERVER, _HOST = "44.31.7.1", "44.31.7.2"
_CLOSED = EgressPolicy(allow_internet=False)
_CALL = f"""
import socket
def call():
    try:
        socket.create_connection(("{_SERVER}", 7000), timeout=1).close()
        return "open"
    except OSError:
        return "closed"
"""
_CALLER = "import time\nwhile True:\n    print(call(), file=open('/tmp/calls', 'a'), flush=True)\n    time.sleep(0.05)\n"


@dataclass
class Outside:
    """A server in a network that the host has joined."""

    connections: int = 0

    async def serve(self, _: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        writer.close()


@pytest.fixture
async def outside() -> AsyncIterator[Outside]:
    try:
        await create_namespace(_NAMESPACE)
        await send_all([AddVeth(_LINK, "02:fd:00:00:07:02", "net0", "02:fd:00:00:07:01", _NAMESPACE)])
        await send_all([BringUp("net0"), AddAddress("net0", _SERVER, 24)], namespace=_NAMESPACE)
        # Masquerading asks for an address of global scope.
        await run(["ip", "address", "add", f"{_HOST}/24", "dev", _LINK], timeout_s=5)
        await send_all([BringUp(_LINK)])
        outside = Outside()
        listening = await in_namespace(_NAMESPACE, partial(_listen, _SERVER))
        async with await asyncio.start_server(outside.serve, sock=listening):
            yield outside
    finally:
        await send_all([RemoveLink(_LINK)])
        await remove_namespace(_NAMESPACE)


def _listen(address: str) -> object:
    import socket

    return socket.create_server((address, 7000))


async def call(sandbox: RunningSandbox) -> str:
    """Whether a program in the guest reaches the server."""
    return (await output(sandbox, f"python3 -c '{_CALL}\nprint(call())'")).strip()


async def test_a_policy_applies_from_the_first_instruction_across_pause_resume_fork_and_agent_restart(
    settings: Settings, outside: Outside
) -> None:
    settings = replace(settings, private_networks="44.31.7.0/24")
    async with running_agent(settings) as agent:
        sandboxes = agent.sandboxes
        await agent.bases.get("minimal", DEFAULT_SHAPE)
        spec, sandbox = await created(sandboxes)
        await output(sandbox, f"cat > /tmp/caller.py <<'END'\n{_CALL}{_CALLER}END\n")
        await output(sandbox, "setsid python3 /tmp/caller.py </dev/null >/dev/null 2>&1 &")
        async with asyncio.timeout(20):
            while outside.connections < 3:
                await asyncio.sleep(0.02)

        snapshot_id = SnapshotId.new()
        await sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
        await sandboxes.remove(spec.sandbox_id)
        outside.connections = 0
        copy = new_spec(snapshot_id=str(snapshot_id))
        await sandboxes.ensure(copy, NetworkSettings(_CLOSED, 1))
        sandbox = sandboxes.get(copy.sandbox_id)
        # Its program was calling when the snapshot was taken, and goes on with that at once.
        calls = (
            "for i in $(seq 200); do tail -n 3 /tmp/calls | grep -q open || exit 0; sleep 0.05; done; exit 1"
        )
        await output(sandbox, calls)
        assert outside.connections == 0

        await sandboxes.set_network(copy.sandbox_id, NetworkSettings(EgressPolicy(), 2))
        assert await call(sandbox) == "open"
        await sandboxes.set_network(copy.sandbox_id, NetworkSettings(_CLOSED, 3))
        assert await call(sandbox) == "closed"
        outside.connections = 0
        await sandboxes.pause(copy.sandbox_id)
        await sandboxes.resume(copy.sandbox_id)
        assert await call(sandboxes.get(copy.sandbox_id)) == "closed"

    async with running_agent(settings) as successor:
        sandboxes = successor.sandboxes
        assert await call(sandboxes.get(copy.sandbox_id)) == "closed"
        assert outside.connections == 0
        await sandboxes.pause(copy.sandbox_id)
        await sandboxes.set_network(copy.sandbox_id, NetworkSettings(EgressPolicy(), 4))
    async with running_agent(replace(settings, private_networks="")) as closed_by_operator:
        sandboxes = closed_by_operator.sandboxes
        await sandboxes.resume(copy.sandbox_id)
        assert await call(sandboxes.get(copy.sandbox_id)) == "closed", "the host is directly connected to it"
    async with running_agent(settings) as opened_again:
        sandboxes = opened_again.sandboxes
        assert await call(sandboxes.get(copy.sandbox_id)) == "open"
        await sandboxes.remove(copy.sandbox_id)
        sandboxes.remove_snapshot(snapshot_id)
