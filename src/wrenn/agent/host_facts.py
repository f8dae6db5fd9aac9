"""Facts about this host for `GetHost`: constants, and functions for the few lists that change."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from wrenn.agent.warm_up import WarmUp
from wrenn.protocol.vm_platform import VmPlatform


@dataclass(frozen=True, slots=True)
class HostFacts:
    """Facts about this host for `GetHost`."""

    data_dir: Path
    agent_version: str
    platform: VmPlatform
    sandbox_disk_b: int
    sandbox_limit: int
    templates: Callable[[], Mapping[str, str]]
    owned_slots: Callable[[], list[int]]
    warm_up: WarmUp
