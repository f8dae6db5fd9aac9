"""The host in tests of the control plane: a real agent over the simulated driver, behind a proxy that delays, fails or drops calls.

Failures inside the agent are injected by fault points (`wrenn.base.faults.arm_faults`); failures of calls to
it by `RpcFaults`.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from wrenn.agent.enrolment import ControlLink, ServerTls, enrolled, register
from wrenn.agent.main import server_config
from wrenn.agent.metrics import MetricsSender
from wrenn.agent.rpc.execs import EXEC
from wrenn.agent.rpc.files import PREFIX
from wrenn.agent.rpc.ports import PortStreams
from wrenn.agent.sandboxes import Record, SandboxSpec, State
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, control_link, running_agent
from wrenn.base.clock import SystemClock
from wrenn.base.errors import NotFound, Unavailable, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.tasks import OwnedTasks
from wrenn.cli.up.registration import LOCAL_HOST
from wrenn.control.fleet import issue_local_token
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, connect_code
from wrenn.protocol.host.streams import MESSAGE_HEAD, failure_message
from wrenn.testing.server import served
from wrenn.testing.simulated_agent import (
    SANDBOX_LIMIT,
    Installation,
    ProcessHost,
    remove_everything,
)
from wrenn.vm.driver import Shape
from wrenn.vm.simulated import TEMPLATES

_SERVICE: Final = "/wrenn.host.v1.HostAgent/"
_WAIT_S: Final = 30.0
_GRACE_S: Final = 1


@dataclass(slots=True)
class RpcFaults:
    """Failures of calls to an agent, by the name of a call.

    It is that of the RPC, e.g. `ensure_sandbox`, or `exec`, `files`, `stream` (a followed process) or `visit` (a port).

    Attributes:
        fail: the error that is returned instead of making the call.
        fail_after: the same, from the call on that comes after so many.
        lose_answer: calls that are carried out and whose response is then lost.
        hold: calls that wait until the event is set before they are carried out.
        plant: bytes that follow the first part of the body of a response.
        unknown: calls that the agent does not know, as one of a former version.
        lacks_streamed_exec: whether the agent answers commands only by RPC, as agents of former versions.
    """

    fail: dict[str, WrennError] = field(default_factory=dict[str, WrennError])
    fail_after: dict[str, tuple[int, WrennError]] = field(default_factory=dict[str, tuple[int, WrennError]])
    lose_answer: set[str] = field(default_factory=set[str])
    hold: dict[str, asyncio.Event] = field(default_factory=dict[str, asyncio.Event])
    plant: dict[str, bytes] = field(default_factory=dict[str, bytes])
    unknown: set[str] = field(default_factory=set[str])
    lacks_streamed_exec: bool = False

    def failure_of(self, name: str) -> WrennError | None:
        """Return the error of this call if it is to fail, and count it."""
        if (left := self.fail_after.get(name)) is not None:
            if left[0] == 0:
                return left[1]
            self.fail_after[name] = (left[0] - 1, left[1])
        return self.fail.get(name)


class _FaultInjector:
    """Forwards calls to the agent, and injects failures."""

    def __init__(self, app: ASGIApp, host: AgentHost) -> None:
        self._app = app
        self._host = host

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        name = _name_of(scope)
        if name is None:
            await self._app(scope, receive, send)
            return
        faults = self._host.switches
        if name == "exec" and faults.lacks_streamed_exec and not scope["path"].startswith(_SERVICE):
            await _refuse(NotFound("There is no such path."), send, status=404)
            return
        if name in faults.unknown:
            await send({"type": "http.response.start", "status": 404, "headers": []})
            await send({"type": "http.response.body", "body": b"Not Found"})
            return
        await self._host.note(name)
        if (held := faults.hold.get(name)) is not None:
            await held.wait()
        if (failure := faults.failure_of(name)) is not None:
            await (_refuse_exec if name == "exec" and scope["path"].startswith(PREFIX) else _refuse)(
                failure, send
            )
        elif name in faults.lose_answer:
            await self._app(scope, receive, _nowhere)
            # A response that begins and never ends: the server closes the connection.
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1")]})
        else:
            await self._forward(name, scope, receive, send)

    async def _forward(self, name: str, scope: Scope, receive: Receive, send: Send) -> None:
        is_answered = False
        planted = self._host.switches.plant.get(name)

        async def receive_noting_the_end() -> Message:
            message = await receive()
            if message["type"] == "http.disconnect" and not is_answered:
                await self._host.note_broken_off(name)
            return message

        async def send_noting_the_end(message: Message) -> None:
            nonlocal is_answered, planted
            is_answered = message["type"] == "http.response.body" and not message.get("more_body")
            await send(message)
            if planted is not None and message["type"] == "http.response.body":
                await send({"type": "http.response.body", "body": planted, "more_body": True})
                planted = None

        self._host.open_calls[name] += 1
        try:
            await self._app(scope, receive_noting_the_end, send_noting_the_end)
        finally:
            self._host.open_calls[name] -= 1


def _name_of(scope: Scope) -> str | None:
    """The name by which a call is counted and made to fail; None for what is no call."""
    if PortStreams.serves(scope):
        return "visit"
    if scope["type"] == "websocket":
        return "stream"
    path = str(scope.get("path", ""))
    if path.startswith(_SERVICE):
        return _snake(path.removeprefix(_SERVICE))
    if path.startswith(PREFIX):
        return "exec" if path.endswith(EXEC) else "files"
    return None


def _snake(name: str) -> str:
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")


async def _nowhere(message: Message) -> None:
    del message


async def _refuse(failure: WrennError, send: Send, *, status: int = 500) -> None:
    body = json.dumps({"code": connect_code(failure).value, "message": failure.message}).encode()
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", str(len(body)).encode()),
        (ERROR_CODE_HEADER.encode(), failure.code.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _refuse_exec(failure: WrennError, send: Send) -> None:
    """Answer a command as an agent does whose guest failed: its answer is a stream of messages."""
    message = failure_message(failure)
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": MESSAGE_HEAD.pack(len(message)) + message})


class AgentHost(Installation):
    """An agent with injectable failures, made by `agent_host`.

    Attributes:
        switches: the failures to inject.
        calls: how often each call has arrived.
        broken_off: how often the caller of each call has left before its end.
        open_calls: how many of each call are being served now.
        agent: the current agent.
        sandbox_limit, templates, snapshot_b, vmm: the limit and the templates reported by agents that are started
            from now on, the least size of their snapshots, and their VMM.
    """

    def __init__(self, data_dir: Path, settings: dict[str, str]) -> None:
        super().__init__(data_dir)
        self._joined: set[str] = set()
        self._settings = Settings.from_environment({**self.environment(), **settings})
        self._stack = AsyncExitStack()
        self._arrived = asyncio.Condition()
        self.switches = RpcFaults()
        self.calls: Counter[str] = Counter()
        self.broken_off: Counter[str] = Counter()
        self.open_calls: Counter[str] = Counter()
        self.sandbox_limit = SANDBOX_LIMIT
        self.templates = TEMPLATES
        self.snapshot_b = 0
        self.vmm = "simulated 1"
        self.agent: Agent
        self._link: ControlLink
        self._tasks: OwnedTasks
        self._heartbeats: asyncio.Task[object]

    async def join(self, control_url: str, database_url: str, *, name: str = LOCAL_HOST) -> None:
        """Register at this control plane as the host that `wrenn up` would make, or one of another name, and start, unless this was done before.

        Replicas on one database are one control plane.
        """
        if database_url in self._joined:
            return
        _, token = await issue_local_token(database_url, name=name)
        await register(control_url, token.reveal(), self._settings)
        await self.start()
        self._joined.add(database_url)

    async def start(self) -> None:
        """Start an agent, and serve. It must be registered."""
        machine = ProcessHost(
            sandbox_limit=self.sandbox_limit,
            templates=self.templates,
            snapshot_b=self.snapshot_b,
            vmm=self.vmm,
        )
        self.agent = await self._stack.enter_async_context(running_agent(self._settings, machine))
        app: Any = _FaultInjector(self.agent.app, self)  # type: ignore[arg-type] - the agent has ASGI types of its own
        credentials = await enrolled(self._settings)
        tls = ServerTls(credentials)
        config = server_config(app, tls.context, self._settings)
        config.timeout_graceful_shutdown = _GRACE_S
        await self._stack.enter_async_context(served(config))
        self._link, _, sender = control_link(self.agent, self._settings, credentials, tls, SystemClock())
        self._tasks = OwnedTasks()
        self._stack.push_async_callback(self._finish, sender)
        self._stack.push_async_callback(self._tasks.close)
        self._tasks.start("send samples", sender.run())
        self._send_heartbeats()

    async def _finish(self, sender: MetricsSender) -> None:
        await self.agent.sampler.close()
        await sender.finish(timeout_s=_GRACE_S)

    def _send_heartbeats(self) -> None:
        self._heartbeats = self._tasks.start("heartbeats", self._link.run())

    def silence(self, *calls: str) -> None:
        """Have the host send no heartbeats, and answer neither looks nor these calls, until `answer_again`.

        A host that sends heartbeats and fails calls is not unreachable.
        """
        self._heartbeats.cancel()
        for call in ("get_host", "list_sandboxes", *calls):
            self.switches.fail[call] = Unavailable("silent")

    def answer_again(self) -> None:
        """Have the host answer all calls, and send heartbeats."""
        self.switches.fail.clear()
        if self._heartbeats.done() or self._heartbeats.cancelling():
            self._send_heartbeats()

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

    async def note_broken_off(self, name: str) -> None:
        """Count a call whose caller has left before its end."""
        async with self._arrived:
            self.broken_off[name] += 1
            self._arrived.notify_all()

    async def wait_broken_off(self, name: str) -> None:
        """Return when the caller of such a call has left before its end."""
        async with self._arrived, asyncio.timeout(_WAIT_S):
            await self._arrived.wait_for(lambda: self.broken_off[name] > 0)

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

    def root_of(self, sandbox_id: str) -> Path:
        """Return the folder that is the root of the sandbox's guest."""
        return self.agent.layout.layers / self.record(sandbox_id).layers[0]

    def age(self, sandbox_id: str, seconds: float) -> float:
        """Date the last use of a running sandbox back by so many seconds; return the new time of it."""
        running = self.agent.sandboxes.get(SandboxId.parse(sandbox_id))
        running.last_active_at = time.time() - seconds
        return running.last_active_at

    def last_active_at(self, sandbox_id: str) -> float:
        """Return when a running sandbox was used last, in seconds since 1970."""
        return self.agent.sandboxes.get(SandboxId.parse(sandbox_id)).last_active_at

    async def plant(self, sandbox_id: str) -> None:
        """Start a sandbox that no control plane asked for."""
        spec = SandboxSpec(SandboxId.parse(sandbox_id), "", "minimal", Shape(vcpus=1, memory_mb=128))
        await self.agent.sandboxes.ensure(spec)

    def set_suspended(self, sandbox_id: str, reason: str) -> None:
        """Have the agent report that a sandbox is suspended for this reason; empty: that it is not."""
        self.agent.sandboxes.get(SandboxId.parse(sandbox_id)).suspend_reason = reason

    def kill_guest(self, sandbox_id: str) -> None:
        """Kill the sandbox's machine, as a fault of the VMM would."""
        self.agent.sandboxes.get(SandboxId.parse(sandbox_id)).vm.handle.process.kill()

    async def remove(self, sandbox_id: str) -> None:
        """Remove a sandbox without its control plane."""
        await self.agent.sandboxes.remove(SandboxId.parse(sandbox_id))


@asynccontextmanager
async def agent_host(data_dir: Path, **settings: str) -> AsyncGenerator[AgentHost]:
    """Yield an agent that can join a control plane; afterwards everything of it is removed."""
    host = AgentHost(data_dir, settings)
    try:
        yield host
    finally:
        await host.stop()
        await remove_everything(data_dir)
