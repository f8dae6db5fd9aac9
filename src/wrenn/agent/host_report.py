"""Builds what this host reports about itself, for `GetHost` and for heartbeats."""

from __future__ import annotations

from dataclasses import asdict

from wrenn.agent.host_facts import HostFacts
from wrenn.agent.machine import measure
from wrenn.protocol.host import host_pb as pb
from wrenn.protocol.vm_platform import VmPlatform


def host_message(facts: HostFacts, *, sandbox_count: int) -> pb.Host:
    """Build the report, with the use of the machine's resources now."""
    machine = measure(facts.data_dir)
    templates = facts.templates()
    return pb.Host(
        agent_version=facts.agent_version,
        vmm=facts.platform.vmm,
        accelerator=facts.platform.accelerator,
        cpu_cores=machine.cpu_cores,
        memory_b=machine.memory_b,
        memory_available_b=machine.memory_available_b,
        disk_b=machine.disk_b,
        disk_available_b=machine.disk_available_b,
        sandbox_disk_b=facts.sandbox_disk_b,
        sandbox_limit=facts.sandbox_limit,
        sandbox_count=sandbox_count,
        templates=list(templates),
        template_contents={name: content for name, content in templates.items() if content},
        owned_slots=facts.owned_slots(),
        warming_up=facts.warm_up.is_running,
        warm_up_failure=facts.warm_up.failure,
        platform=platform_message(facts.platform),
    )


def platform_message(platform: VmPlatform) -> pb.VmPlatform:
    """Convert what saved virtual machines need."""
    return pb.VmPlatform(**asdict(platform))
