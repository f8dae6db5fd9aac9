"""Implements the RPCs of `proto/wrenn/host/v1/host.proto`; each makes one call to the registry or a guest."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from wrenn.agent.host_facts import HostFacts
from wrenn.agent.host_report import host_message, platform_message
from wrenn.agent.images import Images
from wrenn.agent.inventory import reason_of
from wrenn.agent.metrics import Sampler
from wrenn.agent.rpc.image_messages import WAIT_LIMIT_MS, image_message, source_of
from wrenn.agent.rpc.internal_errors import hiding_internal_errors
from wrenn.agent.rpc.network_messages import policy_of
from wrenn.agent.sandboxes import NetworkSettings, Record, RunningSandbox, Sandboxes, SandboxSpec, State
from wrenn.agent.sandboxes.transfers import Transfer
from wrenn.base.errors import AgentFailure, InvalidRequest, InvalidState, WrennError
from wrenn.base.ids import ImageId, SandboxId, SnapshotId
from wrenn.base.output_buffer import OutputBudget, OutputBuffer, OutputLimits
from wrenn.base.steps import StepLog
from wrenn.guest import CommandLine, Inspector, settle_disk
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.protocol.guest import filesystem_pb as guest_pb
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, connect_code
from wrenn.protocol.host.host_connect import HostAgent
from wrenn.protocol.samples import NEWEST_LIMIT, Tier
from wrenn.storage.snapshots import Snapshot
from wrenn.vm import Shape

_log = logging.getLogger(__name__)

_EXEC_TIMEOUT_MS: Final = 24 * 3600 * 1000
_SETTLE_TIMEOUT_S: Final = 300.0
_STATES: Final = {
    State.STARTING: pb.SandboxState.STARTING,
    State.RUNNING: pb.SandboxState.RUNNING,
    State.LOST: pb.SandboxState.LOST,
    State.REMOVING: pb.SandboxState.REMOVING,
    State.PAUSED: pb.SandboxState.PAUSED,
    State.PAUSING: pb.SandboxState.PAUSING,
    State.RESUMING: pb.SandboxState.RESUMING,
}
_FILE_TYPES: Final = {
    guest_pb.FileType.FILE: pb.FileType.FILE,
    guest_pb.FileType.DIRECTORY: pb.FileType.DIRECTORY,
    guest_pb.FileType.SYMLINK: pb.FileType.SYMLINK,
}
_KINDS: Final = {
    "d": pb.FileKind.DIRECTORY,
    "L": pb.FileKind.SYMLINK,
    "S": pb.FileKind.SOCKET,
    "p": pb.FileKind.FIFO,
    "Dc": pb.FileKind.CHAR_DEVICE,
    "D": pb.FileKind.BLOCK_DEVICE,
}
_LETTERS_OF_BITS: Final = 9
"""rwxrwxrwx at the end of an entry's permissions; before them stands what it is."""
_NO_BITS: Final = str.maketrans("", "", "ugt-")
"""Setuid, setgid, sticky, and the dash of a plain file."""

Q = TypeVar("Q")
A = TypeVar("A")


class Translate:
    """Interceptor: converts our errors to Connect errors with their code; logs any other and returns `internal`."""

    async def intercept_unary(
        self,
        call_next: Callable[[Q, RequestContext[Q, A]], Awaitable[A]],
        request: Q,
        ctx: RequestContext[Q, A],
        /,
    ) -> A:
        """Run the call."""
        try:
            with hiding_internal_errors("call failed", ConnectError, method=ctx.method.name):
                return await call_next(request, ctx)
        except WrennError as error:
            failure = error
            _log.debug("call refused", extra={"method": ctx.method.name, "code": error.code})
        ctx.response_headers[ERROR_CODE_HEADER] = failure.code
        raise ConnectError(connect_code(failure), failure.message)


