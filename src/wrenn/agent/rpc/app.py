"""The agent's ASGI application: RPCs, file streams, process streams and guest ports on one TCP port."""

from __future__ import annotations

import asyncio
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Any, Final

from wrenn.agent.host_facts import HostFacts
from wrenn.agent.images import Images
from wrenn.agent.metrics import Sampler
from wrenn.agent.rpc.execs import Execs
from wrenn.agent.rpc.files import PREFIX, FileStreams, Receive, Scope, Send
from wrenn.agent.rpc.ports import PortStreams
from wrenn.agent.rpc.process_streams import ProcessStreams
from wrenn.agent.rpc.service import HostAgentService, Translate
from wrenn.agent.sandboxes import Sandboxes
from wrenn.base.request_ids import REQUEST_ID_HEADER, accept_request_id
from wrenn.base.tasks import EndedFirst, run_unless
from wrenn.protocol.host.host_connect import HostAgent, HostAgentASGIApplication
from wrenn.protocol.host.streams import STREAM_PATH
from wrenn.relay import header_value
from wrenn.telemetry import PORT

_REQUEST_ID: Final = REQUEST_ID_HEADER.encode()
_EXEC: Final = "/Exec"
_METHODS: Final = frozenset(
    "".join(part.capitalize() for part in name.split("_"))
    for name in vars(HostAgent)
    if not name.startswith("_")
)
"""Names of the RPCs."""


class App:
    """Routes requests by path to process streams, ports, file streams or RPCs."""

    def __init__(self, *, sandboxes: Sandboxes, images: Images, facts: HostFacts, sampler: Sampler) -> None:
        self._rpc = HostAgentASGIApplication(
            HostAgentService(sandboxes=sandboxes, images=images, facts=facts, sampler=sampler),
            interceptors=[Translate()],
            compressions=[],
        )
        self._execs = Execs(sandboxes)
        self._files = FileStreams(sandboxes)
        self._streams = ProcessStreams(sandboxes)
        self._ports = PortStreams(sandboxes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] in ("http", "websocket"):
            accept_request_id((header_value(scope["headers"], _REQUEST_ID) or b"").decode("latin-1"))
        if self._ports.serves(scope):
            await self._ports(scope, receive, send)
        elif scope["type"] == "websocket":
            if scope["path"] == STREAM_PATH:
                await self._streams(scope, receive, send)
            else:
                await send({"type": "websocket.close"})
        elif self._execs.serves(scope):
            await _while_connected(self._execs, scope, receive, send)
        elif scope["type"] == "http" and scope["path"].startswith(PREFIX):
            if scope["method"] == "GET":
                # Nothing is read from the guest when the client has disconnected.
                await _while_connected(self._files, scope, receive, send)
            else:
                await self._files(scope, receive, send)
        elif scope["type"] == "http" and scope["path"].endswith(_EXEC):
            await _while_connected(self._rpc, scope, receive, send)
        else:
            await self._rpc(scope, receive, send)  # type: ignore[arg-type] - its ASGI types are a TypedDict tree

    def route_of(self, scope: Scope) -> str:
        """Return the request's label in metrics: the RPC's name, or the kind of stream."""
        if self._ports.serves(scope):
            return PORT
        if scope["type"] == "websocket" or scope["path"].startswith(PREFIX):
            return "stream" if scope["type"] == "websocket" else "files"
        method = str(scope["path"]).rpartition("/")[2]
        return method if method in _METHODS else "other"


async def _while_connected(application: Any, scope: Scope, receive: Receive, send: Send) -> None:
    """Serve one request and cancel it if the client disconnects: an exec is killed, a download stops."""
    asked = asyncio.Event()

    async def receive_noting_the_end() -> MutableMapping[str, Any]:
        message = await receive()
        if not message.get("more_body"):
            asked.set()
        return message

    async def wait_gone() -> None:
        await asked.wait()
        await receive()  # after the body there is only one message to come: that the connection has ended

    with suppress(EndedFirst):
        await run_unless(wait_gone(), application(scope, receive_noting_the_end, send))
