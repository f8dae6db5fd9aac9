"""Which packets get through, with real namespaces, taps and rules."""

from __future__ import annotations

import asyncio
import json
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from network_kit import (
    ANSWERED_WITHIN_S,
    DEADLINE_S,
    GATEWAY,
    HOST_UPLINK,
    INTERNET,
    METADATA,
    ON_LINK,
    PRIVATE,
    REFUSED_WITHIN_S,
    World,
    connection,
    connects,
    is_answered_by_udp,
    is_reachable,
    running_world,
    server,
    socket_in,
    udp_server,
)
from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from wrenn.linux.command import run
from wrenn.linux.namespaces import in_namespace, set_sysctls
from wrenn.linux.netlink import AddAddress, AddDefaultRoute, send_all
from wrenn.linux.nft import apply_batch
from wrenn.network import (
    EgressPolicy,
    NetworkLimits,
    ReachableNetworks,
    Slots,
    ensure_flow_table,
)
from wrenn.network.firewall import GUEST, PING_FLOWS_LIMIT, root_table_removal, slot_table
from wrenn.network.limits import ENTRIES_A_FLOW, FlowTable
from wrenn.network.plan import TAP_ADDRESS
from wrenn.network.root_firewall import RootFirewall

pytestmark = pytest.mark.root

FLOWS = 50
MBIT = 40


@pytest.fixture
def reach() -> ReachableNetworks:
    """The operator's settings; tests replace them by parametrisation."""
    return ReachableNetworks()


@pytest.fixture
async def world(tmp_path: Path, reach: ReachableNetworks) -> AsyncGenerator[World]:
    limits = NetworkLimits(flows=FLOWS, bit_per_s=MBIT * 1_000_000)
    async with running_world(tmp_path, reach, limits) as running:
        yield running


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
async def test_a_guest_cannot_reach_the_host(world: World, destination: str):
    async with server(None), server(world.ours.namespace):
        assert await connects(None, HOST_UPLINK)
        assert not await is_reachable(world.guest, destination)


async def test_sandboxes_cannot_reach_each_other(world: World):
    async with server(world.other_guest):
        assert await connects(None, world.theirs.address)
        assert not await is_reachable(world.guest, world.theirs.address)


async def test_sandboxes_stay_apart_when_the_host_has_lost_its_rules(world: World):
    await apply_batch([{"delete": {"table": {"family": "inet", "name": world.block.table}}}])
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.other_guest), server(world.internet):
        assert await connects(None, world.theirs.address)
        assert await connects(world.guest, INTERNET)
        assert not await is_reachable(world.guest, world.theirs.address)
        assert not await is_reachable(world.guest, METADATA)
        assert not await is_reachable(world.guest, PRIVATE[0])
        firewall = RootFirewall(world.block, ReachableNetworks())
        assert await firewall.ensure() == "gone"
        assert await firewall.ensure() is None
        assert await connects(world.guest, INTERNET)


async def test_the_root_table_alone_protects_too(world: World):
    loose = {"table": {"family": "inet", "name": "wrenn"}}
    for name in ("guard", "forward"):
        chain = {"family": "inet", "table": "wrenn", "name": name}
        await apply_batch([{"flush": {"chain": chain}}], namespace=world.ours.namespace)
    accept = {"family": "inet", "table": "wrenn", "chain": "forward", "expr": [{"accept": None}]}
    await apply_batch([{"add": loose}, {"add": {"rule": accept}}], namespace=world.ours.namespace)
    async with server(world.internet), server(None), server(world.other_guest):
        assert await connects(world.guest, INTERNET)
        for destination in (METADATA, HOST_UPLINK, "169.254.1.1", world.theirs.address, *PRIVATE, ON_LINK):
            assert not await is_reachable(world.guest, destination)


async def test_metadata_services_are_unreachable(world: World):
    async with server(world.internet):
        assert await connects(None, METADATA)
        assert not await is_reachable(world.guest, METADATA)


