"""Values that calls return: frozen dataclasses, parsed strictly from the platform's JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Literal

from wrenn.base.file_name_encoding import text_to_name
from wrenn.sdk._parse import Fields
from wrenn.sdk.errors import UnexpectedAnswerError

OnExpiry = Literal["pause", "kill"]
"""What happens to a sandbox at the end of its lifetime."""

MetricsRange = Literal["5m", "10m", "1h", "2h", "6h", "12h", "24h"]
"""How far back the metrics of a sandbox go: points of every half second (5m, 10m), 30 seconds (1h, 2h), or five minutes."""

TemplateType = Literal["base", "snapshot"]
"""`base`: built from packages, boots when it is started. `snapshot`: the state of a sandbox, with its processes."""


_PLATFORM_METADATA: Final = frozenset(
    {"agent_version", "envd_version", "firecracker_version", "kernel_version", "reason", "vmm_version"}
)


@dataclass(frozen=True, slots=True)
class Creator:
    """Who created a sandbox: `type` is `user` or `api_key`, `name` is the name at that time."""

    type: str
    id: str
    name: str

    @classmethod
    def parse(cls, fields: Fields) -> Creator:
        """Parse the platform's object."""
        return cls(fields.text("type"), fields.text("id"), fields.text("name"))


def networks(given: str | Iterable[str]) -> tuple[str, ...]:
    """Normalize an argument to a tuple of networks; a string is one network, not a sequence of characters."""
    return (given,) if isinstance(given, str) else tuple(given)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """Which destinations a sandbox may reach: those in `allow`; otherwise none in `deny`; otherwise `allow_internet` decides.

    Both lists contain IPv4 addresses and networks, e.g. `"203.0.113.0/24"`; a single string is a list of one.
    `allow` may have names of servers too, e.g. `"example.com"` and `"*.example.com"`, which are reached over HTTP on port 80
    and TLS on port 443. They need everything else to be denied.
    Private networks and the host are never reachable, except those that the platform's operator allows.
    """

    allow_internet: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Accept lists and single networks for the tuple fields."""
        object.__setattr__(self, "allow", networks(self.allow))
        object.__setattr__(self, "deny", networks(self.deny))

    @classmethod
    def parse(cls, fields: Fields) -> NetworkPolicy:
        """Parse the platform's network object."""
        return cls(fields.flag("allow_internet"), fields.texts("allow"), fields.texts("deny"))


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox at the time of the call.

    `status` is `pending`, `running`, `paused`, `stopped`, `error` or a value of a newer platform.
    `timeout_sec` is the idle time in seconds after which it is paused, 0: never. `expires_at` is the end of
    its lifetime, None: no limit; `on_expiry` is what happens then, `pause` or `kill`. With `auto_resume` a
    call to the paused sandbox resumes it. `public_ports` can be visited without credentials; all its ports
    are at `{port}-{id}.{domain}`. `network` is its egress policy, None: not reported by the platform.
    `metadata` has the entries given at `create`, and versions that the platform adds. `build_id` is the build whose steps
    run in it: nothing else may use or change it while that runs.
    """

    id: str
    status: str
    template: str
    vcpus: int
    memory_mb: int
    timeout_sec: int
    created_at: datetime
    started_at: datetime | None
    last_active_at: datetime | None
    expires_at: datetime | None
    on_expiry: str
    lift_on_pause: bool
    auto_resume: bool
    public_ports: tuple[int, ...]
    domain: str | None
    metadata: dict[str, str]
    network: NetworkPolicy | None = None
    name: str | None = None
    disk_size_mb: int | None = None
    created_by: Creator | None = None
    build_id: str | None = None

    @property
    def labels(self) -> dict[str, str]:
        """The entries of `metadata` that were given at `create`, without those that the platform adds."""
        return {key: value for key, value in self.metadata.items() if key not in _PLATFORM_METADATA}

    @classmethod
    def parse(cls, fields: Fields) -> SandboxInfo:
        """Parse the platform's sandbox object."""
        return cls(
            id=fields.text("id"),
            status=fields.text("status"),
            template=fields.text("template"),
            vcpus=fields.integer("vcpus"),
            memory_mb=fields.integer("memory_mb"),
            timeout_sec=fields.integer("timeout_sec"),
            created_at=fields.time("created_at"),
            started_at=fields.optional_time("started_at"),
            last_active_at=fields.optional_time("last_active_at"),
            expires_at=fields.optional_time("expires_at"),
            on_expiry=fields.optional_text("on_expiry") or "pause",
            lift_on_pause=fields.flag("lift_on_pause"),
            auto_resume=fields.flag("auto_resume"),
            public_ports=fields.integers("public_ports"),
            domain=fields.optional_text("domain"),
            metadata=fields.text_map("metadata"),
            network=NetworkPolicy.parse(network) if (network := fields.optional_object("network")) else None,
            name=fields.optional_text("name"),
            disk_size_mb=fields.optional_integer("disk_size_mb"),
            created_by=Creator.parse(maker) if (maker := fields.optional_object("created_by")) else None,
            build_id=fields.optional_text("build_id"),
        )


