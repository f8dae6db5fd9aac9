"""Calls to host agents: the only RPC client of the control plane. Files are transferred by `transfers.py`.

Connections are kept and shared per host.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, TypeVar

import aiohttp
from connectrpc.client import ResponseMetadata
from connectrpc.code import Code
from connectrpc.errors import ConnectError
from pyqwest import Client, HTTPTransport, HTTPVersion, Proxy
from yarl import URL

from wrenn.base.errors import DeadlineExceeded, Unavailable, WrennError
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.base.tasks import OwnedTasks
from wrenn.base.units import MIB
from wrenn.control.hosts.execs import EXEC_MARGIN_S, ExecNotSupported, Execs
from wrenn.control.hosts.messages import (
    command_message,
    file_of,
    network_message,
    process_of,
    report_of,
    sandbox_of,
    selector_message,
    snapshot_of,
    spec_message,
)
from wrenn.control.hosts.streams import HostStream, StreamConnections
from wrenn.control.hosts.transfers import IDLE_TIMEOUT_S, READ_BUFFER_B, Transfers
from wrenn.control.hosts.types import (
    Command,
    FileInfo,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSnapshot,
    RunningProcess,
)
from wrenn.protocol.api import OUTPUT_LIMIT_B
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, from_connect
from wrenn.protocol.host.host_connect import HostAgentClient
from wrenn.protocol.host.streams import Kind, ProcessEnd, StartProcess
from wrenn.relay import UNPACED, IgnoredCookies, PacedConnector, keepalive_socket, new_session

R = TypeVar("R")

_CONNECT_TIMEOUT_S: Final = 5.0
_POOL_IDLE_S: Final = 60.0
"""Below the agent's keep-alive of 75 s, so that no request is sent on a connection that the agent is closing."""
_IDLE_CONNECTIONS: Final = 64
_ANSWER_LIMIT_B: Final = 2 * OUTPUT_LIMIT_B + 4 * MIB


@dataclass(frozen=True, slots=True)
class Connections:
    """Connection pools and tasks that the clients of all agents share.

    Attributes:
        transport, http: of RPCs and uploads.
        downloads: of files that are read, of commands, and of streams.
        relays: of what is passed on to ports of sandboxes.
        tasks: owner of what goes on behind requests.
    """

    transport: HTTPTransport
    http: Client
    downloads: aiohttp.ClientSession
    relays: aiohttp.ClientSession
    tasks: OwnedTasks