async def test_a_port_that_the_host_forwards_elsewhere_is_unreachable(world: World):
    table: dict[str, object] = {"family": "inet", "name": "published"}
    chain = {"family": "inet", "table": "published", "name": "in"}
    port = {"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 7001}}
    forward = {"dnat": {"family": "ip", "addr": INTERNET, "port": 7000}}
    rule = {"family": "inet", "table": "published", "chain": "in", "expr": [port, forward]}
    hooked = chain | {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}
    await apply_batch([{"add": {"table": table}}, {"add": {"chain": hooked}}, {"add": {"rule": rule}}])
    async with server(world.internet):
        assert await connects(world.guest, INTERNET, 7001)
        assert not await is_reachable(world.guest, HOST_UPLINK, 7001)


async def test_only_the_host_reaches_a_guest(world: World):
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.guest):
        assert await connects(None, world.ours.address)
        assert not await is_reachable(world.internet, world.ours.address)


async def test_the_root_table_alone_blocks_access_to_a_slot(world: World):
    table = {"table": {"family": "inet", "name": "wrenn"}}
    await apply_batch([{"delete": table}], namespace=world.ours.namespace)
    await send_all([AddDefaultRoute("net0", HOST_UPLINK, INTERNET)], namespace=world.internet)
    async with server(world.ours.namespace):
        assert await connects(None, world.ours.address)
        assert not await is_reachable(world.internet, world.ours.address)


async def test_packets_with_a_spoofed_address_are_dropped(world: World):
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
        assert await connects(None, world.ours.address)
    listing = await run(["ip", "-netns", world.ours.namespace, "-json", "neighbour"], timeout_s=5)
    assert {entry["dst"] for entry in json.loads(listing)} == {"169.254.0.21", "169.254.1.1"}


async def test_tcp_segments_fit_a_smaller_uplink_mtu(world: World):
    await run(["ip", "link", "set", "up0", "mtu", "1300"], timeout_s=5)
    async with server(world.internet):
        with await socket_in(world.guest) as client:
            async with asyncio.timeout(DEADLINE_S):
                await asyncio.get_running_loop().sock_connect(client, (INTERNET, 7000))
            assert client.getsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG) <= 1260


async def test_no_ipv6_packet_leaves(world: World):
    disabled = Path("/proc/sys/net/ipv6/conf/all/disable_ipv6")
    assert await in_namespace(world.ours.namespace, disabled.read_text) == "1\n"


async def test_either_table_drops_ipv6_where_the_kernel_would_forward_it(world: World):
    host_link = world.block.host_link(world.ours.index)
    await in_namespace(
        world.ours.namespace,
        partial(set_sysctls, {"ipv6/conf/all/disable_ipv6": "0", "ipv6/conf/all/forwarding": "1"}),
    )
    await in_namespace(None, partial(set_sysctls, {f"ipv6/conf/{host_link}/disable_ipv6": "0"}))
    for namespace, *words in [
        (world.ours.namespace, "address", "add", "fd00:1::1/64", "dev", "tap0", "nodad"),
        (world.ours.namespace, "address", "add", "fd00:2::2/64", "dev", "eth0", "nodad"),
        (world.guest, "address", "add", "fd00:1::2/64", "dev", "eth0", "nodad"),
        (world.guest, "route", "add", "default", "via", "fd00:1::1"),
    ]:
        await run(["ip", "-netns", namespace, "-6", *words], timeout_s=DEADLINE_S)
    await run(["ip", "-6", "address", "add", "fd00:2::1/64", "dev", host_link, "nodad"], timeout_s=DEADLINE_S)
    await run(["ip", "-6", "route", "add", "fd00:1::/64", "via", "fd00:2::2"], timeout_s=DEADLINE_S)
    slot_rules = slot_table(
        world.block.address(world.ours.index), EgressPolicy(), ReachableNetworks(), flows=FLOWS
    )
    no_slot_rules = [{"delete": {"table": {"family": "inet", "name": "wrenn"}}}]
    root_rules = RootFirewall(world.block, ReachableNetworks())

    async def is_answered(within_s: float = REFUSED_WITHIN_S) -> bool:
        make = partial(socket.socket, socket.AF_INET6, socket.SOCK_STREAM)
        with await in_namespace(world.guest, make) as client:
            client.setblocking(False)
            try:
                async with asyncio.timeout(within_s):
                    await asyncio.get_running_loop().sock_connect(client, ("fd00:2::1", 7000))
                    return True
            except (OSError, TimeoutError):
                return False

    with await in_namespace(None, partial(socket.socket, socket.AF_INET6, socket.SOCK_STREAM)) as listening:
        listening.bind(("fd00:2::1", 7000))
        listening.listen()
        await apply_batch(root_table_removal(world.block))
        await apply_batch(no_slot_rules, namespace=world.ours.namespace)
        # Finding the first neighbours takes its time.
        assert await is_answered(DEADLINE_S), "without rules the way is open"
        await root_rules.install()
        assert not await is_answered(), "the host's table alone"
        await apply_batch(root_table_removal(world.block))
        assert await is_answered(), "the way is open again"
        await apply_batch(slot_rules, namespace=world.ours.namespace)
        assert not await is_answered(), "the slot's table alone"