@dataclass(frozen=True, slots=True)
class MetricPoint:
    """What a sandbox used at a moment, or on average since the point before. None: not known.

    `cpu_pct` is the share of its vCPUs, 0 to 100. `mem_bytes` is the memory of its virtual machine on the host; in
    `mem_pss_bytes` memory that it shares with other sandboxes is divided among them. `disk_bytes` is what it takes on the host's
    disk. `net_in_bytes_per_s` is what it received. The `guest_` values are by the guest's own account.
    """

    at: datetime
    cpu_pct: float
    mem_bytes: int
    disk_bytes: int
    net_in_bytes_per_s: float
    net_out_bytes_per_s: float
    mem_pss_bytes: int | None = None
    guest_mem_used_bytes: int | None = None
    guest_mem_available_bytes: int | None = None
    guest_disk_used_bytes: int | None = None
    guest_disk_total_bytes: int | None = None

    @classmethod
    def parse(cls, fields: Fields) -> MetricPoint:
        """Parse the platform's point."""
        return cls(
            at=datetime.fromtimestamp(fields.integer("timestamp_ms") / 1000, UTC),
            cpu_pct=fields.optional_number("cpu_pct") or 0.0,
            mem_bytes=fields.integer("mem_bytes"),
            disk_bytes=fields.integer("disk_bytes"),
            net_in_bytes_per_s=fields.optional_number("net_in_bytes_per_s") or 0.0,
            net_out_bytes_per_s=fields.optional_number("net_out_bytes_per_s") or 0.0,
            mem_pss_bytes=fields.optional_integer("mem_pss_bytes"),
            guest_mem_used_bytes=fields.optional_integer("guest_mem_used_bytes"),
            guest_mem_available_bytes=fields.optional_integer("guest_mem_available_bytes"),
            guest_disk_used_bytes=fields.optional_integer("guest_disk_used_bytes"),
            guest_disk_total_bytes=fields.optional_integer("guest_disk_total_bytes"),
        )


