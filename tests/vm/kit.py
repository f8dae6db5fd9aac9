"""Helpers of the VM tests."""

from __future__ import annotations

from collections.abc import Mapping

from wrenn.agent.sandboxes import RunningSandbox, Sandboxes, SandboxSpec
from wrenn.base.ids import SandboxId
from wrenn.guest import CommandLine, ExecResult
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.vm import Shape

DEFAULT_SHAPE = Shape(vcpus=1, memory_mb=256)


def new_spec(
    *,
    template: str = "minimal",
    envs: Mapping[str, str] | None = None,
    shape: Shape = DEFAULT_SHAPE,
    snapshot_id: str = "",
    template_name: str = "",
    disk_mb: int = DEFAULT_DISK_SIZE_MB,
) -> SandboxSpec:
    """A spec with a fresh id."""
    return SandboxSpec(
        SandboxId.new(), "team-of-the-test", template, shape, envs or {}, snapshot_id, template_name, disk_mb
    )


async def created(sandboxes: Sandboxes, **fields: object) -> tuple[SandboxSpec, RunningSandbox]:
    """A new running sandbox."""
    spec = new_spec(**fields)  # type: ignore[arg-type]
    await sandboxes.ensure(spec)
    return spec, sandboxes.get(spec.sandbox_id)


async def sh(
    sandbox: RunningSandbox, script: str, *, user: str = "root", timeout_s: float = 30
) -> ExecResult:
    """Run a shell script in the sandbox."""
    return await sandbox.commands.run(CommandLine("/bin/sh", ("-c", script), user=user), timeout_s=timeout_s)


async def output(sandbox: RunningSandbox, script: str, *, user: str = "root") -> str:
    """What a script that must succeed wrote."""
    result = await sh(sandbox, script, user=user)
    assert result.exit_code == 0, result
    return result.stdout.decode()
