"""Interface between the agent and the machine it runs on, and its implementation for a real host."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field
from typing import Final, Protocol

from wrenn.agent.base_boot import BootedBases
from wrenn.agent.bases import BaseMaker
from wrenn.agent.confinement import CgroupConfiner, Confiner
from wrenn.agent.driver_choice import open_driver
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.images.container import ImportContainer
from wrenn.agent.images.preparation import ContainerImages
from wrenn.agent.images.pulled_images import PulledImages
from wrenn.agent.layout import Layout
from wrenn.agent.machine import measure
from wrenn.agent.settings import Settings
from wrenn.base.clock import Clock, SystemClock
from wrenn.base.errors import InvalidRequest, InvalidState
from wrenn.linux.cgroups import missing_controllers
from wrenn.network import (
    NetworkLimits,
    ReachableNetworks,
    SlotPool,
    Slots,
    claim_block,
    ensure_flow_table,
    plan_flow_table,
)
from wrenn.storage.images import ImageFolder
from wrenn.vm import Driver

_log = logging.getLogger(__name__)

_PATH_LIMIT: Final = 59
"""A control socket `sandboxes/cl-…/qmp.sock` below it must fit into the 107 bytes of a socket's name."""


@dataclass(frozen=True, slots=True)
class Parts:
    """The machine-dependent parts of an agent: driver, network slots, confinement, base maker, import of container images, clock."""

    driver: Driver
    slots: SlotPool
    confiner: Confiner
    bases: BaseMaker
    sandbox_limit: int
    containers: ContainerImages | None = None
    clock: Clock = field(default_factory=SystemClock)


class Host(Protocol):
    """Provides the machine-dependent parts of an agent."""

    def layout(self, settings: Settings) -> Layout:
        """Return the layout of the installation in the data folder; claim resources for a new one.

        Raises:
            InvalidRequest, InvalidState, NoCapacity: no agent can run here.
        """
        ...

    def parts(self, settings: Settings, layout: Layout, tokens: Tokens) -> AbstractAsyncContextManager[Parts]:
        """Return a context that provides the parts; leaving it closes the driver. VMs keep running."""
        ...


class VmHost:
    """The real machine, with virtual machines. Implements `Host`."""

    def layout(self, settings: Settings) -> Layout:
        """Check the machine's prerequisites and claim a network block for the data folder."""
        if missing := missing_controllers():
            raise InvalidState(
                f"Sandboxes cannot be limited: this machine has no cgroup controller {', '.join(missing)}."
            )
        if len(str(settings.data_dir)) > _PATH_LIMIT:
            raise InvalidRequest(f"The data folder's path is too long: at most {_PATH_LIMIT} characters.")
        settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
        return Layout(settings.data_dir, claim_block(settings.data_dir))

    @asynccontextmanager
    async def parts(self, settings: Settings, layout: Layout, tokens: Tokens) -> AsyncGenerator[Parts]:
        """Choose and prepare the driver, prepare the network, and yield the parts.

        Raises:
            NotFound: kernel or template are not built; the message says how.
        """
        driver = await open_driver(settings, layout)
        reach = ReachableNetworks.parse(name_servers=settings.guest_dns, allowed=settings.private_networks)
        table = plan_flow_table(memory_b=measure(settings.data_dir).memory_b, flows=settings.sandbox_flows)
        if before := await ensure_flow_table(table):
            _log.info(
                "settings of the connection table changed for good",
                extra={"before": before, "size": table.size},
            )
        slots = Slots(
            layout.block,
            # The tap is opened by root and inherited, or given away when its VMM is known.
            vmm_uid=0,
            vmm_gid=0,
            ready_target=min(settings.ready_slots, table.slots),
            limit=table.slots,
            reach=reach,
            limits=NetworkLimits(settings.sandbox_flows, settings.sandbox_bit_per_s),
        )
        confiner = CgroupConfiner(layout)
        try:
            yield Parts(
                driver=driver,
                slots=slots,
                confiner=confiner,
                bases=BootedBases(
                    settings.images_dir,
                    ImageFolder(layout.images),
                    driver,
                    slots,
                    confiner,
                    tokens,
                    settings.guest_dns,
                    settings.start_limit_s,
                ),
                sandbox_limit=table.slots,
                containers=ImportContainer(
                    layout,
                    slots,
                    confiner,
                    settings.guest_dns,
                    settings.disk_reserve_b,
                    PulledImages(layout.pulled, limit_b=settings.pulled_images_b),
                ),
            )
        finally:
            await driver.close()
