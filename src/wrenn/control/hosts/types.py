"""Values of the hosts feature: hosts, and what their agents are asked and report."""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Literal
from uuid import UUID

from wrenn.base.ids import HostId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.protocol.sealed_objects import ObjectKey
from wrenn.protocol.vm_platform import UNKNOWN_PLATFORM, VmPlatform

FileKind = Literal["file", "directory", "symlink", "socket", "fifo", "char_device", "block_device"]


class HostType(enum.StrEnum):
    """Whose a host is."""

    REGULAR = "regular"
    """The platform's: it runs the sandboxes of all teams."""
    BYOC = "byoc"
    """A team's ("bring your own cloud"): it runs the sandboxes of that team."""


class DrainPolicy(enum.StrEnum):
    """What the drain of a host does with the sandboxes that run there."""

    WAIT = "wait"
    """It waits until they end or are paused."""
    PAUSE = "pause"
    """It pauses them."""
    MOVE = "move"
    """It moves them to other hosts, paused ones too."""


class HostStatus(enum.StrEnum):
    """The status of a host, as its heartbeats and the monitor know it."""

    PENDING = "pending"
    """Never seen."""
    ONLINE = "online"
    UNREACHABLE = "unreachable"
    """Did not answer at the last look, and sends no heartbeats."""


@dataclass(frozen=True, slots=True)
class HostEndpoint:
    """Where a host is reached, and which certificate it must show there.

    Attributes:
        address: `https://HOST:PORT`; empty: it has to register again.
        cert_epoch: how often its certificates were withdrawn. One of before is not accepted.
    """

    host_id: HostId
    address: str
    cert_epoch: int

    @property
    def certified_name(self) -> str:
        """The DNS name that is in its certificates since they were withdrawn last."""
        return certified_name(self.host_id, self.cert_epoch)


def certified_name(host_id: HostId, cert_epoch: int) -> str:
    """Return the name of a host in its certificates. It begins with the id, as no name that an agent may register does."""
    return str(host_id) if cert_epoch == 0 else f"{host_id}.e{cert_epoch}"


@dataclass(frozen=True, slots=True)
class Host:
    """A machine that runs sandboxes, as its agent last described it."""

    host_id: HostId
    name: str
    address: str
    status: HostStatus
    cpu_cores: int
    memory_b: int
    disk_b: int
    disk_available_b: int
    sandbox_disk_b: int
    """What a sandbox of the default disk size may take of its disk; 0: no limit."""
    sandbox_limit: int
    templates: frozenset[str]
    silent_s: float
    """Seconds since it was found not to answer; 0: it answered the last call of the monitor; infinite: it never answered one."""
    cert_epoch: int
    """As of `HostEndpoint`."""
    is_reachable: bool
    """Whether it answered the last call of the monitor. A host may send heartbeats and yet not be reached."""
    inventory: str = ""
    """Digest of what it has, from its last heartbeat; empty: its heartbeats have none (agents of before)."""
    last_heartbeat_at: datetime | None = None
    unheard_s: float = math.inf
    """Seconds since its last heartbeat."""
    team_id: TeamId | None = None
    """Whose sandboxes alone it runs; None: those of all teams."""
    tags: frozenset[str] = frozenset()
    is_draining: bool = False
    """Whether nothing may be started there, as it is being drained or was."""
    platform: VmPlatform = UNKNOWN_PLATFORM
    """Which saved virtual machines it can restore, as far as it says so."""

    @property
    def endpoint(self) -> HostEndpoint:
        """Where it is reached."""
        return HostEndpoint(self.host_id, self.address, self.cert_epoch)


@dataclass(frozen=True, slots=True)
class HostReport:
    """What an agent reports about its machine.

    Attributes:
        vmm: name and version of the hypervisor.
        accelerator: `kvm` or `tcg`.
        memory_b, disk_b: of the machine, and of the file system with the data folder.
        sandbox_disk_b: what a sandbox of the default disk size may take; 0: no limit.
        sandbox_limit: number of network slots.
        is_warming_up: the default template is being booted.
        warm_up_failure: why it could not be booted; empty: it was.
        template_contents: what identifies the content of those of `templates` where that is known.
        platform: which saved virtual machines it can restore.
    """

    agent_version: str = ""
    vmm: str = ""
    accelerator: str = ""
    cpu_cores: int = 0
    memory_b: int = 0
    memory_available_b: int = 0
    disk_b: int = 0
    disk_available_b: int = 0
    sandbox_disk_b: int = 0
    sandbox_limit: int = 0
    templates: Sequence[str] = ()
    template_contents: Mapping[str, str] = field(default_factory=dict[str, str])
    is_warming_up: bool = False
    warm_up_failure: str = ""
    platform: VmPlatform = UNKNOWN_PLATFORM


