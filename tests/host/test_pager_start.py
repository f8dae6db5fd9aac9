"""How the page-fault server of a VM is started, found again, and ends its VM."""

from __future__ import annotations

import asyncio
import hashlib
import os
import select
import subprocess
from collections.abc import AsyncIterator, Generator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import pytest_asyncio

from wrenn.base.units import PAGE_B
from wrenn.linux.command import CommandError
from wrenn.linux.process import ProcessRef
from wrenn.linux.spawn import Confinement
from wrenn.vm.firecracker.pager import (
    PagerRequest,
    PagerStarter,
    find_pager,
    kill_without_pager,
    pager_of,
)

pytestmark = pytest.mark.root

_UID = 1_900_000_007
_PAGES = 64
_TIMEOUT_S = 20.0
_PROGRAM = Path(__file__).with_name("faulting_program.py")


@pytest_asyncio.fixture
async def starter() -> AsyncIterator[PagerStarter]:
    program = find_pager()
    assert program is not None, "`make setup` builds it"
    starter = await PagerStarter.of(program)
    yield starter
    starter.close()


@contextmanager
def vmm(request: PagerRequest, *, uid: int) -> Generator[subprocess.Popen[str]]:
    """A program whose memory is filled, of this user."""
    process = subprocess.Popen(
        ["/usr/bin/python3", "-c", _PROGRAM.read_text(), request.socket.name, str(_PAGES), ""],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, user=uid, group=uid, extra_groups=[],
        cwd=request.socket.parent,
    )  # fmt: skip
    try:
        yield process
    finally:
        process.kill()
        process.communicate(timeout=_TIMEOUT_S)


def answer(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _TIMEOUT_S)
    assert ready, "it hangs"
    return process.stdout.readline().strip()


def ask(process: subprocess.Popen[str], command: str) -> None:
    assert process.stdin is not None
    print(command, file=process.stdin, flush=True)


@contextmanager
def request_in(folder: Path) -> Generator[PagerRequest]:
    """A machine's folder, deep enough that the path of its socket is too long for a socket's name."""
    directory = folder / ("d" * 80) / "cl-1"
    jail = directory / "jail"
    jail.mkdir(parents=True)
    for path in (jail, *jail.parents):
        if path.owner() == "root" and path.is_relative_to("/tmp"):
            path.chmod(path.stat().st_mode | 0o055)
    image = folder / "memory"
    image.write_bytes(os.urandom(_PAGES * PAGE_B))
    image.chmod(0o400)
    fd = os.open(image, os.O_RDONLY)
    try:
        yield PagerRequest(
            directory=directory,
            socket=jail / "uffd",
            image=fd,
            confinement=Confinement(uid=_UID, cgroup_procs=()),
            log=directory / "vmm.log",
            record=directory / "order",
        )
    finally:
        os.close(fd)


def digest(request: PagerRequest, page: int) -> str:
    return hashlib.sha256(os.pread(request.image, PAGE_B, page * PAGE_B)).hexdigest()


async def test_a_vm_is_served_by_a_process_of_its_own_user_that_a_later_agent_finds(
    tmp_path: Path, starter: PagerStarter
) -> None:
    with request_in(tmp_path) as request:
        assert pager_of(request.directory) is None
        pager = await asyncio.to_thread(starter.start, request)
        status = request.socket.stat()
        assert (status.st_uid, status.st_mode & 0o777) == (_UID, 0o600)
        assert pager_of(request.directory) == pager
        of_process = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pager.pid}/status").read_text().splitlines()
        )
        assert of_process["Uid"].split() == [str(_UID)] * 4
        assert int(of_process["CapEff"], 16) == 0
        assert not Path(f"/proc/{pager.pid}/root/etc").exists()
        with vmm(request, uid=_UID) as process:
            assert answer(process) == "sent"
            ask(process, "read 7")

            assert answer(process) == digest(request, 7)
        async with asyncio.timeout(_TIMEOUT_S):
            assert await pager.wait_exit() == 0
        assert "the VM has ended" in request.log.read_text()
        assert (request.directory / "order").read_bytes() == b"\7\0\0\0"


async def test_the_vm_is_killed_when_its_server_ends(tmp_path: Path, starter: PagerStarter) -> None:
    with request_in(tmp_path) as request:
        pager = await asyncio.to_thread(starter.start, request)
        with vmm(request, uid=_UID) as process:
            reference = ProcessRef.of(process.pid)
            assert reference is not None
            assert answer(process) == "sent"
            watching = asyncio.create_task(kill_without_pager(reference, pager))
            pager.kill()
            ask(process, "read 3")  # nobody will answer
            async with asyncio.timeout(_TIMEOUT_S):
                await watching
            assert await asyncio.to_thread(process.wait, _TIMEOUT_S) == -9


async def test_a_program_of_another_user_is_not_served(tmp_path: Path, starter: PagerStarter) -> None:
    with request_in(tmp_path) as request:
        pager = await asyncio.to_thread(starter.start, request)
        with vmm(request, uid=0):
            async with asyncio.timeout(_TIMEOUT_S):
                assert await pager.wait_exit() == 1
        assert request.log.read_text() == "pager: a program of user 0 connected\n"


async def test_a_server_whose_file_is_missing_is_not_started(tmp_path: Path, starter: PagerStarter) -> None:
    with request_in(tmp_path) as request:
        with pytest.raises(FileNotFoundError):
            await asyncio.to_thread(starter.start, replace(request, diff=tmp_path / "missing"))
        assert pager_of(request.directory) is None


async def test_a_program_that_does_not_exist_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(CommandError):
        await PagerStarter.of(tmp_path / "pager")
