"""Calls on a file system that does not answer concern nothing else: other calls are served, and their number is bounded."""

from __future__ import annotations

import ctypes
import http.client
import json
import os
import select
import struct
import threading
import time
from collections.abc import Generator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from guest_kit import Envd

INIT = 26
"""The operation with which the kernel begins a FUSE connection."""
ENOSYS = -38
"""The answer to a check of permission that lets the caller go on."""
MNT_DETACH = 2
LIMIT_S = 20.0
"""A start is given up after 10 s."""
MAX_FILE_THREADS = 64
MAX_STARTS = 8


class SilentFuse:
    """A FUSE server that takes every request and answers none, so that a caller waits even after a SIGKILL."""

    def __init__(self, mount: Path) -> None:
        self.mount = mount
        self.beside = mount.with_name("beside")
        self.beside.mkdir()
        (self.beside / "file").touch()
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._device = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._device},rootmode=40000,user_id=0,group_id=0,allow_other"
        if self._libc.mount(b"silent", os.fsencode(mount), b"fuse.silent", 0, options.encode()) != 0:
            os.close(self._device)
            pytest.skip(f"FUSE cannot be mounted here: {os.strerror(ctypes.get_errno())}")
        self._taken = threading.Semaphore(0)
        self._unanswered: list[int] = []
        self._stop, self._stopped = os.pipe()
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while self._stop not in select.select([self._device, self._stop], [], [])[0]:
            request = os.read(self._device, 1 << 20)
            _, operation, unique = struct.unpack_from("<IIQ", request)
            if operation == INIT:
                self._answer(
                    unique, 0, struct.pack("<IIIIHHIIHHI", 7, 31, 0, 0, 12, 9, 4096, 1, 0, 0, 0) + bytes(24)
                )
            else:
                self._unanswered.append(unique)
                self._taken.release()

    def _answer(self, unique: int, error: int, body: bytes = b"") -> None:
        os.write(self._device, struct.pack("<IiQ", 16 + len(body), error, unique) + body)

    def wait_requests(self, count: int = 1) -> None:
        """Returns when so many more requests of callers were taken."""
        for _ in range(count):
            assert self._taken.acquire(timeout=LIMIT_S), "nothing was asked of the file system"

    def answer_all(self) -> None:
        """Answers what was asked until now."""
        while self._unanswered:
            self._answer(self._unanswered.pop(), ENOSYS)

    def close(self) -> None:
        """Ends the connection, which ends all waiting, and the mount."""
        os.write(self._stopped, b"x")
        self._thread.join(LIMIT_S)
        for descriptor in (self._device, self._stop, self._stopped):
            os.close(descriptor)
        self._libc.umount2(os.fsencode(self.mount), MNT_DETACH)


@pytest.fixture
def silent(tmp_path: Path) -> Generator[SilentFuse]:
    if os.geteuid() != 0 or not Path("/dev/fuse").exists():
        pytest.skip("needs root and FUSE")
    mount = tmp_path / "silent"
    mount.mkdir()
    fuse = SilentFuse(mount)
    yield fuse
    fuse.close()


def error_of(envd: Envd, cmd: str, *args: str, **config: Any) -> dict[str, Any]:
    """The error of a start."""
    outcome = envd.run(cmd, *args, **config)
    assert outcome.error is not None, outcome
    return outcome.error


def listed(envd: Envd, path: Path) -> Any:
    return envd.call("filesystem.Filesystem/ListDir", {"path": str(path)})


def leave(envd: Envd, method: str, message: dict[str, Any], fuse: SilentFuse) -> None:
    """Makes a call, and gives it up when it waits for the file system."""
    connection = http.client.HTTPConnection(envd.host, envd.port)
    headers = {"Content-Type": "application/json"}
    connection.request("POST", f"/filesystem.Filesystem/{method}", json.dumps(message).encode(), headers)
    fuse.wait_requests()
    connection.close()


