"""A machine of its own for network tests: a host namespace, an internet behind it, and guests behind real taps."""

from __future__ import annotations

import asyncio
import ctypes
import os
import socket
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from wrenn.linux.command import run
from wrenn.linux.namespaces import create_namespace, in_namespace, remove_namespace
from wrenn.linux.netlink import (
    AddAddress,
    AddDefaultRoute,
    AddVeth,
    BringUp,
    send_all,
)
from wrenn.linux.tap import create_tap, open_tap
from wrenn.network import (
    Block,
    NetworkLimits,
    ReachableNetworks,
    Slot,
    Slots,
    claim_block,
    leftovers,
    release_block,
    remove_everything,
)
from wrenn.network.plan import GUEST_MAC, TAP_ADDRESS

INTERNET = "44.31.7.1"
"""A public address behind the host's gateway. No packet of these tests leaves their namespaces."""
GATEWAY = "198.51.100.1"
HOST_UPLINK = "198.51.100.2"
ON_LINK = "44.99.1.1"
"""A public address of a machine that the host is directly connected to."""
ON_LINK_UPLINK = "44.99.1.2"
METADATA = "169.254.169.254"
PRIVATE = ("10.20.0.1", "100.64.0.1", "172.31.255.1", "192.168.7.1", "198.18.0.1", "203.0.113.1", "192.0.2.1")
"""Addresses of the operator's own network, behind the gateway too."""
DEADLINE_S = 5.0
REFUSED_WITHIN_S = 0.4
"""How long a packet that must not arrive is waited for: a hundred times what one that may needs."""
ANSWERED_WITHIN_S = 15.0
"""The same for one that must arrive."""

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def private_host() -> Generator[None]:
    """Move this thread, and so all that the test does, into a fresh network namespace; back afterwards."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        assert _libc.unshare(0x40000000) == 0, "needs root"
        yield
    finally:
        assert _libc.setns(home, 0x40000000) == 0
        os.close(home)


@asynccontextmanager
async def internet(block: Block) -> AsyncGenerator[str]:
    """A namespace behind the host's uplink, with the addresses above; yields its name."""
    name = f"wrenn-test-{block.index}-internet"
    await remove_namespace(name)
    await create_namespace(name)
    try:
        await send_all([AddVeth("up0", "02:fd:00:00:00:02", "net0", "02:fd:00:00:00:01", name)])
        await send_all(
            [
                BringUp("lo"),
                BringUp("net0"),
                AddAddress("net0", GATEWAY, 24),
                AddAddress("net0", ON_LINK, 24),
                *(AddAddress("lo", address, 32) for address in (INTERNET, METADATA, *PRIVATE)),
            ],
            namespace=name,
        )
        # An uplink's address has global scope, which ours never have; masquerading asks for it.
        for address in (HOST_UPLINK, ON_LINK_UPLINK):
            await run(["ip", "address", "add", f"{address}/24", "dev", "up0"], timeout_s=DEADLINE_S)
        await send_all([BringUp("lo"), BringUp("up0"), AddDefaultRoute("up0", GATEWAY, HOST_UPLINK)])
        yield name
    finally:
        await remove_namespace(name)


@asynccontextmanager
async def guest(slot: Slot) -> AsyncGenerator[str]:
    """Stands in for a VM: a namespace whose link is joined to the slot's tap frame by frame, as a VMM does."""
    name = f"wrenn-test-guest-{slot.namespace}"
    await remove_namespace(name)
    await create_namespace(name)
    loop = asyncio.get_running_loop()
    ends: list[int] = []
    try:
        await create_tap(name, "eth0", uid=0, gid=0)
        ends += [slot.open_tap(), open_tap(name, "eth0")]
        for source, target in (ends, ends[::-1]):
            os.set_blocking(source, False)
            loop.add_reader(source, _carry_frame, source, target)
        await send_all(
            [
                BringUp("lo"),
                BringUp("eth0", GUEST_MAC),
                AddAddress("eth0", "169.254.0.21", 30),
                AddDefaultRoute("eth0", TAP_ADDRESS, "169.254.0.21"),
            ],
            namespace=name,
        )
        yield name
    finally:
        for end in ends:
            loop.remove_reader(end)
            os.close(end)
        await remove_namespace(name)


def _carry_frame(source: int, target: int) -> None:
    with suppress(BlockingIOError):
        os.write(target, os.read(source, 65600))