@dataclass(frozen=True, slots=True)
class TemplateInfo:
    """A template, from which sandboxes are created.

    `type` is `base` or `snapshot`. A sandbox created from a snapshot has its `vcpus`, `memory_mb` and
    `disk_size_mb`; for a base they are defaults (None: the platform's). `size_bytes` is the size of its own files, 0:
    unknown. `platform` templates belong to the installation and cannot be deleted.

    A template is one version of its name. `id` identifies it (None: hosts built it themselves), and `NAME:TAG` with one of
    its `tags` refers to it. `default_user`, `working_dir` and `default_env` apply to commands that do not say otherwise.
    `build_id` is the build that made it.
    """

    name: str
    type: str
    vcpus: int | None
    memory_mb: int | None
    disk_size_mb: int | None
    size_bytes: int
    created_at: datetime
    platform: bool
    id: str | None = None
    tags: tuple[str, ...] = ()
    default_user: str | None = None
    working_dir: str | None = None
    default_env: dict[str, str] = field(default_factory=dict[str, str])
    labels: dict[str, str] = field(default_factory=dict[str, str])
    build_id: str | None = None

    @classmethod
    def parse(cls, fields: Fields) -> TemplateInfo:
        """Parse the platform's template object."""
        return cls(
            name=fields.text("name"),
            type=fields.text("type"),
            vcpus=fields.optional_integer("vcpus"),
            memory_mb=fields.optional_integer("memory_mb"),
            disk_size_mb=fields.optional_integer("disk_size_mb"),
            size_bytes=fields.integer("size_bytes"),
            created_at=fields.time("created_at"),
            platform=fields.flag("platform"),
            id=fields.optional_text("id"),
            tags=fields.texts("tags"),
            default_user=fields.optional_text("default_user"),
            working_dir=fields.optional_text("working_dir"),
            default_env=fields.text_map("default_env"),
            labels=fields.text_map("labels"),
            build_id=fields.optional_text("build_id"),
        )


@dataclass(frozen=True, slots=True)
class BuildStep:
    """A step of a build that was carried out.

    `phase` is `pre-build`, `recipe` or `post-build`. `exit_code` is None for a step that runs no program. `cached` says that
    the result of an earlier build was used.
    """

    step: int
    phase: str
    command: str
    stdout: str
    stderr: str
    exit_code: int | None
    ok: bool
    elapsed_ms: int
    cached: bool

    @classmethod
    def parse(cls, fields: Fields) -> BuildStep:
        """Parse an entry of a build's log."""
        return cls(
            step=fields.integer("step"),
            phase=fields.text("phase"),
            command=fields.text("cmd"),
            stdout=fields.optional_text("stdout") or "",
            stderr=fields.optional_text("stderr") or "",
            exit_code=fields.optional_integer("exit"),
            ok=fields.flag("ok"),
            elapsed_ms=fields.optional_integer("elapsed_ms") or 0,
            cached=fields.flag("cached"),
        )


@dataclass(frozen=True, slots=True)
class Build:
    """A build of a template.

    `status` is `pending`, `running`, `success`, `failed` or `cancelled`; the last three are final and have `completed_at`.
    `error` says why it failed.
    """

    id: str
    name: str
    tag: str | None
    status: str
    current_step: int
    total_steps: int
    error: str | None
    created_at: datetime
    started_at: datetime | None
    completed_at: datetime | None

    @property
    def template(self) -> str:
        """What `Sandbox.create` takes when the build has succeeded: `NAME` or `NAME:TAG`."""
        return f"{self.name}:{self.tag}" if self.tag else self.name

    @property
    def has_ended(self) -> bool:
        """Whether the status is final."""
        return self.status in ("success", "failed", "cancelled")

    @classmethod
    def parse(cls, fields: Fields) -> Build:
        """Parse the platform's build object."""
        return cls(
            id=fields.text("id"),
            name=fields.text("name"),
            tag=fields.optional_text("tag"),
            status=fields.text("status"),
            current_step=fields.optional_integer("current_step") or 0,
            total_steps=fields.optional_integer("total_steps") or 0,
            error=fields.optional_text("error"),
            created_at=fields.time("created_at"),
            started_at=fields.optional_time("started_at"),
            completed_at=fields.optional_time("completed_at"),
        )


