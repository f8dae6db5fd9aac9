"""The RPCs of `proto/wrenn/host/v1/host.proto`: one call, one verb."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from typing import Any, Final, TypeVar

from connectrpc.errors import ConnectError
from connectrpc.request import RequestContext

from wrenn.agent.facts import HostFacts
from wrenn.agent.inventory import measure
from wrenn.agent.sandboxes import Record, RunningSandbox, Sandboxes, SandboxSpec, State
from wrenn.base.errors import AgentFailure, InternalError, InvalidRequest, WrennError
from wrenn.base.ids import SandboxId
from wrenn.guest import CommandLine
from wrenn.protocol.guest import filesystem_pb as guest_pb
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.errors import ERROR_CODE_HEADER, connect_code
from wrenn.protocol.host.host_connect import HostAgent
from wrenn.vm import Shape

_log = logging.getLogger(__name__)

_GENERAL: Final = "The host could not carry out the call; its log has the reason."
_EXEC_TIMEOUT_MS: Final = 24 * 3600 * 1000
_STATES: Final = {
    State.STARTING: pb.SandboxState.STARTING,
    State.RUNNING: pb.SandboxState.RUNNING,
    State.LOST: pb.SandboxState.LOST,
    State.REMOVING: pb.SandboxState.REMOVING,
}
_FILE_TYPES: Final = {
    guest_pb.FileType.FILE: pb.FileType.FILE,
    guest_pb.FileType.DIRECTORY: pb.FileType.DIRECTORY,
    guest_pb.FileType.SYMLINK: pb.FileType.SYMLINK,
}

Q = TypeVar("Q")
A = TypeVar("A")


class Translate:
    """Interceptor: our errors leave as Connect errors with our code; anything else as `internal`, logged here."""

    async def intercept_unary(
        self,
        call_next: Callable[[Q, RequestContext[Q, A]], Awaitable[A]],
        request: Q,
        ctx: RequestContext[Q, A],
        /,
    ) -> A:
        """Run the call."""
        try:
            return await call_next(request, ctx)
        except WrennError as error:
            failure = error
            if error.code == InternalError.code:
                _log.exception("call failed", extra={"method": ctx.method.name, **error.context})
                failure = InternalError(_GENERAL)
        except ConnectError:
            raise
        except Exception:  # noqa: BLE001 - the edge: a fault of ours is logged here and told in general words
            _log.exception("call failed", extra={"method": ctx.method.name})
            failure = InternalError(_GENERAL)
        ctx.response_headers[ERROR_CODE_HEADER] = failure.code
        raise ConnectError(connect_code(failure), failure.message)


class HostAgentService(HostAgent):
    """See the proto file for what each call promises."""

    def __init__(self, *, sandboxes: Sandboxes, facts: HostFacts) -> None:
        self._sandboxes = sandboxes
        self._facts = facts

    async def get_host(self, request: pb.GetHostRequest, ctx: Any, /) -> pb.Host:
        """What this machine is."""
        machine = measure(self._facts.data_dir)
        return pb.Host(
            agent_version=self._facts.agent_version,
            vmm=self._facts.vmm,
            accelerator=self._facts.accelerator,
            cpu_cores=machine.cpu_cores,
            memory_b=machine.memory_b,
            memory_available_b=machine.memory_available_b,
            disk_b=machine.disk_b,
            disk_available_b=machine.disk_available_b,
            sandbox_limit=self._facts.sandbox_limit,
            sandbox_count=len(self._sandboxes.list()),
            templates=self._facts.templates(),
            owned_slots=self._facts.owned_slots(),
        )

    async def ensure_sandbox(self, request: pb.EnsureSandboxRequest, ctx: Any, /) -> pb.Sandbox:
        """Bring a sandbox up."""
        wanted = request.sandbox
        if wanted is None or not wanted.vcpus or not wanted.memory_mb:
            raise InvalidRequest("A sandbox needs at least one vCPU and some memory.")
        spec = SandboxSpec(
            sandbox_id=SandboxId.parse(wanted.sandbox_id),
            team_id=wanted.team_id,
            template=wanted.template,
            shape=Shape(wanted.vcpus, wanted.memory_mb),
            envs=dict(wanted.envs),
        )
        record = await self._sandboxes.ensure(spec)
        return _sandbox(record, self._sandboxes.get(spec.sandbox_id))

    async def remove_sandbox(self, request: pb.RemoveSandboxRequest, ctx: Any, /) -> pb.RemoveSandboxResponse:
        """Take a sandbox down."""
        await self._sandboxes.remove(SandboxId.parse(request.sandbox_id))
        return pb.RemoveSandboxResponse()

    async def list_sandboxes(self, request: pb.ListSandboxesRequest, ctx: Any, /) -> pb.ListSandboxesResponse:
        """All sandboxes of this host."""
        return pb.ListSandboxesResponse(sandboxes=[_sandbox(*entry) for entry in self._sandboxes.list()])

    async def ping_sandbox(self, request: pb.PingSandboxRequest, ctx: Any, /) -> pb.PingSandboxResponse:
        """Count as activity."""
        self._get(request.sandbox_id)
        return pb.PingSandboxResponse()

    async def exec(self, request: pb.ExecRequest, ctx: Any, /) -> pb.ExecResponse:
        """Run a command to its end."""
        commands = self._get(request.sandbox_id).commands
        timeout_s = (request.timeout_ms or _EXEC_TIMEOUT_MS) / 1000
        result = await commands.run(_command(request.command), timeout_s=timeout_s)
        return pb.ExecResponse(stdout=result.stdout, stderr=result.stderr, exit_code=result.exit_code)

    async def start_process(self, request: pb.StartProcessRequest, ctx: Any, /) -> pb.StartProcessResponse:
        """Start a command in the background."""
        pid = await self._get(request.sandbox_id).commands.start(_command(request.command), tag=request.tag)
        return pb.StartProcessResponse(pid=pid, tag=request.tag)

    async def list_processes(self, request: pb.ListProcessesRequest, ctx: Any, /) -> pb.ListProcessesResponse:
        """Living processes."""
        processes = await self._get(request.sandbox_id).commands.list()
        return pb.ListProcessesResponse(
            processes=[pb.Process(pid=p.pid, tag=p.tag, cmd=p.cmd, args=list(p.args)) for p in processes]
        )

    async def signal_process(self, request: pb.SignalProcessRequest, ctx: Any, /) -> pb.SignalProcessResponse:
        """Signal a process."""
        if request.selector is None:
            raise InvalidRequest("Name the process by its pid or its tag.")
        commands = self._get(request.sandbox_id).commands
        await commands.signal(request.selector.value, int(request.signal) or int(pb.Signal.SIGKILL))
        return pb.SignalProcessResponse()

    async def stat(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """One entry."""
        return _entry(await self._get(request.sandbox_id).files.stat(request.path, user=_user(request.user)))

    async def list_dir(self, request: pb.ListDirRequest, ctx: Any, /) -> pb.ListDirResponse:
        """Entries of a directory."""
        files = self._get(request.sandbox_id).files
        entries = await files.list(request.path, depth=request.depth or 1, user=_user(request.user))
        return pb.ListDirResponse(entries=[_entry(entry) for entry in entries])

    async def make_dir(self, request: pb.PathRequest, ctx: Any, /) -> pb.FileEntry:
        """Make a directory."""
        return _entry(
            await self._get(request.sandbox_id).files.make_dir(request.path, user=_user(request.user))
        )

    async def move(self, request: pb.MoveRequest, ctx: Any, /) -> pb.FileEntry:
        """Rename."""
        files = self._get(request.sandbox_id).files
        return _entry(await files.move(request.source, request.destination, user=_user(request.user)))

    async def remove_path(self, request: pb.PathRequest, ctx: Any, /) -> pb.RemovePathResponse:
        """Remove a file or a tree."""
        await self._get(request.sandbox_id).files.remove(request.path, user=_user(request.user))
        return pb.RemovePathResponse()

    def _get(self, sandbox_id: str) -> RunningSandbox:
        return self._sandboxes.get(SandboxId.parse(sandbox_id))


def _user(user: str) -> str:
    return user or "root"


def _command(command: pb.Command | None) -> CommandLine:
    if command is None or not command.cmd:
        raise InvalidRequest("A command is needed.")
    return CommandLine(command.cmd, tuple(command.args), dict(command.envs), command.cwd, _user(command.user))


def _sandbox(record: Record, running: RunningSandbox | None) -> pb.Sandbox:
    return pb.Sandbox(
        sandbox_id=str(record.spec.sandbox_id),
        state=_STATES[record.state],
        reason=record.reason,
        host_ip=running.address if running else "",
        template=record.spec.template,
        vcpus=record.spec.shape.vcpus,
        memory_mb=record.spec.shape.memory_mb,
        started_at_unix=record.started_at,
        last_active_at_unix=running.last_active_at if running else record.started_at,
        metadata=dict(record.metadata),
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
    )
