"""`wrenn up` and `wrenn down`, as a user calls them, with everything real."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest

from wrenn.agent.layout import Layout
from wrenn.linux import cgroups
from wrenn.network import find_block
from wrenn.testing.server import free_port

TIMEOUT_S = 150


@pytest.fixture
def place(images_dir: Path) -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="wrenn-up-"))
    for name in ("kernels", "initramfs", "templates"):
        (folder / name).symlink_to(images_dir / name)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


async def wrenn(place: Path, *arguments: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wrenn.cli.main", *arguments,
        env={**os.environ, "WRENN_DATA_DIR": str(place), "WRENN_IMAGES_DIR": str(place)},
        stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
    )  # fmt: skip
    async with asyncio.timeout(TIMEOUT_S):
        output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(errors="replace")


E2B_PROGRAM = """
from e2b import Sandbox
sandbox = Sandbox.create("minimal")
print(sandbox.commands.run("echo Hello from e2b", user="root").stdout, end="")
sandbox.kill()
"""


async def test_up_runs_the_main_job_twice_repairs_itself_and_down_leaves_nothing(place: Path) -> None:
    listen = f"127.0.0.1:{free_port()}"
    try:
        code, output = await wrenn(place, "up", "--listen", listen)
        assert code == 0, output
        (warm,) = (place / "bases").glob("[!.]*/manifest.json")  # so that the first create is a restore
        assert json.loads(warm.read_text())["facts"]["memory_mb"] == 512
        assert "Default template" in output
        assert (place / "env").stat().st_mode & 0o777 == 0o600
        settings = dict(
            line.split("=", 1) for line in (place / "env").read_text().splitlines() if "=" in line
        )
        assert settings["WRENN_API_KEY"] not in output, "the key is not shown"

        # With the same file a program for e2b runs, as it is.
        used = f"set -eu; . {place}/env; exec {sys.executable} -c '{E2B_PROGRAM}'"
        ran = await asyncio.to_thread(
            subprocess.run,
            ["bash", "-c", used],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        assert ran.stdout == "Hello from e2b\n", ran.stderr

        code, output = await wrenn(place, "up", "--demo", "--listen", listen)
        assert (code, "Already running" in output) == (0, True), output
        assert "Hello from Python" in output
        assert len(list((place / "bases").glob("[!.]*"))) == 1, "the default create takes what is warm"

        code, sandbox_id = await wrenn(place, "create", "--memory", "256")
        assert code == 0, sandbox_id
        sandbox_id = sandbox_id.strip().splitlines()[-1]
        for program in ("agent", "control"):
            os.kill(json.loads((place / "run" / f"{program}.pid").read_text())["pid"], signal.SIGKILL)
        async with asyncio.timeout(60), httpx2.AsyncClient(trust_env=False) as api:
            while True:
                try:
                    answer = await api.post(
                        f"{settings['WRENN_BASE_URL']}/v1/sandboxes/{sandbox_id}/exec",
                        json={"cmd": "echo", "args": ["healed"]},
                        headers={"X-API-Key": settings["WRENN_API_KEY"]},
                        timeout=30,
                    )
                    if answer.status_code == 200:
                        break
                except httpx2.TransportError:
                    pass
                await asyncio.sleep(0.1)
        assert answer.json()["stdout"] == "healed\n"

        code, output = await wrenn(place, "doctor")
        assert code == 0, output
        code, output = await wrenn(place, "status")
        assert code == 0, output

        held = "head -c 3000000 /dev/urandom | tee /dev/shm/held > /root/held; (while sleep 0.1; do echo >> /dev/shm/count; done) > /dev/null 2>&1 & "
        code, output = await wrenn(place, "exec", sandbox_id, "--", "sh", "-c", f"{held} sleep 0.5")
        assert code == 0, output
        look = "sha256sum /dev/shm/held /root/held; wc -l < /dev/shm/count"
        code, seen = await wrenn(place, "exec", sandbox_id, "--", "sh", "-c", look)
        assert code == 0, seen
        code, output = await wrenn(place, "down")
        assert code == 0, output
        code, output = await wrenn(place, "doctor")
        assert code == 0, output
        code, output = await wrenn(place, "up", "--listen", listen)
        assert code == 0, output
        code, output = await wrenn(place, "storage")
        assert code == 0, output
        assert sandbox_id in output
        code, output = await wrenn(place, "resume", sandbox_id)
        assert code == 0, output
        code, again = await wrenn(place, "exec", sandbox_id, "--", "sh", "-c", f"sleep 0.5; {look}")
        assert code == 0, again
        assert again.splitlines()[:2] == seen.splitlines()[:2]
        assert int(again.splitlines()[2]) > int(seen.splitlines()[2]), "its programs go on"
    finally:
        block = find_block(place)
        code, output = await wrenn(place, "down", "--purge", "--yes")
    assert code == 0, output
    assert find_block(place) is None
    assert block is not None
    assert not cgroups.exists(Layout(place, block).cgroup_root)
