"""Starts the server of the template `code-interpreter-v1` as a program of this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

_SERVER = Path(__file__).resolve().parent.parent / "images/code-interpreter-v1/server"
_START_S = 60.0
RUN_S = 30.0


@dataclass(frozen=True)
class InterpreterServer:
    """A running server: a client of it, the work directory of its contexts, and the file with the sandbox's variables."""

    http: httpx2.Client
    cwd: Path
    variables: Path


def wait_until(condition: Callable[[], bool], limit_s: float = RUN_S) -> None:
    """Wait for something that happens in another process."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


@contextmanager
def running_interpreter(folder: Path, port: int) -> Generator[InterpreterServer]:
    """A server at a port of loopback; nothing of it is left afterwards."""
    cwd, variables = folder / "home", folder / "environment.json"
    cwd.mkdir()
    environment = {
        **os.environ,
        "PYTHONPATH": str(_SERVER),
        "CODE_INTERPRETER_VARIABLES": str(variables),
        "IPYTHONDIR": str(folder / "ipython"),
        "MPLCONFIGDIR": str(folder / "matplotlib"),
    }
    command = [sys.executable, "-m", "code_interpreter", "--address", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen([*command, "--cwd", str(cwd)], env=environment) as process:
        with httpx2.Client(base_url=f"http://127.0.0.1:{port}", timeout=RUN_S, trust_env=False) as http:
            try:
                wait_until(lambda: _is_up(http), _START_S)
                yield InterpreterServer(http, cwd, variables)
            finally:
                process.send_signal(signal.SIGTERM)
                process.wait(RUN_S)
    # Its kernels end with it.
    assert not subprocess.run(["pgrep", "-f", str(folder)], check=False, capture_output=True).stdout


def _is_up(http: httpx2.Client) -> bool:
    try:
        return http.get("/health").text == "OK"
    except httpx2.TransportError:
        return False