@pytest.mark.parametrize("policy", [EgressPolicy(), EgressPolicy.parse(allow=["0.0.0.0/0"])])
async def test_private_networks_are_unreachable_by_default_whatever_a_policy_allows(
    world: World, policy: EgressPolicy
):
    await world.slots.set_egress(world.ours.index, policy)
    async with server(world.internet):
        assert await connects(world.guest, INTERNET)
        for destination in (*PRIVATE, GATEWAY, ON_LINK):
            assert await connects(None, destination)
            assert not await is_reachable(world.guest, destination), destination


@pytest.mark.parametrize(
    "reach", [ReachableNetworks.parse(name_servers="", allowed="10.20.0.0/24, 192.168.7.1,44.99.1.0/24")]
)
async def test_the_operator_opens_named_ranges_and_no_others(world: World):
    async with server(world.internet):
        for destination in ("10.20.0.1", "192.168.7.1", ON_LINK):
            assert await connects(world.guest, destination), destination
        for destination in ("172.31.255.1", "198.18.0.1", GATEWAY):
            assert not await is_reachable(world.guest, destination), destination
        # What is open to all is still each sandbox's to close.
        await world.slots.set_egress(world.ours.index, EgressPolicy.parse(deny=["10.0.0.0/8"]))
        assert not await is_reachable(world.guest, "10.20.0.1")
        assert await connects(world.guest, "192.168.7.1")


@pytest.mark.parametrize("reach", [ReachableNetworks.parse(name_servers="", allowed="0.0.0.0/0")])
async def test_protected_destinations_stay_unreachable_even_if_operator_and_policy_allow_them(world: World):
    await world.slots.set_egress(
        world.ours.index, EgressPolicy.parse(allow=["0.0.0.0/0", METADATA, "10.11.0.0/16"])
    )
    async with server(world.internet), server(None), server(world.other_guest):
        assert await connects(world.guest, PRIVATE[0])
        for destination in (METADATA, HOST_UPLINK, "169.254.1.1", world.theirs.address):
            assert not await is_reachable(world.guest, destination), destination


@pytest.mark.parametrize(
    "reach", [ReachableNetworks.parse(name_servers=f"10.20.0.1,{METADATA},{HOST_UPLINK}", allowed="")]
)
@pytest.mark.parametrize("policy", [EgressPolicy(), EgressPolicy(allow_internet=False)])
async def test_name_servers_are_reachable_on_port_53_only(world: World, policy: EgressPolicy):
    await world.slots.set_egress(world.ours.index, policy)
    for home, address in ((world.internet, "10.20.0.1"), (world.internet, METADATA), (None, HOST_UPLINK)):
        async with server(home, address), server(home, address, 53), udp_server(home, address, 53):
            assert await connects(world.guest, address, 53), address
            assert await is_answered_by_udp(world.guest, address, 53), address
            assert not await is_reachable(world.guest, address, 7000), address
    async with server(world.internet, "192.168.7.1", 53):
        assert not await is_reachable(world.guest, "192.168.7.1", 53)


