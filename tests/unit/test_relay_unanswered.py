"""Connections to a machine that is gone are given up; those to one that does not read are not."""

from __future__ import annotations

import asyncio
import ctypes
import io
import socket
import struct
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from wrenn.relay import UNPACED, PacedConnector
from wrenn.relay.unanswered import is_unanswered

_LIMIT_S = 0.6
_BODY_B = 32 * 1024 * 1024
_DROP_ALL = struct.pack("=HBBI", 0x06, 0, 0, 0)
"""A program of the kernel's packet filter: `return 0`."""
_SO_ATTACH_FILTER = 26


def _vanish(peer: socket.socket) -> None:
    """Whatever arrives for this socket is dropped without an acknowledgement, as by a machine that lost power."""
    program = ctypes.create_string_buffer(_DROP_ALL)
    peer.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", 1, ctypes.addressof(program)))


@asynccontextmanager
async def _upload(
    *, vanishes: bool
) -> AsyncGenerator[tuple[asyncio.Task[aiohttp.ClientResponse], socket.socket]]:
    """A request whose large body its server does not read; yields its task, and the server's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.setblocking(False)
        connector = PacedConnector(UNPACED, unanswered_s=_LIMIT_S)
        async with aiohttp.ClientSession(connector=connector) as session:
            url = f"http://127.0.0.1:{listening.getsockname()[1]}/"
            uploading = asyncio.create_task(session.post(url, data=io.BytesIO(bytes(_BODY_B))))
            peer, _ = await asyncio.wait_for(asyncio.get_running_loop().sock_accept(listening), 10)
            with peer:
                if vanishes:
                    _vanish(peer)
                try:
                    yield uploading, peer
                finally:
                    uploading.cancel()
                    await asyncio.wait({uploading})


async def test_a_machine_that_acknowledges_nothing_is_given_up() -> None:
    async with _upload(vanishes=True) as (uploading, _):
        with pytest.raises(aiohttp.ClientError):
            await asyncio.wait_for(uploading, 20 * _LIMIT_S)


async def test_a_peer_that_does_not_read_is_waited_for() -> None:
    async with _upload(vanishes=False) as (uploading, peer):
        await asyncio.wait({uploading}, timeout=5 * _LIMIT_S)
        assert not uploading.done()
        peer.setblocking(True)

        def serve() -> None:
            head, _, body = peer.recv(1024 * 1024).partition(b"\r\n\r\n")
            assert head.startswith(b"POST / ")
            left = _BODY_B - len(body)
            while left:
                left -= len(peer.recv(1024 * 1024))
            peer.sendall(b"HTTP/1.1 204 No Content\r\n\r\n")

        await asyncio.to_thread(serve)
        assert (await asyncio.wait_for(uploading, 20)).status == 204


async def test_an_idle_connection_is_not_unanswered() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        _, writer = await asyncio.open_connection(*listening.getsockname())
        await asyncio.sleep(0.05)
        assert not is_unanswered(writer.transport, for_s=0.01)
        writer.close()
        await writer.wait_closed()
        assert not is_unanswered(writer.transport, for_s=0.0)
