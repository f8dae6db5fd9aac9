"""A host agent without virtual machines, for tests of the control plane.

It speaks the real protocol over the real mutual TLS. A sandbox is a folder of this machine; commands are processes in it,
and paths of the guest are paths below it. Switches make it fail, wait, forget and lose its answers.
"""

# ruff: noqa: ARG002 - the signatures are the RPC library's

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import signal
import ssl
import time
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar, cast

import uvicorn
from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Message, Receive, Scope, Send

from wrenn.agent.rpc.execs import EXEC, Execs
from wrenn.agent.rpc.ports import PortStreams
from wrenn.agent.rpc.process_streams import ProcessStreams
from wrenn.base.errors import (
    Conflict,
    DeadlineExceeded,
    InvalidRequest,
    InvalidState,
    NotFound,
    WrennError,
)
from wrenn.base.file_names import text_to_name
from wrenn.base.ids import SandboxId
from wrenn.base.units import GIB
from wrenn.guest import CommandLine, Processes
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, connect_code
from wrenn.protocol.host.host_connect import HostAgent, HostAgentASGIApplication
from wrenn.protocol.host.streams import MESSAGE_HEAD, failure_message
from wrenn.relay import SERVER_OPTIONS
from wrenn.testing import simulated_files
from wrenn.testing.local_processes import LocalProcess, LocalProcesses, resolved, spawn
from wrenn.testing.server import served
from wrenn.testing.simulated_box import (
    Box,
    BoxPassage,
    Switches,
    cut_passages,
    file_entry,
    sandbox_answer,
    signal_all,
)

__all__ = ["SimulatedHost", "Switches", "running_host", "served_host"]

Q = TypeVar("Q")
A = TypeVar("A")

_ACTIVITIES: Final = frozenset(
    {
        "exec", "list_dir", "list_processes", "make_dir", "move", "ping_sandbox", "remove_path", "signal_process",
        "start_process", "stat",
    }
)  # fmt: skip

_END_TIMEOUT_S: Final = 5.0
"""Longest for the output of a killed process to end."""


