"""RPCs and file streams as one ASGI application."""

from __future__ import annotations

from wrenn.agent.facts import HostFacts
from wrenn.agent.rpc.files import PREFIX, FileStreams, Receive, Scope, Send
from wrenn.agent.rpc.service import HostAgentService, Translate
from wrenn.agent.sandboxes import Sandboxes
from wrenn.protocol.host.host_connect import HostAgentASGIApplication


class App:
    """Routes by path: file streams, else RPC."""

    def __init__(self, *, sandboxes: Sandboxes, facts: HostFacts) -> None:
        self._rpc = HostAgentASGIApplication(
            HostAgentService(sandboxes=sandboxes, facts=facts), interceptors=[Translate()], compressions=[]
        )
        self._files = FileStreams(sandboxes)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] == "http" and scope["path"].startswith(PREFIX):
            await self._files(scope, receive, send)
        else:
            await self._rpc(scope, receive, send)  # type: ignore[arg-type] - its ASGI types are a TypedDict tree