@dataclass(frozen=True, slots=True)
class BuildEvent:
    """Something that happened in a build.

    Attributes:
        type: `step` (a step begins), `output`, `done` (a step has ended), `note`, or `end`, which is the last one. A newer
            platform may send others.
        step: number of the step, from 1; 0 for a note or the end.
        total: number of steps; with `step`.
        phase, command: with `step`, as in `BuildStep`.
        stream, text: with `output`: `stdout` or `stderr`, and what was written. `text` is the message of a `note`.
        exit_code, ok, elapsed_ms, cached: with `done`, as in `BuildStep`.
        status, error: with `end`, as in `Build`.
    """

    type: str
    step: int = 0
    total: int = 0
    phase: str = ""
    command: str = ""
    stream: str = ""
    text: str = ""
    exit_code: int | None = None
    ok: bool = False
    elapsed_ms: int = 0
    cached: bool = False
    status: str = ""
    error: str | None = None

    @classmethod
    def parse(cls, kind: str, fields: Fields) -> BuildEvent:
        """Parse an event of a build's log."""
        return cls(
            type=kind,
            step=fields.optional_integer("step") or 0,
            total=fields.optional_integer("total") or 0,
            phase=fields.optional_text("phase") or "",
            command=fields.optional_text("cmd") or "",
            stream=fields.optional_text("stream") or "",
            text=fields.optional_text("text") or fields.optional_text("message") or "",
            exit_code=fields.optional_integer("exit"),
            ok=fields.flag("ok"),
            elapsed_ms=fields.optional_integer("elapsed_ms") or 0,
            cached=fields.flag("cached"),
            status=fields.optional_text("status") or "",
            error=fields.optional_text("error"),
        )


@dataclass(frozen=True, slots=True)
class CodeContext:
    """A kernel of a sandbox with a state of its own."""

    id: str
    language: str
    cwd: str


@dataclass(frozen=True, slots=True)
class CodeError:
    """Why code ended early, in the words of its language."""

    name: str
    value: str
    traceback: str


@dataclass(frozen=True, slots=True)
class CodeResult:
    """Something that code has shown.

    Attributes:
        formats: it in each format that it has: `text`, `html`, `markdown`, `svg`, `png` and `jpeg` (base64), `pdf`, `latex`, `json`,
            `javascript`, `data` (columns of a data frame), `chart` (points of a figure), or a MIME type.
        is_main: it is the value of the last expression.
    """

    formats: Mapping[str, object]
    is_main: bool

    @property
    def text(self) -> str | None:
        """It as text, if it has one."""
        text = self.formats.get("text")
        return None if text is None else str(text)


@dataclass(frozen=True, slots=True)
class CodeExecution:
    """What a run of code has shown and written.

    Attributes:
        error: why it ended early; None: it did not.
        count: how many runs there were in the context with this one.
    """

    results: tuple[CodeResult, ...]
    stdout: str
    stderr: str
    error: CodeError | None
    count: int | None

    @property
    def text(self) -> str | None:
        """The value of the last expression as text; None: it has none."""
        return next((result.text for result in self.results if result.is_main), None)


@dataclass(frozen=True, slots=True)
class CommandResult:
    """The output of a command and how it ended.

    Attributes:
        exit_code: 128 + `signal` if a signal terminated it.
        signal: number of that signal, otherwise None; `signal_name` is its name, e.g. `SIGKILL`.
        out_of_memory: the sandbox's kernel killed it, or a process that it started, because memory was
            exhausted.
        timed_out: it was killed at its time limit, and the output is what it wrote until then.
        truncated: only the last 16 MiB of a stream are included; only with callbacks.
    """

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int
    duration_ms: int
    signal: int | None = None
    signal_name: str | None = None
    out_of_memory: bool = False
    timed_out: bool = False
    truncated: bool = False

    @property
    def stdout(self) -> str:
        """Standard output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode(errors="replace")

    @property
    def stderr(self) -> str:
        """Standard error as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode(errors="replace")

    @classmethod
    def parse(cls, fields: Fields) -> CommandResult:
        """Parse the platform's exec result in either of its encodings."""
        encoding = fields.text("encoding")
        return cls(
            stdout_bytes=_decoded(fields.text("stdout"), encoding),
            stderr_bytes=_decoded(fields.text("stderr"), encoding),
            exit_code=fields.integer("exit_code"),
            duration_ms=fields.integer("duration_ms"),
            signal=fields.optional_integer("signal"),
            signal_name=fields.optional_text("signal_name"),
            out_of_memory=fields.flag("out_of_memory"),
            timed_out=fields.flag("timed_out"),
        )


