"""Messages about sandboxes, in the names of the e2b API."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictInt
from pydantic.alias_generators import to_camel

from wrenn.control.e2b.bodies import E2bBody
from wrenn.control.sandboxes import FORK_LIMIT

TIMEOUT_LIMIT_S: Final = 2**31 - 1
DEFAULT_TIMEOUT_S: Final = 300
"""Of the second version of the endpoints."""
FIRST_DEFAULT_TIMEOUT_S: Final = 15
"""Of the first version of the endpoints."""
CLIENT_ID: Final = "wrenn"
"""What old clients append to the id of a sandbox. It has no meaning here."""
ENVD_VERSION: Final = "0.6.4"
"""The release of e2b's guest agent that ours is compatible with: clients use newer features only from certain releases on."""

Timeout = Annotated[StrictInt, Field(ge=-TIMEOUT_LIMIT_S, le=TIMEOUT_LIMIT_S)]


class AutoResume(E2bBody):
    """Whether a request to a paused sandbox resumes it."""

    enabled: StrictBool


class EgressRules(E2bBody):
    """What a sandbox may reach. An allowed entry wins over a denied one."""

    allow_out: list[str] = Field(default_factory=list[str])
    deny_out: list[str] = Field(default_factory=list[str])
    dns_servers: list[str] = Field(
        default_factory=list[str], description="Has no effect: the platform's name servers are used"
    )
    egress_proxy: dict[str, Any] | None = Field(default=None, description="Not supported")
    rules: dict[str, Any] | None = Field(default=None, description="Not supported")


class NetworkConfig(EgressRules):
    """What a sandbox may reach, and who may reach it."""

    allow_public_traffic: StrictBool = Field(
        default=True, description="Anybody may visit the ports; else only with the traffic token"
    )
    mask_request_host: str = Field(
        default="", description="`Host` that programs get; `${PORT}` becomes the port"
    )
    https_ports: list[int] = Field(default_factory=list[int], description="Not supported")


class NetworkUpdate(EgressRules):
    """What a sandbox may reach from now on; what is left out is cleared."""

    allow_internet_access: StrictBool = Field(default=True, alias="allow_internet_access")


class NewSandboxV2(E2bBody):
    """What to create."""

    template_id: str = Field(
        alias="templateID", description="Name, `name:tag` or id of a template or snapshot"
    )
    timeout: Timeout = Field(DEFAULT_TIMEOUT_S, description="Seconds until it is killed or paused")
    auto_pause: StrictBool = Field(default=False, description="Pause it at the end of its time, not kill")
    auto_pause_memory: StrictBool = True
    auto_resume: AutoResume | None = None
    allow_internet_access: StrictBool = Field(default=True, alias="allow_internet_access")
    network: NetworkConfig = Field(default_factory=NetworkConfig)
    metadata: dict[str, str] = Field(default_factory=dict[str, str])
    env_vars: dict[str, str] = Field(default_factory=dict[str, str])
    mcp: dict[str, Any] | None = Field(default=None, description="Not supported")
    iam: dict[str, Any] | None = Field(default=None, description="Not supported")
    volume_mounts: list[dict[str, Any]] = Field(
        default_factory=list[dict[str, Any]], description="Not supported"
    )


class NewSandbox(NewSandboxV2):
    """What to create. Sandboxes are secured whether or not `secure` says so."""

    timeout: Timeout = Field(FIRST_DEFAULT_TIMEOUT_S, description="Seconds until it is killed or paused")
    secure: StrictBool = True


class TimeoutRequest(E2bBody):
    """When a sandbox ends."""

    timeout: Timeout = Field(description="Seconds from now; 0 or less: now")


class RefreshRequest(E2bBody):
    """How long a sandbox is to live at least."""

    duration: Timeout = Field(default=FIRST_DEFAULT_TIMEOUT_S, description="Seconds from now")


class PauseRequest(E2bBody):
    """How to pause a sandbox."""

    memory: StrictBool = Field(default=True, description="False: only the disk is kept")
    require_healthy_guest: StrictBool = Field(
        default=False, description="A sandbox whose guest agent does not answer is never paused here"
    )