async def test_a_network_that_the_host_joins_later_is_unreachable(world: World):
    joined = "44.77.1.1"
    await send_all([AddAddress("net0", joined, 24)], namespace=world.internet)
    async with server(world.internet):
        assert await connects(world.guest, joined)
        firewall = RootFirewall(world.block, ReachableNetworks())
        await firewall.install()
        await run(["ip", "address", "add", "44.77.1.2/24", "dev", "up0"], timeout_s=DEADLINE_S)
        assert await firewall.ensure() == "host networks changed"
        assert await firewall.ensure() is None
        assert await connects(None, joined)
        assert not await is_reachable(world.guest, joined)


async def test_a_stricter_policy_ends_open_connections_but_not_those_of_the_host(world: World):
    async with server(world.internet), server(world.guest), connection(world.guest, INTERNET) as (_, echo):
        assert await echo("before") == "before"
        await world.slots.set_egress(world.ours.index, EgressPolicy(allow_internet=False))
        with pytest.raises((OSError, TimeoutError)):
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await echo("after")
        assert not await is_reachable(world.guest, INTERNET)
        assert await connects(None, world.ours.address)


@pytest.mark.parametrize(
    ("policy", "reachable"),
    [
        (EgressPolicy(), True),
        (EgressPolicy.parse(allow_internet=False, allow=[INTERNET]), True),
        (EgressPolicy.parse(allow_internet=False, allow=["45.0.0.0/8"]), False),
        (EgressPolicy.parse(deny=["44.0.0.0/8"]), False),
        (EgressPolicy.parse(deny=["45.0.0.0/8"]), True),
        (EgressPolicy.parse(allow=[INTERNET], deny=["0.0.0.0/0"]), True),
        (EgressPolicy.parse(allow=["44.0.0.0/8"], deny=[INTERNET]), True),
    ],
)
async def test_lists_decide_what_a_guest_reaches(world: World, policy: EgressPolicy, reachable: bool):
    await world.slots.set_egress(world.ours.index, EgressPolicy(allow_internet=False))
    await world.slots.set_egress(world.ours.index, policy)
    async with server(world.internet):
        assert await connects(world.guest, INTERNET) == reachable


async def test_connections_survive_a_restart_of_the_agent(world: World):
    async with server(world.internet), connection(world.guest, INTERNET) as (_, echo):
        assert await echo("before") == "before"
        await world.slots.close()
        successor = Slots(world.block, vmm_uid=0, vmm_gid=0, ready_target=0)
        await successor.start(world.slots.taken)
        assert await echo("after") == "after"
        await successor.close()


def tracked() -> int:
    """Connections that the namespace of the calling thread tracks."""
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


def tracked_from(address: str) -> int:
    """Those of them that this address began: the root namespace also tracks what other programs of the machine do.

    Ones that have expired and are not removed yet do not count: the kernel reuses their space when the table is full.
    """
    connections: Any = NFCTSocket  # has no types
    with connections() as table:
        begun: list[Any] = [
            entry.get_attr("CTA_TUPLE_ORIG").get_attr("CTA_TUPLE_IP") for entry in table.dump()
        ]
    return sum(ends.get_attr("CTA_IP_V4_SRC") == address for ends in begun)


