"""Starts the guest agent as an ordinary process."""

from __future__ import annotations

import subprocess
from collections.abc import Generator, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
from guest_kit import Envd, binary

SDK_PORT = 49_983  # the SDK's debug mode knows no other
STOP_S = 5.0


def running(port: int) -> AbstractContextManager[Envd]:
    """A fresh agent on this port; 0: any."""
    return running_at("127.0.0.1", port)


@contextmanager
def running_at(address: str, port: int) -> Generator[Envd]:
    """A fresh agent at this address."""
    command = [str(binary()), "serve", "--listen", f"{address}:{port}", "--root-is-me"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        line = process.stdout.readline().split()
        assert line[:1] == ["listening"], line
        host, _, bound = line[1].rpartition(":")
        try:
            yield Envd(host, int(bound), process)
        finally:
            process.kill()
            process.wait(STOP_S)


@pytest.fixture
def envd() -> Iterator[Envd]:
    """An agent of this test's own."""
    with running(0) as agent:
        yield agent


@pytest.fixture(scope="module")
def sdk_envd() -> Iterator[Envd]:
    """The agent that the SDK finds in debug mode."""
    with running(SDK_PORT) as agent:
        yield agent


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder that every user may enter and write to."""
    for part in (tmp_path, *list(tmp_path.parents)[:3]):
        if part not in (Path("/tmp"), Path("/")):
            part.chmod(part.stat().st_mode | 0o055)
    tmp_path.chmod(0o777)
    return tmp_path
