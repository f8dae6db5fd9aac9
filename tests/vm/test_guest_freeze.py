"""What surrounds a snapshot inside the guest: programs stop and go on, connections of a former life end.

Snapshots themselves are not taken here: a guest cannot tell whether it was restored, it only sees these calls.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import os
from datetime import UTC, datetime, timedelta

import pytest

from tests.vm.kit import created, output, sh
from wrenn.agent.sandboxes import RunningSandbox
from wrenn.agent.wiring import Agent
from wrenn.base import errors as e
from wrenn.guest import CommandLine

COUNTER = """
import itertools, os
for n in itertools.count():
    with open("/run/count.new", "w") as file:
        file.write(str(n))
    os.rename("/run/count.new", "/run/count")
"""
NAMES = """
import os, socket, sys
seen = set()
while not os.path.exists("/run/enough"):
    # The kernel's name first: seen later, the file is never older.
    pair = socket.gethostname() + " " + open("/etc/hostname").read().strip()
    if pair not in seen:
        seen.add(pair)
        print(pair, flush=True)
"""
SERVER = """
import socket, threading
server = socket.create_server(("0.0.0.0", 8000))
inner = socket.create_server(("127.0.0.1", 0))
near = socket.create_connection(inner.getsockname())
far, _ = inner.accept()
print("listens", flush=True)
for turn in range(2):
    client, _ = server.accept()
    print("accepted", flush=True)
    try:
        print("got", client.recv(10), flush=True)
    except OSError as error:
        print("failed", type(error).__name__, flush=True)
