"""What calls return: frozen values, read strictly from the platform's JSON."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, Literal

from wrenn.base.file_names import name_of
from wrenn.sdk._parse import Fields
from wrenn.sdk.errors import UnexpectedAnswerError

OnExpiry = Literal["pause", "kill"]
"""What happens to a sandbox at the end of its lifetime."""

TemplateType = Literal["base", "snapshot"]
"""`base`: built from packages, boots. `snapshot`: a sandbox as it was, with its processes."""


_PLATFORM_METADATA: Final = frozenset(
    {"agent_version", "envd_version", "firecracker_version", "kernel_version", "reason", "vmm_version"}
)


@dataclass(frozen=True, slots=True)
class Creator:
    """Who asked for a sandbox: `type` is `user` or `api_key`, `name` what they were called then."""

    type: str
    id: str
    name: str

    @classmethod
    def parse(cls, fields: Fields) -> Creator:
        """Read the platform's object."""
        return cls(fields.text("type"), fields.text("id"), fields.text("name"))


def networks(given: str | Iterable[str]) -> tuple[str, ...]:
    """The networks of an argument. A text is one of them, and not a list of its letters."""
    return (given,) if isinstance(given, str) else tuple(given)


@dataclass(frozen=True, slots=True)
class NetworkPolicy:
    """What a sandbox may reach: what is in `allow`; else nothing in `deny`; else `allow_internet` decides.

    Both lists hold IPv4 addresses and networks, e.g. `"203.0.113.0/24"`; a single text is a list of one. Private networks and the host are out of reach in
    any case, but for what the platform's operator opens.
    """

    allow_internet: bool = True
    allow: tuple[str, ...] = ()
    deny: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Take lists, and a single network, for what the fields say."""
        object.__setattr__(self, "allow", networks(self.allow))
        object.__setattr__(self, "deny", networks(self.deny))

    @classmethod
    def parse(cls, fields: Fields) -> NetworkPolicy:
        """Read the platform's network object."""
        return cls(fields.flag("allow_internet"), fields.texts("allow"), fields.texts("deny"))


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox as the platform knows it at the time of the call.

    `status` is `pending`, `running`, `paused`, `stopped`, `error` or a newer word. `timeout_sec` is the seconds without use
    until it is paused, 0: never. `expires_at` is the end of its lifetime, None: it has none; `on_expiry` says what happens
    then, `pause` or `kill`. With `auto_resume` a call to the paused sandbox resumes it. Anybody may visit its `public_ports`;
    all its ports are at `{port}-{id}.{domain}`. `network` is what it may reach, None: a platform that does not say.
    `metadata` is what was given at `create`, with versions that the platform adds.
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

    @property
    def labels(self) -> dict[str, str]:
        """Of `metadata` what was given at `create`, without what the platform adds."""
        return {key: value for key, value in self.metadata.items() if key not in _PLATFORM_METADATA}

    @classmethod
    def parse(cls, fields: Fields) -> SandboxInfo:
        """Read the platform's sandbox object."""
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
        )


@dataclass(frozen=True, slots=True)
class Template:
    """What sandboxes are made from.

    `type` is `base` or `snapshot`. A sandbox made from a snapshot has its `vcpus`, `memory_mb` and `disk_size_mb`; a base
    leaves them open (None). `size_bytes` is what its own files take, 0: not known. `platform` templates belong to the installation and
    cannot be deleted.
    """

    name: str
    type: str
    vcpus: int | None
    memory_mb: int | None
    disk_size_mb: int | None
    size_bytes: int
    created_at: datetime
    platform: bool

    @classmethod
    def parse(cls, fields: Fields) -> Template:
        """Read the platform's template object."""
        return cls(
            name=fields.text("name"),
            type=fields.text("type"),
            vcpus=fields.optional_integer("vcpus"),
            memory_mb=fields.optional_integer("memory_mb"),
            disk_size_mb=fields.optional_integer("disk_size_mb"),
            size_bytes=fields.integer("size_bytes"),
            created_at=fields.time("created_at"),
            platform=fields.flag("platform"),
        )


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and what it wrote.

    Attributes:
        exit_code: 128 + `signal` when a signal ended it.
        signal: number of that signal, else None; `signal_name` is its name, e.g. `SIGKILL`.
        out_of_memory: the sandbox's kernel killed it, or a process that it started, because memory ran out.
        timed_out: it was killed at its time limit, and the output is what it wrote until then.
        truncated: it wrote more than the last 16 MiB of a stream that are here; only with callbacks.
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
        """Read the platform's exec result in either of its encodings."""
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
"""What may be sent to a process."""

