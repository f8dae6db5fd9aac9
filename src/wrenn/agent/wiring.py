"""Builds all objects of the agent."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.metadata import version

from wrenn.agent.bases import Bases
from wrenn.agent.control_loss import ControlLoss
from wrenn.agent.data_folder import data_folder_held
from wrenn.agent.enrolment import ControlLink, Credentials, ServerTls
from wrenn.agent.guest_tokens import Tokens
from wrenn.agent.host_facts import HostFacts
from wrenn.agent.images import Cache, FlattenDisk, Images, Preparation
from wrenn.agent.images.transfer import ImageTransfer, TransferSettings
from wrenn.agent.inventory import Inventory
from wrenn.agent.layout import Layout
from wrenn.agent.metrics import MetricsSender, Outbox, Sampler, SamplerSettings
from wrenn.agent.parts import Host, Parts, VmHost
from wrenn.agent.recovery import Recovery
from wrenn.agent.rpc.app import App
from wrenn.agent.sandboxes import Operations, Sandboxes
from wrenn.agent.sandboxes.adopt_state import AdoptState
from wrenn.agent.sandboxes.bring_up import BringUp, FetchImage
from wrenn.agent.sandboxes.disk_rules import DiskLimits
from wrenn.agent.sandboxes.disk_usage import DiskUsage
from wrenn.agent.sandboxes.export_state import ExportState
from wrenn.agent.sandboxes.fetch_snapshot import FetchSnapshot
from wrenn.agent.sandboxes.fetch_state import FetchState
from wrenn.agent.sandboxes.launch import Launch
from wrenn.agent.sandboxes.pause import Pause
from wrenn.agent.sandboxes.resume import Resume
from wrenn.agent.sandboxes.save_vm import Saver
from wrenn.agent.sandboxes.set_disk import SetDisk
from wrenn.agent.sandboxes.set_network import SetNetwork
from wrenn.agent.sandboxes.snapshot import TakeSnapshot
from wrenn.agent.sandboxes.tear_down import TearDown
from wrenn.agent.sandboxes.transfers import StateStore
from wrenn.agent.settings import Settings
from wrenn.agent.vm_platform import platform_of
from wrenn.agent.warm_up import WarmUp
from wrenn.base.clock import Clock
from wrenn.base.ids import ImageId
from wrenn.storage.images import ImageFolder


@dataclass(frozen=True, slots=True)
class Agent:
    """A running agent: its ASGI application and the objects behind it."""

    app: App
    sandboxes: Sandboxes
    images: Images
    preparation: Preparation
    bases: Bases
    layout: Layout
    parts: Parts
    warm_up: WarmUp
    inventory: Inventory
    sampler: Sampler
    outbox: Outbox


@asynccontextmanager
async def running_agent(settings: Settings, host: Host | None = None) -> AsyncGenerator[Agent]:
    """`data_folder_held` and `agent_in_held_folder`, for a host that is registered or needs no control plane."""
    with data_folder_held(settings.data_dir):
        async with agent_in_held_folder(settings, host) as agent:
            yield agent


@asynccontextmanager
async def agent_in_held_folder(settings: Settings, host: Host | None = None) -> AsyncGenerator[Agent]:
    """Build the agent, recover sandboxes of a former one, and close everything at the end; VMs keep running.

    The caller holds the data folder. Tests may give it another `host` than this machine.

    Raises:
        InvalidState: the machine cannot limit what a VMM takes.
        NotFound: kernel or template are not built; the message says how.
    """
    host = host or VmHost()
    layout = host.layout(settings)
    tokens = Tokens.load(layout.secret)
    async with (
        host.parts(settings, layout, tokens) as parts,
        _built(settings, layout, tokens, parts) as agent,
    ):
        yield agent


def control_link(
    agent: Agent, settings: Settings, credentials: Credentials, tls: ServerTls, clock: Clock
) -> tuple[ControlLink, ControlLoss, MetricsSender]:
    """Build what keeps contact with the control plane, what acts when there was none for long, and what sends samples. The caller runs them.

    From now on the agent exchanges images with the store.
    """
    loss = ControlLoss(
        path=agent.layout.outage,
        sandboxes=agent.sandboxes,
        clock=clock,
        heartbeat_s=settings.heartbeat_s,
        lost_after_s=settings.control_lost_after_s,
    )
    link = ControlLink(settings, credentials, tls, inventory=agent.inventory, clock=clock, loss=loss)
    transfer = TransferSettings(settings.control_url, settings.control_ca, settings.disk_reserve_b)
    agent.preparation.connect(ImageTransfer(transfer, lambda: link.credentials))
    sender = MetricsSender(
        agent.outbox,
        lambda: link.credentials,
        control_url=settings.control_url,
        control_ca=settings.control_ca,
    )
    return link, loss, sender


@asynccontextmanager
async def _built(settings: Settings, layout: Layout, tokens: Tokens, parts: Parts) -> AsyncGenerator[Agent]:
    for folder in (layout.sandboxes, layout.bases, layout.snapshots, layout.layers):
        folder.mkdir(mode=0o700, exist_ok=True)
    agent_version = version("wrenn")
    bases = Bases(
        layout=layout,
        driver=parts.driver,
        maker=parts.bases,
        metadata={"agent_version": agent_version, "vmm_version": parts.driver.vmm},
    )

    async def fetch_image(image_id: ImageId) -> None:
        await images.require(image_id)

    operations = _operations(
        settings,
        layout,
        tokens,
        parts,
        bases=bases,
        fetch_image=fetch_image,
        store=lambda: preparation.connected(),  # noqa: PLW0108 - it is made below
    )
    sandboxes = Sandboxes(
        operations=operations,
        disk=DiskLimits(settings.disk_reserve_b, settings.sandbox_disk_b, settings.disk_overcommit),
    )
    preparation = Preparation(
        FlattenDisk(sandboxes, parts.driver, parts.confiner, settings.disk_reserve_b), parts.containers
    )
    images = Images(
        folder=ImageFolder(layout.images),
        data_dir=settings.data_dir,
        reserve_b=settings.disk_reserve_b,
        prepare=preparation.prepare,
        upload=preparation.upload,
        cache=Cache(settings.image_cache_b, sandboxes.templates_in_use, sandboxes.collect_garbage),
    )
    warm_up = WarmUp(bases, settings.warm_template)
    facts = HostFacts(
        data_dir=settings.data_dir,
        agent_version=agent_version,
        platform=platform_of(parts.driver),
        sandbox_disk_b=settings.sandbox_disk_b,
        sandbox_limit=parts.sandbox_limit,
        templates=parts.bases.templates,
        owned_slots=lambda: sorted(parts.slots.held),
        warm_up=warm_up,
    )
    outbox = Outbox(layout.metrics)
    sampler = Sampler(
        sandboxes=sandboxes.list,
        counters=parts.slots.counters,
        disk_usage=DiskUsage(layout, parts.driver.disks),
        outbox=outbox,
        clock=parts.clock,
        settings=SamplerSettings(settings.sample_interval_s),
    )
    recovery = Recovery(layout, parts.driver, parts.slots, parts.confiner, tokens, sandboxes, operations)
    try:
        complete = await recovery.run()
        await sandboxes.start(collect=complete)
        # Recovery has killed the programs that wrote into drafts.
        await images.sweep()
        await sampler.start()
        yield Agent(
            app=App(sandboxes=sandboxes, images=images, facts=facts, sampler=sampler),
            sandboxes=sandboxes,
            images=images,
            preparation=preparation,
            bases=bases,
            layout=layout,
            parts=parts,
            warm_up=warm_up,
            inventory=Inventory(sandboxes, images, facts, activity_step_s=settings.heartbeat_s / 2),
            sampler=sampler,
            outbox=outbox,
        )
    finally:
        await sampler.close()
        await images.close()
        preparation.close()
        await bases.close()
        await sandboxes.close()
        await parts.slots.close()


def _operations(
    settings: Settings,
    layout: Layout,
    tokens: Tokens,
    parts: Parts,
    *,
    bases: Bases,
    fetch_image: FetchImage,
    store: Callable[[], StateStore],
) -> Operations:
    driver, slots, confiner = parts.driver, parts.slots, parts.confiner
    clock = parts.clock
    launch = Launch(
        layout,
        driver,
        slots,
        confiner,
        tokens,
        clock,
        parts.bases.boot_source,
        settings.start_limit_s,
        settings.sandbox_io_b_per_s,
        settings.sandbox_disk_b,
    )
    saver = Saver(layout, driver, clock)
    fetch = FetchState(layout, driver)
    return Operations(
        layout=layout,
        bases=bases,
        driver=driver,
        clock=clock,
        bring_up=BringUp(layout, driver, bases, fetch_image, launch, clock),
        pause=Pause(layout, slots, confiner, saver),
        resume=Resume(layout, driver, launch, clock),
        snapshot=TakeSnapshot(layout, driver, saver, clock),
        set_disk=SetDisk(driver, confiner, settings.sandbox_disk_b),
        set_network=SetNetwork(slots),
        tear_down=TearDown(layout, driver, slots, confiner),
        export_state=ExportState(layout, driver, launch, store),
        adopt_state=AdoptState(layout, driver, store, clock, fetch),
        fetch_snapshot=FetchSnapshot(layout, driver, store, fetch),
    )
