"""The client of Firecracker's API against answers that the real one gives, and against those that it should not give."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wrenn.base.errors import AgentFailure, InvalidState, StorageFull
from wrenn.linux.process import ProcessRef
from wrenn.storage.folders import Folders
from wrenn.vm import ImageRef, MachineHandle
from wrenn.vm.firecracker import api as firecracker
from wrenn.vm.firecracker.api import (
    Drive,
    FirecrackerApi,
    FirecrackerError,
    InstanceState,
    MachineConfiguration,
    MemoryBackend,
    NetworkInterface,
    is_supported,
)
from wrenn.vm.firecracker.bases import FirecrackerBases
from wrenn.vm.firecracker.block_disks import Standstill
from wrenn.vm.firecracker.device_stack import DeviceStack
from wrenn.vm.firecracker.disks import DmDisks
from wrenn.vm.firecracker.image_files import ImageFiles
from wrenn.vm.firecracker.machine import FirecrackerMachine
from wrenn.vm.firecracker.memory import FirecrackerMemory

Calls = list[tuple[str, str, Any]]


def answer(status: int, body: bytes) -> bytes:
    return b"HTTP/1.1 %d \r\nServer: Firecracker API\r\nContent-Length: %d\r\n\r\n%b" % (
        status,
        len(body),
        body,
    )


NO_CONTENT = b"HTTP/1.1 204 \r\nServer: Firecracker API\r\nConnection: keep-alive\r\n\r\n"
DESCRIPTION = {"id": "x", "state": "Running", "vmm_version": "1.12.1", "app_name": "Firecracker"}


@asynccontextmanager
async def served(
    folder: Path, reply: bytes | Callable[[str, Any], bytes]
) -> AsyncGenerator[tuple[FirecrackerApi, Calls]]:
    """A client, and what a server was asked that always replies so, or by the method and the content of the request."""
    calls: Calls = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = lines[0].split(" ")
                lengths = [line for line in lines if line.lower().startswith("content-length")]
                body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
                content = json.loads(body) if body else None
                calls.append((method, path, content))
                writer.write(reply if isinstance(reply, bytes) else reply(method, content))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the client has gone
        finally:
            writer.close()
            with suppress(ConnectionError):
                await writer.wait_closed()
            ended.set()

    ended = asyncio.Event()
    server = await asyncio.start_unix_server(serve, folder / "api")
    async with server:
        async with FirecrackerApi(folder / "api") as client:
            yield client, calls
        async with asyncio.timeout(5):
            await ended.wait()


async def test_an_instance_describes_itself(tmp_path: Path) -> None:
    async with served(tmp_path, answer(200, json.dumps(DESCRIPTION).encode())) as (client, calls):
        instance = await client.describe()
    assert (instance.state, instance.version) == (InstanceState.RUNNING, (1, 12, 1))
    assert calls == [("GET", "/", None)]


async def test_everything_is_configured_before_the_start(tmp_path: Path) -> None:
    configuration = MachineConfiguration(
        vcpus=2, memory_mb=256, kernel="/vmlinux", kernel_args="quiet", initramfs="/initramfs",
        drives=(Drive("root", "/disk", read_only=False, is_root=True),),
        interfaces=(NetworkInterface("eth0", "tap0", "02:FC:00:00:00:05"),),
    )  # fmt: skip
    async with served(tmp_path, NO_CONTENT) as (client, calls):
        await client.boot(configuration)
    assert calls == [
        ("PUT", "/machine-config", {"vcpu_count": 2, "mem_size_mib": 256, "track_dirty_pages": True}),
        (
            "PUT",
            "/boot-source",
            {"kernel_image_path": "/vmlinux", "boot_args": "quiet", "initrd_path": "/initramfs"},
        ),
        (
            "PUT",
            "/drives/root",
            {"drive_id": "root", "path_on_host": "/disk", "is_root_device": True, "is_read_only": False},
        ),
        (
            "PUT",
            "/network-interfaces/eth0",
            {"iface_id": "eth0", "host_dev_name": "tap0", "guest_mac": "02:FC:00:00:00:05"},
        ),
        ("PUT", "/entropy", {}),
        ("PUT", "/actions", {"action_type": "InstanceStart"}),
    ]


@pytest.mark.parametrize(
    ("version", "field"),
    [
        ((1, 12, 1), "enable_diff_snapshots"),
        ((1, 13, 0), "track_dirty_pages"),
        ((1, 16, 1), "track_dirty_pages"),
    ],
)
async def test_a_loaded_instance_tracks_dirty_pages_in_every_version(
    tmp_path: Path, version: tuple[int, int, int], field: str
) -> None:
    async with served(tmp_path, NO_CONTENT) as (client, calls):
        await client.load_snapshot(
            state="/state", memory="/uffd", backend=MemoryBackend.USERFAULTFD, version=version, resume=False
        )
    backend = {"backend_type": "Uffd", "backend_path": "/uffd"}
    body = {"snapshot_path": "/state", "mem_backend": backend, field: True, "resume_vm": False}
    assert calls == [("PUT", "/snapshot/load", body)]


async def test_a_refusal_has_the_words_of_firecracker(tmp_path: Path) -> None:
    async with served(tmp_path, answer(400, b'{"fault_message": "not now"}')) as (client, _):
        with pytest.raises(FirecrackerError) as refused:
            await client.pause()
    assert refused.value.context == {"status": 400, "reason": "not now"}


@pytest.mark.parametrize(
    "reply",
    [
        answer(200, b"[]"),
        answer(200, b"{"),
        answer(200, b"[" * 60_000),
        answer(200, b'{"state": "Running"}'),
        answer(200, b'{"state": "Dancing", "vmm_version": "1.12.1"}'),
        answer(200, b'{"state": "Running", "vmm_version": "one"}'),
        answer(400, b'{"fault_message": "' + b"x" * 30_000 + b'"}'),
        answer(200, b"x" * 200_000),
        b"HTTP/1.1 200 \r\nContent-Length: 10\r\n\r\n{}",
        b"nonsense\r\n\r\n",
    ],
    ids=["list", "cut", "deep", "no-version", "state", "version", "long-reason", "long", "short", "no-http"],
)
async def test_an_unsound_answer_is_an_error_of_bounded_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reply: bytes
) -> None:
    monkeypatch.setattr(firecracker, "CALL_TIMEOUT_S", 0.3)
    async with served(tmp_path, reply) as (client, _):
        with pytest.raises(AgentFailure) as failed:
            async with asyncio.timeout(20):
                await client.describe()
    assert len(str(failed.value.context)) < 2000


async def test_nobody_at_the_socket_is_an_error(tmp_path: Path) -> None:
    async with FirecrackerApi(tmp_path / "none") as client:
        with pytest.raises(FirecrackerError):
            await client.describe()


def test_versions_that_are_known_are_supported() -> None:
    known = [(1, 12, 0), (1, 14, 3), (1, 16, 1)]
    assert [is_supported(version) for version in known] == [True] * 3
    assert [is_supported(version) for version in ((1, 11, 9), (1, 17, 0), (2, 12, 0))] == [False] * 3


async def test_a_machine_of_another_version_is_not_saved_under_this_ones_name(tmp_path: Path) -> None:
    """Firecracker was replaced while it ran; the new one could not resume what it writes."""
    async with served(tmp_path, answer(200, json.dumps(DESCRIPTION).encode())) as (_, calls):
        (tmp_path / "api").rename(tmp_path / "api.sock")
        process = ProcessRef.of(os.getpid())
        assert process is not None
        folders = Folders(tmp_path)
        disks = DmDisks(tmp_path, FirecrackerBases(tmp_path), prefix="wrenn-test")
        machine = FirecrackerMachine(MachineHandle(process, tmp_path), tmp_path, disks, None)
        memory = FirecrackerMemory(folders, ImageFiles(folders), version=(1, 14, 2))

        async def on_part_saved(_part: str) -> None:
            raise AssertionError("nothing is saved")

        with pytest.raises(InvalidState, match=r"under Firecracker 1\.12\.1.* has 1\.14\.2.*without memory"):
            await memory.save(machine, ImageRef("base"), tmp_path, on_part_saved=on_part_saved)
        assert [path for _, path, _ in calls] == ["/"]


async def test_a_machine_is_suspended_without_waiting_for_its_disk(tmp_path: Path) -> None:
    """The watch of the host's disk must not wait for one that is slow. This machine has none that could be flushed."""
    async with served(tmp_path, answer(204, b"")) as (_, calls):
        (tmp_path / "api").rename(tmp_path / "api.sock")
        process = ProcessRef.of(os.getpid())
        assert process is not None
        disks = DmDisks(tmp_path, FirecrackerBases(tmp_path), prefix="wrenn-test")
        machine = FirecrackerMachine(MachineHandle(process, tmp_path), tmp_path, disks, None)
        await machine.suspend(flush=False)
        with pytest.raises(AgentFailure):
            await machine.suspend()
        assert [path for _, path, _ in calls] == ["/vm", "/vm"]