OnDisconnect = Literal["kill", "keep"]
"""What becomes of a process when the one who started it leaves, or loses the connection."""

OutputStream = Literal["stdout", "stderr", "pty"]
"""Which output: `pty` is a terminal's, which has only one."""


@dataclass(frozen=True, slots=True)
class Output:
    """A piece of what a process wrote.

    `data` is exactly its bytes. `text` is the same as text: of a character that comes in two pieces, the second has it;
    bytes that are not UTF-8 become U+FFFD.
    """

    stream: OutputStream
    data: bytes
    text: str


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """A process that was started through the platform and still runs."""

    pid: int
    tag: str | None
    cmd: str
    args: tuple[str, ...]

    @classmethod
    def parse(cls, fields: Fields) -> ProcessInfo:
        """Read the platform's process object."""
        return cls(
            fields.integer("pid"), fields.optional_text("tag"), fields.text("cmd"), fields.texts("args")
        )


def _time_of(seconds: int) -> datetime:
    """A file's time, which its owner chooses: what no date can say becomes the nearest one that does."""
    return datetime.fromtimestamp(min(max(seconds, _FIRST_TIME_S), _LAST_TIME_S), UTC)


_FIRST_TIME_S = -62_135_596_800
_LAST_TIME_S = 253_402_300_799


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, directory or symbolic link in a sandbox.

    `type` is `file`, `directory`, `symlink` or `unknown`; `kind` may also be `socket`, `fifo`, `char_device` or
    `block_device`, whose type is `file`. `mode` holds the permission bits, `permissions` the same as `ls` shows them. A link
    that leads nowhere is `broken`. `name` and `path` are texts that lead back to the file in every call, whatever bytes its
    name has; `name_bytes` and `path_bytes` are those bytes.
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
        """The name as it is on the sandbox's disk."""
        return name_of(self.name)

    @property
    def path_bytes(self) -> bytes:
        """The path as it is on the sandbox's disk."""
        return name_of(self.path)

    @classmethod
    def parse(cls, fields: Fields) -> FileEntry:
        """Read the platform's file entry."""
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
    """A git work tree.

    `branch` is empty when no branch is checked out. `ahead` and `behind` count commits against `upstream`, which is empty
    when there is none. `changes` are lines like ` M file`, as `git status --porcelain` writes them.
    """

    branch: str
    upstream: str
    ahead: int
    behind: int
    changes: tuple[str, ...]

    @property
    def is_clean(self) -> bool:
        """Nothing is changed, added or unknown to git."""
        return not self.changes


FileEventType = Literal["create", "write", "remove", "rename", "chmod", "overflow"]
"""What happened to a file. `rename`: it got another name, of which a `create` tells if it is watched too."""


@dataclass(frozen=True, slots=True)
class FileEvent:
    """A change in a watched directory.

    `path` is absolute, `name` relative to the watched directory and empty for that itself; both may be given to calls
    as they are. `overflow` says that more happened than could be told: look again.
    """

    type: str
    path: str
    name: str

    @classmethod
    def parse(cls, fields: Fields) -> FileEvent:
        """Read the platform's event."""
        return cls(fields.text("event"), fields.text("path"), fields.text("name"))


@dataclass(frozen=True, slots=True)
class Event:
    """Something that changed.

    `type` is like `sandbox.paused`; `reset` alone has neither `resource_id` nor `at`. `id` is what to come back with:
    `events(after=…)`.
    """

    id: str
    type: str
    resource_id: str | None
    at: datetime | None
    data: dict[str, object]

    @classmethod
    def parse(cls, event_id: str, value: object) -> Event:
        """Read the data of an event."""
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
    """Something that was done: `action` by an actor to a resource.

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
        """Read the platform's audit entry."""
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
