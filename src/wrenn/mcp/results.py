"""What the tools return: small JSON objects, bounded in size, and whole UTF-8 characters."""

from __future__ import annotations

import codecs

from pydantic import BaseModel, Field

from wrenn.sdk import CommandResult, FileEntry, SandboxInfo

_CHARACTER_LIMIT_B = 4


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
    is_exact: bool = Field(
        description="false: some bytes are not UTF-8 and were replaced, so that writing the text back would damage the file"
    )

    @classmethod
    def of(cls, data: bytes, *, offset: int, size: int) -> FileText:
        """Return the bytes at `offset` of a file of `size` bytes without a character that is incomplete at their end."""
        end = offset + len(data)
        text, used, is_exact = _characters(data, is_last=end >= size)
        rest = offset + used
        return cls(
            text=text, size=size, next_offset=rest if used and rest < size else None, is_exact=is_exact
        )


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


def _characters(data: bytes, *, is_last: bool) -> tuple[str, int, bool]:
    """Decode `data`: the text, the number of bytes that it stands for, and whether they can be restored from it."""
    # Fewer bytes than one character has cannot be continued.
    is_last = is_last or len(data) < _CHARACTER_LIMIT_B
    strict = codecs.getincrementaldecoder("utf-8")()
    try:
        text = strict.decode(data, is_last)
    except UnicodeDecodeError:
        tolerant = codecs.getincrementaldecoder("utf-8")("replace")
        return tolerant.decode(data, is_last), len(data) - len(tolerant.getstate()[0]), False
    return text, len(data) - len(strict.getstate()[0]), True


def _tail(data: bytes, limit_b: int) -> tuple[str, bool]:
    return data[-limit_b:].decode(errors="replace"), len(data) > limit_b