def _decoded(text: str, encoding: str) -> bytes:
    if encoding == "utf-8":
        return text.encode()
    if encoding == "base64":
        try:
            return base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise UnexpectedAnswerError(
                "The platform's answer is unexpected: output is not base64."
            ) from error
    raise UnexpectedAnswerError(f"The platform's answer is unexpected: output encoding {encoding!r}.")


Signal = Literal[
    "SIGKILL", "SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGSTOP", "SIGCONT"
]
"""Signals that can be sent to a process."""

OnDisconnect = Literal["kill", "keep"]
"""What happens to a process when the client that started it closes the stream or loses the connection."""

OutputStream = Literal["stdout", "stderr", "pty"]
"""Which stream: `pty` is the only output of a terminal."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of the output of a process.

    `data` has exactly its bytes. `text` is the same decoded: a character that is split over two pieces is in
    the second one, and bytes that are not UTF-8 become U+FFFD.
    """

    stream: OutputStream
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A running process that was started through the platform."""

    pid: int
    tag: str | None
    cmd: str
    args: tuple[str, ...]

    @classmethod
    def parse(cls, fields: Fields) -> ProcessInfo:
        """Parse the platform's process object."""
        return cls(
            fields.integer("pid"), fields.optional_text("tag"), fields.text("cmd"), fields.texts("args")
        )


@dataclass(frozen=True, slots=True)
class GuestProcess:
    """A process of a sandbox, whoever started it.

    `state` is the letter that the kernel prints, `command` is cut at 512 characters, `cpu_ms` the CPU time used so far. A
    `managed` one was started through the platform, so its output can be followed; `tag` is its own then.
    """

    pid: int
    ppid: int
    user: str
    state: str
    command: str
    cpu_ms: int
    memory_bytes: int
    threads: int
    managed: bool
    tag: str | None

    @classmethod
    def parse(cls, fields: Fields) -> GuestProcess:
        """Parse the platform's process object."""
        return cls(
            pid=fields.integer("pid"),
            ppid=fields.integer("ppid"),
            user=fields.text("user"),
            state=fields.text("state"),
            command=fields.text("command"),
            cpu_ms=fields.integer("cpu_ms"),
            memory_bytes=fields.integer("memory_bytes"),
            threads=fields.integer("threads"),
            managed=fields.flag("managed"),
            tag=fields.optional_text("tag"),
        )


@dataclass(frozen=True, slots=True)
class ListeningPort:
    """A port on which programs of a sandbox accept connections. `pid` and `name`: a program that has it, None: not known."""

    port: int
    addresses: tuple[str, ...]
    pid: int | None
    name: str | None
    public: bool
    host: str

    @classmethod
    def parse(cls, fields: Fields) -> ListeningPort:
        """Parse the platform's port object."""
        return cls(
            port=fields.integer("port"),
            addresses=fields.texts("addresses"),
            pid=fields.optional_integer("pid"),
            name=fields.optional_text("name"),
            public=fields.flag("public"),
            host=fields.text("host"),
        )


@dataclass(frozen=True, slots=True)
class DownloadLink:
    """A URL with which a browser downloads a file once, without a key, until it expires."""

    url: str
    expires_at: datetime

    @classmethod
    def parse(cls, fields: Fields) -> DownloadLink:
        """Parse the platform's link object."""
        return cls(fields.text("url"), fields.time("expires_at"))


