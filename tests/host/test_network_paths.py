"""Which packets get through, with real namespaces, taps and rules."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest
from network_kit import (
    DEADLINE_S,
    HOST_UPLINK,
    INTERNET,
    METADATA,
    connection,
    guest,
    internet,
    is_reachable,
    private_host,
    server,
    socket_in,
)

from wrenn.linux.command import run
from wrenn.linux.namespaces import in_namespace, set_sysctls
from wrenn.linux.netlink import AddAddress, AddDefaultRoute, send_all
from wrenn.linux.nft import apply_batch
from wrenn.network import (
    Block,
    EgressPolicy,
    Slot,
    Slots,
    claim_block,
    leftovers,
    release_block,
    remove_everything,
)
from wrenn.network.sweep import ensure_root_table

pytestmark = pytest.mark.root


@dataclass
class World:
    """Two sandboxes on one host with an internet."""

    block: Block
    slots: Slots
    internet: str
    ours: Slot
    guest: str
    theirs: Slot
    other_guest: str


@pytest.fixture
async def world(tmp_path: Path) -> AsyncGenerator[World]:
    block = claim_block(tmp_path)
    try:
        with private_host():
            async with AsyncExitStack() as stack:
                stack.push_async_callback(remove_everything, block)
                outside = await stack.enter_async_context(internet(block))
                slots = Slots(block, vmm_uid=0, vmm_gid=0, ready_target=0)
                await slots.start({})
                stack.push_async_callback(slots.close)
                ours, theirs = await slots.acquire("ours"), await slots.acquire("theirs")
                inside = await stack.enter_async_context(guest(ours))
                other = await stack.enter_async_context(guest(theirs))
                yield World(block, slots, outside, ours, inside, theirs, other)
            assert await leftovers(block, ()) == []
    finally:
        release_block(tmp_path)


@pytest.mark.parametrize("rp_filter", ["1", "2"], ids=["strict", "loose"])
async def test_host_reaches_guest_and_guest_reaches_internet(world: World, rp_filter: str):
    checks = {"ipv4/conf/all/rp_filter": rp_filter}
    for namespace in (None, world.ours.namespace):
        await in_namespace(namespace, partial(set_sysctls, checks))
    async with server(world.guest), server(world.internet):
        async with connection(None, world.ours.address) as (seen_as, echo):
            assert seen_as == "169.254.1.1"
            assert await echo("to the guest") == "to the guest"
        async with connection(world.guest, INTERNET) as (seen_as, echo):
            assert seen_as == HOST_UPLINK
            assert await echo("to the internet") == "to the internet"


@pytest.mark.parametrize("destination", [HOST_UPLINK, "169.254.1.1", "169.254.0.22"])
async def test_the_host_is_out_of_a_guests_reach(world: World, destination: str):
    async with server(None), server(world.ours.namespace):
        assert await is_reachable(None, HOST_UPLINK)
        assert not await is_reachable(world.guest, destination)


async def test_sandboxes_are_out_of_each_others_reach(world: World):
    async with server(world.other_guest):
        assert await is_reachable(None, world.theirs.address)
        assert not await is_reachable(world.guest, world.theirs.address)


async def test_sandboxes_stay_apart_when_the_host_has_lost_its_rules(world: World):
    await apply_batch([{"delete": {"table": {"family": "inet", "name": world.block.table}}}])
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.other_guest), server(world.internet):
        assert await is_reachable(None, world.theirs.address)
        assert await is_reachable(world.guest, INTERNET)
        assert not await is_reachable(world.guest, world.theirs.address)
        assert not await is_reachable(world.guest, METADATA)
        assert await ensure_root_table(world.block)
        assert not await ensure_root_table(world.block)
        assert await is_reachable(world.guest, INTERNET)


async def test_the_root_table_alone_protects_too(world: World):
    loose = {"table": {"family": "inet", "name": "wrenn"}}
    for name in ("guard", "forward"):
        chain = {"family": "inet", "table": "wrenn", "name": name}
        await apply_batch([{"flush": {"chain": chain}}], namespace=world.ours.namespace)
    accept = {"family": "inet", "table": "wrenn", "chain": "forward", "expr": [{"accept": None}]}
    await apply_batch([{"add": loose}, {"add": {"rule": accept}}], namespace=world.ours.namespace)
    async with server(world.internet), server(None), server(world.other_guest):
        assert await is_reachable(world.guest, INTERNET)
        for destination in (METADATA, HOST_UPLINK, "169.254.1.1", world.theirs.address):
            assert not await is_reachable(world.guest, destination)


async def test_metadata_services_are_out_of_reach(world: World):
    async with server(world.internet):
        assert await is_reachable(None, METADATA)
        assert not await is_reachable(world.guest, METADATA)


async def test_a_port_that_the_host_publishes_elsewhere_is_out_of_reach(world: World):
    table: dict[str, object] = {"family": "inet", "name": "published"}
    chain = {"family": "inet", "table": "published", "name": "in"}
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 7001}}
    forward = {"dnat": {"family": "ip", "addr": INTERNET, "port": 7000}}
    rule = {"family": "inet", "table": "published", "chain": "in", "expr": [port, forward]}
    hooked = chain | {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}
    await apply_batch([{"add": {"table": table}}, {"add": {"chain": hooked}}, {"add": {"rule": rule}}])
    async with server(world.internet):
        assert await is_reachable(world.guest, INTERNET, 7001)
        assert not await is_reachable(world.guest, HOST_UPLINK, 7001)


async def test_nobody_but_the_host_reaches_a_guest(world: World):
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.guest):
        assert await is_reachable(None, world.ours.address)
        assert not await is_reachable(world.internet, world.ours.address)


async def test_the_root_table_alone_lets_nobody_into_a_slot(world: World):
    table = {"table": {"family": "inet", "name": "wrenn"}}
    await apply_batch([{"delete": table}], namespace=world.ours.namespace)
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.ours.namespace):
        assert await is_reachable(None, world.ours.address)
        assert not await is_reachable(world.internet, world.ours.address)


async def test_packets_under_a_false_address_go_nowhere(world: World):
    await send_all([AddAddress("eth0", "203.0.113.9", 32)], namespace=world.guest)
    receiver = await socket_in(world.internet, socket.SOCK_DGRAM)
    false, honest = [await socket_in(world.guest, socket.SOCK_DGRAM) for _ in range(2)]
    with receiver, false, honest:
        receiver.bind((INTERNET, 7000))
        false.bind(("203.0.113.9", 0))
        honest.bind(("169.254.0.21", 0))
        honest.sendto(b"first", (INTERNET, 7000))
        false.sendto(b"false", (INTERNET, 7000))
        honest.sendto(b"last", (INTERNET, 7000))
        async with asyncio.timeout(DEADLINE_S):
            arrived = [await asyncio.get_running_loop().sock_recvfrom(receiver, 100) for _ in range(2)]
    assert [(text, sender[0]) for text, sender in arrived] == [
        (b"first", HOST_UPLINK),
        (b"last", HOST_UPLINK),
    ]


async def test_a_guest_cannot_fill_the_hosts_neighbour_table(world: World):
    make = partial(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0806))
    with await in_namespace(world.guest, make) as wire:
        wire.bind(("eth0", 0x0806))
        for number in range(50):
            sender = bytes.fromhex("02fc00000005") + bytes([169, 254, 77, number])
            target = bytes(6) + bytes([169, 254, 0, 22])
            head = bytes.fromhex("ffffffffffff02fc000000050806" + "0001080006040001")
            wire.send(head + sender + target)
    async with server(world.guest):
        assert await is_reachable(None, world.ours.address)
    listing = await run(["ip", "-netns", world.ours.namespace, "-json", "neighbour"], timeout_s=5)
    assert {entry["dst"] for entry in json.loads(listing)} == {"169.254.0.21", "169.254.1.1"}


async def test_segments_fit_a_narrow_way_out(world: World):
    await run(["ip", "link", "set", "up0", "mtu", "1300"], timeout_s=5)
    async with server(world.internet):
        with await socket_in(world.guest) as client:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.get_running_loop().sock_connect(client, (INTERNET, 7000))
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1260


async def test_nothing_leaves_by_ipv6(world: World):
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    assert await in_namespace(world.ours.namespace, disabled.read_text) == "1\n"


async def test_a_stricter_policy_ends_what_is_open_and_spares_the_host(world: World):
    async with server(world.internet), server(world.guest), connection(world.guest, INTERNET) as (_, echo):
        assert await echo("before") == "before"
        await world.slots.set_egress(world.ours.index, EgressPolicy.deny_all())
        with pytest.raises((OSError, TimeoutError)):
            async with asyncio.timeout(0.4):
                await echo("after")
        assert not await is_reachable(world.guest, INTERNET)
        assert await is_reachable(None, world.ours.address)


@pytest.mark.parametrize(
    ("policy", "reachable"),
    [
        (EgressPolicy.allow_all(), True),
        (EgressPolicy.allow_only([INTERNET]), True),
        (EgressPolicy.allow_only(["203.0.113.0/24"]), False),
        (EgressPolicy.deny(["198.51.100.0/24"]), False),
        (EgressPolicy.deny(["203.0.113.0/24"]), True),
    ],
)
async def test_lists_decide_what_a_guest_reaches(world: World, policy: EgressPolicy, reachable: bool):
    await world.slots.set_egress(world.ours.index, EgressPolicy.deny_all())
    await world.slots.set_egress(world.ours.index, policy)
    async with server(world.internet):
        assert await is_reachable(world.guest, INTERNET) == reachable


async def test_connections_survive_a_restart_of_the_agent(world: World):
    async with server(world.internet), connection(world.guest, INTERNET) as (_, echo):
        assert await echo("before") == "before"
        await world.slots.close()
        successor = Slots(world.block, vmm_uid=0, vmm_gid=0, ready_target=0)
        await successor.start(world.slots.taken)
        assert await echo("after") == "after"
        await successor.close()
