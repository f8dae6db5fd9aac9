"""Values for processes and files in a sandbox."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from wrenn.base.ids import SandboxId

FileKind = Literal["file", "directory", "symlink", "socket", "fifo", "char_device", "block_device"]


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process that was started in the background."""

    sandbox_id: SandboxId
    cmd: str
    pid: int
    tag: str


@dataclass(frozen=True, slots=True)
class RunningProcess:
    """A living process that was started through the API. `tag` may be empty."""

    pid: int
    tag: str
    cmd: str
    args: Sequence[str]


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
