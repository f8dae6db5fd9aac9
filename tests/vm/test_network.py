"""Network policies of real sandboxes: from the first instruction on, and across all that becomes of a sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from functools import partial

import pytest

from tests.name_server import name_server
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

    async def serve_web(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\nConnection: close\r\n\r\nopen")
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
        listening = await in_namespace(_NAMESPACE, partial(_listen, _SERVER, 7000))
        web = await in_namespace(_NAMESPACE, partial(_listen, _SERVER, 80))
        async with (
            await asyncio.start_server(outside.serve, sock=listening),
            await asyncio.start_server(outside.serve_web, sock=web),
        ):
            yield outside
    finally:
        await send_all([RemoveLink(_LINK)])
        await remove_namespace(_NAMESPACE)


def _listen(address: str, port: int) -> object:
    import socket

    return socket.create_server((address, port))


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


async def fetch(sandbox: RunningSandbox, host: str) -> str:
    """What a program in the guest gets from the server of this name. It looks the name up nowhere."""
    program = (
        "import http.client\n"
        f"connection = http.client.HTTPConnection('44.31.7.9', 80, timeout=20)\n"
        "try:\n"
        f"    connection.request('GET', '/', headers={{'Host': '{host}'}})\n"
        "    print(connection.getresponse().read().decode())\n"
        "except (OSError, http.client.HTTPException):\n"
        "    print('closed')\n"
    )
    return (await output(sandbox, f'python3 -c "{program}"')).strip()


async def test_servers_are_reached_by_name_across_pause_resume_fork_and_agent_restart(
    settings: Settings, outside: Outside
) -> None:
    settings = replace(settings, private_networks="44.31.7.0/24", guest_dns=_SERVER)
    named = EgressPolicy.parse(allow_internet=False, allow=["good.example.com"])
    good, bad = "good.example.com", "bad.example.com"
    zone = {good: [_SERVER], bad: [_SERVER]}
    async with name_server(_NAMESPACE, _SERVER, zone) as names:
        async with running_agent(settings) as agent:
            sandboxes = agent.sandboxes
            await agent.bases.get("minimal", DEFAULT_SHAPE)
            spec, sandbox = await created(sandboxes)
            await sandboxes.set_network(spec.sandbox_id, NetworkSettings(named, 2))
            assert [await fetch(sandbox, host) for host in (good, bad)] == ["open", "closed"]
            await sandboxes.pause(spec.sandbox_id)
            await sandboxes.resume(spec.sandbox_id)
            sandbox = sandboxes.get(spec.sandbox_id)
            assert [await fetch(sandbox, host) for host in (good, bad)] == ["open", "closed"]
            snapshot_id = SnapshotId.new()
            await sandboxes.ensure_snapshot(spec.sandbox_id, snapshot_id)
            copy = new_spec(snapshot_id=str(snapshot_id))
            await sandboxes.ensure(copy, NetworkSettings(named, 1))
            found = sandboxes.get(copy.sandbox_id)
            assert [await fetch(found, host) for host in (good, bad)] == ["open", "closed"]
            await sandboxes.remove(copy.sandbox_id)
        async with running_agent(settings) as successor:
            sandboxes = successor.sandboxes
            sandbox = sandboxes.get(spec.sandbox_id)
            assert [await fetch(sandbox, host) for host in (good, bad)] == ["open", "closed"]
            await sandboxes.set_network(spec.sandbox_id, NetworkSettings(_CLOSED, 3))
            assert await fetch(sandbox, good) == "closed"
            await sandboxes.remove(spec.sandbox_id)
            sandboxes.remove_snapshot(snapshot_id)
        assert set(names.asked) == {good}
