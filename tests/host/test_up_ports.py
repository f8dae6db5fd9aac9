"""`wrenn up` where a port is taken."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from wrenn.cli.up import database
from wrenn.cli.up.daemons import running
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.services import AGENT, CONTROL, SUPERVISOR


def test_up_says_that_a_port_is_in_use_and_leaves_nothing_running(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        ended = subprocess.run(
            [
                sys.executable, "-m", "wrenn.cli.main", "up",
                "--data-dir", str(tmp_path), "--listen", f"127.0.0.1:{port}",
            ],
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"wrenn: Port {port} is in use by " in ended.stderr
    assert f"(pid {os.getpid()})" in ended.stderr
    assert "--listen" in ended.stderr
    layout = Layout(tmp_path)
    assert [running(layout, name) for name in (SUPERVISOR, CONTROL, AGENT)] == [None] * 3
    assert database.process(tmp_path) is None
    assert not (tmp_path / "env").exists()