def leave_start(envd: Envd, config: dict[str, Any], fuse: SilentFuse) -> None:
    """Starts a program, and gives that up when it waits for the file system."""
    connection = http.client.HTTPConnection(envd.host, envd.port)
    body = json.dumps({"process": config, "stdin": False}).encode()
    headers = {"Content-Type": "application/connect+json"}
    connection.request("POST", "/process.Process/Start", struct.pack(">BI", 0, len(body)) + body, headers)
    fuse.wait_requests()
    connection.close()


@pytest.mark.parametrize("part", ["directory", "program"])
def test_a_start_that_waits_for_a_file_system_is_given_up(envd: Envd, silent: SilentFuse, part: str) -> None:
    marker = silent.beside / "marker"
    command = ("/bin/sh", "-c", f"touch {marker}")
    if part == "directory":
        leave_start(envd, {"cmd": command[0], "args": command[1:], "cwd": str(silent.mount)}, silent)
    with ThreadPoolExecutor(1) as pool:
        if part == "directory":
            waiting = pool.submit(error_of, envd, *command, cwd=str(silent.mount))
        else:
            waiting = pool.submit(error_of, envd, str(silent.mount / "program"))
        silent.wait_requests()
        # Meanwhile everything else is served, and other children are reaped.
        assert envd.shell("echo here").stdout == b"here\n"
        assert envd.request("GET", "/processes").status == 200
        assert waiting.result(LIMIT_S)["code"] == "deadline_exceeded"
    assert envd.pids() == []
    # What was given up does not begin later.
    silent.answer_all()
    for _ in range(3):
        assert envd.shell("echo here").stdout == b"here\n"
    assert envd.pids() == []
    assert not marker.exists()


def test_starts_that_wait_do_not_take_all_threads_of_other_calls(envd: Envd, silent: SilentFuse) -> None:
    with ThreadPoolExecutor(MAX_STARTS + 1) as pool:
        waiting = [pool.submit(error_of, envd, "/bin/true", cwd=str(silent.mount)) for _ in range(MAX_STARTS)]
        silent.wait_requests(MAX_STARTS)
        refused = pool.submit(error_of, envd, "/bin/true")
        assert listed(envd, silent.beside).status == 200
        assert refused.result(LIMIT_S)["code"] == "resource_exhausted"
        assert {call.result(LIMIT_S)["code"] for call in waiting} == {"deadline_exceeded"}
    silent.answer_all()
    deadline = time.monotonic() + LIMIT_S
    while (outcome := envd.shell("echo here")).error and time.monotonic() < deadline:
        pass
    assert outcome.stdout == b"here\n"


@pytest.mark.parametrize("method", ["ListDir", "CreateWatcher"])
def test_file_calls_that_were_given_up_leave_threads_for_others(
    envd: Envd, silent: SilentFuse, method: str
) -> None:
    for _ in range(20):
        leave(envd, method, {"path": str(silent.mount), "recursive": True}, silent)
    assert listed(envd, silent.beside).json()["entries"]
    assert envd.shell("echo here").stdout == b"here\n"


def test_file_calls_are_refused_when_too_many_wait_for_a_file_system(envd: Envd, silent: SilentFuse) -> None:
    for _ in range(MAX_FILE_THREADS):
        leave(envd, "ListDir", {"path": str(silent.mount)}, silent)
    refused = listed(envd, silent.beside)
    assert refused.json()["code"] == "unavailable"
    assert "does not answer" in refused.json()["message"]
    assert envd.read(silent.beside / "file").status == 503
    assert envd.shell("echo here").stdout == b"here\n"
    assert envd.request("GET", "/processes").status == 200
    silent.answer_all()
    deadline = time.monotonic() + LIMIT_S
    while (answer := listed(envd, silent.beside)).status == 503 and time.monotonic() < deadline:
        pass
    assert answer.status == 200