@asynccontextmanager
async def machine_of(
    folder: Path, *, state: str = "Running"
) -> AsyncGenerator[tuple[FirecrackerMachine, list[str]]]:
    """A machine whose server knows whether its vCPUs run, and their states until now."""
    states = [state]

    def reply(method: str, content: Any) -> bytes:
        if method == "GET":
            return answer(200, json.dumps(DESCRIPTION | {"state": states[-1]}).encode())
        states.append("Paused" if content["state"] == "Paused" else "Running")
        return NO_CONTENT

    async with served(folder, reply):
        (folder / "api").rename(folder / "api.sock")
        process = ProcessRef.of(os.getpid())
        assert process is not None
        disks = DmDisks(folder, FirecrackerBases(folder), prefix="wrenn-test")
        yield FirecrackerMachine(MachineHandle(process, folder), folder, disks, None), states


async def test_a_machine_stands_still_and_continues(tmp_path: Path) -> None:
    async with machine_of(tmp_path) as (machine, states):
        async with machine.standstill():
            assert states[-1] == "Paused"
            # Nothing ends it early.
            assert not await machine.maintain(may_unsuspend=True)
            await machine.unsuspend()
            assert states[-1] == "Paused"
        assert states[-1] == "Running"
        with pytest.raises(ValueError, match="wrong"):
            async with machine.standstill():
                raise ValueError("wrong")
        assert states[-1] == "Running"