class ConnectSandboxV2(E2bBody):
    """For how long to use a sandbox."""

    timeout: Timeout = Field(default=DEFAULT_TIMEOUT_S, description="Seconds from now that it lives at least")
    memory: StrictBool = Field(default=True, description="False: one that is resumed boots from its disk")


class ConnectSandbox(E2bBody):
    """For how long to use a sandbox."""

    timeout: Timeout = Field(description="Seconds from now that it lives at least")


class ResumedSandbox(E2bBody):
    """How to resume a sandbox."""

    timeout: Timeout = Field(default=FIRST_DEFAULT_TIMEOUT_S, description="Seconds that it lives")
    auto_pause: StrictBool | None = Field(
        default=None, description="Pause it at the end of its time; absent: as before"
    )
    memory: StrictBool = Field(default=True, description="False: one that is resumed boots from its disk")


class ForkRequest(E2bBody):
    """How many copies to make, and how long they live."""

    timeout: Timeout = Field(default=FIRST_DEFAULT_TIMEOUT_S, description="Seconds that the copies live")
    count: StrictInt = Field(default=1, ge=1, le=FORK_LIMIT)


class SnapshotRequest(E2bBody):
    """A snapshot to take."""

    name: str | None = Field(
        default=None, description="Name of the template that it becomes; absent: one is made up"
    )
    memory: StrictBool = Field(default=True, description="False: only the disk; sandboxes made of it boot")


class _View(BaseModel):
    model_config = ConfigDict(alias_generator=to_camel, validate_by_name=True)


class SnapshotInfo(_View):
    """A snapshot, from which sandboxes can be created."""

    snapshot_id: str = Field(alias="snapshotID")
    names: list[str]


class MetricView(_View):
    """What a sandbox used at a moment, or on average since the entry before."""

    timestamp: datetime
    timestamp_unix: int
    cpu_count: int
    cpu_used_pct: float = Field(description="Of all its CPUs, 0 to 100")
    mem_used: int
    mem_total: int
    mem_cache: int = Field(description="Not known here: 0")
    disk_used: int
    disk_total: int


class SandboxLogEntry(_View):
    """A line of a sandbox's log."""

    timestamp: datetime
    message: str
    level: Literal["debug", "info", "warn", "error"]
    fields: dict[str, str]


class SandboxLogLine(_View):
    """The same in the oldest form."""

    timestamp: datetime
    line: str


class SandboxLogs(_View):
    """A sandbox's log, in two forms."""

    logs: list[SandboxLogLine]
    log_entries: list[SandboxLogEntry]


class SandboxLogsV2(_View):
    """A page of a sandbox's log."""

    logs: list[SandboxLogEntry]


class SandboxesWithMetrics(_View):
    """The newest metric of each sandbox that has one, by its id."""

    sandboxes: dict[str, MetricView]


class _Named(_View):
    template_id: str = Field(alias="templateID")
    sandbox_id: str = Field(alias="sandboxID")
    client_id: str = Field(alias="clientID")
    envd_version: str
    alias: str | None = None


class SandboxView(_Named):
    """A sandbox that runs, with what a client needs to use it."""

    envd_access_token: str
    traffic_access_token: str | None = None
    domain: str | None = None


class ForkResult(_View):
    """A copy that runs."""

    sandbox: SandboxView


class ListedSandbox(_Named):
    """A sandbox in a list."""

    started_at: datetime
    end_at: datetime
    cpu_count: int
    memory_mb: int = Field(alias="memoryMB")
    disk_size_mb: int = Field(alias="diskSizeMB")
    state: Literal["running", "paused"]
    metadata: dict[str, str]


class Lifecycle(_View):
    """What happens at the end of its time, and when a paused sandbox is used."""

    auto_resume: bool
    on_timeout: Literal["kill", "pause"]


class NetworkView(_View):
    """What a sandbox may reach."""

    allow_out: list[str]
    deny_out: list[str]
    allow_public_traffic: bool
    mask_request_host: str | None = None


class SandboxDetail(ListedSandbox):
    """All about a sandbox. A key that may only read gets no token."""

    envd_access_token: str | None = None
    domain: str | None = None
    allow_internet_access: bool
    network: NetworkView
    lifecycle: Lifecycle
