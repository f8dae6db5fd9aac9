"""Values for sandboxes: a row, leased work, the requested configuration."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, Literal, Self
from uuid import UUID

from wrenn.base.ids import BuildId, HostId, ImageId, SandboxId, SnapshotId, TeamId
from wrenn.control.hosts import HostEndpoint
from wrenn.control.sandboxes.state import Desired, State, in_words
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.protocol.vm_platform import UNKNOWN_PLATFORM, VmPlatform

OnExpiry = Literal["pause", "kill"]


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """When a sandbox is paused or removed automatically.

    Attributes:
        timeout_sec: seconds without activity until it is paused; 0: never.
        lifetime_sec: seconds from the request until `on_expiry` is done to it; 0: no end.
        auto_resume: a call to it while it is paused resumes it first.
        lift_on_pause: a pause that somebody asks for removes the end of its lifetime.
        resume_lifetime_sec: seconds of the lifetime that begins with each resume; 0: none begins.
        keep_memory_on_pause: a pause at the end of its idle time or of its lifetime keeps the memory.
    """

    timeout_sec: int = 0
    lifetime_sec: int = 0
    on_expiry: OnExpiry = "pause"
    auto_resume: bool = False
    lift_on_pause: bool = False
    resume_lifetime_sec: int = 0
    keep_memory_on_pause: bool = True


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What a sandbox may reach: what is in `allow`; else nothing in `deny`; else `allow_internet` decides.

    The default is everything that its host lets sandboxes reach. `allow` has networks and host names in
    `base.host_names.destination_text` form, `deny` networks.
    """

    allow_internet: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def to_json(self) -> dict[str, object]:
        """Return the form that the database and the API use."""
        return {"allow_internet": self.allow_internet, "allow": list(self.allow), "deny": list(self.deny)}

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Self:
        """Read the form that `to_json` returns; missing fields get their defaults."""
        return cls(
            bool(value.get("allow_internet", True)),
            tuple(value.get("allow", ())),
            tuple(value.get("deny", ())),
        )


@dataclass(frozen=True, slots=True)
class Ingress:
    """How the ports of a sandbox are visited.

    Attributes:
        public_ports: ports that anybody may visit.
        all_ports_public: anybody may visit every port.
        request_host: the `Host` that programs get instead of the visitor's, with `${PORT}` for the port; empty: the visitor's.
    """

    public_ports: tuple[int, ...] = ()
    all_ports_public: bool = False
    request_host: str = ""

    def is_public(self, port: int) -> bool:
        """Return whether anybody may visit the port."""
        return self.all_ports_public or port in self.public_ports

    def host_for(self, port: int) -> str:
        """Return the `Host` that the program behind the port gets; empty: the visitor's."""
        return self.request_host.replace("${PORT}", str(port))


@dataclass(frozen=True, slots=True)
class Spec:
    """The configuration that the owner requested, with all defaults filled in."""

    template: str
    vcpus: int
    memory_mb: int
    envs: Mapping[str, str]
    limits: TimeLimits = field(default_factory=TimeLimits)
    ingress: Ingress = field(default_factory=Ingress)
    network: NetworkPolicy = field(default_factory=NetworkPolicy)
    name: str = ""
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    disk_size_mb: int = DEFAULT_DISK_SIZE_MB
    host_tags: tuple[str, ...] = ()

    def digest(self) -> bytes:
        """Hash the request, so that a repetition under the same idempotency key can be told from a different request.

        What has its default is left out beside the first fields, so that a key outlives a version that adds one.
        """
        usual = asdict(TimeLimits())
        limits = {name: value for name, value in asdict(self.limits).items() if value != usual[name]}
        usual_ingress = asdict(Ingress())
        ports = {name: value for name, value in asdict(self.ingress).items() if value != usual_ingress[name]}
        network = {"network": self.network.to_json()} if self.network != NetworkPolicy() else {}
        name = {"name": self.name} if self.name else {}
        labels = {"labels": dict(self.labels)} if self.labels else {}
        disk = {"disk_size_mb": self.disk_size_mb} if self.disk_size_mb != DEFAULT_DISK_SIZE_MB else {}
        tags = {"host_tags": self.host_tags} if self.host_tags else {}
        said = {
            "template": self.template,
            "vcpus": self.vcpus,
            "memory_mb": self.memory_mb,
            "timeout_sec": self.limits.timeout_sec,
            "envs": dict(self.envs),
        }
        return hashlib.sha256(
            json.dumps(said | limits | ports | network | name | labels | disk | tags, sort_keys=True).encode()
        ).digest()


