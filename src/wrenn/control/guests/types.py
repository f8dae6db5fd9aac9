"""Bodies and responses of the endpoints for programs and files in a sandbox, and the checks of their paths (`GuestPath`)."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, Field, StrictBool, StrictInt, model_validator

from wrenn.base.file_name_encoding import text_to_name
from wrenn.control.http import RequestBody, nul_free_text
from wrenn.control.sandboxes import Envs, GuestText
from wrenn.protocol.api import (
    EXEC_TIMEOUT_DEFAULT_S,
    EXEC_TIMEOUT_LIMIT_S,
    NAME_LIMIT_B,
    PATH_LIMIT_B,
)


def check_path(value: str) -> str:
    """Check that a text is an absolute path that can exist on Linux, and return it.

    Raises:
        ValueError: it is not; the text says why.
    """
    # The limits apply to the bytes of the name: a byte that is not UTF-8 is longer as text.
    raw = text_to_name(nul_free_text(value))
    if not raw.startswith(b"/"):
        raise ValueError("must be an absolute path")
    if len(raw) > PATH_LIMIT_B:
        raise ValueError(f"must have at most {PATH_LIMIT_B} bytes")
    if any(len(name) > NAME_LIMIT_B for name in raw.split(b"/")):
        raise ValueError(f"must not hold a name of more than {NAME_LIMIT_B} bytes")
    return value


GuestPath = Annotated[str, AfterValidator(check_path)]
GuestMode = Annotated[str, Field(pattern=r"^[0-7]{1,4}$", description="Permission bits in octal digits")]
GuestOwner = Annotated[
    str,
    Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]{0,31}(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,31})?$",
        description="`user`, `user:group`, or numbers",
    ),
]
GuestUser = Annotated[str, Field(pattern=r"^[a-z_][a-z0-9_-]{0,31}$", description="User in the guest")]


class Exec(RequestBody):
    """A program to run, not passed through a shell."""

    cmd: GuestText = Field(
        min_length=1,
        description="`$SHELL`, with `args` of `-c` and a text: the sandbox's shell, bash where its image has it, else sh. "
        "Without `args`: the user's login shell, if it has one",
    )
    args: list[GuestText] = Field(default_factory=list)
    timeout_sec: StrictInt = Field(
        EXEC_TIMEOUT_DEFAULT_S,
        ge=0,
        le=EXEC_TIMEOUT_LIMIT_S,
        description="Foreground only; then it is killed. 0: no limit but that of this field, a day",
    )
    envs: Envs = Field(default_factory=dict)
    cwd: GuestPath | None = Field(
        None, description="Default: the template's working directory, otherwise the user's home"
    )
    user: GuestUser | None = Field(None, description="Default: the template's, otherwise root")
    background: StrictBool = False
    tag: Annotated[GuestText, Field(min_length=1, max_length=128)] | None = Field(
        None, description="Background only; default `proc-` + 8 hex digits"
    )

    @model_validator(mode="after")
    def _tag_is_no_pid(self) -> Self:
        if self.tag is not None and self.tag.isdigit():
            raise ValueError("tag must not be a number: it could not be told from a pid")
        return self


class ExecResult(BaseModel):
    """How a program ended. A program that does not exist has exit code 127, one that a signal ended 128 + its number."""

    sandbox_id: str
    cmd: str
    stdout: str
    stderr: str
    exit_code: int
    signal: int | None = Field(None, description="Number of the signal that ended it")
    signal_name: str | None = Field(None, description="Its name, e.g. SIGKILL")
    out_of_memory: bool = Field(
        default=False,
        description="The sandbox's kernel killed it, or a process that it started, because memory ran out",
    )
    duration_ms: int
    encoding: Literal["utf-8", "base64"] = Field(
        description="Of both streams; base64 if either is not UTF-8, or would grow by more than half as JSON text"
    )


class ExecTimedOutDetail(BaseModel):
    """Why there is no result. All but the first two fields only when the program was killed at its time limit."""

    code: str
    message: str
    timed_out: bool | None = None
    stdout: str | None = Field(None, description="What it wrote until then")
    stderr: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    signal_name: str | None = None
    out_of_memory: bool | None = None
    duration_ms: int | None = None
    encoding: Literal["utf-8", "base64"] | None = None
    sandbox_id: str | None = None
    cmd: str | None = None


class ExecTimedOut(BaseModel):
    """A program that was killed at its time limit, with what it wrote until then."""

    error: ExecTimedOutDetail


class Started(BaseModel):
    """A program in the background."""

    sandbox_id: str
    cmd: str
    pid: int
    tag: str


class ProcessView(BaseModel):
    """A living process that was started through the API."""

    pid: int
    tag: str | None = None
    cmd: str
    args: list[str] | None = None


class ProcessList(BaseModel):
    """Living processes."""

    processes: list[ProcessView]


class GuestProcessView(BaseModel):
    """A program that runs in a sandbox."""

    pid: int
    ppid: int
    user: str
    state: str = Field(
        description="Letter of the guest's kernel: R runs, S sleeps, D waits for a disk, T stopped, Z ended"
    )
    command: str = Field(description="Command line, cut at 512 characters")
    cpu_ms: int = Field(description="CPU time that it has used")
    memory_bytes: int = Field(description="Resident memory; what processes share counts for each")
    threads: int
    managed: bool = Field(description="Started through the API, so that `DELETE …/processes/{pid}` works")
    tag: str | None = None


class AllProcesses(BaseModel):
    """All programs of a sandbox."""

    at_ms: int = Field(description="When they were read, in Unix milliseconds of the guest's clock")
    processes: list[GuestProcessView]


class ConsoleView(BaseModel):
    """The console of a sandbox."""

    text: str = Field(description="Its end; may have escape sequences and whatever else the guest wrote")


class PortView(BaseModel):
    """A port on which programs of a sandbox accept connections."""

    port: int
    addresses: list[str] = Field(
        description="`0.0.0.0` and `::` are all; ports on loopback can be visited too"
    )
    pid: int | None = Field(None, description="A process that has it, as far as that is known")
    name: str | None = Field(None, description="Name of the program")
    public: bool = Field(description="Anybody may visit it without a credential")
    host: str = Field(description="Host name under which it is visited")


class PortList(BaseModel):
    """Ports, in ascending order."""

    ports: list[PortView]


class _FileRequest(RequestBody):
    user: GuestUser = "root"


class PathOf(_FileRequest):
    """One path in the sandbox."""

    path: GuestPath


class MakeDownloadLink(PathOf):
    """What to download."""

    archive: StrictBool = Field(default=False, description="A directory, as a tar archive")


class DownloadLinkView(BaseModel):
    """A link that works once."""

    url: str
    expires_at: datetime


class UnpackTo(PathOf):
    """Where an archive goes, and whose its files become."""

    owner: GuestOwner | None = None


class WatchOf(PathOf):
    """What to watch."""

    recursive: bool = Field(default=False, description="Also all directories below")


class ListFiles(PathOf):
    """A directory."""

    depth: StrictInt = Field(1, ge=0, le=1000, description="0 counts as 1")


class Move(_FileRequest):
    """Two paths in the sandbox."""

    source: GuestPath
    destination: GuestPath


class FileEntry(BaseModel):
    """A file, directory or link; links are links, wherever they lead.

    `type` has the three words that all clients know: sockets, pipes and devices count as files there, and `kind` says
    what they are.
    """

    name: str = Field(description="Bytes that are no UTF-8 are escaped: docs/design/files.md")
    path: str
    type: Literal["file", "directory", "symlink"]
    kind: Literal["file", "directory", "symlink", "socket", "fifo", "char_device", "block_device"]
    size: int
    mode: int = Field(description="Permission bits")
    permissions: str
    owner: str
    group: str
    modified_at: int = Field(description="Unix seconds")
    symlink_target: str | None = None
    broken: bool = Field(default=False, description="A link that leads nowhere; absent: false")


class Entry(BaseModel):
    """One entry."""

    entry: FileEntry


class Entries(BaseModel):
    """Entries of a directory."""

    entries: list[FileEntry]
