"""Messages of the sandbox endpoints (platform reference §1.7). Fields unknown here are refused, null counts as absent."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Annotated, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, model_validator

from wrenn.base.host_names import HOST_PATTERN_LIMIT
from wrenn.base.networks import NETWORKS_LIMIT
from wrenn.control.hosts import TAGS_LIMIT, HostTag
from wrenn.control.http import RequestBody, nul_free_text, plain_text, wire_time
from wrenn.control.sandboxes.records import OnExpiry, Sandbox, TimeLimits
from wrenn.control.sandboxes.state import State
from wrenn.protocol.api import (
    DEFAULT_DISK_SIZE_MB,
    DEFAULT_MEMORY_MB,
    DEFAULT_TEMPLATE,
    DEFAULT_VCPUS,
    PLATFORM_METADATA,
)

FORK_LIMIT: Final = 32
"""Copies in one call."""
PUBLIC_PORTS_LIMIT: Final = 32
SANDBOX_NAME_LIMIT: Final = 128
"""Characters of a name."""
REQUEST_HOST_LIMIT: Final = 255
_REQUEST_HOST: Final = re.compile(r"(?:[A-Za-z0-9.:-]|\$\{PORT\})+")
LABELS_LIMIT: Final = 64
LABEL_KEY_LIMIT: Final = 64
LABEL_VALUE_LIMIT: Final = 512
"""A list of sandboxes holds all of them, so they are small."""
PAGE_LIMIT: Final = 1000


def _env_name(value: str) -> str:
    if not value or "=" in value:
        raise ValueError("must be names without '='")
    return nul_free_text(value)


GuestText = Annotated[str, AfterValidator(nul_free_text)]
Envs = dict[Annotated[str, AfterValidator(_env_name)], GuestText]
Port = Annotated[StrictInt, Field(ge=1, le=65535)]
Seconds = Annotated[StrictInt, Field(ge=0, le=2**31 - 1)]


Networks = Annotated[
    list[Annotated[str, Field(max_length=31)]],
    Field(
        max_length=NETWORKS_LIMIT,
        description="IPv4 addresses and networks, e.g. `203.0.113.7` and `203.0.113.0/24`",
    ),
]


Destinations = Annotated[
    list[Annotated[str, Field(max_length=HOST_PATTERN_LIMIT)]],
    Field(
        max_length=NETWORKS_LIMIT,
        description="IPv4 addresses and networks, e.g. `203.0.113.7` and `203.0.113.0/24`, and names of servers, e.g."
        " `example.com` and `*.example.com`, for HTTP on port 80 and TLS on port 443. Names need everything else to be"
        " denied: `allow_internet` false, or `0.0.0.0/0` in `deny`",
    ),
]


class Network(RequestBody):
    """What a sandbox may reach: what is in `allow`; else nothing in `deny`; else `allow_internet` decides.

    Private networks and the host are out of reach in any case, but for what the installation's operator opens.
    """

    allow_internet: StrictBool = True
    allow: Destinations = Field(default_factory=list[str])
    deny: Networks = Field(default_factory=list[str])


def _label_key(value: str) -> str:
    if value in PLATFORM_METADATA:
        raise ValueError(f"{value} is written by the platform; choose another key")
    if not value or "=" in value:
        raise ValueError("keys must not be empty nor hold '='")
    return plain_text(value)


def _request_host(value: str) -> str:
    if value and _REQUEST_HOST.fullmatch(value) is None:
        raise ValueError(
            "must be a host name, and perhaps a port: letters, digits, '.', '-', ':' and ${PORT}"
        )
    return value


SandboxName = Annotated[str, Field(max_length=SANDBOX_NAME_LIMIT), AfterValidator(plain_text)]
RequestHost = Annotated[str, Field(max_length=REQUEST_HOST_LIMIT), AfterValidator(_request_host)]
Labels = Annotated[
    dict[
        Annotated[str, Field(max_length=LABEL_KEY_LIMIT), AfterValidator(_label_key)],
        Annotated[str, Field(max_length=LABEL_VALUE_LIMIT), AfterValidator(nul_free_text)],
    ],
    Field(max_length=LABELS_LIMIT),
]


class SetNetwork(RequestBody):
    """What to change; what is absent stays. An empty list clears it."""

    allow_internet: StrictBool | None = None
    allow: Destinations | None = None
    deny: Networks | None = None


class SetDisk(RequestBody):
    """How large its disk is to be."""

    disk_size_mb: StrictInt = Field(description="Not less than it has, at most what the installation allows")


class CreateSandbox(RequestBody):
    """What to create. The limits of `vcpus`, `memory_mb` and `disk_size_mb` are the installation's."""

    template: str = DEFAULT_TEMPLATE
    vcpus: StrictInt = DEFAULT_VCPUS
    memory_mb: StrictInt = DEFAULT_MEMORY_MB
    disk_size_mb: StrictInt = Field(
        DEFAULT_DISK_SIZE_MB, description="Size of its root file system; not less than that of its template"
    )
    timeout_sec: Seconds = Field(0, description="Idle seconds until it is paused; 0: never")
    lifetime_sec: Seconds = Field(0, description="Seconds until `on_expiry` is done to it; 0: no end")
    on_expiry: OnExpiry = Field("pause", description="What is done at the end of its lifetime")
    keep_memory_on_pause: StrictBool = Field(
        default=True,
        description="False: a pause at the end of `timeout_sec` or of its lifetime keeps only the disk, see `POST …/pause`",
    )
    auto_resume: StrictBool = Field(
        default=False, description="A call to it while it is paused resumes it first"
    )
    lift_on_pause: StrictBool = Field(
        default=False,
        description="`POST …/pause` removes the end of its lifetime. For clients that renew a short lifetime",
    )
    resume_lifetime_sec: Seconds = Field(
        0, description="Seconds of the lifetime that begins with each resume; 0: none begins"
    )
    envs: Envs = Field(default_factory=dict, description="Environment of every process in the sandbox")
    public_ports: list[Port] = Field(
        default_factory=list[int],
        max_length=PUBLIC_PORTS_LIMIT,
        description="Ports that anybody may visit without a credential",
    )
    all_ports_public: StrictBool = Field(
        default=False, description="Anybody may visit every port without a credential"
    )
    request_host: RequestHost = Field(
        "",
        description="The `Host` that its programs get instead of the visitor's, which is in `X-Forwarded-Host`; `${PORT}` becomes the port",
    )
    network: Network = Field(default_factory=Network, description="What it may reach from the start")
    name: SandboxName = Field("", description="What people call it; need not be unique")
    metadata: Labels = Field(
        default_factory=dict[str, str],
        description="Any texts of its owner, by which lists can be searched. Not for secrets",
    )
    host_tags: list[HostTag] = Field(
        default_factory=list[str],
        max_length=TAGS_LIMIT,
        description="Tags that its host must have, all of them",
    )

    @property
    def limits(self) -> TimeLimits:
        """The time limits of the request."""
        return TimeLimits(
            self.timeout_sec,
            self.lifetime_sec,
            self.on_expiry,
            self.auto_resume,
            self.lift_on_pause,
            self.resume_lifetime_sec,
            self.keep_memory_on_pause,
        )