async def test_a_guest_has_no_more_flows_than_its_share_in_its_slot_and_on_the_host(world: World):
    """UDP and half-open TCP count, whatever their destinations and ports; the neighbour has its own share."""
    async with server(world.internet):
        for kind, port in ((socket.SOCK_DGRAM, 9000), (socket.SOCK_STREAM, 7001)):
            for number in range(3 * FLOWS):
                sender = await socket_in(world.guest, kind)
                with sender, suppress(BlockingIOError):
                    # Nobody answers there: a connection stays half open.
                    sender.connect((f"44.31.8.{number % 50}", port + number))
                    sender.send(b"x")
        assert await in_namespace(world.ours.namespace, tracked) <= FLOWS + 1
        assert 0 < await asyncio.to_thread(tracked_from, str(world.ours.address)) <= FLOWS + 1
        assert not await is_reachable(world.guest, INTERNET), "its share is used up"
        assert await connects(world.other_guest, INTERNET)


async def test_a_flow_without_answers_is_one_flow(world: World):
    """As of programs that send measurements or logs: the kernel calls each packet new until there is an answer."""
    sent = 4 * FLOWS
    receiver = await socket_in(world.internet, socket.SOCK_DGRAM)
    receiver.bind((INTERNET, 9001))
    sender = await socket_in(world.guest, socket.SOCK_DGRAM)
    with receiver, sender:
        sender.connect((INTERNET, 9001))
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(DEADLINE_S):
            for number in range(sent):
                sender.send(str(number).encode())
                assert await loop.sock_recv(receiver, 100) == str(number).encode()
    async with server(world.internet):
        assert await connects(world.guest, INTERNET), "beside it"


async def test_connections_that_a_guest_closes_do_not_fill_the_table(world: World):
    """The kernel's count of connections leaves out closed ones, which stay in the table for a while."""
    await ensure_flow_table(FlowTable(slots=1, size=1, buckets=1))
    opened = 0
    async with server(world.internet):
        for _ in range(12):
            opened += sum(
                await asyncio.gather(*(is_reachable(world.guest, INTERNET) for _ in range(FLOWS // 2)))
            )
    limit = FLOWS * ENTRIES_A_FLOW + 1
    assert opened >= FLOWS
    assert 0 < await in_namespace(world.ours.namespace, partial(tracked_from, GUEST)) <= limit
    assert 0 < await asyncio.to_thread(tracked_from, world.ours.address) <= limit
    async with server(world.internet), asyncio.timeout(ANSWERED_WITHIN_S):
        while not await is_reachable(world.guest, INTERNET):
            await asyncio.sleep(0.1)


async def test_pings_of_the_gateway_are_few_flows(world: World):
    """The guest chooses identifier and code of each, so they could be 16 million flows."""
    make = partial(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    with await in_namespace(world.guest, make) as wire:
        wire.setblocking(False)
        for number in range(4 * PING_FLOWS_LIMIT):
            wire.sendto(echo_request(number, code=number % 256), (TAP_ADDRESS, 0))
            await asyncio.sleep(0)  # this loop carries the frames
        async with asyncio.timeout(DEADLINE_S):
            reply = await asyncio.get_running_loop().sock_recv(wire, 100)
        assert reply[20] == 0, "an echo reply, behind the IP header"
    async with server(world.internet):
        assert await connects(world.guest, INTERNET), "behind all pings"
    assert await in_namespace(world.ours.namespace, tracked) <= PING_FLOWS_LIMIT + 2


def echo_request(identifier: int, *, code: int) -> bytes:
    total = (8 << 8) + code + identifier
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!BBHHH", 8, code, checksum, identifier, 0)


async def test_both_directions_of_a_slot_are_limited(world: World):
    for namespace, link in ((world.ours.namespace, "eth0"), (None, world.block.host_link(world.ours.index))):
        enter = ["ip", "netns", "exec", namespace] if namespace else []
        shown = json.loads(
            await run([*enter, "tc", "-json", "qdisc", "show", "dev", link], timeout_s=DEADLINE_S)
        )
        assert [(q["kind"], q["options"]["rate"]) for q in shown] == [("tbf", MBIT * 1_000_000 // 8)]