@dataclass(frozen=True, slots=True)
class CommandDefaults:
    """What applies to commands in a sandbox that say nothing about it.

    Attributes:
        working_dir: empty: the user's home.
    """

    user: str = "root"
    working_dir: str = ""


@dataclass(frozen=True, slots=True)
class Origin:
    """What a sandbox starts from.

    Attributes:
        image: name of an image on the host.
        snapshot_id: restored from this snapshot, which lies on one host only; None: started from the image.
        template_id: the version of the template; None: hosts built it themselves.
        command_defaults: the template's.
        build_id: the build that the sandbox is for.
    """

    image: str
    snapshot_id: SnapshotId | None = None
    template_id: UUID | None = None
    command_defaults: CommandDefaults = CommandDefaults()
    build_id: BuildId | None = None


@dataclass(frozen=True, slots=True)
class Idempotency:
    """The idempotency key of a request, and the digest of the request."""

    key: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class Sandbox:
    """A sandbox as its row in the database describes it, without the columns that only the reconciler needs.

    `generation` is raised whenever it is started on another host: a copy with a lower one is outdated.
    `build_id` is the build whose steps run in it; None: it is nobody's but its team's.
    `host_tags`: which a host must have that it is placed on.
    `move_host_id`: where it is being moved to.
    `stored_at`: when the state was saved that the store has; None: it has none.
    `paused_at`: when it was paused last; None: not known.
    `platform` is what its last pause needs to be resumed, as far as that is known.
    `name` and `labels` are its owner's, `metadata` its host's. `failure` and `reason` say why it is in `error`, or why the last pause or resume was not done.
    """

    sandbox_id: SandboxId
    team_id: TeamId
    host_id: HostId
    status: State
    desired: Desired
    failure: str
    reason: str
    version: int
    generation: int
    template: str
    image: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    expires_at: datetime | None
    on_expiry: OnExpiry
    lift_on_pause: bool
    resume_lifetime_sec: int
    keep_memory_on_pause: bool
    auto_resume: bool
    ingress: Ingress
    network: NetworkPolicy
    network_revision: int
    name: str
    labels: Mapping[str, str]
    created_by: Mapping[str, str] | None
    disk_size_mb: int
    command_defaults: CommandDefaults
    build_id: BuildId | None
    idle_ms: int
    host_ip: str
    metadata: Mapping[str, str]
    created_at: datetime
    started_at: datetime | None
    last_active_at: datetime | None
    last_updated: datetime
    platform: VmPlatform = UNKNOWN_PLATFORM
    move_host_id: HostId | None = None
    host_tags: tuple[str, ...] = ()
    stored_at: datetime | None = None
    paused_at: datetime | None = None

    @property
    def is_moving(self) -> bool:
        """Whether it is being moved to another host."""
        return self.move_host_id is not None

    @property
    def state_text(self) -> str:
        """Describe the current state for an error message: "paused", "being removed"."""
        return in_words(self.status, self.desired, is_moving=self.is_moving)

    @property
    def is_usable(self) -> bool:
        """Whether it is running and should be running."""
        return self.status is State.RUNNING and self.desired is Desired.RUNNING


@dataclass(frozen=True, slots=True)
class Work:
    """A leased sandbox whose desired state has to be carried out.

    Attributes:
        network_revision: of the network policy in `spec`.
        idle_ms: a pause is to be done only if the sandbox was not in use for so long; 0: in any case.
        keeps_memory: the pause or resume keeps the memory; otherwise the sandbox boots when it is resumed.
        generation: which of the sandbox's copies is meant, as in its row.
        age_s: since the request that this work is for.
        move_to: the host that it is to be moved to, while it is paused.
        move_resumes: it is resumed after the move.
        recover_from: the image in the store that it is moved from, since its host is lost; None: its host uploads it.
    """

    sandbox_id: SandboxId
    team_id: TeamId
    host: HostEndpoint
    status: State
    desired: Desired
    spec: Spec
    origin: Origin
    network_revision: int
    idle_ms: int
    attempts: int
    version: int
    generation: int
    age_s: float
    keeps_memory: bool = True
    move_to: HostEndpoint | None = None
    move_resumes: bool = False
    recover_from: ImageId | None = None

    @property
    def is_move(self) -> bool:
        """Whether the sandbox is to be moved."""
        return self.move_to is not None and self.desired is not Desired.STOPPED