def _time_of(seconds: int) -> datetime:
    """Convert a file's time, which its owner can set arbitrarily: a time out of range becomes the nearest valid one."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST_TIME_S), _LAST_TIME_S), UTC)


_FIRST_TIME_S = -62_135_596_800
_LAST_TIME_S = 253_402_300_799


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, directory or symbolic link in a sandbox.

    `type` is `file`, `directory`, `symlink` or `unknown`; `kind` may also be `socket`, `fifo`, `char_device`
    or `block_device`, whose type is `file`. `mode` has the permission bits, `permissions` shows them as `ls`
    does. A symbolic link whose target does not exist is `broken`. `name` and `path` are text that identifies
    the file in every call, whatever bytes its name contains; `name_bytes` and `path_bytes` are those bytes.
    """

    name: str
    path: str
    type: str
    size: int
    mode: int
    permissions: str
    owner: str
    group: str
    modified_at: datetime
    symlink_target: str | None
    kind: str
    broken: bool

    @property
    def name_bytes(self) -> bytes:
        """The name as bytes, as stored on the sandbox's disk."""
        return text_to_name(self.name)

    @property
    def path_bytes(self) -> bytes:
        """The path as bytes, as stored on the sandbox's disk."""
        return text_to_name(self.path)

    @classmethod
    def parse(cls, fields: Fields) -> FileEntry:
        """Parse the platform's file entry."""
        return cls(
            name=fields.text("name"),
            path=fields.text("path"),
            type=fields.text("type"),
            size=fields.integer("size"),
            mode=fields.integer("mode"),
            permissions=fields.text("permissions"),
            owner=fields.text("owner"),
            group=fields.text("group"),
            modified_at=_time_of(fields.integer("modified_at")),
            symlink_target=fields.optional_text("symlink_target"),
            kind=fields.optional_text("kind") or fields.text("type"),
            broken=fields.flag("broken"),
        )


@dataclass(frozen=True, slots=True)
class GitStatus:
    """The status of a git work tree.

    `branch` is empty if no branch is checked out. `ahead` and `behind` count commits relative to `upstream`,
    which is empty if there is none. `changes` are lines like ` M file`, as in the output of `git status
    --porcelain`.
    """

    branch: str
    upstream: str
    ahead: int
    behind: int
    changes: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Whether there are no changed, added or untracked files."""
        return not self.changes


FileEventType = Literal["create", "write", "remove", "rename", "chmod", "overflow"]
"""What happened to a file. `rename`: it got another name; a `create` reports the new name if that is watched too."""


@dataclass(frozen=True, slots=True)
class FileEvent:
    """A change in a watched directory.

    `path` is absolute, `name` is relative to the watched directory and empty for the directory itself; both
    can be passed to calls unchanged. `overflow` means that some events were lost: list the directory again.
    """

    type: str
    path: str
    name: str

    @classmethod
    def parse(cls, fields: Fields) -> FileEvent:
        """Parse the platform's event."""
        return cls(fields.text("event"), fields.text("path"), fields.text("name"))


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a resource.

    `type` is for example `sandbox.paused`; only `reset` has neither `resource_id` nor `at`. Pass `id` to
    `events(after=…)` to continue after this event.
    """

    id: str
    type: str
    resource_id: str | None
    at: datetime | None
    data: dict[str, object]

    @classmethod
    def parse(cls, event_id: str, value: object) -> Event:
        """Parse the data of an event."""
        fields = Fields("event", value)
        return cls(
            id=event_id,
            type=fields.text("type"),
            resource_id=fields.optional_text("resource_id"),
            at=fields.optional_time("at"),
            data=fields.values("data"),
        )


@dataclass(frozen=True, slots=True)
class AuditEntry:
    """An entry of the audit log: `action` by an actor on a resource.

    `actor_type` is `user`, `api_key` or `system`; `status` is `success`, `info`, `warning` or `error`.
    """

    id: str
    actor_type: str
    actor_id: str | None
    actor_name: str | None
    resource_type: str
    resource_id: str | None
    action: str
    scope: str
    status: str
    metadata: dict[str, object]
    created_at: datetime

    @classmethod
    def parse(cls, fields: Fields) -> AuditEntry:
        """Parse the platform's audit entry."""
        return cls(
            id=fields.text("id"),
            actor_type=fields.text("actor_type"),
            actor_id=fields.optional_text("actor_id"),
            actor_name=fields.optional_text("actor_name"),
            resource_type=fields.text("resource_type"),
            resource_id=fields.optional_text("resource_id"),
            action=fields.text("action"),
            scope=fields.text("scope"),
            status=fields.text("status"),
            metadata=fields.values("metadata"),
            created_at=fields.time("created_at"),
        )
