"""Measures Firecracker's virtual machines in the host machine, beside the same monitor driven by hand; prints JSON, the last line has all.

Run by tests/performance/kvm.py, once for each driver, with the settings of the agent in the environment.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import statistics
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.kvm.agent_tests import prepare
from tests.performance.floor import wait_health
from tests.performance.memory import smaps_kb
from tests.vm.kit import DEFAULT_SHAPE, created, new_spec, output
from wrenn.agent.settings import Settings
from wrenn.agent.wiring import Agent, running_agent
from wrenn.base.units import GIB, PAGE_B
from wrenn.linux.files import data_extents, link_or_copy, remove_tree
from wrenn.linux.jailer import JailedStart
from wrenn.linux.process import kill_and_wait
from wrenn.storage import snapshots
from wrenn.storage.layers import new_layer_id
from wrenn.vm import DiskRef, ImageRef
from wrenn.vm.firecracker.api import FirecrackerApi, MemoryBackend
from wrenn.vm.firecracker.driver import FirecrackerDriver
from wrenn.vm.firecracker.installation import find_installation
from wrenn.vm.firecracker.jail_files import API, DIRTIED, DISK, MEMORY, PAGER, STATE
from wrenn.vm.firecracker.machine import FirecrackerMachine
from wrenn.vm.firecracker.page_order import NUMBER_B, RECORDED_NAME
from wrenn.vm.firecracker.pager import PagerRequest, PagerStarter, find_pager, pager_of

ROUNDS = 5
IDLE_S = 3.0
_KILL_TIMEOUT_S = 10.0
_NAME = "bare"


@asynccontextmanager
async def bare_firecracker(agent: Agent, *, served: bool) -> AsyncGenerator[Any]:
    """Firecracker under its jailer on the agent's own base, by hand: slot, disk and files are prepared."""
    driver = agent.parts.driver
    assert isinstance(driver, FirecrackerDriver)
    base = await agent.bases.get("minimal", DEFAULT_SHAPE)
    files = driver.bases.of(base.key)
    installation = await find_installation(Path(os.environ["WRENN_FIRECRACKER_DIR"]))
    program = find_pager()
    assert program is not None
    starter = await PagerStarter.of(program)
    slot = await agent.parts.slots.acquire(_NAME)
    confinement = agent.parts.confiner.confine(_NAME, slot.index, DEFAULT_SHAPE, file_size_b=GIB)
    directory = agent.layout.data_dir / _NAME
    directory.mkdir(mode=0o700)

    async def once_ms() -> float:
        layer = new_layer_id()
        await driver.disks.create(layer, DiskRef((), base.key), size_b=driver.disks.image_size_b(base.key))
        disk = await driver.disks.attach(_NAME, DiskRef((layer,), base.key))
        start = JailedStart(
            jailer=installation.jailer, program=installation.program, arguments=("--api-sock", f"/{API}", "--level", "Warn"),
            folder=directory / "jail", network=slot.give_tap(confinement.uid).namespace, confinement=confinement, log=directory / "log",
        )  # fmt: skip
        start.root.mkdir(parents=True)
        link_or_copy(files.memory, start.root / MEMORY)
        shutil.copyfile(files.state, start.root / STATE)
        os.chown(start.root / STATE, confinement.uid, confinement.uid)
        disk.make_node(start.root / DISK, uid=confinement.uid, gid=confinement.uid)
        pager = None
        with files.memory.open("rb") as memory:
            request = PagerRequest(
                directory=directory, socket=start.root / PAGER, image=memory.fileno(),
                confinement=replace(confinement, groups=()), log=directory / "log",
            )  # fmt: skip
            started = time.perf_counter()
            process = await asyncio.to_thread(start.run)
            try:
                while not (start.root / API).is_socket():
                    await asyncio.sleep(0.002)
                if served:
                    pager = await asyncio.to_thread(starter.start, request)
                async with FirecrackerApi(start.root / API) as api:
                    await api.load_snapshot(
                        state=f"/{STATE}",
                        memory=f"/{PAGER if served else MEMORY}",
                        backend=MemoryBackend.USERFAULTFD if served else MemoryBackend.FILE,
                        version=installation.version,
                        resume=True,
                    )
                await wait_health(slot.address)
                return (time.perf_counter() - started) * 1000
            finally:
                await kill_and_wait(process, timeout_s=_KILL_TIMEOUT_S)
                if pager is not None:
                    await kill_and_wait(pager, timeout_s=_KILL_TIMEOUT_S)
                await driver.disks.detach(_NAME)
                await driver.disks.remove(layer)
                remove_tree(start.folder)

    try:
        yield once_ms
    finally:
        await agent.parts.confiner.release(_NAME)
        await agent.parts.slots.release(slot.index, _NAME)
        remove_tree(directory)
        starter.close()