class SimulatedHost(HostAgent):
    """See the module head. `calls` counts the calls by name, `broken_off` those whose caller went away."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._boxes: dict[str, Box] = {}
        self._snapshots: dict[str, pb.Snapshot] = {}
        self.switches = Switches()
        self.calls: Counter[str] = Counter()
        self.broken_off: Counter[str] = Counter()
        self.arrived = asyncio.Condition()
        self.url = ""

    @property
    def sandbox_ids(self) -> set[str]:
        """The sandboxes that it has."""
        return set(self._boxes)

    def forget(self, sandbox_id: str) -> None:
        """As after a host's disk was replaced: the sandbox never was."""
        del self._boxes[sandbox_id]

    def age(self, sandbox_id: str, seconds: float) -> float:
        """The sandbox was used last so long ago (below 0: in so long); returns when that is."""
        at = self._boxes[sandbox_id].last_active_at = time.time() - seconds
        return at

    def take_out(self, sandbox_id: str) -> object:
        """As while its journal is being read: the sandbox is not known, until what is returned is put back."""
        return self._boxes.pop(sandbox_id)

    def put_back(self, box: object) -> None:
        """Know the sandbox again."""
        assert isinstance(box, Box), "what `take_out` gave"
        self._boxes[box.spec.sandbox_id] = box

    def lose(self, sandbox_id: str) -> None:
        """The sandbox's virtual machine ended."""
        self.change(sandbox_id, pb.SandboxState.LOST, "The virtual machine ended.")

    def change(self, sandbox_id: str, state: pb.SandboxState, reason: str = "") -> None:
        """The sandbox is in another state than its control plane was told."""
        box = self._boxes[sandbox_id]
        box.state, box.reason = state, reason

    def state(self, sandbox_id: str) -> pb.SandboxState:
        """What it is now."""
        return self._boxes[sandbox_id].state

    def spec(self, sandbox_id: str) -> pb.SandboxSpec:
        """What was asked for."""
        return self._boxes[sandbox_id].spec

    def network(self, sandbox_id: str) -> pb.NetworkPolicy:
        """The network policy that it has."""
        found = self._boxes[sandbox_id].network
        assert found is not None, "the control plane sends a policy"
        return found

    def root_of(self, sandbox_id: str) -> Path:
        """The folder that stands for it."""
        return self._boxes[sandbox_id].root

    @property
    def snapshot_ids(self) -> set[str]:
        """The snapshots that are kept."""
        return set(self._snapshots)

    def plant_snapshot(self, snapshot_id: str) -> None:
        """A snapshot that no control plane asked for."""
        self._keep(snapshot_id, next(iter(self._boxes.values())))

    def plant(self, sandbox_id: str) -> None:
        """A sandbox that no control plane asked for."""
        self._add(pb.SandboxSpec(sandbox_id=sandbox_id, template="minimal", vcpus=1, memory_mb=128))

    async def wait_call(self, name: str, *, count: int = 1) -> None:
        """Return when this call has arrived `count` times."""
        async with self.arrived, asyncio.timeout(10):
            await self.arrived.wait_for(lambda: self.calls[name] >= count)

    def serves_exec(self, scope: Scope) -> bool:
        """Whether it is a command to be run, and this host is not one of before."""
        return scope["path"].endswith(EXEC) and not self.switches.is_old

    async def note_broken_off(self, path: str) -> None:
        """The caller of this call did not wait for its answer."""
        async with self.arrived:
            name = path.rpartition("/")[2]
            self.broken_off[name[:1].upper() + name[1:]] += 1
            self.arrived.notify_all()

    async def wait_broken_off(self, method: str) -> None:
        """Return when a caller of this method has gone away."""
        async with self.arrived, asyncio.timeout(10):
            await self.arrived.wait_for(lambda: self.broken_off[method] > 0)

    async def intercept_unary(
        self,
        call_next: Callable[[Q, RequestContext[Q, A]], Awaitable[A]],
        request: Q,
        ctx: RequestContext[Q, A],
        /,
    ) -> A:
        """Run a call with what the switches say, and our errors as Connect errors."""
        name = "".join(f"_{c.lower()}" if c.isupper() else c for c in ctx.method.name).lstrip("_")
        try:
            answer = await self.switched(name, request, partial(call_next, request, ctx))
        except WrennError as error:
            ctx.response_headers[ERROR_CODE_HEADER] = error.code
            raise ConnectError(connect_code(error), error.message) from error
        if name in self.switches.lose_answer:
            raise _AnswerLost
        return answer

    async def switched(self, name: str, request: object, call: Callable[[], Awaitable[A]]) -> A:
        """Run a call with what the switches say."""
        async with self.arrived:
            self.calls[name] += 1
            self.arrived.notify_all()
        if (held := self.switches.hold.get(name)) is not None:
            await held.wait()
        if (failure := self.switches.fail.get(name)) is not None:
            raise failure
        if (later := self.switches.fail_after.get(name)) is not None:
            if later[0] == 0:
                raise later[1]
            self.switches.fail_after[name] = (later[0] - 1, later[1])
        with self._in_use(name, request):
            return await call()

    @contextlib.contextmanager
    def _in_use(self, name: str, request: object) -> Generator[None]:
        """A call into a sandbox is activity from its begin to its end."""
        box = self._boxes.get(getattr(request, "sandbox_id", "")) if name in _ACTIVITIES else None
        if box is None:
            yield
            return
        box.last_active_at = time.time()
        box.calls_open += 1
        try:
            yield
        finally:
            box.calls_open -= 1
            box.last_active_at = time.time()

    async def get_host(self, request: pb.GetHostRequest, ctx: Any, /) -> pb.Host:
        """The machine."""
        return pb.Host(
            agent_version="simulated",
            cpu_cores=4,
            memory_b=self.switches.memory_b,
            memory_available_b=self.switches.memory_b,
            disk_b=1024 * GIB,
            disk_available_b=1024 * GIB,
            sandbox_limit=self.switches.sandbox_limit,
            sandbox_count=sum(b.state != pb.SandboxState.PAUSED for b in self._boxes.values()),
            templates=self.switches.templates,
        )

    async def ensure_sandbox(self, request: pb.EnsureSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Make the folder."""
        spec = request.sandbox
        assert spec is not None, "the control plane sends a spec"
        network, spec.network = spec.network or pb.NetworkPolicy(allow_internet=True), None
        box = self._boxes.get(spec.sandbox_id)
        if box is None:
            if spec.snapshot_id and spec.snapshot_id not in self._snapshots:
                raise NotFound(f"Snapshot {spec.snapshot_id} is not on this host.")
            box = self._add(spec)
        elif box.spec != spec:
            raise Conflict("It exists with other settings.")
        if box.network is None or box.network.revision < network.revision:
            box.network = network
        return sandbox_answer(box)

    def _add(self, spec: pb.SandboxSpec) -> Box:
        root = self._root / spec.sandbox_id
        if spec.snapshot_id:
            shutil.copytree(self._root / spec.snapshot_id, root, symlinks=True)
        else:
            (root / "root").mkdir(parents=True)
        box = self._boxes[spec.sandbox_id] = Box(spec, root, time.time(), time.time())
        return box

    async def remove_sandbox(self, request: pb.RemoveSandboxRequest, ctx: Any, /) -> pb.RemoveSandboxResponse:
        """Remove the folder."""
        box = self._boxes.pop(request.sandbox_id, None)
        if box is not None:
            await cut_passages(box)
            signal_all(box, signal.SIGKILL)
            for process in box.processes.values():
                if process.pump is not None:
                    # What it started may hold its output open for as long as it likes.
                    await asyncio.wait({process.pump}, timeout=_END_TIMEOUT_S)
                    process.pump.cancel()
            shutil.rmtree(box.root)
        return pb.RemoveSandboxResponse()

    async def pause_sandbox(self, request: pb.PauseSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Stop its processes, unless it is in use."""
        box = self._known(request.sandbox_id)
        if box.state == pb.SandboxState.PAUSED:
            return sandbox_answer(box)
        self._box(request.sandbox_id)
        idle_s = 0.0 if box.calls_open else time.time() - box.last_active_at
        if request.idle_ms and idle_s * 1000 < request.idle_ms:
            return sandbox_answer(box)
        signal_all(box, signal.SIGSTOP)
        box.state = pb.SandboxState.PAUSED
        await cut_passages(box)
        return sandbox_answer(box)

    async def resume_sandbox(self, request: pb.ResumeSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Let its processes go on."""
        box = self._known(request.sandbox_id)
        if box.state == pb.SandboxState.PAUSED:
            box.state = pb.SandboxState.RUNNING
            box.last_active_at = time.time()
            signal_all(box, signal.SIGCONT)
        return sandbox_answer(self._box(request.sandbox_id))

    async def set_network(self, request: pb.SetNetworkRequest, ctx: Any, /) -> pb.Sandbox:
        """Note it, if it is newer."""
        box = self._known(request.sandbox_id)
        assert request.network is not None, "the control plane sends a policy"
        if box.network is None or box.network.revision < request.network.revision:
            box.network = request.network
        return sandbox_answer(box)

    async def set_disk(self, request: pb.SetDiskRequest, ctx: Any, /) -> pb.Sandbox:
        """Keep the size."""
        box = self._known(request.sandbox_id)
        box.spec.disk_size_mb = request.disk_size_mb
        return sandbox_answer(box)

    async def ensure_snapshot(self, request: pb.EnsureSnapshotRequest, ctx: Any, /) -> pb.Snapshot:
        """Copy the folder."""
        if request.snapshot_id not in self._snapshots:
            box = self._known(request.sandbox_id)
            if box.state not in (pb.SandboxState.RUNNING, pb.SandboxState.PAUSED):
                raise InvalidState(f"Sandbox {request.sandbox_id} is lost.")
            self._keep(request.snapshot_id, box)
        return self._snapshots[request.snapshot_id]

    def _keep(self, snapshot_id: str, box: Box) -> None:
        shutil.copytree(box.root, self._root / snapshot_id, symlinks=True)
        self._snapshots[snapshot_id] = pb.Snapshot(
            snapshot_id=snapshot_id,
            sandbox_id=box.spec.sandbox_id,
            template=box.spec.template,
            vcpus=box.spec.vcpus,
            memory_mb=box.spec.memory_mb,
            size_b=self.switches.snapshot_b,
            created_at_unix=time.time(),
        )

    async def remove_snapshot(
        self, request: pb.RemoveSnapshotRequest, ctx: Any, /
    ) -> pb.RemoveSnapshotResponse:
        """Remove the copy."""
        if self._snapshots.pop(request.snapshot_id, None) is not None:
            shutil.rmtree(self._root / request.snapshot_id)
        return pb.RemoveSnapshotResponse()

    async def list_snapshots(self, request: pb.ListSnapshotsRequest, ctx: Any, /) -> pb.ListSnapshotsResponse:
        """All copies."""
        return pb.ListSnapshotsResponse(snapshots=list(self._snapshots.values()))

    async def list_sandboxes(self, request: pb.ListSandboxesRequest, ctx: Any, /) -> pb.ListSandboxesResponse:
        """All folders."""
        return pb.ListSandboxesResponse(sandboxes=[sandbox_answer(box) for box in self._boxes.values()])

    async def ping_sandbox(self, request: pb.PingSandboxRequest, ctx: Any, /) -> pb.PingSandboxResponse:
        """Note it."""
        self._box(request.sandbox_id).last_active_at = time.time()
        return pb.PingSandboxResponse()

    async def exec(self, request: pb.ExecRequest, ctx: Any, /) -> pb.ExecResponse:
        """Run it on this machine, for a control plane of before."""
        box, command = self._box(request.sandbox_id), request.command
        assert command is not None, "the control plane sends a command"
        process = await self._spawn(box, command, asyncio.subprocess.PIPE)
        if process is None:
            return pb.ExecResponse(stderr=f"sh: 1: {command.cmd}: not found\n".encode(), exit_code=127)
        try:
            async with asyncio.timeout(request.timeout_ms / 1000):
                stdout, stderr = await process.communicate()
        except TimeoutError as error:
            raise DeadlineExceeded("The command did not end in time and was killed.") from error
        finally:
            if process.returncode is None:
                os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return pb.ExecResponse(
            stdout=stdout,
            stderr=stderr,
            exit_code=max(process.returncode if process.returncode is not None else -1, -1),
        )

    async def start_process(self, request: pb.StartProcessRequest, ctx: Any, /) -> pb.StartProcessResponse:
        """Run it on this machine and let it go on."""
        box, command = self._box(request.sandbox_id), request.command
        assert command is not None, "the control plane sends a command"
        line = CommandLine(command.cmd, command.args, command.envs, command.cwd, command.user)
        process = await self._followable(box, line, request.tag)
        return pb.StartProcessResponse(pid=process.pid, tag=request.tag)

    async def list_processes(self, request: pb.ListProcessesRequest, ctx: Any, /) -> pb.ListProcessesResponse:
        """Those that live."""
        running = [p for p in self._box(request.sandbox_id).processes.values() if p.end is None]
        return pb.ListProcessesResponse(
            processes=[
                pb.Process(pid=p.pid, tag=p.tag, cmd=p.command.cmd, args=list(p.command.args))
                for p in running
            ]
        )

    async def signal_process(self, request: pb.SignalProcessRequest, ctx: Any, /) -> pb.SignalProcessResponse:
        """Kill the group."""
        assert request.selector is not None, "the control plane sends a selector"
        process = _found(self._box(request.sandbox_id), request.selector.value)
        process.signal(int(request.signal))
        if request.signal in (pb.Signal.SIGKILL, pb.Signal.SIGTERM) and process.pump is not None:
            await asyncio.wait({process.pump})
        return pb.SignalProcessResponse()

    async def stat(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """One entry."""
        return file_entry(self._box(request.sandbox_id), self._path(request.sandbox_id, request.path))

    async def list_dir(self, request: pb.ListDirRequest, ctx: Any, /) -> pb.ListDirResponse:
        """Entries to a depth."""
        top = self._path(request.sandbox_id, request.path)
        if not top.is_dir():
            raise NotFound(f"{request.path}: no such directory")
        box = self._box(request.sandbox_id)
        found = [p for p in sorted(top.rglob("*")) if len(p.relative_to(top).parts) <= request.depth]
        return pb.ListDirResponse(entries=[file_entry(box, path) for path in found])

    async def make_dir(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """A folder."""
        path = self._path(request.sandbox_id, request.path)
        if path.exists():
            raise Conflict(f"{request.path}: exists")
        path.mkdir(parents=True)
        return file_entry(self._box(request.sandbox_id), path)

    async def move(self, request: pb.MoveRequest, ctx: Any, /) -> pb.FileEntry:
        """A rename."""
        source, target = (self._path(request.sandbox_id, p) for p in (request.source, request.destination))
        if not os.path.lexists(source):
            raise NotFound(f"{request.source}: no such file")
        source.rename(target)
        return file_entry(self._box(request.sandbox_id), target)

    async def remove_path(self, request: pb.PathRequest, ctx: Any, /) -> pb.RemovePathResponse:
        """Gone, or never there."""
        path = self._path(request.sandbox_id, request.path)
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        return pb.RemovePathResponse()

    @asynccontextmanager
    async def open_stream(self, sandbox_id: SandboxId) -> AsyncGenerator[BoxPassage]:
        """As of `wrenn.agent.sandboxes.Sandboxes`; ports of the sandbox are those of this machine. A pause ends it."""
        box = self._box(str(sandbox_id))
        task = asyncio.current_task()
        assert task is not None, "passages are served by tasks"
        processes = LocalProcesses(
            lambda command, tag, stdin, size: self._followable(box, command, tag, stdin=stdin, size=size),
            lambda selector: _found(box, selector, also_ended=True),
        )
        passage = BoxPassage(box, cast("Processes", processes))
        box.passages.add(task)
        try:
            yield passage
        except asyncio.CancelledError as error:
            if box.state == pb.SandboxState.RUNNING and str(sandbox_id) in self._boxes:
                raise
            task.uncancel()
            raise InvalidState(f"Sandbox {sandbox_id} is being paused. The call was cut off.") from error
        finally:
            box.passages.discard(task)
            passage.end()

    async def serve_files(self, request: Request) -> Response:
        """Contents, archives and changes of files (docs/design/host-api.md)."""
        sandbox_id, _, kind = request.url.path.removeprefix("/sandboxes/").partition("/")
        try:
            if "path" not in request.query_params:
                raise InvalidRequest("The query needs a path.")
            path = self._path(sandbox_id, request.query_params["path"])
            box = self._box(sandbox_id)
            box.last_active_at = time.time()
            return await simulated_files.answer(box, path, kind, request)
        except WrennError as error:
            body = {"code": error.code, "message": error.message}
            return JSONResponse(body, error.http_status, {ERROR_CODE_HEADER: error.code})

    async def tell_change(self, sandbox_id: str, **line: str) -> None:
        """A line to all who watch something in this sandbox, e.g. `kind="create", name="a"`."""
        for queue in self._boxes[sandbox_id].watches:
            await queue.put(line)

    def watchers(self, sandbox_id: str) -> int:
        """How many watch something in this sandbox."""
        return len(self._boxes[sandbox_id].watches)

    def _known(self, sandbox_id: str) -> Box:
        box = self._boxes.get(sandbox_id)
        if box is None:
            raise NotFound(f"Sandbox {sandbox_id} is not on this host.")
        return box

    def _box(self, sandbox_id: str) -> Box:
        box = self._known(sandbox_id)
        if box.state != pb.SandboxState.RUNNING:
            raise InvalidState(f"Sandbox {sandbox_id} is {box.state.name.lower()}.")
        return box

    def _path(self, sandbox_id: str, path: str) -> Path:
        root = self._box(sandbox_id).root
        # As in a guest: `..` at the top stays at the top.
        inside = Path(os.path.normpath(os.fsdecode(text_to_name(path)))).relative_to("/")
        if path.startswith("//") or inside.is_absolute():
            raise InvalidRequest("not a path")
        return root / inside

    async def _followable(
        self,
        box: Box,
        command: CommandLine,
        tag: str,
        *,
        stdin: bool = False,
        size: tuple[int, int] | None = None,
    ) -> LocalProcess:
        envs = {"PATH": os.environ["PATH"], "USER": command.user, **box.spec.envs, **command.envs}
        cwd = self._path(box.spec.sandbox_id, command.cwd or "/root")
        process = await spawn(command, envs=envs, cwd=cwd, tag=tag, stdin=stdin, size=size)
        box.processes[process.pid] = process
        return process

    async def _spawn(self, box: Box, command: pb.Command, output: int) -> asyncio.subprocess.Process | None:
        envs = {"PATH": os.environ["PATH"], "USER": command.user, **box.spec.envs, **command.envs}
        try:
            return await asyncio.create_subprocess_exec(
                resolved(command.cmd),
                *command.args,
                env=envs,
                cwd=self._path(box.spec.sandbox_id, command.cwd or "/root"),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        except FileNotFoundError:
            return None


def _found(box: Box, selector: int | str, *, also_ended: bool = False) -> LocalProcess:
    for process in reversed(box.processes.values()):
        if selector in (process.pid, process.tag) and (also_ended or process.end is None):
            return process
    raise NotFound(f"process {selector} not found")


class _AnswerLost(BaseException):
    """Ends the connection without an answer."""


class _App:
    def __init__(self, host: SimulatedHost) -> None:
        self._host = host
        self._rpc = HostAgentASGIApplication(host, interceptors=[host], compressions=[])
        self._execs = Execs(host)
        self._streams = ProcessStreams(host)
        self._ports = PortStreams(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if self._ports.serves(scope):
            self._host.calls["visit"] += 1
            await self._ports(scope, receive, send)
            return
        if scope["type"] == "websocket":
            self._host.calls["stream"] += 1
            await self._streams(scope, receive, send)
            return
        if scope["path"].startswith("/sandboxes/") and not self._host.serves_exec(scope):
            response = await self._host.serve_files(Request(scope, receive))
            await response(scope, receive, send)
            return
        body = await Request(scope, receive).body()
        call = asyncio.create_task(self._call(scope, body, send))
        gone = asyncio.create_task(_gone(receive))
        await asyncio.wait({call, gone}, return_when=asyncio.FIRST_COMPLETED)
        gone.cancel()
        if not call.done():
            await self._host.note_broken_off(scope["path"])
            call.cancel()
        await asyncio.wait({call})

    async def _call(self, scope: Scope, body: bytes, send: Send) -> None:
        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        try:
            if self._execs.serves(scope):
                await self._exec(scope, receive, send)
            else:
                await self._rpc(scope, receive, send)  # type: ignore[arg-type]
        except _AnswerLost:
            # An answer that begins and never ends: the server closes the connection.
            headers = [(b"content-length", b"1")]
            await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _exec(self, scope: Scope, receive: Receive, send: Send) -> None:
        sandbox_id = scope["path"].split("/")[2]
        call = partial(self._execs, scope, receive, send)
        try:
            await self._host.switched("exec", pb.ExecRequest(sandbox_id=sandbox_id), call)
        except WrennError as error:
            message = failure_message(error)
            response = Response(MESSAGE_HEAD.pack(len(message)) + message)
            await response(scope, receive, send)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


@asynccontextmanager
async def running_host(root: Path, pki: Path, *, port: int = 0) -> AsyncGenerator[SimulatedHost]:
    """Serve a simulated host on loopback with the agent's certificate in `pki`."""
    host = SimulatedHost(root)
    async with served_host(host, pki, port=port):
        yield host
    for sandbox_id in host.sandbox_ids:
        await host.remove_sandbox(pb.RemoveSandboxRequest(sandbox_id=sandbox_id), None)


@asynccontextmanager
async def served_host(host: SimulatedHost, pki: Path, *, port: int = 0) -> AsyncGenerator[None]:
    """Serve this host; afterwards it is unreachable, and may be served again with what it has."""
    config = uvicorn.Config(
        _App(host),
        date_header=False,
        host="127.0.0.1",
        port=port,
        ssl_certfile=pki / "agent.pem",
        ssl_keyfile=pki / "agent.key",
        ssl_ca_certs=str(pki / "ca.pem"),
        ssl_cert_reqs=ssl.CERT_REQUIRED,
        log_level="critical",
        timeout_graceful_shutdown=1,
        **SERVER_OPTIONS,
    )
    async with served(config) as bound:
        host.url = f"https://127.0.0.1:{bound}"
        yield
