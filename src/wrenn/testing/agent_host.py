"""The host in tests of the control plane: a real agent over the simulated driver, behind a proxy that delays, fails or drops calls.

Failures inside the agent are injected by fault points (`wrenn.base.faults.arm_faults`); failures of calls to
it by `RpcFaults`.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.agent.main import server_config
from wrenn.agent.sandboxes import Record, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.errors import WrennError
from wrenn.base.ids import SandboxId
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, connect_code
from wrenn.testing.server import free_port, served
from wrenn.testing.simulated_agent import (
    SANDBOX_LIMIT,
    ProcessHost,
    agent_environment,
    remove_everything,
    share_pki,
)

_SERVICE: Final = "/wrenn.host.v1.HostAgent/"
_WAIT_S: Final = 10.0
_GRACE_S: Final = 1


@dataclass(slots=True)
class RpcFaults:
    """Failures of calls to an agent, by the name of a call, e.g. `ensure_sandbox`.

    Attributes:
        fail: the error that is returned instead of making the call.
        lose_answer: calls that are carried out and whose response is then lost.
        hold: calls that wait until the event is set before they are carried out.
    """

    fail: dict[str, WrennError] = field(default_factory=dict[str, WrennError])
    lose_answer: set[str] = field(default_factory=set[str])
    hold: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])


class _FaultInjector:
    """Forwards calls to the agent, and injects failures."""

    def __init__(self, app: ASGIApp, host: AgentHost) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope.get("path", ""))
        if not path.startswith(_SERVICE):
            await self._app(scope, receive, send)
            return
        name = _snake(path.removeprefix(_SERVICE))
        await self._host.note(name)
        faults = self._host.switches
        if (held := faults.hold.get(name)) is not None:
            await held.wait()
        if (failure := faults.fail.get(name)) is not None:
            await _refuse(failure, send)
        elif name in faults.lose_answer:
            await self._app(scope, receive, _nowhere)
            # A response that begins and never ends: the server closes the connection.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        else:
            await self._app(scope, receive, send)


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


async def _nowhere(message: Message) -> None:
    del message


async def _refuse(failure: WrennError, send: Send) -> None:
    body = json.dumps({"code": connect_code(failure).value, "message": failure.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_CODE_HEADER.encode(), failure.code.encode()),
    ]
    await send({"type": "http.response.start", "status": 500, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class AgentHost:
    """An agent with injectable failures, made by `running_agent_host`.

    Attributes:
        switches: the failures to inject.
        calls: how often each call has arrived.
        agent: the current agent.
        sandbox_limit, templates: the limit and the templates reported by agents that are started from now on.
    """

    def __init__(self, data_dir: Path, pki: Path, settings: dict[str, str]) -> None:
        share_pki(pki, data_dir)
        self._port = free_port()
        self._settings = Settings.from_environment(
            {**agent_environment(data_dir, port=self._port), **settings}
        )
        self._stack = AsyncExitStack()
        self._arrived = asyncio.Condition()
        self.switches = RpcFaults()
        self.calls: Counter[str] = Counter()
        self.sandbox_limit = SANDBOX_LIMIT
        self.templates: tuple[str, ...] = ("minimal",)
        self.agent: Agent

    @property
    def url(self) -> str:
        """The URL of the host API."""
        return f"https://127.0.0.1:{self._port}"

    async def start(self) -> None:
        """Start an agent, and serve."""
        machine = ProcessHost(sandbox_limit=self.sandbox_limit, templates=self.templates)
        self.agent = await self._stack.enter_async_context(running_agent(self._settings, machine))
        app: Any = _FaultInjector(self.agent.app, self)  # type: ignore[arg-type] - the agent has ASGI types of its own
        config = server_config(app, self.agent.layout.pki, self._settings)
        config.timeout_graceful_shutdown = _GRACE_S
        await self._stack.enter_async_context(served(config))

    async def stop(self) -> None:
        """Stop the agent; its sandboxes keep running."""
        await self._stack.aclose()

    async def restart(self) -> None:
        """Replace the agent by another one at the same address."""
        await self.stop()
        await self.start()

    async def note(self, name: str) -> None:
        """Count a call that has arrived."""
        async with self._arrived:
            self.calls[name] += 1
            self._arrived.notify_all()

    async def wait_call(self, name: str, *, count: int = 1) -> None:
        """Return when this call has arrived `count` times."""
        async with self._arrived, asyncio.timeout(_WAIT_S):
            await self._arrived.wait_for(lambda: self.calls[name] >= count)

    @property
    def sandbox_ids(self) -> set[str]:
        """The sandboxes of the agent."""
        return {str(record.spec.sandbox_id) for record, _ in self.agent.sandboxes.list()}

    @property
    def snapshot_ids(self) -> set[str]:
        """The snapshots of the agent."""
        return {snapshot.manifest.snapshot_id for snapshot in self.agent.sandboxes.list_snapshots()}

    def record(self, sandbox_id: str) -> Record:
        """Return the agent's journal record of a sandbox."""
        return self.agent.sandboxes.inspect(SandboxId.parse(sandbox_id))[0]

    def state(self, sandbox_id: str) -> State:
        """Return the current state of a sandbox."""
        return self.record(sandbox_id).state

    def kill_guest(self, sandbox_id: str) -> None:
        """Kill the sandbox's machine, as a fault of the VMM would."""
        self.agent.sandboxes.get(SandboxId.parse(sandbox_id)).vm.handle.process.kill()

    async def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox without its control plane."""
        await self.agent.sandboxes.remove(SandboxId.parse(sandbox_id))


@asynccontextmanager
async def running_agent_host(data_dir: Path, pki: Path, **settings: str) -> AsyncGenerator[AgentHost]:
    """Run an agent on `data_dir` with the certificates in `pki`; afterwards everything is removed."""
    host = AgentHost(data_dir, pki, settings)
    try:
        await host.start()
        yield host
    finally:
        await host.stop()
        await remove_everything(data_dir)