@dataclass(frozen=True, slots=True)
class HostHeartbeat:
    """What an agent says with a heartbeat.

    Attributes:
        report: None: an agent of before, which is asked for it.
        inventory: digest of what the host has; empty likewise.
        active: when sandboxes were used last, in Unix time, for those that were used since the last heartbeats.
    """

    report: HostReport | None = None
    inventory: str = ""
    active: Mapping[SandboxId, float] = field(default_factory=dict["SandboxId", float])


@dataclass(frozen=True, slots=True)
class HostNetworkPolicy:
    """A network policy in the form that hosts get. `revision` grows with each change; a host ignores an older one."""

    allow_internet: bool
    allow: Sequence[str]
    deny: Sequence[str]
    revision: int
    allow_names: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class HostSandboxSpec:
    """What a host needs to start a sandbox; the same in every call for one sandbox.

    Attributes:
        image: name of an image on the host.
        snapshot_id: the sandbox is restored from this snapshot, in its shape; None: started from the image.
        template_name: the template as its user knows it.
        template_id: its version, for the guest; None: not known.
        generation: of this copy: the host refuses it if it has a newer one, and replaces an older one.
    """

    sandbox_id: SandboxId
    team_id: TeamId
    image: str
    template_name: str
    snapshot_id: SnapshotId | None
    template_id: UUID | None
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    envs: Mapping[str, str]
    network: HostNetworkPolicy
    generation: int


class HostTransferState(enum.StrEnum):
    """The state of a transfer between a host and the store."""

    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class HostTransfer:
    """A transfer of a saved state that a host reports.

    Attributes:
        done_b, total_b: of what is transferred; 0: not known yet.
        sent_b: sent to the store; chunks that were there are not counted.
        error_code, error: why it failed.
    """

    state: HostTransferState
    done_b: int = 0
    total_b: int = 0
    sent_b: int = 0
    error_code: str = ""
    error: str = ""


class HostSandboxState(enum.StrEnum):
    """The state of a sandbox as its host reports it."""

    UNKNOWN = "unknown"
    """A state that this version does not know."""
    STARTING = "starting"
    RUNNING = "running"
    LOST = "lost"
    """Its virtual machine ended unexpectedly."""
    REMOVING = "removing"
    PAUSED = "paused"
    PAUSING = "pausing"
    RESUMING = "resuming"


@dataclass(frozen=True, slots=True)
class HostSteps:
    """The steps of the last operation on a sandbox that are done, with their durations in milliseconds. `operation` empty: not known."""

    operation: str = ""
    steps: Sequence[tuple[str, int]] = ()

    def to_json(self) -> dict[str, object]:
        """Return the form that the database and events have."""
        return {
            "operation": self.operation,
            "steps": [{"name": name, "ms": ms} for name, ms in self.steps],
        }


@dataclass(frozen=True, slots=True)
class HostSandbox:
    """A sandbox as its host reports it.

    Attributes:
        reason: why it is lost, was paused, or cannot go on; empty: nothing is wrong.
        generation: which copy of the sandbox it is; 0: not known.
        was_control_plane_lost: it was paused because its host had no contact with the control plane.
        host_ip: its address on the host.
        network_revision: of the network policy that it has.
        platform: what a paused one needs to be resumed, as far as its host says so.
        steps: of its last create, pause or resume, in the answer to such a call.
    """

    sandbox_id: SandboxId
    state: HostSandboxState
    reason: str
    host_ip: str
    last_active_at_unix: float
    metadata: Mapping[str, str]
    network_revision: int
    was_control_plane_lost: bool = False
    generation: int = 0
    platform: VmPlatform = UNKNOWN_PLATFORM
    steps: HostSteps = HostSteps()


class HostImageState(enum.StrEnum):
    """The state of an image on a host."""

    UNKNOWN = "unknown"
    """The agent reports a state that this version does not know."""
    PREPARING = "preparing"
    READY = "ready"
    FAILED = "failed"
    """It is reported once; the next attempt begins again."""


