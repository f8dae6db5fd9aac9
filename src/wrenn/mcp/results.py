"""What the tools return: small JSON objects, bounded in size, and whole UTF-8 characters."""

from __future__ import annotations

from pydantic import BaseModel, Field

from wrenn.sdk import CommandResult, FileEntry, SandboxInfo


class SandboxSummary(BaseModel):
    """A sandbox."""

    id: str
    status: str = Field(
        description="running or paused; a paused one is resumed by the next call that needs it"
    )
    template: str
    name: str | None = None

    @classmethod
    def of(cls, info: SandboxInfo) -> SandboxSummary:
        """Return the summary of a sandbox."""
        return cls(id=info.id, status=info.status, template=info.template, name=info.name)


class CommandOutput(BaseModel):
    """The output of a command that has ended, or was killed at its time limit."""

    exit_code: int = Field(description="0: success; 128 + n: terminated by signal n")
    stdout: str
    stderr: str
    truncated: bool = Field(description="the beginning of an output is missing because it was too long")
    timed_out: bool = Field(description="the time limit was reached, and the command was killed")

    @classmethod
    def of(cls, result: CommandResult, limit_b: int) -> CommandOutput:
        """Return the last `limit_b` bytes of each output."""
        stdout, cut_stdout = _tail(result.stdout_bytes, limit_b)
        stderr, cut_stderr = _tail(result.stderr_bytes, limit_b)
        return cls(
            exit_code=result.exit_code,
            stdout=stdout,
            stderr=stderr,
            truncated=result.truncated or cut_stdout or cut_stderr,
            timed_out=result.timed_out,
        )


class FileText(BaseModel):
    """A part of a file as text."""

    text: str
    size: int = Field(description="size of the whole file in bytes")
    next_offset: int | None = Field(description="where the rest begins; null: this is the end of the file")


class Entry(BaseModel):
    """An entry of a directory."""

    name: str
    type: str = Field(description="file, directory, symlink or other")
    size: int

    @classmethod
    def of(cls, entry: FileEntry) -> Entry:
        """Return an entry."""
        return cls(name=entry.name, type=entry.type, size=entry.size)


class Directory(BaseModel):
    """The first entries of a directory."""

    entries: list[Entry]
    truncated: bool = Field(description="there are more entries")


class Process(BaseModel):
    """A program that was started in the background."""

    pid: int


class PortUrl(BaseModel):
    """The URL of a port."""

    url: str
    expires_in_sec: int


def _tail(data: bytes, limit_b: int) -> tuple[str, bool]:
    return data[-limit_b:].decode(errors="replace"), len(data) > limit_b