async def socket_in(namespace: str | None, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """An IPv4 socket that belongs to `namespace`."""
    made = await in_namespace(namespace, partial(socket.socket, socket.AF_INET, kind))
    made.setblocking(False)
    return made


@asynccontextmanager
async def server(namespace: str | None, address: str = "0.0.0.0", port: int = 7000) -> AsyncGenerator[None]:
    """Tells each client the address it came from, then echoes lines."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(f"{writer.get_extra_info('peername')[0]}\n".encode())
            while line := await reader.readline():
                writer.write(line)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await socket_in(namespace)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind((address, port))
    running = await asyncio.start_server(serve, sock=listening)
    try:
        yield
    finally:
        running.close()


@asynccontextmanager
async def connection(
    namespace: str | None, address: str, port: int = 7000, *, within_s: float = DEADLINE_S
) -> AsyncGenerator[tuple[str, Callable[[str], asyncio.Future[str]]]]:
    """Connect from `namespace`; yields the address the server saw, and a function that has a line echoed."""
    client = await socket_in(namespace)
    try:
        async with asyncio.timeout(within_s):
            await asyncio.get_running_loop().sock_connect(client, (address, port))
            reader, writer = await asyncio.open_connection(sock=client)
            seen_as = (await reader.readline()).decode().strip()
    except BaseException:
        client.close()
        raise

    async def echo(text: str) -> str:
        writer.write(f"{text}\n".encode())
        async with asyncio.timeout(within_s):
            return (await reader.readline()).decode().strip()

    try:
        yield seen_as, lambda text: asyncio.ensure_future(echo(text))
    finally:
        writer.transport.abort()


async def is_reachable(namespace: str | None, address: str, port: int = 7000) -> bool:
    """Whether a connection from `namespace` is answered soon."""
    try:
        async with connection(namespace, address, port, within_s=REFUSED_WITHIN_S):
            return True
    except (OSError, TimeoutError):
        return False


async def connects(namespace: str | None, address: str, port: int = 7000) -> bool:
    """Whether a connection from `namespace` is answered, on however slow a machine: for what must be reachable."""
    try:
        async with connection(namespace, address, port, within_s=ANSWERED_WITHIN_S):
            return True
    except (OSError, TimeoutError):
        return False


@asynccontextmanager
async def udp_server(namespace: str | None, address: str, port: int) -> AsyncGenerator[None]:
    """Sends every datagram back."""
    loop = asyncio.get_running_loop()
    listening = await socket_in(namespace, socket.SOCK_DGRAM)
    listening.bind((address, port))

    def echo() -> None:
        data, sender = listening.recvfrom(1500)
        listening.sendto(data, sender)

    loop.add_reader(listening, echo)
    try:
        yield
    finally:
        loop.remove_reader(listening)
        listening.close()


async def is_answered_by_udp(namespace: str, address: str, port: int) -> bool:
    """Whether a datagram from `namespace` is answered soon."""
    with await socket_in(namespace, socket.SOCK_DGRAM) as client:
        try:
            async with asyncio.timeout(REFUSED_WITHIN_S):
                await asyncio.get_running_loop().sock_connect(client, (address, port))
                client.send(b"question")
                return await asyncio.get_running_loop().sock_recv(client, 100) == b"question"
        except (OSError, TimeoutError):
            return False


async def wait_until(condition: Callable[[], bool]) -> None:
    """Return once `condition` holds; fail after the deadline."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition():
            await asyncio.sleep(0.005)


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


@asynccontextmanager
async def running_world(
    data_dir: Path, reach: ReachableNetworks, limits: NetworkLimits
) -> AsyncGenerator[World]:
    """Make a `World` in a namespace of its own; at the end nothing may be left of it."""
    block = claim_block(data_dir)
    try:
        with private_host():
            async with AsyncExitStack() as stack:
                stack.push_async_callback(remove_everything, block)
                outside = await stack.enter_async_context(internet(block))
                slots = Slots(block, vmm_uid=0, vmm_gid=0, ready_target=0, reach=reach, limits=limits)
                await slots.start({})
                stack.push_async_callback(slots.close)
                ours, theirs = await slots.acquire("ours"), await slots.acquire("theirs")
                inside = await stack.enter_async_context(guest(ours))
                other = await stack.enter_async_context(guest(theirs))
                yield World(block, slots, outside, ours, inside, theirs, other)
            assert await leftovers(block, ()) == []
    finally:
        release_block(data_dir)
