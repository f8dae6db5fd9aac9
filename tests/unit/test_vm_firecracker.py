"""The client of Firecracker's API against answers that the real one gives, and against those that it should not give."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from wrenn.base.errors import AgentFailure, InvalidState
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
async def served(folder: Path, reply: bytes) -> AsyncGenerator[tuple[FirecrackerApi, Calls]]:
    """A client, and what a server that always replies so was asked."""
    calls: Calls = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                lines = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
                method, path, _ = lines[0].split(" ")
                lengths = [line for line in lines if line.lower().startswith("content-length")]
                body = await reader.readexactly(int(lengths[0].split(":")[1]) if lengths else 0)
                calls.append((method, path, json.loads(body) if body else None))
                writer.write(reply)
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