async def test_a_machine_that_is_suspended_meanwhile_or_before_does_not_continue_after_a_standstill(
    tmp_path: Path,
) -> None:
    async with machine_of(tmp_path) as (machine, states):
        async with machine.standstill():
            await machine.suspend(flush=False)
        assert states[-1] == "Paused"
        async with machine.standstill():
            pass
        assert states[-1] == "Paused"
        async with machine.standstill():
            await machine.unsuspend()
            assert states[-1] == "Paused"
        assert states[-1] == "Running"
        # Maintenance continues what stands still by mistake; that is forgotten then.
        await machine.suspend(flush=False)
        assert await machine.maintain(may_unsuspend=True)
        async with machine.standstill():
            pass
        assert states[-1] == "Running"


async def test_a_machine_that_a_former_agent_has_suspended_does_not_continue_after_a_standstill(
    tmp_path: Path,
) -> None:
    async with machine_of(tmp_path, state="Paused") as (machine, states):
        async with machine.standstill():
            pass
        assert states[-1] == "Paused"
        await machine.unsuspend()
        assert states[-1] == "Running"


class StuckDisk(DeviceStack):
    """A disk whose machine does not answer when it should stand still."""

    async def written_layer(self) -> str:
        return "layer-1"

    async def grow(self, size_b: int, standstill: Standstill) -> None:
        del size_b, standstill
        raise FirecrackerError("Firecracker does not answer.")


async def test_a_machine_that_does_not_answer_since_its_writes_wait_has_a_full_disk(tmp_path: Path) -> None:
    process = ProcessRef.of(os.getpid())
    assert process is not None
    disks = DmDisks(tmp_path, FirecrackerBases(tmp_path), prefix="wrenn-test")
    disk = StuckDisk("wrenn-test.one.", disks.path)
    machine = FirecrackerMachine(MachineHandle(process, tmp_path), tmp_path, disks, disk)
    with pytest.raises(FirecrackerError):
        await machine.grow_disk(1)
    disks.space.waiting = frozenset({"wrenn-test.one.layer-1"})
    with pytest.raises(StorageFull):
        await machine.grow_disk(1)