class Pause(RequestBody):
    """What a pause keeps."""

    keep_memory: StrictBool = Field(
        default=True,
        description="False: only the disk is kept. The sandbox writes all files to it first, and boots when it is resumed, without its processes",
    )


class Resume(RequestBody):
    """What a resume continues with."""

    keep_memory: StrictBool = Field(
        default=True,
        description="False: it boots from its disk, also if its memory was kept. What it had not written to the disk is lost, as after a power cut",
    )


class ChangeSandbox(RequestBody):
    """What to change; what is absent stays."""

    name: SandboxName | None = Field(None, description="Empty: no name")
    metadata: Labels | None = Field(
        None, description="The owner's texts, in place of all that there are; what the platform writes stays"
    )
    public_ports: list[Port] | None = Field(
        None,
        max_length=PUBLIC_PORTS_LIMIT,
        description="Ports that anybody may visit without a credential, in place of all that there are",
    )
    add_public_ports: list[Port] | None = Field(
        None,
        max_length=PUBLIC_PORTS_LIMIT,
        description="Ports that become public; the others stay as they are",
    )
    remove_public_ports: list[Port] | None = Field(
        None,
        max_length=PUBLIC_PORTS_LIMIT,
        description="Ports that are public no more; the others stay as they are",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        changed = (*(self.add_public_ports or ()), *(self.remove_public_ports or ()))
        if changed and self.public_ports is not None:
            raise ValueError("public_ports replaces all of them: add or remove none beside it")
        if len(set(changed)) < len(changed):
            raise ValueError("add_public_ports and remove_public_ports name a port twice")
        return self


class SetTimeout(RequestBody):
    """What to change; what is absent stays."""

    timeout_sec: Seconds | None = Field(None, description="Idle seconds until it is paused; 0: never")
    lifetime_sec: Seconds | None = Field(
        None, description="Seconds from now until `on_expiry` is done to it; 0: no end"
    )
    on_expiry: OnExpiry | None = None
    extend_only: StrictBool = Field(default=False, description="Never make `expires_at` earlier")
    lift_on_pause: StrictBool | None = Field(
        None,
        description="`POST …/pause` removes the end of its lifetime. Absent: false with a new lifetime. With `extend_only` "
        "nothing changes unless the lifetime was set with `lift_on_pause`, and one that a pause removed "
        "begins anew when the sandbox runs again; with a lifetime of 0 it then has none",
    )

    @property
    def is_renewal(self) -> bool:
        """Whether a client renews the lifetime of a sandbox that would otherwise end, or with 0 removes it."""
        return self.extend_only and self.lift_on_pause is True and self.lifetime_sec is not None


class Fork(RequestBody):
    """How many copies to make."""

    count: StrictInt = Field(1, ge=1, le=FORK_LIMIT)


class NetworkView(BaseModel):
    """What a sandbox may reach; see `Network`."""

    allow_internet: bool
    allow: list[str]
    deny: list[str]


class Creator(BaseModel):
    """Who asked for a sandbox, as the audit log names them."""

    type: Literal["user", "api_key"]
    id: str
    name: str


class SandboxView(BaseModel):
    """A sandbox. Optional fields are absent where they have no value."""

    id: str
    name: str | None = None
    status: Literal["pending", "starting", "running", "paused", "missing", "stopped", "error"]
    template: str
    vcpus: int
    memory_mb: int
    disk_size_mb: int
    timeout_sec: int
    created_by: Creator | None = None
    build_id: str | None = Field(
        None, description="The build whose steps run in it; nothing else may use or change it while that runs"
    )
    expires_at: datetime | None = Field(None, description="When `on_expiry` is done to it")
    on_expiry: OnExpiry
    lift_on_pause: bool = Field(description="`POST …/pause` removes the end of its lifetime")
    resume_lifetime_sec: int = Field(description="Seconds of the lifetime that begins with each resume")
    keep_memory_on_pause: bool = True
    auto_resume: bool
    public_ports: list[int]
    all_ports_public: bool = False
    request_host: str = ""
    network: NetworkView
    domain: str = Field(description="What its ports' hosts end with: `{port}-{id}.{domain}`")
    host_ip: str | None = Field(None, description="Meaningful on the host only")
    created_at: datetime
    started_at: datetime | None = None
    last_active_at: datetime | None = None
    last_updated: datetime
    stored_at: datetime | None = Field(
        None,
        description="When the state was saved that the store has: `POST …/recover` starts the sandbox from it if its host is lost",
    )
    metadata: dict[str, str] | None = Field(
        None,
        description="What its owner gave; versions; `reason` of an error, of a pause that nobody asked for, of a refused resume, of standing still on a full disk",
    )


def sandbox_json(sandbox: Sandbox, domain: str) -> dict[str, object]:
    """Convert a sandbox to the JSON of `SandboxView`; its ports are below this domain."""
    is_held = sandbox.status is State.RUNNING and not sandbox.failure
    shows_reason = (is_held or sandbox.status in (State.ERROR, State.PAUSED)) and sandbox.reason
    reason = {"reason": sandbox.reason} if shows_reason else {}
    metadata = dict(sandbox.labels) | dict(sandbox.metadata) | reason
    fields: dict[str, object | None] = {
        "id": str(sandbox.sandbox_id),
        "name": sandbox.name or None,
        "status": sandbox.status.value,
        "template": sandbox.template,
        "vcpus": sandbox.vcpus,
        "memory_mb": sandbox.memory_mb,
        "disk_size_mb": sandbox.disk_size_mb,
        "created_by": sandbox.created_by,
        "build_id": str(sandbox.build_id) if sandbox.build_id else None,
        "timeout_sec": sandbox.timeout_sec,
        "expires_at": wire_time(sandbox.expires_at),
        "on_expiry": sandbox.on_expiry,
        "lift_on_pause": sandbox.lift_on_pause,
        "resume_lifetime_sec": sandbox.resume_lifetime_sec,
        "keep_memory_on_pause": sandbox.keep_memory_on_pause,
        "auto_resume": sandbox.auto_resume,
        "public_ports": list(sandbox.ingress.public_ports),
        "all_ports_public": sandbox.ingress.all_ports_public,
        "request_host": sandbox.ingress.request_host,
        "network": sandbox.network.to_json(),
        "domain": domain,
        "host_ip": sandbox.host_ip or None,
        "created_at": wire_time(sandbox.created_at),
        "started_at": wire_time(sandbox.started_at),
        "last_active_at": wire_time(sandbox.last_active_at),
        "last_updated": wire_time(sandbox.last_updated),
        "stored_at": wire_time(sandbox.stored_at),
        "metadata": metadata or None,
    }
    return {name: value for name, value in fields.items() if value is not None}


class RecoveredSandbox(BaseModel):
    """A sandbox that runs on another host, since its host is lost."""

    sandbox: SandboxView
    saved_at: datetime = Field(description="When its state was saved; what happened since is lost")


class Move(RequestBody):
    """Where a sandbox is moved to."""

    host_id: str | None = Field(
        default=None,
        max_length=64,
        description="A host. Only admins of the platform, or of the team that the host belongs to, may name one; otherwise one is chosen",
    )
    pause: bool = Field(
        default=False,
        description="A running sandbox is paused, moved and resumed. Without this only a paused one is moved, and stays paused",
    )


class SandboxList(BaseModel):
    """Sandboxes."""

    sandboxes: list[SandboxView]