@dataclass(frozen=True, slots=True)
class HostContainerConfig:
    """What a container image says about the program in it. `environment`: `KEY=value` each."""

    user: str = ""
    environment: Sequence[str] = ()
    working_dir: str = ""
    entrypoint: Sequence[str] = ()
    command: Sequence[str] = ()
    exposed_ports: Sequence[str] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])


@dataclass(frozen=True, slots=True)
class HostImage:
    """An image that a host reports.

    Attributes:
        phase: what is being done: pull, unpack, pack, flatten, upload, fetch.
        done_b, total_b: of this phase; 0: not known.
        error_code, error: why it failed.
        disk_size_mb: of its file system.
        size_b: of its files on the host.
        uploaded_b: sent to the store; chunks that were there are not counted.
        config: of an image that was made from a container image.
        reference: of that container image, with the digest that was pulled.
    """

    image_id: ImageId
    state: HostImageState
    phase: str = ""
    done_b: int = 0
    total_b: int = 0
    error_code: str = ""
    error: str = ""
    disk_size_mb: int = 0
    size_b: int = 0
    uploaded_b: int = 0
    config: HostContainerConfig | None = None
    reference: str = ""


@dataclass(frozen=True, slots=True)
class ContainerSource:
    """The container image that an image is made from.

    Attributes:
        reference: `registry/name:tag` or `registry/name@sha256:…`.
        disk_size_mb: of the file system that is made.
        network: for the download.
        archive_url: signed, of an archive in the store that the image is in; `reference` is its format then. Empty: a registry has it.
        archive_name, archive_keys: with which it is decrypted, if it is encrypted.
        scope: for whom it is pulled: a host that has it pulled already for another scope pulls it again.
        is_insecure: the registry speaks plain HTTP, or its certificate cannot be verified.
    """

    reference: str
    disk_size_mb: int
    network: HostNetworkPolicy
    scope: str
    username: str = ""
    password: str = field(default="", repr=False)
    is_insecure: bool = False
    archive_url: str = field(default="", repr=False)
    archive_name: str = ""
    archive_keys: tuple[ObjectKey, ...] = ()


ImageSource = ContainerSource | SandboxId | None
"""What a host makes an image of: a container image, the disk of a paused sandbox, or (None) the image in the store."""


@dataclass(frozen=True, slots=True)
class HostSnapshot:
    """A snapshot as its host reports it.

    Attributes:
        size_b: of its own files on the disk.
        platform: what it needs to be restored.
        layers: bytes on the disk of the frozen layers of its disk, which others may have too, by id. Empty: not known.
    """

    snapshot_id: SnapshotId
    vcpus: int
    memory_mb: int
    size_b: int
    platform: VmPlatform = UNKNOWN_PLATFORM
    layers: Mapping[str, int] = field(default_factory=dict[str, int])


@dataclass(frozen=True, slots=True)
class Command:
    """A program to run in a sandbox. `cwd` may be empty: the home directory of `user`."""

    cmd: str
    args: Sequence[str]
    envs: Mapping[str, str]
    cwd: str
    user: str


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A living process that was started through the API. `tag` may be empty."""

    pid: int
    tag: str
    cmd: str
    args: Sequence[str]


@dataclass(frozen=True, slots=True)
class Listener:
    """A socket that accepts TCP connections in a sandbox. `pid` 0: it is not known whose it is."""

    port: int
    address: str
    pid: int
    name: str


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A program that runs in a sandbox, whoever started it.

    Attributes:
        state: the letter that the guest's kernel prints.
        cpu_ms: CPU time that it has used so far.
        is_managed: it was started through the API, so signals can be sent to it; `tag` is its tag, which may be empty.
    """

    pid: int
    ppid: int
    user: str
    state: str
    command: str
    cpu_ms: int
    memory_b: int
    threads: int
    is_managed: bool
    tag: str


@dataclass(frozen=True, slots=True)
class GuestProcesses:
    """All programs of a sandbox, and when they were read, by the guest's clock."""

    at_ms: int
    processes: Sequence[GuestProcess]


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known about a path.

    Attributes:
        type: one of the three that all clients know: sockets, pipes and devices count as files, broken links as links.
        kind: what it really is.
        mode: permission bits.
        symlink_target: empty: not a link.
        is_broken: a link that leads nowhere.
    """

    name: str
    path: str
    type: Literal["file", "directory", "symlink"]
    kind: FileKind
    size_b: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_at_unix: int
    symlink_target: str
    is_broken: bool
