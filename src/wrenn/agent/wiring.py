"""The one place where the agent's objects are built."""

from __future__ import annotations

import fcntl
import logging
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Final

from wrenn.agent.bases import Bases
from wrenn.agent.facts import HostFacts
from wrenn.agent.inventory import measure
from wrenn.agent.layout import Layout
from wrenn.agent.memory_images import MemoryImages
from wrenn.agent.recovery import Recovery
from wrenn.agent.rpc.app import App
from wrenn.agent.sandboxes import Sandboxes, Verbs
from wrenn.agent.sandboxes.bring_up import BringUp
from wrenn.agent.sandboxes.disk_watch import DiskLimits
from wrenn.agent.sandboxes.launch import Launch
from wrenn.agent.sandboxes.pause import Pause
from wrenn.agent.sandboxes.resume import Resume
from wrenn.agent.sandboxes.save import Saver
from wrenn.agent.sandboxes.set_disk import SetDisk
from wrenn.agent.sandboxes.set_network import SetNetwork
from wrenn.agent.sandboxes.snapshot import TakeSnapshot
from wrenn.agent.sandboxes.tear_down import TearDown
from wrenn.agent.settings import Settings
from wrenn.agent.tokens import Tokens
from wrenn.agent.warm_up import WarmUp
from wrenn.base.clock import SystemClock
from wrenn.base.errors import Conflict, InvalidRequest, InvalidState
from wrenn.linux.cgroups import missing_controllers
from wrenn.network import HostReach, NetworkLimits, Slots, claim_block, ensure_flow_table, plan_flow_table
from wrenn.storage.images import load_images
from wrenn.vm.qemu import QemuDriver, choose_accelerator, qemu_version

_log = logging.getLogger(__name__)

_PATH_LIMIT: Final = 59
"""A control socket `sandboxes/cl-…/qmp.sock` below it must fit into the 107 bytes of a socket's name."""


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent: its application and what the application serves."""

    app: App
    sandboxes: Sandboxes
    bases: Bases
    layout: Layout
    warm_up: WarmUp


@asynccontextmanager
async def running_agent(settings: Settings) -> AsyncGenerator[Agent]:
    """Build the agent, recover what a former one left, and let go of everything at the end; VMs run on.

    Raises:
        Conflict: another agent runs on this data folder.
        InvalidState: the machine cannot limit what a VMM takes.
        NotFound: kernel or template are not built; the message says how.
    """
    if missing := missing_controllers():
        raise InvalidState(
            f"Sandboxes cannot be limited: this machine has no cgroup controller {', '.join(missing)}."
        )
    if len(str(settings.data_dir)) > _PATH_LIMIT:
        raise InvalidRequest(f"The data folder's path is too long: at most {_PATH_LIMIT} characters.")
    settings.data_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    layout = Layout(settings.data_dir, claim_block(settings.data_dir))
    lock = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise Conflict(f"Another agent already runs on {settings.data_dir}.") from error
        async with _built(settings, layout) as agent:
            yield agent
    finally:
        os.close(lock)


@asynccontextmanager
async def _built(settings: Settings, layout: Layout) -> AsyncGenerator[Agent]:
    images = load_images(settings.images_dir)
    accelerator = await choose_accelerator(kernel=images.kernel, memory_of_choice=settings.accelerator_choice)
    driver = QemuDriver(accelerator=accelerator, version=await qemu_version())
    await driver.prepare()
    tokens = Tokens.load(layout.secret)
    # The tap is opened by root and inherited, so it needs no owner.
    reach = HostReach.parse(name_servers=settings.guest_dns, allowed=settings.private_networks)
    table = plan_flow_table(memory_b=measure(settings.data_dir).memory_b, flows=settings.sandbox_flows)
    if before := await ensure_flow_table(table):
        _log.info("connection table made larger for good", extra={"before": before, "size": table.size})
    slots = Slots(
        layout.block,
        vmm_uid=0,
        vmm_gid=0,
        ready_target=min(settings.ready_slots, table.slots),
        limit=table.slots,
        reach=reach,
        limits=NetworkLimits(settings.sandbox_flows, settings.sandbox_bit_per_s),
    )
    agent_version = version("wrenn")
    for folder in (layout.sandboxes, layout.bases, layout.snapshots, layout.layers):
        folder.mkdir(mode=0o700, exist_ok=True)
    clock = SystemClock()
    images = MemoryImages(layout)
    bases = Bases(
        layout=layout,
        images_dir=settings.images_dir,
        driver=driver,
        slots=slots,
        images=images,
        tokens=tokens,
        guest_dns=settings.guest_dns,
        metadata={"agent_version": agent_version, "vmm_version": driver.vmm},
    )
    launch = Launch(
        layout, driver, slots, images, tokens, settings.sandbox_io_b_per_s, settings.sandbox_disk_b
    )
    saver = Saver(layout, driver, images, clock)
    verbs = Verbs(
        layout=layout,
        bases=bases,
        images=images,
        clock=clock,
        bring_up=BringUp(layout, driver, bases, launch, clock),
        pause=Pause(layout, slots, saver),
        resume=Resume(layout, driver, launch, clock),
        snapshot=TakeSnapshot(layout, saver, clock),
        set_disk=SetDisk(layout, settings.sandbox_disk_b),
        set_network=SetNetwork(slots),
        tear_down=TearDown(layout, slots),
    )
    sandboxes = Sandboxes(
        verbs=verbs,
        disk=DiskLimits(settings.disk_reserve_b, settings.sandbox_disk_b, settings.disk_overcommit),
    )
    warm_up = WarmUp(bases, settings.warm_template)
    facts = HostFacts(
        data_dir=settings.data_dir,
        agent_version=agent_version,
        vmm=driver.vmm,
        accelerator=accelerator,
        sandbox_disk_b=settings.sandbox_disk_b,
        sandbox_limit=table.slots,
        templates=lambda: sorted(
            p.parent.name for p in (settings.images_dir / "templates").glob("*/manifest.json")
        ),
        owned_slots=lambda: sorted(slots.held),
        warm_up=warm_up,
    )
    try:
        complete = await Recovery(layout, driver, slots, tokens, sandboxes, verbs).run()
        await sandboxes.start(collect=complete)
        yield Agent(App(sandboxes=sandboxes, facts=facts), sandboxes, bases, layout, warm_up)
    finally:
        await bases.close()
        await sandboxes.close()
        await images.close()
        await slots.close()
        driver.close()