class HostClient:
    """Calls to the agent of one host.

    Every call raises a `WrennError` with what the agent said, `Unavailable` if it did not answer, or `DeadlineExceeded`.

    Attributes:
        relays: the HTTP client for what is passed on to ports of sandboxes.
    """

    def __init__(self, address: str, connections: Connections) -> None:
        self._address = address
        self.relays = connections.relays
        self.transfers = Transfers(address, connections.transport, connections.downloads)
        self._execs = Execs(address, connections.downloads)
        self.streams = StreamConnections(connections.downloads, address, connections.tasks)
        self._rpc = HostAgentClient(
            address,
            http_client=connections.http,
            accept_compression=[],
            send_compression=None,
            read_max_bytes=_ANSWER_LIMIT_B,
        )

    async def report(self, *, timeout_s: float) -> HostReport:
        """Return what the agent reports about its machine."""
        return report_of(await self._call(self._rpc.get_host, pb.GetHostRequest(), timeout_s=timeout_s))

    async def ensure_sandbox(self, spec: HostSandboxSpec, *, timeout_s: float) -> HostSandbox:
        """Start the sandbox if it does not run; returns when its guest agent answers."""
        request = pb.EnsureSandboxRequest(sandbox=spec_message(spec))
        return sandbox_of(await self._call(self._rpc.ensure_sandbox, request, timeout_s=timeout_s))

    async def remove_sandbox(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Remove the sandbox with everything that belongs to it; does nothing if there is none."""
        request = pb.RemoveSandboxRequest(sandbox_id=str(sandbox_id))
        await self._call(self._rpc.remove_sandbox, request, timeout_s=timeout_s)

    async def list_sandboxes(self, *, timeout_s: float) -> list[HostSandbox]:
        """Return every sandbox that the host knows."""
        answer = await self._call(self._rpc.list_sandboxes, pb.ListSandboxesRequest(), timeout_s=timeout_s)
        return [sandbox_of(sandbox) for sandbox in answer.sandboxes]

    async def pause_sandbox(self, sandbox_id: SandboxId, *, idle_ms: int, timeout_s: float) -> HostSandbox:
        """Pause the sandbox; with `idle_ms` only if it was not in use for so long, otherwise it stays running."""
        request = pb.PauseSandboxRequest(sandbox_id=str(sandbox_id), idle_ms=idle_ms)
        return sandbox_of(await self._call(self._rpc.pause_sandbox, request, timeout_s=timeout_s))

    async def resume_sandbox(self, sandbox_id: SandboxId, *, timeout_s: float) -> HostSandbox:
        """Resume the sandbox; returns when its guest agent answers."""
        request = pb.ResumeSandboxRequest(sandbox_id=str(sandbox_id))
        return sandbox_of(await self._call(self._rpc.resume_sandbox, request, timeout_s=timeout_s))

    async def set_network(
        self, sandbox_id: SandboxId, policy: HostNetworkPolicy, *, timeout_s: float
    ) -> None:
        """Put a network policy in force, unless the sandbox has a newer one."""
        request = pb.SetNetworkRequest(sandbox_id=str(sandbox_id), network=network_message(policy))
        await self._call(self._rpc.set_network, request, timeout_s=timeout_s)

    async def set_disk(self, sandbox_id: SandboxId, *, disk_size_mb: int, timeout_s: float) -> None:
        """Make the disk as large as this; never smaller."""
        request = pb.SetDiskRequest(sandbox_id=str(sandbox_id), disk_size_mb=disk_size_mb)
        await self._call(self._rpc.set_disk, request, timeout_s=timeout_s)

    async def ping_sandbox(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Reset the sandbox's idle timer."""
        request = pb.PingSandboxRequest(sandbox_id=str(sandbox_id))
        await self._call(self._rpc.ping_sandbox, request, timeout_s=timeout_s)

    async def ensure_snapshot(
        self, snapshot_id: SnapshotId, sandbox_id: SandboxId, *, timeout_s: float
    ) -> HostSnapshot:
        """Take a snapshot of the sandbox under this id, unless there is one."""
        request = pb.EnsureSnapshotRequest(snapshot_id=str(snapshot_id), sandbox_id=str(sandbox_id))
        return snapshot_of(await self._call(self._rpc.ensure_snapshot, request, timeout_s=timeout_s))

    async def remove_snapshot(self, snapshot_id: SnapshotId, *, timeout_s: float) -> None:
        """Remove the snapshot; does nothing if there is none."""
        request = pb.RemoveSnapshotRequest(snapshot_id=str(snapshot_id))
        await self._call(self._rpc.remove_snapshot, request, timeout_s=timeout_s)

    async def list_snapshots(self, *, timeout_s: float) -> list[HostSnapshot]:
        """Return every snapshot that was taken on the host and not removed."""
        answer = await self._call(self._rpc.list_snapshots, pb.ListSnapshotsRequest(), timeout_s=timeout_s)
        return [snapshot_of(snapshot) for snapshot in answer.snapshots]

    async def exec(
        self, sandbox_id: SandboxId, start: StartProcess, take: Callable[[Kind, bytes], None]
    ) -> ProcessEnd:
        """Run a command to its end, and pass what it writes to `take`.

        When `take` raises, and after a cancellation, the command is killed.

        Raises:
            WrennError: what the agent said. DeadlineExceeded: the command was killed because its time was up.
            HostNotResponding, Unavailable: the host does not answer.
        """
        try:
            return await self._execs.run(sandbox_id, start, take)
        except ExecNotSupported:
            # An agent of before, until its host is upgraded too.
            return await self._exec_in_one_call(sandbox_id, start, take)

    async def _exec_in_one_call(
        self, sandbox_id: SandboxId, start: StartProcess, take: Callable[[Kind, bytes], None]
    ) -> ProcessEnd:
        command = Command(start.cmd, start.args, start.envs, start.cwd, start.user)
        request = pb.ExecRequest(
            sandbox_id=str(sandbox_id), command=command_message(command), timeout_ms=start.timeout_ms
        )
        timeout_s = start.timeout_ms / 1000 + EXEC_MARGIN_S
        answer = await self._call(self._rpc.exec, request, timeout_s=timeout_s)
        take(Kind.STDOUT, answer.stdout)
        take(Kind.STDERR, answer.stderr)
        return ProcessEnd(answer.exit_code)

    async def start_process(
        self, sandbox_id: SandboxId, command: Command, *, tag: str, timeout_s: float
    ) -> tuple[int, str]:
        """Start a command in the background. Returns its pid and tag."""
        request = pb.StartProcessRequest(
            sandbox_id=str(sandbox_id), command=command_message(command), tag=tag
        )
        started = await self._call(self._rpc.start_process, request, timeout_s=timeout_s)
        return started.pid, started.tag

    async def list_processes(self, sandbox_id: SandboxId, *, timeout_s: float) -> list[RunningProcess]:
        """Return the living processes that were started through the API."""
        request = pb.ListProcessesRequest(sandbox_id=str(sandbox_id))
        answer = await self._call(self._rpc.list_processes, request, timeout_s=timeout_s)
        return [process_of(process) for process in answer.processes]

    async def signal_process(
        self, sandbox_id: SandboxId, selector: int | str, signal: int, *, timeout_s: float
    ) -> None:
        """Send one of `SIGNALS` to the process with this pid or tag."""
        request = pb.SignalProcessRequest(
            sandbox_id=str(sandbox_id), selector=selector_message(selector), signal=pb.Signal(signal)
        )
        await self._call(self._rpc.signal_process, request, timeout_s=timeout_s)

    async def list_dir(
        self, sandbox_id: SandboxId, path: str, *, depth: int, user: str, timeout_s: float
    ) -> list[FileInfo]:
        """List a directory."""
        request = pb.ListDirRequest(sandbox_id=str(sandbox_id), path=path, depth=depth, user=user)
        answer = await self._call(self._rpc.list_dir, request, timeout_s=timeout_s)
        return [file_of(entry) for entry in answer.entries]

    async def stat(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> FileInfo:
        """Return what is known about a path."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        return file_of(await self._call(self._rpc.stat, request, timeout_s=timeout_s))

    async def make_dir(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> FileInfo:
        """Create a directory and its parents. Raises Conflict if there is something at this path."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        return file_of(await self._call(self._rpc.make_dir, request, timeout_s=timeout_s))

    async def remove_path(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> None:
        """Remove a file, or a directory with everything in it; does nothing if there is none."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        await self._call(self._rpc.remove_path, request, timeout_s=timeout_s)

    async def move(
        self, sandbox_id: SandboxId, *, source: str, destination: str, user: str, timeout_s: float
    ) -> FileInfo:
        """Rename a file or directory."""
        request = pb.MoveRequest(
            sandbox_id=str(sandbox_id), source=source, destination=destination, user=user
        )
        return file_of(await self._call(self._rpc.move, request, timeout_s=timeout_s))

    async def _call(self, method: Callable[..., Awaitable[R]], request: object, *, timeout_s: float) -> R:
        with ResponseMetadata() as answer:
            try:
                return await method(request, timeout_ms=int(timeout_s * 1000))
            except ConnectError as error:
                task = asyncio.current_task()
                if error.code is Code.CANCELED and task is not None and task.cancelling():
                    # The library hides our own cancellation; timeouts and shutdown need it.
                    raise asyncio.CancelledError from error
                code = answer.headers.get(ERROR_CODE_HEADER, "")
                raise self._failure(error, code, timeout_s) from error

    def _failure(self, error: ConnectError, code: str, timeout_s: float) -> WrennError:
        context: dict[str, object] = {"host": self._address, "cause": error.message}
        if not code and error.code is Code.DEADLINE_EXCEEDED:
            return DeadlineExceeded(f"The host did not answer within {timeout_s:.0f} s.", context=context)
        if not code and error.code is Code.UNAVAILABLE:
            # The transport's words; they name addresses.
            return Unavailable("The host of this sandbox does not answer now.", context=context)
        return from_connect(error, code=code or None)

    def stream(self) -> AbstractAsyncContextManager[HostStream]:
        """Open a connection that follows one process of a sandbox; leaving the context detaches from the process.

        Raises:
            Unavailable: the host does not answer.
        """
        return self.streams.stream()

    def port_url(self, sandbox_id: SandboxId, port: int, target: str) -> URL:
        """Return the URL at which `relays` reaches a port of the sandbox, with the request target unchanged."""
        return URL(f"{self._address}/sandboxes/{sandbox_id}/ports/{port}{target}", encoded=True)

    def stream_url(self, sandbox_id: SandboxId, port: int) -> URL:
        """Return the URL of the WebSocket at which `relays` reaches the bytes of a port of the sandbox."""
        return URL(f"{self._address}/sandboxes/{sandbox_id}/streams/{port}")


def _connector(tls: ssl.SSLContext) -> PacedConnector:
    return PacedConnector(
        UNPACED,
        ssl=tls,
        limit=0,
        keepalive_timeout=_POOL_IDLE_S,
        use_dns_cache=False,
        socket_factory=keepalive_socket,
    )


class HostClients:
    """The clients of all agents, over shared connection pools with the control plane's certificate."""

    def __init__(self, pki: Path) -> None:
        transport = HTTPTransport(
            tls_ca_cert=(pki / "ca.pem").read_bytes(),
            tls_cert=(pki / "control.pem").read_bytes(),
            tls_key=(pki / "control.key").read_bytes(),
            http_version=HTTPVersion.HTTP1,
            # Applies to no agent, whose scheme is https; that there is one keeps the environment's proxies away.
            proxy=Proxy("http://127.0.0.1:9", scheme="http"),
            connect_timeout=_CONNECT_TIMEOUT_S,
            pool_idle_timeout=_POOL_IDLE_S,
            pool_max_idle_per_host=_IDLE_CONNECTIONS,
            enable_gzip=False,
            enable_brotli=False,
            enable_zstd=False,
            follow_redirects=False,
            enable_otel=False,
        )
        tls = ssl.create_default_context(cafile=pki / "ca.pem")
        tls.load_cert_chain(pki / "control.pem", pki / "control.key")
        downloads = aiohttp.ClientSession(
            connector=_connector(tls),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
            cookie_jar=IgnoredCookies(),
            timeout=aiohttp.ClientTimeout(
                total=None, sock_connect=_CONNECT_TIMEOUT_S, sock_read=IDLE_TIMEOUT_S
            ),
            trust_env=False,
            read_bufsize=READ_BUFFER_B,
        )
        relays = new_session(_connector(tls))
        self._connections = Connections(transport, Client(transport), downloads, relays, OwnedTasks())
        self._clients: dict[str, HostClient] = {}

    def at(self, address: str) -> HostClient:
        """Return the client for the agent at this URL. Opens no connection yet."""
        client = self._clients.get(address)
        if client is None:
            client = self._clients[address] = HostClient(address, self._connections)
        return client

    async def close(self) -> None:
        """Close the connections."""
        await self._connections.tasks.close()
        for client in self._clients.values():
            await client.streams.close()
        await self._connections.downloads.close()
        await self._connections.relays.close()
        await self._connections.transport.aclose()
