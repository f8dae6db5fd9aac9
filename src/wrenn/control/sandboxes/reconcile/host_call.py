"""What calls to hosts about a leased sandbox have in common: what is asked, and what callers are told of a failure."""

from __future__ import annotations

from wrenn.base.errors import InternalError, WrennError
from wrenn.control.hosts import HostSandboxSpec
from wrenn.control.sandboxes.network_policy import host_policy
from wrenn.control.sandboxes.records import Work


def public_error(error: WrennError, verb: str) -> WrennError:
    """Return the error in the form that callers may see."""
    if isinstance(error, InternalError):
        return InternalError(f"The host could not {verb} the sandbox; its log has the reason.")
    return error


def host_spec(work: Work, generation: int) -> HostSandboxSpec:
    """Return what a host needs to start the sandbox, or to adopt it, as this generation."""
    return HostSandboxSpec(
        sandbox_id=work.sandbox_id,
        team_id=work.team_id,
        image=work.origin.image,
        template_name=work.spec.template,
        snapshot_id=work.origin.snapshot_id,
        template_id=work.origin.template_id,
        vcpus=work.spec.vcpus,
        memory_mb=work.spec.memory_mb,
        disk_size_mb=work.spec.disk_size_mb,
        envs=work.spec.envs,
        network=host_policy(work.spec.network, work.network_revision),
        generation=generation,
    )