near.send(b"still here")
print("inner", far.recv(10), flush=True)
"""


async def post(sandbox: RunningSandbox, path: str, body: dict[str, str] | None = None) -> tuple[int, bytes]:
    """A plain call to the guest agent, on a connection of its own."""
    url = sandbox.guest.base_url + path
    async with sandbox.guest.session.post(url, json=body, headers=sandbox.guest.headers("root")) as answer:
        return answer.status, await answer.read()


async def init(sandbox: RunningSandbox, **fields: str) -> None:
    """What the host sends after a restore."""
    identity = {
        "timestamp": datetime.now(UTC).isoformat(),
        "entropy": base64.b64encode(os.urandom(64)).decode(),
    }
    assert await post(sandbox, "/init", identity | fields) == (204, b"")


async def read(sandbox: RunningSandbox, path: str) -> str:
    """A file, without a program in the guest."""
    async with sandbox.files.read(path, user="root") as download:
        return b"".join([chunk async for chunk in download.chunks]).decode()


async def wait_text(sandbox: RunningSandbox, path: str, text: str) -> str:
    """Until the file holds this text; returns all of it."""
    content = ""
    async with asyncio.timeout(20):
        while text not in content:
            with contextlib.suppress(e.NotFound):
                content = await read(sandbox, path)
            await asyncio.sleep(0.02)
    return content


async def start_python(sandbox: RunningSandbox, program: str, tag: str) -> None:
    """A program in the background, its output in `/run/<tag>`."""
    line = CommandLine("/bin/sh", ("-c", f'exec python3 -c "$0" > /run/{tag} 2>&1', program))
    await sandbox.commands.start(line, tag=tag)


async def test_processes_are_frozen_from_prepare_to_finish(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await start_python(sandbox, COUNTER, "counter")
    await wait_text(sandbox, "/run/count", "1")
    for _ in range(2):
        assert await post(sandbox, "/snapshot/prepare") == (204, b"")
    stopped = await read(sandbox, "/run/count")
    await asyncio.sleep(0.3)  # long for a counter that writes thousands of times a second
    assert await read(sandbox, "/run/count") == stopped
    for _ in range(2):
        assert await post(sandbox, "/snapshot/finish") == (204, b"")
    async with asyncio.timeout(10):
        while await read(sandbox, "/run/count") == stopped:
            await asyncio.sleep(0.02)


async def test_processes_in_cgroups_made_by_root_are_frozen_too(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await start_python(sandbox, COUNTER, "counter")
    await wait_text(sandbox, "/run/count", "1")
    # As container engines do; and one that its owner has stopped, which nobody else lets go on.
    await output(
        sandbox,
        "cd /sys/fs/cgroup; mkdir -p engine/box empty held; pgrep -f count.new > engine/box/cgroup.procs; echo 1 > held/cgroup.freeze",
    )
    for _ in range(2):
        assert await post(sandbox, "/snapshot/prepare") == (204, b"")
        stopped = await read(sandbox, "/run/count")
        await asyncio.sleep(0.3)
        assert await read(sandbox, "/run/count") == stopped
        assert await post(sandbox, "/snapshot/finish") == (204, b"")
        async with asyncio.timeout(10):
            while await read(sandbox, "/run/count") == stopped:
                await asyncio.sleep(0.02)
    assert await output(sandbox, "cd /sys/fs/cgroup; cat engine/cgroup.freeze held/cgroup.freeze") == "0\n1\n"


async def test_a_stopped_guest_answers_but_starts_nothing(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await sandbox.commands.start(CommandLine("sleep", ("900",)), tag="nap")
    await post(sandbox, "/snapshot/prepare")
    async with sandbox.guest.session.get(f"{sandbox.guest.base_url}/health") as answer:
        assert answer.status == 204
    with pytest.raises(e.Unavailable):
        await sh(sandbox, "true")
    assert [p.tag for p in await sandbox.commands.list()] == ["nap"]
    await post(sandbox, "/snapshot/finish")
    assert await output(sandbox, "echo on") == "on\n"


async def test_a_program_that_was_stopped_never_sees_new_and_former_names_mixed(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await start_python(sandbox, NAMES, "names")
    former = (await wait_text(sandbox, "/run/names", "\n")).split()[0]
    await post(sandbox, "/snapshot/prepare")
    await init(sandbox, hostname="a-clone", machineId="5" * 32, lifecycleID="second")
    seen = await wait_text(sandbox, "/run/names", "a-clone a-clone\n")
    assert f"a-clone {former}" not in seen
    assert (
        await output(sandbox, "touch /run/enough; cat /etc/machine-id; hostname") == f"{'5' * 32}\na-clone\n"
    )


async def test_a_stream_of_before_a_restore_breaks_at_once_and_its_process_keeps_running(
    agent: Agent,
) -> None:
    _, sandbox = await created(agent.sandboxes)
    for frozen in (True, False):
        running = asyncio.create_task(sh(sandbox, "exec sleep 777", timeout_s=60))
        await output(sandbox, "until pgrep -x sleep; do sleep 0.02; done")
        if frozen:
            await post(sandbox, "/snapshot/prepare")
        await init(sandbox, lifecycleID=f"frozen-{frozen}")
        async with asyncio.timeout(5):
            # The client tells a broken stream from an end.
            with pytest.raises(e.Unavailable):
                await running
        assert (await output(sandbox, "pgrep -cx sleep; pkill -x sleep")).strip() == "1"


async def test_the_same_init_again_breaks_no_stream_and_a_leap_of_the_clock_ends_nothing(
    agent: Agent,
) -> None:
    _, sandbox = await created(agent.sandboxes)
    await init(sandbox, lifecycleID="one")
    running = asyncio.create_task(
        sh(sandbox, "touch /run/begun; until [ -e /run/enough ]; do sleep 0.05; done", timeout_s=60)
    )
    await output(sandbox, "until [ -e /run/begun ]; do sleep 0.02; done")
    later = (datetime.now(UTC) + timedelta(days=400)).isoformat()
    await init(sandbox, lifecycleID="one", timestamp=later)
    year = (datetime.now(UTC) + timedelta(days=400)).year
    assert await output(sandbox, "touch /run/enough; date +%Y") == f"{year}\n"
    assert (await running).exit_code == 0


async def test_a_programs_connections_with_the_outside_end_and_the_rest_stays(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    await start_python(sandbox, SERVER, "server")
    await wait_text(sandbox, "/run/server", "listens\n")
    reader, writer = await asyncio.open_connection(sandbox.address, 8000)
    await wait_text(sandbox, "/run/server", "accepted\n")
    await post(sandbox, "/snapshot/prepare")
    await init(sandbox, lifecycleID="second")
    await wait_text(sandbox, "/run/server", "failed ConnectionAbortedError\n")
    with pytest.raises(ConnectionResetError):
        async with asyncio.timeout(5):
            await reader.read()
    writer.close()
    _, writer = await asyncio.open_connection(sandbox.address, 8000)
    writer.write(b"hello")
    said = await wait_text(sandbox, "/run/server", "inner")
    assert said.split("\n")[3:5] == ["accepted", "got b'hello'"]
    assert "inner b'still here'" in await wait_text(sandbox, "/run/server", "here")
    writer.close()


async def test_suspended_time_does_not_count_towards_deadlines(agent: Agent) -> None:
    _, sandbox = await created(agent.sandboxes)
    running = asyncio.create_task(sh(sandbox, "sleep 1; echo done", timeout_s=3))
    await output(sandbox, "until pgrep -x sleep; do sleep 0.02; done")
    await sandbox.vm.suspend()
    await asyncio.sleep(3.5)  # longer than the command's time, shorter than the grace of its caller
    await sandbox.vm.unsuspend()
    assert (await running).stdout == b"done\n"
