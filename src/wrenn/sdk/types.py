"""What calls return: frozen values, read strictly from the platform's JSON."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from datetime import UTC, datetime

from wrenn.sdk._parse import Fields
from wrenn.sdk.errors import UnexpectedAnswerError


@dataclass(frozen=True, slots=True)
class SandboxInfo:
    """A sandbox as the platform knows it at the time of the call.

    `status` is `pending`, `running`, `stopped`, `error` or a newer word. `timeout_sec` 0 means that it has no time limit.
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
    metadata: dict[str, str]

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
            metadata=fields.text_map("metadata"),
        )


@dataclass(frozen=True, slots=True)
class CommandResult:
    """How a command ended and all that it wrote. `exit_code` is -1 when a signal ended it."""

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int
    duration_ms: int

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


@dataclass(frozen=True, slots=True)
class FileEntry:
    """A file, directory or symbolic link in a sandbox.

    `type` is `file`, `directory`, `symlink` or `unknown`; `mode` holds the permission bits, `permissions` the same as `ls`
    shows them.
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
            modified_at=datetime.fromtimestamp(fields.integer("modified_at"), UTC),
            symlink_target=fields.optional_text("symlink_target"),
        )