class HostAgentService(HostAgent):
    """The RPC service; `host.proto` documents each call."""

    def __init__(self, *, sandboxes: Sandboxes, images: Images, facts: HostFacts, sampler: Sampler) -> None:
        self._sandboxes = sandboxes
        self._images = images
        self._facts = facts
        self._sampler = sampler
        self._budget = OutputBudget(OutputLimits())
        self._inspector = Inspector()

    async def get_host(self, request: pb.GetHostRequest, ctx: Any, /) -> pb.Host:
        """Return facts about this host and the use of its resources."""
        return host_message(self._facts, sandbox_count=len(self._sandboxes.list()))

    async def ensure_sandbox(self, request: pb.EnsureSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Start a sandbox unless it runs."""
        spec, network = _spec(request.sandbox)
        image = request.snapshot_image_id
        await self._sandboxes.ensure(
            spec, network, snapshot_image=ImageId.parse(image) if image and spec.snapshot_id else None
        )
        return self._described(spec.sandbox_id)

    async def remove_sandbox(self, request: pb.RemoveSandboxRequest, ctx: Any, /) -> pb.RemoveSandboxResponse:
        """Remove a sandbox."""
        await self._sandboxes.remove(SandboxId.parse(request.sandbox_id), generation=request.generation)
        return pb.RemoveSandboxResponse()

    async def list_sandboxes(self, request: pb.ListSandboxesRequest, ctx: Any, /) -> pb.ListSandboxesResponse:
        """Return all sandboxes of this host, those too of which it does not know more, as their journals cannot be read."""
        known = [_sandbox(*entry) for entry in self._sandboxes.list()]
        unreadable = [
            pb.Sandbox(
                sandbox_id=str(sandbox_id),
                state=pb.SandboxState.UNSPECIFIED,
                reason="Its journal cannot be read.",
            )
            for sandbox_id in self._sandboxes.unreadable()
        ]
        return pb.ListSandboxesResponse(sandboxes=[*known, *unreadable])

    async def pause_sandbox(self, request: pb.PauseSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Save a sandbox and stop its VM."""
        sandbox_id = SandboxId.parse(request.sandbox_id)
        await self._sandboxes.pause(
            sandbox_id,
            idle_s=request.idle_ms / 1000,
            generation=request.generation,
            keep_memory=not request.drop_memory,
        )
        return self._described(sandbox_id)

    async def resume_sandbox(self, request: pb.ResumeSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Restore a paused sandbox."""
        sandbox_id = SandboxId.parse(request.sandbox_id)
        await self._sandboxes.resume(
            sandbox_id, generation=request.generation, keep_memory=not request.drop_memory
        )
        return self._described(sandbox_id)

    async def store_sandbox(self, request: pb.StoreSandboxRequest, ctx: Any, /) -> pb.Transfer:
        """Upload a paused sandbox, or join its upload."""
        transfer = await self._sandboxes.store(
            SandboxId.parse(request.sandbox_id),
            ImageId.parse(request.image_id),
            generation=request.generation,
            wait_s=_wait_s(request.wait_ms),
        )
        return _transfer(transfer)

    async def adopt_sandbox(self, request: pb.AdoptSandboxRequest, ctx: Any, /) -> pb.Transfer:
        """Fetch and adopt a sandbox of another host, or join that."""
        spec, network = _spec(request.sandbox)
        transfer = await self._sandboxes.adopt_stored(
            spec, ImageId.parse(request.image_id), network, wait_s=_wait_s(request.wait_ms)
        )
        return _transfer(transfer)

    async def set_network(self, request: pb.SetNetworkRequest, ctx: Any, /) -> pb.Sandbox:
        """Apply a network policy to a sandbox."""
        if request.network is None:
            raise InvalidRequest("A network policy is needed.")
        sandbox_id = SandboxId.parse(request.sandbox_id)
        await self._sandboxes.set_network(sandbox_id, _network(request.network))
        return self._described(sandbox_id)

    async def set_disk(self, request: pb.SetDiskRequest, ctx: Any, /) -> pb.Sandbox:
        """Enlarge a sandbox's disk."""
        sandbox_id = SandboxId.parse(request.sandbox_id)
        await self._sandboxes.set_disk(sandbox_id, request.disk_size_mb)
        return self._described(sandbox_id)

    async def settle_disk(self, request: pb.SettleDiskRequest, ctx: Any, /) -> pb.SettleDiskResponse:
        """Have the guest write everything to its disk."""
        async with self._use(request.sandbox_id) as sandbox:
            await settle_disk(sandbox.guest, timeout_s=_SETTLE_TIMEOUT_S)
        return pb.SettleDiskResponse()

    async def ensure_snapshot(self, request: pb.EnsureSnapshotRequest, ctx: Any, /) -> pb.Snapshot:
        """Take a snapshot of a sandbox unless it exists."""
        sandbox_id, snapshot_id = SandboxId.parse(request.sandbox_id), SnapshotId.parse(request.snapshot_id)
        snapshot = await self._sandboxes.ensure_snapshot(
            sandbox_id, snapshot_id, keep_memory=not request.drop_memory
        )
        return _snapshot(snapshot, await self._sandboxes.layers_of(snapshot))

    async def store_snapshot(self, request: pb.StoreSnapshotRequest, ctx: Any, /) -> pb.Transfer:
        """Upload a snapshot, or join its upload."""
        transfer = await self._sandboxes.stored_snapshots.store(
            SnapshotId.parse(request.snapshot_id),
            ImageId.parse(request.image_id),
            wait_s=_wait_s(request.wait_ms),
        )
        return _transfer(transfer)

    async def remove_snapshot(
        self, request: pb.RemoveSnapshotRequest, ctx: Any, /
    ) -> pb.RemoveSnapshotResponse:
        """Unpin a snapshot; its files are removed when nothing references them."""
        self._sandboxes.remove_snapshot(SnapshotId.parse(request.snapshot_id))
        return pb.RemoveSnapshotResponse()

    async def list_snapshots(self, request: pb.ListSnapshotsRequest, ctx: Any, /) -> pb.ListSnapshotsResponse:
        """Return all pinned snapshots."""
        return pb.ListSnapshotsResponse(
            snapshots=[_snapshot(snapshot) for snapshot in self._sandboxes.list_snapshots()]
        )

    async def ensure_image(self, request: pb.EnsureImageRequest, ctx: Any, /) -> pb.Image:
        """Prepare an image, or join its preparation."""
        wait_s = _wait_s(request.wait_ms)
        image_id = ImageId.parse(request.image_id)
        status = await self._images.ensure(image_id, source_of(request), upload=request.upload, wait_s=wait_s)
        return image_message(status)

    async def remove_image(self, request: pb.RemoveImageRequest, ctx: Any, /) -> pb.RemoveImageResponse:
        """Remove an image; a preparation ends."""
        await self._images.remove(ImageId.parse(request.image_id))
        return pb.RemoveImageResponse()

    async def list_images(self, request: pb.ListImagesRequest, ctx: Any, /) -> pb.ListImagesResponse:
        """Return all images of this host."""
        return pb.ListImagesResponse(images=[image_message(status) for status in self._images.list()])

    async def get_samples(self, request: pb.GetSamplesRequest, ctx: Any, /) -> pb.GetSamplesResponse:
        """Return the samples of a sandbox that are in memory."""
        try:
            tier = Tier(request.tier)
        except ValueError as error:
            raise InvalidRequest("There is no such tier of samples.") from error
        samples = self._sampler.since(SandboxId.parse(request.sandbox_id), tier, request.since_ms)
        return pb.GetSamplesResponse(samples=samples)

    async def get_newest_samples(
        self, request: pb.GetNewestSamplesRequest, ctx: Any, /
    ) -> pb.GetNewestSamplesResponse:
        """Return the newest sample of each of these sandboxes that runs."""
        if len(request.sandbox_ids) > NEWEST_LIMIT:
            raise InvalidRequest(f"At most {NEWEST_LIMIT} sandboxes at once.")
        if request.all:
            found = self._sampler.newest_of_all()
        else:
            found = self._sampler.newest_of([SandboxId.parse(text_id) for text_id in request.sandbox_ids])
        return pb.GetNewestSamplesResponse(
            samples=[
                pb.NewestSample(sandbox_id=str(sandbox_id), sample=newest.pack(), vcpus=vcpus)
                for sandbox_id, newest, vcpus in found
            ]
        )

    async def ping_sandbox(self, request: pb.PingSandboxRequest, ctx: Any, /) -> pb.PingSandboxResponse:
        """Reset a sandbox's idle timer."""
        async with self._use(request.sandbox_id):
            return pb.PingSandboxResponse()

    async def exec(self, request: pb.ExecRequest, ctx: Any, /) -> pb.ExecResponse:
        """Run a command to its end and return its output."""
        timeout_s = (request.timeout_ms or _EXEC_TIMEOUT_MS) / 1000
        async with self._use(request.sandbox_id) as sandbox:
            with OutputBuffer.of(self._budget, sandbox=request.sandbox_id) as output:
                result = await sandbox.commands.run(
                    _command(request.command), timeout_s=timeout_s, held=output
                )
        return pb.ExecResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)

    async def start_process(self, request: pb.StartProcessRequest, ctx: Any, /) -> pb.StartProcessResponse:
        """Start a command in the background."""
        async with self._use(request.sandbox_id) as sandbox:
            pid = await sandbox.commands.start(_command(request.command), tag=request.tag)
        return pb.StartProcessResponse(pid=pid, tag=request.tag)

    async def list_processes(self, request: pb.ListProcessesRequest, ctx: Any, /) -> pb.ListProcessesResponse:
        """Return the processes that run in a sandbox."""
        async with self._use(request.sandbox_id) as sandbox:
            processes = await sandbox.commands.list()
        return pb.ListProcessesResponse(
            processes=[pb.Process(pid=p.pid, tag=p.tag, cmd=p.cmd, args=list(p.args)) for p in processes]
        )

    async def get_steps(self, request: pb.GetStepsRequest, ctx: Any, /) -> pb.Steps:
        """Return the steps of the last create, pause or resume of a sandbox, as far as it is done."""
        return _steps(self._sandboxes.steps(SandboxId.parse(request.sandbox_id)))

    async def list_listeners(self, request: pb.ListListenersRequest, ctx: Any, /) -> pb.ListListenersResponse:
        """Return the sockets that accept TCP connections in a sandbox."""
        async with self._sandboxes.observe(SandboxId.parse(request.sandbox_id)) as sandbox:
            found = await self._inspector.listeners(sandbox.guest)
        return pb.ListListenersResponse(
            listeners=[pb.Listener(port=o.port, address=o.address, pid=o.pid, name=o.name) for o in found]
        )

    async def get_console(self, request: pb.GetConsoleRequest, ctx: Any, /) -> pb.GetConsoleResponse:
        """Return the end of the console of a sandbox, also of one whose guest does not answer."""
        record, running = self._sandboxes.inspect(SandboxId.parse(request.sandbox_id))
        if running is None:
            raise InvalidState(f"Sandbox {request.sandbox_id} is {record.state.value}.")
        # A message can have no half of a surrogate pair, whatever the guest wrote.
        text = (await running.vm.console()).encode(errors="replace").decode()
        return pb.GetConsoleResponse(text=text)

    async def list_all_processes(
        self, request: pb.ListAllProcessesRequest, ctx: Any, /
    ) -> pb.ListAllProcessesResponse:
        """Return all programs that run in a sandbox."""
        async with self._sandboxes.observe(SandboxId.parse(request.sandbox_id)) as sandbox:
            found = await self._inspector.processes(sandbox.guest)
            tags = {process.pid: process.tag for process in await sandbox.commands.list()}
        return pb.ListAllProcessesResponse(
            at_ms=found.at_ms,
            processes=[
                pb.GuestProcess(
                    pid=p.pid,
                    ppid=p.ppid,
                    user=p.user,
                    state=p.state,
                    command=p.command,
                    cpu_ms=p.cpu_ms,
                    memory_bytes=p.memory_b,
                    threads=p.threads,
                    managed=p.pid in tags,
                    tag=tags.get(p.pid, ""),
                )
                for p in found.processes
            ],
        )

    async def signal_process(self, request: pb.SignalProcessRequest, ctx: Any, /) -> pb.SignalProcessResponse:
        """Send a signal to a process."""
        if request.selector is None:
            raise InvalidRequest("Name the process by its pid or its tag.")
        signal = int(request.signal) or int(pb.Signal.SIGKILL)
        async with self._use(request.sandbox_id) as sandbox:
            await sandbox.commands.signal(request.selector.value, signal)
        return pb.SignalProcessResponse()

    async def stat(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """Return the metadata of one file."""
        async with self._use(request.sandbox_id) as sandbox:
            return _entry(await sandbox.files.stat(request.path, user=_user(request.user)))

    async def list_dir(self, request: pb.ListDirRequest, ctx: Any, /) -> pb.ListDirResponse:
        """Return the entries of a directory."""
        user = _user(request.user)
        async with self._use(request.sandbox_id) as sandbox:
            entries = await sandbox.files.list(request.path, depth=request.depth or 1, user=user)
        return pb.ListDirResponse(entries=[_entry(entry) for entry in entries])

    async def make_dir(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """Create a directory and its parents."""
        async with self._use(request.sandbox_id) as sandbox:
            return _entry(await sandbox.files.make_dir(request.path, user=_user(request.user)))

    async def move(self, request: pb.MoveRequest, ctx: Any, /) -> pb.FileEntry:
        """Rename a file or directory."""
        user = _user(request.user)
        async with self._use(request.sandbox_id) as sandbox:
            return _entry(await sandbox.files.move(request.source, request.destination, user=user))

    async def remove_path(self, request: pb.PathRequest, ctx: Any, /) -> pb.RemovePathResponse:
        """Remove a file or a directory tree."""
        async with self._use(request.sandbox_id) as sandbox:
            await sandbox.files.remove(request.path, user=_user(request.user))
        return pb.RemovePathResponse()

    def _use(self, sandbox_id: str) -> AbstractAsyncContextManager[RunningSandbox]:
        return self._sandboxes.use(SandboxId.parse(sandbox_id))

    def _described(self, sandbox_id: SandboxId) -> pb.Sandbox:
        described = _sandbox(*self._sandboxes.inspect(sandbox_id))
        described.steps = _steps(self._sandboxes.steps(sandbox_id))
        return described


def _spec(wanted: pb.SandboxSpec | None) -> tuple[SandboxSpec, NetworkSettings]:
    if wanted is None or not wanted.vcpus or not wanted.memory_mb:
        raise InvalidRequest("A sandbox needs at least one vCPU and some memory.")
    spec = SandboxSpec(
        sandbox_id=SandboxId.parse(wanted.sandbox_id),
        team_id=wanted.team_id,
        template=wanted.template,
        shape=Shape(wanted.vcpus, wanted.memory_mb),
        envs=dict(wanted.envs),
        snapshot_id=str(SnapshotId.parse(wanted.snapshot_id)) if wanted.snapshot_id else "",
        template_name=wanted.template_name,
        template_id=wanted.template_id,
        disk_mb=wanted.disk_size_mb or DEFAULT_DISK_SIZE_MB,
        generation=wanted.generation,
    )
    return spec, _network(wanted.network)


def _wait_s(wait_ms: int) -> float:
    if wait_ms > WAIT_LIMIT_MS:
        raise InvalidRequest(f"wait_ms: at most {WAIT_LIMIT_MS}.")
    return wait_ms / 1000


def _transfer(transfer: Transfer) -> pb.Transfer:
    failure = transfer.failure
    if failure is not None:
        state = pb.TransferState.FAILED
    else:
        state = pb.TransferState.DONE if transfer.is_done else pb.TransferState.RUNNING
    return pb.Transfer(
        state=state,
        done_b=transfer.done_b,
        total_b=transfer.total_b,
        sent_b=transfer.sent_b,
        error_code=failure.code if failure is not None else "",
        error=failure.message if failure is not None else "",
    )


def _network(policy: pb.NetworkPolicy | None) -> NetworkSettings:
    if policy is None:
        return NetworkSettings()
    return NetworkSettings(policy_of(policy), policy.revision)


def _user(user: str) -> str:
    return user or "root"


def _command(command: pb.Command | None) -> CommandLine:
    if command is None or not command.cmd:
        raise InvalidRequest("A command is needed.")
    return CommandLine(command.cmd, tuple(command.args), dict(command.envs), command.cwd, _user(command.user))


def _sandbox(record: Record, running: RunningSandbox | None) -> pb.Sandbox:
    is_paused = record.state is State.PAUSED
    return pb.Sandbox(
        sandbox_id=str(record.spec.sandbox_id),
        state=_STATES[record.state],
        reason=reason_of(record, running),
        host_ip=running.address if running else "",
        template=record.spec.template,
        vcpus=record.spec.shape.vcpus,
        memory_mb=record.spec.shape.memory_mb,
        started_at_unix=record.started_at,
        last_active_at_unix=running.last_active_at if running else record.started_at,
        metadata=dict(record.metadata),
        network_revision=record.network.revision,
        cause=record.cause,
        generation=record.spec.generation,
        platform=platform_message(record.platform) if is_paused and record.platform else None,
    )


def _steps(log: StepLog) -> pb.Steps:
    steps = [pb.Step(name=step.name, ms=step.ms) for step in log.steps]
    return pb.Steps(operation=log.operation, steps=steps)


def _snapshot(snapshot: Snapshot, layers: Mapping[str, int] | None = None) -> pb.Snapshot:
    manifest = snapshot.manifest
    return pb.Snapshot(
        snapshot_id=manifest.snapshot_id,
        sandbox_id=manifest.sandbox_id,
        template=manifest.template,
        vcpus=manifest.vcpus,
        memory_mb=manifest.memory_mb,
        size_b=snapshot.size_b,
        created_at_unix=manifest.created_at,
        platform=platform_message(manifest.platform),
        layers=[pb.DiskLayer(layer_id=name, size_b=size_b) for name, size_b in (layers or {}).items()],
    )


def _entry(entry: guest_pb.EntryInfo | None) -> pb.FileEntry:
    if entry is None:
        raise AgentFailure("The sandbox answered without the file's entry.")
    kind = pb.FileType.SYMLINK if entry.is_symlink else _FILE_TYPES.get(entry.type, pb.FileType.UNSPECIFIED)
    return pb.FileEntry(
        name=entry.name,
        type=kind,
        path=entry.path,
        size_b=entry.size,
        mode=entry.mode,
        permissions=entry.permissions,
        owner=entry.owner,
        group=entry.group,
        modified_at_unix=entry.modified_time.seconds if entry.modified_time else 0,
        symlink_target=entry.symlink_target or None,
        kind=_kind(entry.permissions),
        is_broken=entry.is_broken,
    )


def _kind(permissions: str) -> pb.FileKind:
    """Return the type of the file itself. The guest reports a link target's type; only the mode string has all types."""
    letters = permissions[:-_LETTERS_OF_BITS].translate(_NO_BITS)
    return _KINDS.get(letters, pb.FileKind.FILE)
