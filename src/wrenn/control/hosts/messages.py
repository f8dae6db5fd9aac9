"""Converts values to the protobuf messages of the agents' API and back. No I/O.

What agents report about their hosts is checked here and nowhere else: numbers fit the columns that they are stored in, counts
and lengths are bounded, and texts have no control characters. An answer that breaks a rule raises AgentFailure; texts that
people read are cut and cleaned instead.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Literal, TypeVar, cast

from protobuf import Message, Oneof, message_from_json_value

from wrenn.base.errors import AgentFailure, InvalidRequest
from wrenn.base.ids import ImageId, SandboxId, SnapshotId
from wrenn.base.steps import STEPS_LIMIT
from wrenn.control.hosts.types import (
    Command,
    ContainerSource,
    FileInfo,
    FileKind,
    GuestProcess,
    GuestProcesses,
    HostContainerConfig,
    HostHeartbeat,
    HostImage,
    HostImageState,
    HostNetworkPolicy,
    HostReport,
    HostSandbox,
    HostSandboxSpec,
    HostSandboxState,
    HostSnapshot,
    HostSteps,
    HostTransfer,
    HostTransferState,
    ImageSource,
    Listener,
    RunningProcess,
)
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.host.causes import CONTROL_PLANE_LOST
from wrenn.protocol.samples import NEWEST_LIMIT
from wrenn.protocol.vm_platform import VmPlatform
from wrenn.protocol.wire import check_fields

T = TypeVar("T")
Answer = TypeVar("Answer", bound=Message[Any])

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
_TRANSFER_STATES: Final = {
    pb.TransferState.RUNNING: HostTransferState.RUNNING,
    pb.TransferState.DONE: HostTransferState.DONE,
    pb.TransferState.FAILED: HostTransferState.FAILED,
}
_IMAGE_STATES: Final = {
    pb.ImageState.PREPARING: HostImageState.PREPARING,
    pb.ImageState.READY: HostImageState.READY,
    pb.ImageState.FAILED: HostImageState.FAILED,
}
_KINDS: Final[dict[pb.FileKind, FileKind]] = {
    pb.FileKind.DIRECTORY: "directory",
    pb.FileKind.SYMLINK: "symlink",
    pb.FileKind.SOCKET: "socket",
    pb.FileKind.FIFO: "fifo",
    pb.FileKind.CHAR_DEVICE: "char_device",
    pb.FileKind.BLOCK_DEVICE: "block_device",
}

_LIST_LIMIT: Final = 20_000
"""Sandboxes, or snapshots, of one host. A statement has at most 32,767 parameters."""
_PORT_LIMIT: Final = 65_535
_PID_LIMIT: Final = 2**22
_EXACT_LIMIT: Final = 2**53
"""The largest whole number that JSON is read exactly with everywhere."""
_IP_TEXT_LIMIT: Final = 45
_GUEST_TEXT_LIMIT: Final = 512
_GUEST_LISTENERS: Final = 256
_GUEST_PROCESSES: Final = 1024
"""Of one sandbox, as the host's agent limits them too."""
_FIELDS_LIMIT: Final = 500_000
"""Of an answer, nested messages included: an empty entry has two bytes on the wire, and hundreds in memory."""
_ACTIVE_LIMIT: Final = 1_000
"""Sandboxes whose last use one heartbeat reports."""
_TEMPLATES_LIMIT: Final = 1_000
_TEMPLATES_LIMIT_B: Final = 32_000
"""Characters of the names of all templates of a host, which are read with the host."""
_METADATA_LIMIT: Final = 100
"""Entries of what a host reports with a sandbox: versions and the like."""
_CONFIG_LIMIT: Final = 1_000
"""Entries of each list in what a container image says."""
_CONFIG_TEXT_LIMIT: Final = 32_768
"""Characters of one of them; the kernel permits 128 KiB for a variable."""
_CONFIG_TOTAL_LIMIT: Final = 256 * 1024
_TEXT_LIMIT: Final = 1_000
_NAME_LIMIT: Final = 256
_DISK_LAYERS: Final = 256
"""Of a snapshot; hosts merge them long before."""
_ADDRESS_LIMIT: Final = 64
_QUOTE_LIMIT: Final = 64
_INTEGER_MAX: Final = 2**31 - 1
"""Of an INTEGER column."""
_BIGINT_MAX: Final = 2**63 - 1
"""Of a BIGINT column."""
_FILE_MAX_B: Final = 2**50
"""Of a file on a host: some hundred together are still a BIGINT."""
_TIME_MAX: Final = 253_402_300_799.0
"""The end of the year 9999, in Unix time: the last that `datetime` can express."""
_STEP_NAME: Final = re.compile(r"[a-z_]{1,32}")
_DIGEST: Final = re.compile(r"[0-9a-f]{0,64}")
_UNSTORABLE: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and surrogates, which have no UTF-8 form."""


def clean_text(text: str, limit: int) -> str:
    """Cut a text that an agent sent to `limit` characters, and replace its control characters by spaces."""
    return _UNSTORABLE.sub(" ", text[:limit])


def decoded(answer: type[Answer], body: bytes) -> Answer:
    """Decode an answer of an agent. Raises AgentFailure if it cannot be read, or has more than `_FIELDS_LIMIT` fields."""
    try:
        check_fields(answer, body, _FIELDS_LIMIT)
        return answer.from_binary(body)
    except Exception as error:
        # The library has no class of its own for input that it cannot decode.
        raise AgentFailure(
            "The host sent an answer that cannot be read.",
            context={"cause": type(error).__name__, "message": answer.__name__},
        ) from error


def report_of(host: pb.Host) -> HostReport:
    """Convert what an agent reports about its machine. Raises AgentFailure if it cannot be stored."""
    _check_count(host.templates, _TEMPLATES_LIMIT, "templates")
    if sum(map(len, host.templates)) > _TEMPLATES_LIMIT_B:
        raise AgentFailure("The host reports templates with names that are too long together.")
    return HostReport(
        agent_version=clean_text(host.agent_version, _NAME_LIMIT),
        vmm=clean_text(host.vmm, _NAME_LIMIT),
        accelerator=clean_text(host.accelerator, _NAME_LIMIT),
        cpu_cores=_number(host.cpu_cores, _INTEGER_MAX, "cpu_cores"),
        memory_b=_number(host.memory_b, _BIGINT_MAX, "memory_b"),
        memory_available_b=_number(host.memory_available_b, _BIGINT_MAX, "memory_available_b"),
        disk_b=_number(host.disk_b, _BIGINT_MAX, "disk_b"),
        disk_available_b=_number(host.disk_available_b, _BIGINT_MAX, "disk_available_b"),
        sandbox_disk_b=_number(host.sandbox_disk_b, _BIGINT_MAX, "sandbox_disk_b"),
        sandbox_limit=_number(host.sandbox_limit, _INTEGER_MAX, "sandbox_limit"),
        templates=tuple(map(_template_name, host.templates)),
        template_contents=_template_contents(host),
        is_warming_up=host.warming_up,
        warm_up_failure=clean_text(host.warm_up_failure, _TEXT_LIMIT),
        # An agent of before says this much.
        platform=_platform(host.platform or pb.VmPlatform(vmm=host.vmm, accelerator=host.accelerator)),
    )


def _platform(platform: pb.VmPlatform | None) -> VmPlatform:
    if platform is None:
        return VmPlatform()
    return VmPlatform(
        arch=clean_text(platform.arch, _NAME_LIMIT),
        vmm=clean_text(platform.vmm, _NAME_LIMIT),
        accelerator=clean_text(platform.accelerator, _NAME_LIMIT),
        devices=clean_text(platform.devices, _NAME_LIMIT),
        cpu=clean_text(platform.cpu, _NAME_LIMIT),
    )


def heartbeat_of(body: Mapping[str, Any]) -> HostHeartbeat:
    """Convert the body of a heartbeat; fields that are not known are ignored. Raises AgentFailure if it cannot be read."""
    host, inventory, active = body.get("host"), body.get("inventory", ""), body.get("active", {})
    if not isinstance(inventory, str) or not _DIGEST.fullmatch(inventory):
        raise AgentFailure("The heartbeat has no digest of the inventory, in up to 64 hexadecimal digits.")
    if not isinstance(active, dict):
        raise AgentFailure("What the heartbeat says of active sandboxes is not an object.")
    used = cast("dict[str, object]", active)
    _check_count(used, _ACTIVE_LIMIT, "active sandboxes")
    return HostHeartbeat(
        report=None if host is None else report_of(_host_of(host)),
        inventory=inventory,
        active={
            _reported_id(SandboxId.parse, sandbox_id, "sandbox"): _time(at, "time of last use")
            for sandbox_id, at in used.items()
        },
    )


def _host_of(host: Any) -> pb.Host:
    try:
        return message_from_json_value(pb.Host, host, ignore_unknown_fields=True)
    except Exception as error:
        # The library has no class of its own for input that it cannot decode.
        raise AgentFailure("What the heartbeat says of the host cannot be read.") from error


def _check_count(items: Sequence[object] | Mapping[str, object], limit: int, kind: str) -> None:
    if len(items) > limit:
        raise AgentFailure(f"The host reports {len(items)} {kind}; at most {limit} are possible.")


def _number(value: int, largest: int, kind: str) -> int:
    if not 0 <= value <= largest:
        raise AgentFailure(f"The host reports {value} as {kind}; at most {largest} is possible.")
    return value


def _time(value: object, kind: str) -> float:
    # Written so that "not a number" is out of range too.
    if not isinstance(value, int | float) or not 0.0 <= value <= _TIME_MAX:
        raise AgentFailure(f"The host reports the time {value} as {kind}.")
    return value


def _template_name(name: str) -> str:
    if not name or len(name) > _NAME_LIMIT or _UNSTORABLE.search(name):
        raise AgentFailure(f"The host names a template {_quoted(name)}.")
    return name


def _template_contents(host: pb.Host) -> dict[str, str]:
    contents = dict(host.template_contents)
    if not contents.keys() <= set(host.templates):
        raise AgentFailure("The host describes the content of templates that it does not have.")
    if not all(map(_DIGEST.fullmatch, contents.values())):
        raise AgentFailure("The host describes the content of a template by something that is no digest.")
    return contents


def _quoted(text: str) -> str:
    return repr(text[:_QUOTE_LIMIT]) + ("…" if len(text) > _QUOTE_LIMIT else "")


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
        template_id=str(spec.template_id) if spec.template_id else "",
        network=network_message(spec.network),
        generation=spec.generation,
    )


def network_message(policy: HostNetworkPolicy) -> pb.NetworkPolicy:
    """Convert a network policy."""
    return pb.NetworkPolicy(
        allow_internet=policy.allow_internet,
        allow=list(policy.allow),
        deny=list(policy.deny),
        revision=policy.revision,
        allow_names=list(policy.allow_names),
    )


def sandbox_of(sandbox: pb.Sandbox) -> HostSandbox:
    """Convert a sandbox that a host reports. Raises AgentFailure if its id cannot be read, or a number cannot be stored."""
    _check_count(sandbox.metadata, _METADATA_LIMIT, "metadata entries of a sandbox")
    return HostSandbox(
        sandbox_id=_reported_id(SandboxId.parse, sandbox.sandbox_id, "sandbox"),
        state=_STATES.get(sandbox.state, HostSandboxState.UNKNOWN),
        reason=clean_text(sandbox.reason, _TEXT_LIMIT),
        host_ip=clean_text(sandbox.host_ip, _ADDRESS_LIMIT),
        last_active_at_unix=_time(sandbox.last_active_at_unix, "last_active_at_unix"),
        metadata={
            clean_text(key, _NAME_LIMIT): clean_text(value, _TEXT_LIMIT)
            for key, value in sandbox.metadata.items()
        },
        network_revision=_number(sandbox.network_revision, _BIGINT_MAX, "network_revision"),
        generation=_number(sandbox.generation, _BIGINT_MAX, "generation"),
        was_control_plane_lost=sandbox.cause == CONTROL_PLANE_LOST,
        platform=_platform(sandbox.platform),
        steps=HostSteps() if sandbox.steps is None else steps_of(sandbox.steps),
    )


def steps_of(steps: pb.Steps) -> HostSteps:
    """Convert the steps of an operation. What is no name of a step is left out."""
    return HostSteps(
        steps.operation if _STEP_NAME.fullmatch(steps.operation) else "",
        [
            (step.name, min(step.ms, _INTEGER_MAX))
            for step in steps.steps[:STEPS_LIMIT]
            if _STEP_NAME.fullmatch(step.name)
        ],
    )


def sandboxes_of(answer: pb.ListSandboxesResponse) -> list[HostSandbox]:
    """Convert all sandboxes of a host. Raises AgentFailure as `sandbox_of`, or if there are too many."""
    _check_count(answer.sandboxes, _LIST_LIMIT, "sandboxes")
    return [sandbox_of(sandbox) for sandbox in answer.sandboxes]


def snapshot_of(snapshot: pb.Snapshot) -> HostSnapshot:
    """Convert a snapshot that a host reports. Raises AgentFailure if its id cannot be read, or a number cannot be stored."""
    return HostSnapshot(
        snapshot_id=_reported_id(SnapshotId.parse, snapshot.snapshot_id, "snapshot"),
        vcpus=_number(snapshot.vcpus, _INTEGER_MAX, "vcpus"),
        memory_mb=_number(snapshot.memory_mb, _INTEGER_MAX, "memory_mb"),
        size_b=_number(snapshot.size_b, _FILE_MAX_B, "size_b"),
        platform=_platform(snapshot.platform),
        layers={
            clean_text(layer.layer_id, _NAME_LIMIT): _number(layer.size_b, _FILE_MAX_B, "size_b of a layer")
            for layer in snapshot.layers[:_DISK_LAYERS]
        },
    )


def transfer_of(transfer: pb.Transfer) -> HostTransfer:
    """Convert a transfer of a saved state."""
    state = _TRANSFER_STATES.get(transfer.state)
    if state is None:
        raise AgentFailure("The host reported a transfer in a state that is not known.")
    return HostTransfer(
        state=state,
        done_b=_number(transfer.done_b, _BIGINT_MAX, "done_b"),
        total_b=_number(transfer.total_b, _BIGINT_MAX, "total_b"),
        sent_b=_number(transfer.sent_b, _BIGINT_MAX, "sent_b"),
        error_code=clean_text(transfer.error_code, _NAME_LIMIT),
        error=clean_text(transfer.error, _TEXT_LIMIT),
    )


def snapshots_of(answer: pb.ListSnapshotsResponse) -> list[HostSnapshot]:
    """Convert all snapshots of a host. Raises AgentFailure as `snapshot_of`, or if there are too many."""
    _check_count(answer.snapshots, _LIST_LIMIT, "snapshots")
    return [snapshot_of(snapshot) for snapshot in answer.snapshots]


def image_request(
    image_id: ImageId, source: ImageSource, *, wait_ms: int, upload: bool
) -> pb.EnsureImageRequest:
    """Convert which image a host must prepare, and of what."""
    return pb.EnsureImageRequest(
        image_id=str(image_id), wait_ms=wait_ms, upload=upload, source=_image_source(source)
    )


def _image_source(
    source: ImageSource,
) -> (
    Oneof[Literal["stored"], pb.StoredImage]
    | Oneof[Literal["disk_of"], pb.SandboxDisk]
    | Oneof[Literal["container"], pb.ContainerImage]
):
    match source:
        case None:
            return Oneof("stored", pb.StoredImage())
        case ContainerSource():
            container = pb.ContainerImage(
                reference=source.reference,
                username=source.username,
                password=source.password,
                disk_size_mb=source.disk_size_mb,
                network=network_message(source.network),
                insecure_registry=source.is_insecure,
                scope=source.scope,
                archive_url=source.archive_url,
                archive_name=source.archive_name,
                archive_keys=[
                    pb.ObjectKey(id=key.key_id, secret=key.secret.reveal()) for key in source.archive_keys
                ],
            )
            return Oneof("container", container)
        case _:
            return Oneof("disk_of", pb.SandboxDisk(sandbox_id=str(source)))


def image_of(image: pb.Image) -> HostImage:
    """Convert an image that a host reports. Raises AgentFailure if its id cannot be read, or a number cannot be stored."""
    return HostImage(
        image_id=_reported_id(ImageId.parse, image.image_id, "image"),
        state=_IMAGE_STATES.get(image.state, HostImageState.UNKNOWN),
        phase=clean_text(image.phase, _NAME_LIMIT),
        done_b=_number(image.done_b, _BIGINT_MAX, "done_b"),
        total_b=_number(image.total_b, _BIGINT_MAX, "total_b"),
        error_code=clean_text(image.error_code, _NAME_LIMIT),
        error=clean_text(image.error, _TEXT_LIMIT),
        disk_size_mb=_number(image.disk_size_mb, _INTEGER_MAX, "disk_size_mb"),
        size_b=_number(image.size_b, _BIGINT_MAX, "size_b"),
        uploaded_b=_number(image.uploaded_b, _BIGINT_MAX, "uploaded_b"),
        config=None if image.config is None else _config_of(image.config),
        reference=clean_text(image.reference, _TEXT_LIMIT),
    )


def _config_of(config: pb.ContainerConfig) -> HostContainerConfig:
    lists = (config.environment, config.entrypoint, config.command, config.exposed_ports)
    for entries in (*lists, config.labels):
        _check_count(entries, _CONFIG_LIMIT, "entries of a container image's configuration")
    texts = [text for entries in lists for text in entries]
    texts += [*config.labels.keys(), *config.labels.values(), config.user, config.working_dir]
    if any(len(text) > _CONFIG_TEXT_LIMIT or "\0" in text for text in texts):
        raise AgentFailure("The host reports a container image with a configuration that cannot be used.")
    if sum(map(len, texts)) > _CONFIG_TOTAL_LIMIT:
        raise AgentFailure("The host reports a container image whose configuration is too long.")
    return HostContainerConfig(
        user=config.user,
        environment=tuple(config.environment),
        working_dir=config.working_dir,
        entrypoint=tuple(config.entrypoint),
        command=tuple(config.command),
        exposed_ports=tuple(config.exposed_ports),
        labels=dict(config.labels),
    )


def images_of(answer: pb.ListImagesResponse) -> list[HostImage]:
    """Convert all images of a host. Raises AgentFailure as `image_of`, or if there are too many."""
    _check_count(answer.images, _LIST_LIMIT, "images")
    return [image_of(image) for image in answer.images]


def _reported_id(parse: Callable[[str], T], text: str, kind: str) -> T:
    try:
        return parse(text)
    except InvalidRequest as error:
        raise AgentFailure(f"The host names a {kind} {_quoted(text)}.") from error


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


def _listener_of(listener: pb.Listener) -> Listener:
    return Listener(
        _number(listener.port, _PORT_LIMIT, "a port"),
        clean_text(listener.address, _IP_TEXT_LIMIT),
        _number(listener.pid, _PID_LIMIT, "a process"),
        clean_text(listener.name, _GUEST_TEXT_LIMIT),
    )


def listeners_of(answer: pb.ListListenersResponse) -> list[Listener]:
    """Convert all sockets that a guest reports. Raises AgentFailure if a number is not possible, or they are too many."""
    _check_count(answer.listeners, _GUEST_LISTENERS, "listeners")
    return [_listener_of(listener) for listener in answer.listeners]


def guest_processes_of(answer: pb.ListAllProcessesResponse) -> GuestProcesses:
    """Convert all programs that a guest reports. Raises AgentFailure if a number is not possible, or they are too many."""
    _check_count(answer.processes, _GUEST_PROCESSES, "processes")
    return GuestProcesses(
        _number(answer.at_ms, _EXACT_LIMIT, "a time"),
        [
            GuestProcess(
                pid=_number(process.pid, _PID_LIMIT, "a process"),
                ppid=_number(process.ppid, _PID_LIMIT, "a process"),
                user=clean_text(process.user, _GUEST_TEXT_LIMIT),
                state=clean_text(process.state, 1),
                command=clean_text(process.command, _GUEST_TEXT_LIMIT),
                cpu_ms=_number(process.cpu_ms, _EXACT_LIMIT, "a CPU time"),
                memory_b=_number(process.memory_bytes, _EXACT_LIMIT, "a size"),
                threads=_number(process.threads, _PID_LIMIT, "threads"),
                is_managed=process.managed,
                tag=clean_text(process.tag, _GUEST_TEXT_LIMIT),
            )
            for process in answer.processes
        ],
    )


def newest_samples_of(answer: pb.GetNewestSamplesResponse) -> Sequence[pb.NewestSample]:
    """Return the samples in an answer, which the caller checks one by one. Raises AgentFailure if they are too many."""
    _check_count(answer.samples, NEWEST_LIMIT, "samples")
    return answer.samples


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
