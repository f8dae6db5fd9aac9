"""Runs of Firecracker in the host machine: a jailed process, driven by the project's client of its API."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import subprocess
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import Confinement
from wrenn.storage.images import load_images
from wrenn.vm.firecracker.api import (
    FirecrackerApi,
    FirecrackerError,
    InstanceState,
    MachineConfiguration,
    MemoryBackend,
    SnapshotKind,
    is_supported,
)
from wrenn.vm.firecracker.pager import PagerRequest, PagerStarter, find_pager, kill_without_pager

_PROGRAMS = Path("/data/firecracker")
_JAILS = Path("/data/jails")
_UID = 1_900_100_000
_MEMORY_MB = 128
_START_TIMEOUT_S = 60.0
_TICK_TIMEOUT_S = 120.0
_TICK = re.compile(rb"tick (\d+)\r?\n")
_KERNEL_ARGS = "console=ttyS0 quiet panic=-1 reboot=k"


@dataclass
class Jailed:
    """A Firecracker in its jail."""

    root: Path
    pid: int
    console: Path
    api: FirecrackerApi

    def ticks(self) -> list[int]:
        """What the guest has counted on its console."""
        return [int(number) for number in _TICK.findall(self.console.read_bytes())]

    async def wait_tick(self, above: int) -> int:
        """Wait until the guest has counted beyond this; return the first such number."""
        end = time.monotonic() + _TICK_TIMEOUT_S
        while not (found := [number for number in self.ticks() if number > above]):
            assert time.monotonic() < end, self.console.read_bytes()[-2000:]
            await asyncio.sleep(0.1)
        return found[0]

    def threads(self) -> list[dict[str, str]]:
        """What `/proc` says about each of its threads."""
        texts = [path.read_text() for path in Path("/proc", str(self.pid), "task").glob("*/status")]
        return [
            {name: value.strip() for name, _, value in (line.partition(":") for line in text.splitlines())}
            for text in texts
        ]


@asynccontextmanager
async def jailed(name: str, *files: Path) -> AsyncGenerator[Jailed]:
    """Start a Firecracker whose root folder has copies of these files; it is killed at the end, and the folder removed."""
    home = _JAILS / "firecracker" / name
    root = home / "root"
    root.mkdir(parents=True)
    console = _JAILS / f"{name}.console"
    try:
        for file in files:
            shutil.copyfile(file, root / file.name)
            os.chown(root / file.name, _UID, _UID)
        with console.open("wb") as output:
            subprocess.run(
                [
                    str(_PROGRAMS / "jailer"), "--id", name, "--exec-file", str(_PROGRAMS / "firecracker"),
                    "--uid", str(_UID), "--gid", str(_UID), "--chroot-base-dir", str(_JAILS), "--cgroup-version", "2",
                    "--parent-cgroup", "jails", "--cgroup", "pids.max=64", "--new-pid-ns", "--", "--api-sock", "/api",
                    # Its own log goes to the console too.
                    "--level", "Error",
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=True,
                timeout=_START_TIMEOUT_S,
            )  # fmt: skip
        pid = int((root / "firecracker.pid").read_text())
        try:
            end = time.monotonic() + _START_TIMEOUT_S
            while not (root / "api").is_socket():
                assert time.monotonic() < end, console.read_bytes()[-2000:]
                await asyncio.sleep(0.05)
            async with FirecrackerApi(root / "api") as api:
                yield Jailed(root, pid, console, api)
        finally:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            end = time.monotonic() + _START_TIMEOUT_S
            while Path("/proc", str(pid)).exists() and time.monotonic() < end:
                with suppress(ChildProcessError):
                    os.waitpid(pid, os.WNOHANG)
                await asyncio.sleep(0.05)
    finally:
        shutil.rmtree(home)


def _configuration(kernel: Path, initramfs: Path) -> MachineConfiguration:
    return MachineConfiguration(
        vcpus=1,
        memory_mb=_MEMORY_MB,
        kernel=f"/{kernel.name}",
        kernel_args=_KERNEL_ARGS,
        initramfs=f"/{initramfs.name}",
    )


async def a_jailed_guest_is_saved_and_restored(initramfs: bytes) -> dict[str, float]:
    """Boot, pause, save all and then the difference, kill, restore. Returns how long the parts took, and sizes."""
    kernel = load_images(Path("/data/images")).kernel
    _JAILS.mkdir(exist_ok=True)
    boot_files = (kernel, _JAILS / "ticks.cpio")
    boot_files[1].write_bytes(initramfs)
    figures: dict[str, float] = {}
    async with jailed("first", *boot_files) as first:
        instance = await first.api.describe()
        assert instance.state is InstanceState.NOT_STARTED
        assert is_supported(instance.version)
        with pytest.raises(FirecrackerError) as refused:
            await first.api.pause()
        assert refused.value.context["status"] == 400
        assert refused.value.context["reason"]

        begun = time.monotonic()
        await first.api.boot(_configuration(*boot_files))
        await first.wait_tick(3)
        figures["boot_s"] = time.monotonic() - begun
        assert (await first.api.describe()).state is InstanceState.RUNNING
        _assert_confined(first)

        for _ in range(2):
            await first.api.pause()
        assert (await first.api.describe()).state is InstanceState.PAUSED
        await asyncio.sleep(0.5)  # what is on its way to the console
        before = first.ticks()[-1]
        begun = time.monotonic()
        await first.api.create_snapshot(kind=SnapshotKind.FULL, state="/state", memory="/memory")
        figures["full_s"] = time.monotonic() - begun
        assert first.ticks()[-1] == before, "the guest ran while it was paused"
        saved = _JAILS / "saved"
        saved.mkdir()
        for name in ("state", "memory"):
            (first.root / name).rename(saved / name)

        await first.api.resume()
        later = await first.wait_tick(before + 2)
        await first.api.pause()
        begun = time.monotonic()
        await first.api.create_snapshot(kind=SnapshotKind.DIFF, state="/state2", memory="/diff")
        figures["diff_s"] = time.monotonic() - begun
        diff = (first.root / "diff").stat()
        full = (saved / "memory").stat()
        assert diff.st_size == full.st_size == _MEMORY_MB * 2**20
        assert diff.st_blocks < full.st_blocks / 4
        figures["diff_mb"], figures["full_mb"] = diff.st_blocks / 2048, full.st_blocks / 2048

    async with jailed("second", saved / "state", saved / "memory") as second:
        with pytest.raises(FirecrackerError):
            await second.api.load_snapshot(
                state="/none",
                memory="/memory",
                backend=MemoryBackend.FILE,
                version=instance.version,
                resume=True,
            )
    async with jailed("third", saved / "state", saved / "memory") as third:
        begun = time.monotonic()
        await third.api.load_snapshot(
            state="/state",
            memory="/memory",
            backend=MemoryBackend.FILE,
            version=instance.version,
            resume=True,
        )
        figures["load_s"] = time.monotonic() - begun
        first_tick = await third.wait_tick(0)
        figures["first_output_s"] = time.monotonic() - begun
        # It goes on where it was saved, not where the other one has come to.
        assert before < first_tick <= before + 1 < later
        await third.api.pause()
        await third.api.create_snapshot(kind=SnapshotKind.DIFF, state="/state3", memory="/diff3")
        assert (third.root / "diff3").stat().st_blocks < full.st_blocks / 2
    program = find_pager()
    assert program is not None, "the host machine has no page-fault server: `make setup` builds it"
    starter = await PagerStarter.of(program)
    try:
        served = _Served(starter, saved, instance.version, before)
        figures |= await served.by_faults("fourth", recorded=False)
        figures |= await served.by_faults("fifth", recorded=True)
        await served.ends_with_its_server("sixth")
    finally:
        starter.close()
    shutil.rmtree(_JAILS)
    return figures


@dataclass(frozen=True)
class _Served:
    """Restores a saved guest with a page-fault server as its memory."""

    starter: PagerStarter
    saved: Path
    version: tuple[int, int, int]
    before: int

    @asynccontextmanager
    async def _loaded(self, name: str, **order: Path) -> AsyncGenerator[tuple[Jailed, ProcessRef, Path]]:
        directory = _JAILS / f"{name}.machine"
        directory.mkdir()
        with (self.saved / "memory").open("rb") as memory:
            async with jailed(name, self.saved / "state") as machine:
                log = directory / "log"
                request = PagerRequest(
                    directory=directory, socket=machine.root / "uffd", image=memory.fileno(),
                    confinement=Confinement(uid=_UID, cgroup_procs=()), log=log, **order,
                )  # fmt: skip
                pager = await asyncio.to_thread(self.starter.start, request)
                await machine.api.load_snapshot(
                    state="/state", memory="/uffd", backend=MemoryBackend.USERFAULTFD, version=self.version, resume=True
                )  # fmt: skip
                yield machine, pager, log
        async with asyncio.timeout(_START_TIMEOUT_S):
            await pager.wait_exit()

    async def by_faults(self, name: str, *, recorded: bool) -> dict[str, float]:
        """It goes on where it was saved. Then its memory is saved again: only what it dirtied."""
        begun = time.monotonic()
        order = {"order" if recorded else "record": _JAILS / "order"}
        async with self._loaded(name, **order) as (machine, pager, log):
            loaded = time.monotonic()
            first_tick = await machine.wait_tick(0)
            shown = time.monotonic()
            assert self.before < first_tick <= self.before + 1
            assert pager.is_alive()
            await machine.wait_tick(first_tick + 3)
            await machine.api.pause()
            await machine.api.create_snapshot(kind=SnapshotKind.DIFF, state="/state2", memory="/diff")
            assert (machine.root / "diff").stat().st_blocks < (self.saved / "memory").stat().st_blocks / 2
        counts = dict(re.findall(r"(\w+)=(\d+)", log.read_text()))
        kind = "order" if recorded else "uffd"
        return {
            f"{kind}_load_s": loaded - begun, f"{kind}_first_output_s": shown - begun,
            **{f"{kind}_{name}": float(value) for name, value in counts.items()},
        }  # fmt: skip

    async def ends_with_its_server(self, name: str) -> None:
        """A guest that nobody serves is killed, not left waiting."""
        async with self._loaded(name) as (machine, pager, _):
            vmm = ProcessRef.of(machine.pid)
            assert vmm is not None
            watching = asyncio.create_task(kill_without_pager(vmm, pager))
            pager.kill()
            async with asyncio.timeout(_START_TIMEOUT_S):
                await watching
                while vmm.is_alive():
                    await asyncio.sleep(0.05)


def _assert_confined(machine: Jailed) -> None:
    # Its threads install their filters one by one, the last when the guest starts.
    for status in machine.threads():
        assert status["Uid"].split() == [str(_UID)] * 4, status
        assert int(status["CapEff"], 16) == 0, status
        assert status["Seccomp"] == "2", status
    assert not (Path("/proc", str(machine.pid), "root") / "etc").exists()
    for kind in ("mnt", "pid"):
        assert (
            Path("/proc", str(machine.pid), "ns", kind).readlink() != Path("/proc/self/ns", kind).readlink()
        )
    group = Path("/proc", str(machine.pid), "cgroup").read_text().strip()
    assert group == f"0::/jails/{machine.root.parent.name}", group
