"""Values for processes in a sandbox."""

from __future__ import annotations

from dataclasses import dataclass

from wrenn.base.ids import SandboxId


@dataclass(frozen=True, slots=True)
class StartedProcess:
    """A process that was started in the background."""

    sandbox_id: SandboxId
    cmd: str
    pid: int
    tag: str