async def creates(agent: Agent, settings: Settings) -> dict[str, Any]:
    """Create until the guest answers, by the agent and by hand in turn; and the chunks of memory that each create waited for."""
    floors: list[float] = []
    values: list[float] = []
    waited: list[int] = []
    served = settings.firecracker_memory == "uffd"
    async with bare_firecracker(agent, served=served) as once_ms:
        for _ in range(ROUNDS + 1):
            floors.append(await once_ms())
            spec = new_spec()
            started = time.perf_counter()
            await agent.sandboxes.ensure(spec)
            values.append((time.perf_counter() - started) * 1000)
            with contextlib.suppress(FileNotFoundError):
                recorded = agent.layout.sandbox(spec.sandbox_id) / RECORDED_NAME
                waited.append(recorded.stat().st_size // NUMBER_B)
            await agent.sandboxes.remove(spec.sandbox_id)
    # The first one records the order, and opens what stays open.
    return {
        "bare_ms": statistics.median(floors[1:]),
        "create_ms": statistics.median(values[1:]),
        "waited": waited,
    }


async def idle_pause(agent: Agent) -> dict[str, Any]:
    """Pages that a save of an idle VM writes, and those that Firecracker says were dirtied."""
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "true")
    await asyncio.sleep(IDLE_S)
    machine = sandbox.vm
    assert isinstance(machine, FirecrackerMachine)
    draft = snapshots.draft_path(agent.layout.snapshots, "measured")
    draft.mkdir()

    async def nothing(_part: str) -> None: ...

    try:
        await machine.suspend()
        base = await agent.bases.get("minimal", DEFAULT_SHAPE)
        saved = await agent.parts.driver.memory.save(
            machine, ImageRef(base.key), draft, on_part_saved=nothing
        )
        with (machine.root / DIRTIED).open("rb") as file:
            dirtied = sum(end - start for start, end in data_extents(file.fileno())) // PAGE_B
        return {
            "pages_dirtied": dirtied,
            "pages_written": saved.figures["data_pages"],
            "pages_now_zero": saved.figures["zero_pages"],
        }
    finally:
        remove_tree(draft)
        await agent.sandboxes.remove(spec.sandbox_id)


async def memory(agent: Agent) -> dict[str, Any]:
    """What Firecracker takes beside the guest's memory, and what the page-fault server takes beside the shared image."""
    spec, sandbox = await created(agent.sandboxes)
    await output(sandbox, "true")
    pid = sandbox.vm.handle.process.pid
    guest_kb, total_kb = proportional_kb(pid, DEFAULT_SHAPE.memory_mb * 1024), smaps_kb(pid)["Pss"]
    figures = {"vmm_kb": total_kb - guest_kb}
    if (pager := pager_of(agent.layout.sandbox(spec.sandbox_id))) is not None:
        figures["pager_kb"] = smaps_kb(pager.pid)["Anonymous"]
    await agent.sandboxes.remove(spec.sandbox_id)
    return figures


def proportional_kb(pid: int, size_kb: int) -> int:
    """The share of the mappings of this size: the guest's memory."""
    found, inside = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        head = line.split()
        if not head[0].endswith(":"):
            first, last = (int(part, 16) for part in head[0].split("-"))
            inside = (last - first) // 1024 == size_kb
        elif inside and head[0] == "Pss:":
            found += int(head[1])
    return found


async def main() -> None:
    settings = Settings.from_environment(os.environ)
    if not settings.data_dir.exists():
        await prepare(Path(os.environ["WRENN_BASES_OF"]), os.environ)
    figures: dict[str, Any] = {}
    async with running_agent(settings) as agent:
        for part in (creates(agent, settings), idle_pause(agent), memory(agent)):
            figures |= await part
            print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
