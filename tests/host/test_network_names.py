"""Servers that a guest reaches by name, with a real name server, real rules and a hostile guest."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from network_kit import (
    DEADLINE_S,
    INTERNET,
    METADATA,
    PRIVATE,
    REFUSED_WITHIN_S,
    World,
    connects,
    running_world,
    server,
    socket_in,
)

from tests.name_server import NameServer, name_server
from wrenn.base.faults import FaultInjected, arm_faults
from wrenn.linux.namespaces import in_namespace, list_namespaces
from wrenn.linux.netlink import AddAddress, send_all
from wrenn.linux.nft import apply_batch
from wrenn.network import EgressPolicy, NetworkLimits, ReachableNetworks, Slots, name_lookup, name_proxy
from wrenn.network.firewall import NAME_CONNECTIONS_LIMIT
from wrenn.relay.pace import LoopShare, Pace

pytestmark = pytest.mark.root

NAME_SERVER = "44.53.0.1"
ELSEWHERE = "44.31.7.9"
"""A public address at which other servers are."""
NAMED = EgressPolicy.parse(
    allow_internet=False, allow=["good.example.com", "*.good.example.org", "44.40.0.1"]
)


@asynccontextmanager
async def running_names(data_dir: Path) -> AsyncGenerator[tuple[World, NameServer]]:
    reach = ReachableNetworks.parse(name_servers=NAME_SERVER, allowed="")
    async with running_world(data_dir, reach, NetworkLimits(flows=50)) as world:
        for address in (NAME_SERVER, ELSEWHERE, "44.40.0.1"):
            await send_all([AddAddress("lo", address, 32)], namespace=world.internet)
        async with (
            name_server(world.internet, NAME_SERVER, {"good.example.com": [INTERNET]}) as names,
            server(world.internet, INTERNET, 80),
            server(world.internet, INTERNET, 443),
            server(world.internet, "44.40.0.1", 80),
        ):
            yield world, names


@pytest.fixture
async def running(tmp_path: Path) -> AsyncGenerator[tuple[World, NameServer]]:
    async with running_names(tmp_path) as running:
        yield running


@pytest.fixture
def world(running: tuple[World, NameServer]) -> World:
    return running[0]


@pytest.fixture
def names(running: tuple[World, NameServer]) -> NameServer:
    return running[1]


async def get(
    world: World,
    host: str,
    address: str = ELSEWHERE,
    *,
    head: bytes | None = None,
    within_s: float = DEADLINE_S,
) -> str:
    """Send the head of a request from the guest; return the address that the server saw, or what kept it from that.

    The servers here send the address of their client first, then echo lines.
    """
    try:
        async with asyncio.timeout(within_s):
            with await socket_in(world.guest) as client:
                await asyncio.get_running_loop().sock_connect(client, (address, 80))
                reader, writer = await asyncio.open_connection(sock=client)
                try:
                    writer.write(head or f"GET / HTTP/1.1\r\nHost: {host}\r\n\r\n".encode())
                    seen = (await reader.readline()).decode().strip()
                    echoed = (await reader.readline()).decode().strip() if seen else ""
                finally:
                    writer.transport.abort()
                return f"open {echoed}" if seen else "closed"
    except TimeoutError:
        return "silent"
    except OSError:
        return "closed"


OPEN = "open GET / HTTP/1.1"


def hello(name: str) -> bytes:
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=name)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


async def greet(world: World, name: str, address: str = ELSEWHERE) -> bytes:
    """Begin TLS from the guest; return the first bytes that come back."""
    with await socket_in(world.guest) as client:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(client, (address, 443))
            await asyncio.get_running_loop().sock_sendall(client, hello(name))
            return await asyncio.get_running_loop().sock_recv(client, 1000)


async def test_a_guest_reaches_the_servers_that_its_policy_names_and_no_others(
    world: World, names: NameServer
):
    names.zone |= {
        "a.b.good.example.org": [INTERNET],
        "bad.example.com": [INTERNET],
        "good.example.org": [INTERNET],
    }
    assert await get(world, "bad.example.com", INTERNET) == OPEN, "the default policy"
    await world.slots.set_egress(world.ours.index, NAMED)
    for name in ("good.example.com", "GOOD.example.com.", "good.example.com:80", "a.b.good.example.org"):
        assert await get(world, name) == OPEN, name
    names.asked.clear()
    for name in ("bad.example.com", "good.example.org", "com", INTERNET, "xgood.example.com"):
        assert await get(world, name) == "closed", name
    assert names.asked == [], "what is not allowed is not looked up"
    assert await connects(world.guest, "44.40.0.1", 80), "by its address"
    assert not await connects_quickly(world, INTERNET, 7000), "names open two ports only"


async def connects_quickly(world: World, address: str, port: int) -> bool:
    with await socket_in(world.guest) as client:
        try:
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await asyncio.get_running_loop().sock_connect(client, (address, port))
                return True
        except (OSError, TimeoutError):
            return False


async def test_tls_goes_by_the_name_in_the_greeting_and_is_not_intercepted(world: World, names: NameServer):
    await world.slots.set_egress(world.ours.index, NAMED)
    greeting = await greet(world, "good.example.com")
    assert greeting.startswith(b"198.51.100.2\n"), "the server's own bytes"
    assert await greet(world, "bad.example.com", INTERNET) == bytes((21, 3, 3, 0, 2, 2, 49))


async def test_a_connection_goes_through_whole_and_in_both_directions(world: World, names: NameServer):
    await carry_both_ways(world, names)


def test_a_connection_goes_through_whole_on_the_agents_event_loop(tmp_path: Path):
    async def run() -> None:
        async with running_names(tmp_path) as (world, names):
            await carry_both_ways(world, names)

    uvloop.run(run())


async def carry_both_ways(world: World, names: NameServer) -> None:
    await world.slots.set_egress(world.ours.index, NAMED)
    names.zone["good.example.com"] = [ELSEWHERE]
    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(1 << 16):
            received.extend(data)
        writer.write(b"z" * 3_000_000)
        writer.close()

    listening = await socket_in(world.internet)
    listening.bind((ELSEWHERE, 443))
    sent = hello("good.example.com") + b"y" * 3_000_000
    async with await asyncio.start_server(serve, sock=listening):
        with await socket_in(world.guest) as client:
            async with asyncio.timeout(30):
                await asyncio.get_running_loop().sock_connect(client, (INTERNET, 443))
                reader, writer = await asyncio.open_connection(sock=client)
                writer.write(sent)
                writer.write_eof()
                answer = await reader.read()
                writer.close()
    assert bytes(received) == sent
    assert answer == b"z" * 3_000_000


async def test_a_change_closes_connections_to_servers_that_are_not_allowed_any_more(
    world: World, names: NameServer
):
    await world.slots.set_egress(world.ours.index, NAMED)
    names.zone["a.good.example.org"] = [INTERNET]
    async with (
        open_connection(world, "good.example.com") as first,
        open_connection(world, "a.good.example.org") as second,
    ):
        only_first = EgressPolicy.parse(deny=["0.0.0.0/0"], allow=["good.example.com"])
        await world.slots.set_egress(world.ours.index, only_first)
        assert await first() == "echoed"
        assert await second() == "closed"
        assert await get(world, "a.good.example.org") == "closed"
        await world.slots.set_egress(world.ours.index, EgressPolicy(allow_internet=False))
        assert await first() == "closed"
    assert not await connects_quickly(world, INTERNET, 80)
    await world.slots.set_egress(world.ours.index, EgressPolicy())
    assert await get(world, "bad.example.com", INTERNET) == OPEN


@asynccontextmanager
async def open_connection(world: World, name: str) -> AsyncGenerator[Callable[[], Awaitable[str]]]:
    """An open connection; the function that is yielded says whether it is still served."""
    with await socket_in(world.guest) as client:
        async with asyncio.timeout(DEADLINE_S):
            await asyncio.get_running_loop().sock_connect(client, (ELSEWHERE, 80))
            reader, writer = await asyncio.open_connection(sock=client)
            writer.write(f"GET / HTTP/1.1\r\nHost: {name}\r\n\r\n".encode())
            for _ in range(4):
                assert await reader.readline()

        async def ask() -> str:
            try:
                async with asyncio.timeout(DEADLINE_S):
                    writer.write(b"echoed\n")
                    return (await reader.readline()).decode().strip() or "closed"
            except OSError:
                return "closed"

        try:
            yield ask
        finally:
            writer.transport.abort()


async def test_a_name_cannot_lead_to_the_host_or_into_private_networks(world: World, names: NameServer):
    policy = EgressPolicy.parse(allow_internet=False, allow=["*.example.com"])
    await world.slots.set_egress(world.ours.index, policy)
    others = world.block.address(world.theirs.index)
    async with (
        server(None, port=80),
        server(world.other_guest, port=80),
        server(world.internet, METADATA, 80),
    ):
        for number, address in enumerate(
            (*PRIVATE, METADATA, "127.0.0.1", "169.254.1.1", "169.254.0.22", "198.51.100.2", str(others))
        ):
            names.zone[f"n{number}.example.com"] = [address]
            assert await get(world, f"n{number}.example.com") == "closed", address
        names.zone["both.example.com"] = ["10.20.0.1", INTERNET]
        assert await get(world, "both.example.com") == OPEN


async def test_forged_answers_are_ignored_and_long_ones_are_fetched_by_stream(
    world: World, names: NameServer
):
    await world.slots.set_egress(world.ours.index, NAMED)
    names.forged = [ELSEWHERE] * 3
    names.streams_only = True
    assert await get(world, "good.example.com") == OPEN


async def test_addresses_are_remembered_for_the_sandbox_that_asked(world: World, names: NameServer):
    await world.slots.set_egress(world.ours.index, NAMED)
    for _ in range(3):
        assert await get(world, "good.example.com") == OPEN
    assert names.asked == ["good.example.com"]
    await world.slots.set_egress(world.theirs.index, NAMED)
    elsewhere = replace(world, guest=world.other_guest)
    assert await get(elsewhere, "good.example.com") == OPEN
    assert names.asked == ["good.example.com"] * 2


async def test_a_guest_that_names_no_server_in_time_or_too_slowly_is_cut_off(
    world: World, names: NameServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(name_proxy, "HEAD_TIMEOUT_S", 0.3)
    await world.slots.set_egress(world.ours.index, NAMED)
    assert await get(world, "", head=b"GET / HTTP/1.1\r\n") == "closed"
    assert await get(world, "", head=b"x" * 100_000) == "closed"
    assert await get(world, "good.example.com") == OPEN


async def test_a_guest_has_a_limited_number_of_connections_by_name(
    world: World, names: NameServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(name_proxy, "NAME_CONNECTIONS_LIMIT", 5)
    await world.slots.set_egress(world.ours.index, NAMED)
    async with AsyncExitStack() as stack:
        asking = [
            await stack.enter_async_context(open_connection(world, "good.example.com")) for _ in range(5)
        ]
        assert await get(world, "good.example.com") == "closed"
        assert await asking[0]() == "echoed"
    async with asyncio.timeout(DEADLINE_S):
        while await get(world, "good.example.com") != OPEN:
            await asyncio.sleep(0.02)


async def test_no_sandbox_uses_up_what_the_others_of_its_host_need(
    world: World, names: NameServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(name_proxy, "HOST_CONNECTIONS_LIMIT", 4)
    await world.slots.set_egress(world.ours.index, NAMED)
    await world.slots.set_egress(world.theirs.index, NAMED)
    elsewhere = replace(world, guest=world.other_guest)
    async with AsyncExitStack() as stack:
        for _ in range(4):
            await stack.enter_async_context(open_connection(world, "good.example.com"))
        assert await get(world, "good.example.com") == "closed"
        for _ in range(2):
            await stack.enter_async_context(open_connection(elsewhere, "good.example.com"))
        assert await get(elsewhere, "good.example.com") == "closed"
        await world.slots.set_egress(world.ours.index, EgressPolicy())
        assert await get(elsewhere, "good.example.com") == OPEN


async def test_half_open_connections_to_the_proxy_are_limited_by_the_firewall(
    world: World, names: NameServer
):
    await world.slots.set_egress(world.ours.index, NAMED)
    clients = [await socket_in(world.guest) for _ in range(NAME_CONNECTIONS_LIMIT + 60)]
    try:
        for number, client in enumerate(clients):
            with suppress(BlockingIOError):
                client.connect((f"44.31.8.{number % 50}", 80))
        async with asyncio.timeout(DEADLINE_S):
            while await in_namespace(world.ours.namespace, tracked) < NAME_CONNECTIONS_LIMIT:
                await asyncio.sleep(0.02)
        assert await in_namespace(world.ours.namespace, tracked) <= NAME_CONNECTIONS_LIMIT + 2
    finally:
        for client in clients:
            client.close()


async def test_what_the_proxy_does_for_a_guest_is_charged_to_it(
    world: World, names: NameServer, monkeypatch: pytest.MonkeyPatch
):
    """All guests share the agent's event loop: one that has used up its share waits, and the others do not."""
    monkeypatch.setattr(
        name_proxy, "Pace", lambda: Pace(share=0.0001, burst_s=0.005, loop_share=LoopShare(1.0))
    )
    elsewhere = replace(world, guest=world.other_guest)
    await world.slots.set_egress(world.theirs.index, NAMED)
    for use_up in (open_and_close_many, echo_many):
        await world.slots.set_egress(world.ours.index, NAMED)
        await use_up(world)
        assert await get(world, "good.example.com", within_s=REFUSED_WITHIN_S) == "silent", use_up.__name__
        assert await get(elsewhere, "good.example.com") == OPEN
        await world.slots.set_egress(world.ours.index, EgressPolicy())


