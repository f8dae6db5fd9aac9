"""Calls to host agents, with values as arguments and results. Files are transferred by `transfers.py`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import aiohttp
from yarl import URL

from wrenn.base.ids import HostId, ImageId, SandboxId, SnapshotId
from wrenn.base.tasks import OwnedTasks
from wrenn.control.hosts.execs import EXEC_MARGIN_S, ExecNotSupported, Execs
from wrenn.control.hosts.messages import (
    command_message,
    file_of,
    guest_processes_of,
    image_of,
    image_request,
    images_of,
    listeners_of,
    network_message,
    newest_samples_of,
    process_of,
    report_of,
    sandbox_of,
    sandboxes_of,
    selector_message,
    snapshot_of,
    snapshots_of,
    spec_message,
    steps_of,
    transfer_of,
)
from wrenn.control.hosts.rpc import HostRpc
from wrenn.control.hosts.streams import HostStream, StreamConnections
from wrenn.control.hosts.transfers import Transfers
from wrenn.control.hosts.transport import HostConnection, HostTransport
from wrenn.control.hosts.types import (
    Command,
    FileInfo,
    GuestProcesses,
    HostEndpoint,
    HostImage,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSnapshot,
    HostSteps,
    HostTransfer,
    ImageSource,
    Listener,
    RunningProcess,
)
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.errors import MethodUnknown
from wrenn.protocol.host.streams import Kind, ProcessEnd, StartProcess
from wrenn.relay import Headers, Request, Scope

_CONSOLE_LIMIT: Final = 64 * 1024
"""So many characters of a console are believed."""
_IMAGE_MARGIN_S: Final = 10.0
"""What an answer about an image may take beyond the wait that was asked for."""


@dataclass(frozen=True, slots=True)
class PortPlace:
    """A port of a sandbox.

    Attributes:
        target: the request target, passed on unchanged.
        is_tunnel: the bytes of the port, not what it says in HTTP; `target` is not used.
    """

    sandbox_id: SandboxId
    port: int
    target: str
    is_tunnel: bool = False


class HostClient:
    """Calls to the agent of one host.

    Every call raises a `WrennError` with what the agent said, `Unavailable` if it did not answer, or `DeadlineExceeded`.
    """

    def __init__(self, connection: HostConnection, tasks: OwnedTasks) -> None:
        self._connection = connection
        self._rpc = HostRpc(connection)
        self._execs = Execs(connection)
        self.transfers = Transfers(connection)
        self.streams = StreamConnections(connection, tasks)

    @property
    def endpoint(self) -> HostEndpoint:
        """Where the host is reached."""
        return self._connection.endpoint

    def withdraw(self) -> None:
        """Refuse all further calls, also of those who hold this client: the host's certificates were withdrawn, or it was deleted."""
        self._connection.withdraw()

    @property
    def failures(self) -> int:
        """How many calls until now the agent did not answer, or could not carry out: a change is a reason to look at the host."""
        return self._connection.failures

    async def report(self, *, timeout_s: float) -> HostReport:
        """Return what the agent reports about its machine."""
        return report_of(await self._rpc.call("GetHost", pb.GetHostRequest(), pb.Host, timeout_s=timeout_s))

    async def ensure_sandbox(
        self, spec: HostSandboxSpec, *, snapshot_image: ImageId | None, timeout_s: float
    ) -> HostSandbox:
        """Start the sandbox if it does not run; returns when its guest agent answers.

        `snapshot_image`: what its snapshot is in the store, from where a host that lacks it fetches it.
        """
        request = pb.EnsureSandboxRequest(
            sandbox=spec_message(spec), snapshot_image_id=str(snapshot_image) if snapshot_image else ""
        )
        return sandbox_of(await self._rpc.call("EnsureSandbox", request, pb.Sandbox, timeout_s=timeout_s))

    async def remove_sandbox(self, sandbox_id: SandboxId, *, generation: int, timeout_s: float) -> None:
        """Remove the sandbox with everything that belongs to it; does nothing if there is none.

        `generation`: refused if the host has a newer one; 0: whichever it is.
        """
        request = pb.RemoveSandboxRequest(sandbox_id=str(sandbox_id), generation=generation)
        await self._rpc.call("RemoveSandbox", request, pb.RemoveSandboxResponse, timeout_s=timeout_s)

    async def list_sandboxes(self, *, timeout_s: float) -> list[HostSandbox]:
        """Return every sandbox that the host knows."""
        answer = await self._rpc.call(
            "ListSandboxes", pb.ListSandboxesRequest(), pb.ListSandboxesResponse, timeout_s=timeout_s
        )
        return sandboxes_of(answer)

    async def pause_sandbox(
        self, sandbox_id: SandboxId, *, generation: int, idle_ms: int, keep_memory: bool, timeout_s: float
    ) -> HostSandbox:
        """Pause the sandbox; with `idle_ms` only if it was not in use for so long, otherwise it stays running.

        Without `keep_memory` only its disk is saved.
        """
        request = pb.PauseSandboxRequest(
            sandbox_id=str(sandbox_id), idle_ms=idle_ms, generation=generation, drop_memory=not keep_memory
        )
        return sandbox_of(await self._rpc.call("PauseSandbox", request, pb.Sandbox, timeout_s=timeout_s))

    async def resume_sandbox(
        self, sandbox_id: SandboxId, *, generation: int, keep_memory: bool, timeout_s: float
    ) -> HostSandbox:
        """Resume the sandbox; returns when its guest agent answers. Without `keep_memory` it boots from its disk in any case."""
        request = pb.ResumeSandboxRequest(
            sandbox_id=str(sandbox_id), generation=generation, drop_memory=not keep_memory
        )
        return sandbox_of(await self._rpc.call("ResumeSandbox", request, pb.Sandbox, timeout_s=timeout_s))

    async def store_sandbox(
        self, sandbox_id: SandboxId, image_id: ImageId, *, generation: int, wait_s: float
    ) -> HostTransfer:
        """Upload the paused sandbox as this image, or join the upload; returns its state after at most `wait_s` (60 at most)."""
        request = pb.StoreSandboxRequest(
            sandbox_id=str(sandbox_id),
            image_id=str(image_id),
            generation=generation,
            wait_ms=int(wait_s * 1000),
        )
        timeout_s = wait_s + _IMAGE_MARGIN_S
        return transfer_of(await self._rpc.call("StoreSandbox", request, pb.Transfer, timeout_s=timeout_s))

    async def store_snapshot(
        self, snapshot_id: SnapshotId, image_id: ImageId, *, wait_s: float
    ) -> HostTransfer:
        """Upload the snapshot as this image, or join the upload; as `store_sandbox`.

        Raises:
            MethodUnknown: the host is of an earlier version.
        """
        request = pb.StoreSnapshotRequest(
            snapshot_id=str(snapshot_id), image_id=str(image_id), wait_ms=int(wait_s * 1000)
        )
        timeout_s = wait_s + _IMAGE_MARGIN_S
        return transfer_of(await self._rpc.call("StoreSnapshot", request, pb.Transfer, timeout_s=timeout_s))

    async def adopt_sandbox(self, spec: HostSandboxSpec, image_id: ImageId, *, wait_s: float) -> HostTransfer:
        """Fetch the sandbox that is this image and adopt it, paused, or join that; as `store_sandbox`."""
        request = pb.AdoptSandboxRequest(
            sandbox=spec_message(spec), image_id=str(image_id), wait_ms=int(wait_s * 1000)
        )
        timeout_s = wait_s + _IMAGE_MARGIN_S
        return transfer_of(await self._rpc.call("AdoptSandbox", request, pb.Transfer, timeout_s=timeout_s))

    async def set_network(
        self, sandbox_id: SandboxId, policy: HostNetworkPolicy, *, timeout_s: float
    ) -> None:
        """Put a network policy in force, unless the sandbox has a newer one."""
        request = pb.SetNetworkRequest(sandbox_id=str(sandbox_id), network=network_message(policy))
        await self._rpc.call("SetNetwork", request, pb.Sandbox, timeout_s=timeout_s)

    async def set_disk(self, sandbox_id: SandboxId, *, disk_size_mb: int, timeout_s: float) -> None:
        """Make the disk as large as this; never smaller."""
        request = pb.SetDiskRequest(sandbox_id=str(sandbox_id), disk_size_mb=disk_size_mb)
        await self._rpc.call("SetDisk", request, pb.Sandbox, timeout_s=timeout_s)

    async def settle_disk(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Have the guest write everything to its disk and return free blocks.

        Raises:
            MethodUnknown: the host is of an earlier version. AgentFailure: the guest did not do it.
        """
        request = pb.SettleDiskRequest(sandbox_id=str(sandbox_id))
        await self._rpc.call("SettleDisk", request, pb.SettleDiskResponse, timeout_s=timeout_s)

    async def samples(self, sandbox_id: SandboxId, tier: str, *, since_ms: int, timeout_s: float) -> bytes:
        """Return the samples of a sandbox that the host has in memory, packed; an agent that takes none has none."""
        request = pb.GetSamplesRequest(sandbox_id=str(sandbox_id), tier=tier, since_ms=since_ms)
        try:
            answer = await self._rpc.call("GetSamples", request, pb.GetSamplesResponse, timeout_s=timeout_s)
        except MethodUnknown:
            return b""
        return answer.samples

    async def newest_samples(self, ids: Sequence[SandboxId], *, timeout_s: float) -> dict[SandboxId, bytes]:
        """Return the newest sample of each of these sandboxes that runs, packed, as the host says it."""
        request = pb.GetNewestSamplesRequest(sandbox_ids=[str(sandbox_id) for sandbox_id in ids])
        try:
            answer = await self._rpc.call(
                "GetNewestSamples", request, pb.GetNewestSamplesResponse, timeout_s=timeout_s
            )
        except MethodUnknown:
            return {}
        by_text = {str(sandbox_id): sandbox_id for sandbox_id in ids}
        return {
            by_text[each.sandbox_id]: each.sample
            for each in newest_samples_of(answer)
            if each.sandbox_id in by_text
        }

    async def usage(self, *, timeout_s: float) -> list[tuple[bytes, int]] | None:
        """Return the newest sample, packed, and the vCPUs of each sandbox that runs, as the host says it. None: its agent does not know this call."""
        request = pb.GetNewestSamplesRequest(all=True)
        try:
            answer = await self._rpc.call(
                "GetNewestSamples", request, pb.GetNewestSamplesResponse, timeout_s=timeout_s
            )
        except MethodUnknown:
            return None
        return [(each.sample, each.vcpus) for each in newest_samples_of(answer)]

    async def ping_sandbox(self, sandbox_id: SandboxId, *, timeout_s: float) -> None:
        """Reset the sandbox's idle timer."""
        request = pb.PingSandboxRequest(sandbox_id=str(sandbox_id))
        await self._rpc.call("PingSandbox", request, pb.PingSandboxResponse, timeout_s=timeout_s)

    async def ensure_snapshot(
        self,
        snapshot_id: SnapshotId,
        sandbox_id: SandboxId,
        *,
        keep_memory: bool = True,
        timeout_s: float,
    ) -> HostSnapshot:
        """Take a snapshot of the sandbox under this id, unless there is one."""
        request = pb.EnsureSnapshotRequest(
            snapshot_id=str(snapshot_id), sandbox_id=str(sandbox_id), drop_memory=not keep_memory
        )
        return snapshot_of(await self._rpc.call("EnsureSnapshot", request, pb.Snapshot, timeout_s=timeout_s))

    async def remove_snapshot(self, snapshot_id: SnapshotId, *, timeout_s: float) -> None:
        """Remove the snapshot; does nothing if there is none."""
        request = pb.RemoveSnapshotRequest(snapshot_id=str(snapshot_id))
        await self._rpc.call("RemoveSnapshot", request, pb.RemoveSnapshotResponse, timeout_s=timeout_s)

    async def list_snapshots(self, *, timeout_s: float) -> list[HostSnapshot]:
        """Return every snapshot that was taken on the host and not removed."""
        answer = await self._rpc.call(
            "ListSnapshots", pb.ListSnapshotsRequest(), pb.ListSnapshotsResponse, timeout_s=timeout_s
        )
        return snapshots_of(answer)

    async def ensure_image(
        self, image_id: ImageId, source: ImageSource, *, wait_s: float, upload: bool = False
    ) -> HostImage:
        """Prepare an image on the host, or join its preparation; returns its state after at most `wait_s` (60 at most).

        `upload`: it is ready only when it is in the store too.
        """
        request = image_request(image_id, source, wait_ms=int(wait_s * 1000), upload=upload)
        timeout_s = wait_s + _IMAGE_MARGIN_S
        return image_of(await self._rpc.call("EnsureImage", request, pb.Image, timeout_s=timeout_s))

    async def remove_image(self, image_id: ImageId, *, timeout_s: float) -> None:
        """Remove the image, also one that is being prepared; does nothing if there is none."""
        request = pb.RemoveImageRequest(image_id=str(image_id))
        await self._rpc.call("RemoveImage", request, pb.RemoveImageResponse, timeout_s=timeout_s)

    async def list_images(self, *, timeout_s: float) -> list[HostImage]:
        """Return the images of the host, with those that are being prepared; none of an agent that knows no images."""
        try:
            answer = await self._rpc.call(
                "ListImages", pb.ListImagesRequest(), pb.ListImagesResponse, timeout_s=timeout_s
            )
        except MethodUnknown:
            return []
        return images_of(answer)

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
        answer = await self._rpc.call("Exec", request, pb.ExecResponse, timeout_s=timeout_s)
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
        started = await self._rpc.call("StartProcess", request, pb.StartProcessResponse, timeout_s=timeout_s)
        return started.pid, started.tag

    async def list_processes(self, sandbox_id: SandboxId, *, timeout_s: float) -> list[RunningProcess]:
        """Return the living processes that were started through the API."""
        request = pb.ListProcessesRequest(sandbox_id=str(sandbox_id))
        answer = await self._rpc.call("ListProcesses", request, pb.ListProcessesResponse, timeout_s=timeout_s)
        return [process_of(process) for process in answer.processes]

    async def get_steps(self, sandbox_id: SandboxId, *, timeout_s: float) -> HostSteps:
        """Return the steps of the last create, pause or resume of a sandbox, as far as it is done.

        Raises:
            MethodUnknown: the host is of an earlier version. NotFound: it has no such sandbox.
        """
        request = pb.GetStepsRequest(sandbox_id=str(sandbox_id))
        return steps_of(await self._rpc.call("GetSteps", request, pb.Steps, timeout_s=timeout_s))

    async def list_listeners(self, sandbox_id: SandboxId, *, timeout_s: float) -> list[Listener]:
        """Return the sockets that accept TCP connections in a sandbox. Not an activity.

        Raises:
            MethodUnknown: the host is of an earlier version. InvalidState: the sandbox is.
        """
        request = pb.ListListenersRequest(sandbox_id=str(sandbox_id))
        answer = await self._rpc.call("ListListeners", request, pb.ListListenersResponse, timeout_s=timeout_s)
        return listeners_of(answer)

    async def list_all_processes(self, sandbox_id: SandboxId, *, timeout_s: float) -> GuestProcesses:
        """Return all programs that run in a sandbox. Not an activity.

        Raises:
            As `list_listeners`.
        """
        request = pb.ListAllProcessesRequest(sandbox_id=str(sandbox_id))
        answer = await self._rpc.call(
            "ListAllProcesses", request, pb.ListAllProcessesResponse, timeout_s=timeout_s
        )
        return guest_processes_of(answer)

    async def read_console(self, sandbox_id: SandboxId, *, timeout_s: float) -> str:
        """Return the end of a sandbox's console. Not an activity.

        Raises:
            MethodUnknown: the host is of an earlier version. InvalidState: no machine of it runs.
        """
        request = pb.GetConsoleRequest(sandbox_id=str(sandbox_id))
        answer = await self._rpc.call("GetConsole", request, pb.GetConsoleResponse, timeout_s=timeout_s)
        return answer.text[-_CONSOLE_LIMIT:]

    async def signal_process(
        self, sandbox_id: SandboxId, selector: int | str, signal: int, *, timeout_s: float
    ) -> None:
        """Send one of `SIGNALS` to the process with this pid or tag."""
        request = pb.SignalProcessRequest(
            sandbox_id=str(sandbox_id), selector=selector_message(selector), signal=pb.Signal(signal)
        )
        await self._rpc.call("SignalProcess", request, pb.SignalProcessResponse, timeout_s=timeout_s)

    async def list_dir(
        self, sandbox_id: SandboxId, path: str, *, depth: int, user: str, timeout_s: float
    ) -> list[FileInfo]:
        """List a directory."""
        request = pb.ListDirRequest(sandbox_id=str(sandbox_id), path=path, depth=depth, user=user)
        answer = await self._rpc.call("ListDir", request, pb.ListDirResponse, timeout_s=timeout_s)
        return [file_of(entry) for entry in answer.entries]

    async def stat(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> FileInfo:
        """Return what is known about a path."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        return file_of(await self._rpc.call("Stat", request, pb.FileEntry, timeout_s=timeout_s))

    async def make_dir(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> FileInfo:
        """Create a directory and its parents. Raises Conflict if there is something at this path."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        return file_of(await self._rpc.call("MakeDir", request, pb.FileEntry, timeout_s=timeout_s))

    async def remove_path(self, sandbox_id: SandboxId, path: str, *, user: str, timeout_s: float) -> None:
        """Remove a file, or a directory with everything in it; does nothing if there is none."""
        request = pb.PathRequest(sandbox_id=str(sandbox_id), path=path, user=user)
        await self._rpc.call("RemovePath", request, pb.RemovePathResponse, timeout_s=timeout_s)

    async def move(
        self, sandbox_id: SandboxId, *, source: str, destination: str, user: str, timeout_s: float
    ) -> FileInfo:
        """Rename a file or directory."""
        request = pb.MoveRequest(
            sandbox_id=str(sandbox_id), source=source, destination=destination, user=user
        )
        return file_of(await self._rpc.call("Move", request, pb.FileEntry, timeout_s=timeout_s))

    def stream(self) -> AbstractAsyncContextManager[HostStream]:
        """Open a connection that follows one process of a sandbox; leaving the context detaches from the process.

        Raises:
            Unavailable: the host does not answer.
        """
        return self.streams.stream()

    def forward(
        self, request: Request, place: PortPlace, headers: Headers
    ) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        """Forward a client's request to a port of a sandbox; as `Request.asked`."""
        return self._connection.forward(request, self._port_url(place), headers)

    async def forward_websocket(
        self, scope: Scope, place: PortPlace, headers: Headers
    ) -> aiohttp.ClientWebSocketResponse:
        """Open the WebSocket that a client asks for at a port of a sandbox; as `connect_websocket`."""
        return await self._connection.forward_websocket(scope, self._port_url(place), headers)

    def _port_url(self, place: PortPlace) -> URL:
        if place.is_tunnel:
            return self._connection.url(f"/sandboxes/{place.sandbox_id}/streams/{place.port}")
        return self._connection.url(
            f"/sandboxes/{place.sandbox_id}/ports/{place.port}{place.target}", encoded=True
        )


class HostClients:
    """The clients of all agents, over one transport with the control plane's certificate."""

    def __init__(self, pki: Path) -> None:
        self._transport = HostTransport(pki)
        self._tasks = OwnedTasks()
        self._clients: dict[HostId, HostClient] = {}
        self._absent: set[HostId] = set()

    def at(self, endpoint: HostEndpoint) -> HostClient:
        """Return the client for this host. Opens no connection yet.

        What goes on over connections to a host whose certificates were withdrawn ends when it is seen here first.
        """
        client = self._clients.get(endpoint.host_id)
        if client is None or client.endpoint != endpoint:
            if client is not None:
                if endpoint.cert_epoch < client.endpoint.cert_epoch:
                    # Read before they were withdrawn: nothing is sent there.
                    withdrawn = replace(endpoint, address="")
                    return HostClient(self._transport.connection_to(withdrawn), self._tasks)
                if endpoint.cert_epoch > client.endpoint.cert_epoch:
                    client.withdraw()
                    self._transport.cut(client.endpoint)
                self._tasks.start("close spare connection", client.streams.close())
            client = HostClient(self._transport.connection_to(endpoint), self._tasks)
            self._clients[endpoint.host_id] = client
        return client

    def keep_hosts(self, host_ids: Collection[HostId]) -> None:
        """Forget the clients of hosts that were not among these at two calls in a row: a new host may not be among them yet.

        What goes on over connections to them ends.
        """
        absent = self._clients.keys() - set(host_ids)
        for host_id in absent & self._absent:
            client = self._clients.pop(host_id)
            client.withdraw()
            self._transport.cut(client.endpoint)
            self._tasks.start("close spare connection", client.streams.close())
        self._absent = absent & self._clients.keys()

    def reload_tls(self) -> None:
        """Use the certificates that are on the disk now for new connections; as `HostTransport.reload_tls`."""
        self._transport.reload_tls()

    async def close(self) -> None:
        """Close the connections."""
        await self._tasks.close()
        for client in self._clients.values():
            await client.streams.close()
        await self._transport.close()
