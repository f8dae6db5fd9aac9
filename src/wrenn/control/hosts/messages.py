"""Converts values to the protobuf messages of the agents' API and back. No I/O."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Literal, TypeVar

from protobuf import Oneof

from wrenn.base.errors import AgentFailure, InvalidRequest
from wrenn.base.ids import SandboxId, SnapshotId
from wrenn.control.hosts.types import (
    Command,
    FileInfo,
    FileKind,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSandboxState,
    HostSnapshot,
    RunningProcess,
)
from wrenn.protocol.host import host_pb as pb

T = TypeVar("T")

SIGNALS: Final = {signal.name: int(signal) for signal in pb.Signal if signal}
"""Number of each signal that the guest agent sends, by name."""
_STATES: Final = {
    pb.SandboxState.STARTING: HostSandboxState.STARTING,
    pb.SandboxState.RUNNING: HostSandboxState.RUNNING,
    pb.SandboxState.LOST: HostSandboxState.LOST,
    pb.SandboxState.REMOVING: HostSandboxState.REMOVING,
    pb.SandboxState.PAUSED: HostSandboxState.PAUSED,
    pb.SandboxState.PAUSING: HostSandboxState.PAUSING,
    pb.SandboxState.RESUMING: HostSandboxState.RESUMING,
}
_KINDS: Final[dict[pb.FileKind, FileKind]] = {
    pb.FileKind.DIRECTORY: "directory",
    pb.FileKind.SYMLINK: "symlink",
    pb.FileKind.SOCKET: "socket",
    pb.FileKind.FIFO: "fifo",
    pb.FileKind.CHAR_DEVICE: "char_device",
    pb.FileKind.BLOCK_DEVICE: "block_device",
}


def report_of(host: pb.Host) -> HostReport:
    """Convert what an agent reports about its machine."""
    return HostReport(
        agent_version=host.agent_version,
        vmm=host.vmm,
        accelerator=host.accelerator,
        cpu_cores=host.cpu_cores,
        memory_b=host.memory_b,
        memory_available_b=host.memory_available_b,
        disk_b=host.disk_b,
        disk_available_b=host.disk_available_b,
        sandbox_disk_b=host.sandbox_disk_b,
        sandbox_limit=host.sandbox_limit,
        templates=tuple(host.templates),
        is_warming_up=host.warming_up,
        warm_up_failure=host.warm_up_failure,
    )


def spec_message(spec: HostSandboxSpec) -> pb.SandboxSpec:
    """Convert what a sandbox is started from."""
    return pb.SandboxSpec(
        sandbox_id=str(spec.sandbox_id),
        team_id=str(spec.team_id),
        template=spec.image,
        vcpus=spec.vcpus,
        memory_mb=spec.memory_mb,
        disk_size_mb=spec.disk_size_mb,
        envs=dict(spec.envs),
        snapshot_id=str(spec.snapshot_id) if spec.snapshot_id else "",
        template_name=spec.template_name,
        network=network_message(spec.network),
    )


def network_message(policy: HostNetworkPolicy) -> pb.NetworkPolicy:
    """Convert a network policy."""
    return pb.NetworkPolicy(
        allow_internet=policy.allow_internet,
        allow=list(policy.allow),
        deny=list(policy.deny),
        revision=policy.revision,
    )


def sandbox_of(sandbox: pb.Sandbox) -> HostSandbox:
    """Convert a sandbox that a host reports. Raises AgentFailure if its id cannot be read."""
    return HostSandbox(
        sandbox_id=_reported_id(SandboxId.parse, sandbox.sandbox_id, "sandbox"),
        state=_STATES.get(sandbox.state, HostSandboxState.UNKNOWN),
        reason=sandbox.reason,
        host_ip=sandbox.host_ip,
        last_active_at_unix=sandbox.last_active_at_unix,
        metadata=dict(sandbox.metadata),
        network_revision=sandbox.network_revision,
    )


def snapshot_of(snapshot: pb.Snapshot) -> HostSnapshot:
    """Convert a snapshot that a host reports. Raises AgentFailure if its id cannot be read."""
    snapshot_id = _reported_id(SnapshotId.parse, snapshot.snapshot_id, "snapshot")
    return HostSnapshot(snapshot_id, snapshot.vcpus, snapshot.memory_mb, snapshot.size_b)


def _reported_id(parse: Callable[[str], T], text: str, kind: str) -> T:
    try:
        return parse(text)
    except InvalidRequest as error:
        raise AgentFailure(f"The host names a {kind} {text!r}.") from error


def command_message(command: Command) -> pb.Command:
    """Convert a program to run."""
    return pb.Command(
        cmd=command.cmd,
        args=list(command.args),
        envs=dict(command.envs),
        cwd=command.cwd,
        user=command.user,
    )


def process_of(process: pb.Process) -> RunningProcess:
    """Convert a process that a guest reports."""
    return RunningProcess(process.pid, process.tag, process.cmd, tuple(process.args))


def selector_message(selector: int | str) -> Oneof[Literal["pid"], int] | Oneof[Literal["tag"], str]:
    """Convert a pid or a tag."""
    return Oneof("pid", selector) if isinstance(selector, int) else Oneof("tag", selector)


def file_of(entry: pb.FileEntry) -> FileInfo:
    """Convert what a guest reports about a path."""
    return FileInfo(
        name=entry.name,
        path=entry.path,
        type=_type(entry),
        kind=_KINDS.get(entry.kind, "file"),
        size_b=entry.size_b,
        mode=entry.mode,
        permissions=entry.permissions,
        owner=entry.owner,
        group=entry.group,
        modified_at_unix=entry.modified_at_unix,
        symlink_target=entry.symlink_target,
        is_broken=entry.is_broken,
    )


def _type(entry: pb.FileEntry) -> Literal["file", "directory", "symlink"]:
    """Return the type that all clients know: sockets, pipes and devices count as files, broken links as links."""
    if entry.type == pb.FileType.SYMLINK or entry.symlink_target:
        return "symlink"
    return "directory" if entry.type == pb.FileType.DIRECTORY else "file"