async def open_and_close_many(world: World) -> None:
    for _ in range(40):
        await connects_quickly(world, ELSEWHERE, 80)


async def echo_many(world: World) -> None:
    async with open_connection(world, "good.example.com") as ask:
        with suppress(TimeoutError):
            for _ in range(200):
                async with asyncio.timeout(REFUSED_WITHIN_S):
                    assert await ask() == "echoed"


def tracked() -> int:
    """Connections that the namespace of the calling thread tracks."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


async def test_without_an_answer_from_the_name_server_the_connection_is_closed(
    world: World, names: NameServer, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(name_lookup, "_SERVER_TIMEOUT_S", 0.2)
    await world.slots.set_egress(world.ours.index, NAMED)
    names.silent = True
    assert await get(world, "good.example.com") == "closed"
    names.silent = False
    assert await get(world, "good.example.com") == OPEN


async def test_after_a_restart_of_the_agent_names_are_served_again_and_meanwhile_nothing_is_open(
    world: World, names: NameServer
):
    await world.slots.set_egress(world.ours.index, NAMED)
    assert await get(world, "good.example.com") == OPEN
    await world.slots.close()
    assert await get(world, "good.example.com", INTERNET) == "closed"
    reach = ReachableNetworks.parse(name_servers=NAME_SERVER, allowed="")
    successor = Slots(world.block, vmm_uid=0, vmm_gid=0, ready_target=0, reach=reach)
    await successor.start(world.slots.taken)
    await successor.set_egress(world.ours.index, NAMED)
    assert await get(world, "good.example.com") == OPEN
    await successor.close()


async def test_a_slot_of_an_agent_that_knew_no_names_gets_them(world: World, names: NameServer):
    for change in ({"delete": {"chain": chain("to_proxy")}}, {"flush": {"chain": chain("input")}}):
        await apply_batch([change], namespace=world.ours.namespace)
    await world.slots.set_egress(world.ours.index, NAMED)
    assert await get(world, "good.example.com") == OPEN


def chain(name: str) -> dict[str, str]:
    return {"family": "inet", "table": "wrenn", "name": name}


async def test_the_namespace_of_a_slot_with_open_connections_by_name_is_removed(
    world: World, names: NameServer
):
    await world.slots.set_egress(world.ours.index, NAMED)
    async with open_connection(world, "good.example.com") as ask:
        await world.slots.remove(world.ours.index, "ours")
        assert world.ours.namespace not in list_namespaces()
        assert await ask() == "closed"


@pytest.fixture
def faults() -> Generator[None]:
    yield
    arm_faults("")


@pytest.mark.usefixtures("faults")
async def test_a_proxy_that_does_not_start_leaves_nothing_and_is_started_by_the_next_call(
    world: World, names: NameServer
):
    arm_faults("network.name_proxy.listening=error")
    with pytest.raises(FaultInjected):
        await world.slots.set_egress(world.ours.index, NAMED)
    arm_faults("")
    await world.slots.set_egress(world.ours.index, NAMED)
    assert await get(world, "good.example.com") == OPEN
