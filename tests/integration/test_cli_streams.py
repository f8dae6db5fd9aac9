"""`wrenn shell`, `run` and `logs` as a user types them; the shell in a pseudo-terminal of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path

import pytest

from .conftest import DEADLINE_S, Platform
from .typed_commands import TYPED_DEADLINE_S, person, sandbox_id, terminal, wrenn

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


async def test_a_shell_is_a_terminal(platform: Platform):
    box = sandbox_id(await platform.create())

    def use() -> None:
        with terminal(platform, "shell", box, "/bin/sh") as shell:
            shell.type("stty size; echo si''ze\n")
            shell.see("30 90")
            shell.see("size")
            shell.resize(100, 40)
            # The size arrives on its own way, beside what is typed.
            shell.type("until [ \"$(stty size)\" = '40 100' ]; do sleep 0.05; done; echo chan''ged\n")
            shell.see("changed")
            shell.interrupt()
            shell.type_until("still here", typing="echo st''ill he''re\n")
            shell.type("exit 7\n")
            assert shell.ended() == 7

    await person(use)


async def test_whoever_leaves_a_shell_gets_the_terminal_back(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)

    def leave() -> None:
        with terminal(platform, "shell", box, "/bin/sh") as shell:
            shell.type("echo rea''dy\n")
            shell.see("ready")
            shell.type("\r~.")
            assert shell.ended() == 0

    def be_ended() -> None:
        with terminal(platform, "shell", box, "--tag", "mine", "/bin/sh") as shell:
            shell.type("echo fir''st\n")
            shell.see("first")
            shell.process.terminate()
            assert shell.ended() == 128 + signal.SIGTERM

    def come_back() -> None:
        with terminal(platform, "shell", box, "--tag", "mine") as shell:
            shell.see("first")
            shell.type("exit 3\n")
            assert shell.ended() == 3

    await person(leave)
    async with asyncio.timeout(DEADLINE_S):
        while (await platform.api.get(f"{path}/processes")).json()["processes"]:
            await asyncio.sleep(0.05)
    await person(be_ended)
    await person(come_back)


async def test_a_shell_that_a_pause_ends_says_so_on_a_mended_terminal(platform: Platform):
    path = await platform.create()
    paused = asyncio.Event()
    loop = asyncio.get_running_loop()

    def use() -> None:
        with terminal(platform, "shell", sandbox_id(path), "/bin/sh") as shell:
            shell.type("echo rea''dy\n")
            shell.see("ready")
            loop.call_soon_threadsafe(paused.set)
            shell.see("paused")
            assert shell.ended() == 1

    using = asyncio.create_task(person(use))
    ended = asyncio.create_task(paused.wait())
    await asyncio.wait({using, ended}, return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    assert (await platform.api.post(f"{path}/pause")).status_code == 200
    await using


async def test_a_shell_needs_a_terminal(platform: Platform):
    code, _, err = await wrenn(platform, "shell", "cl-" + "0" * 25)
    assert code == 2
    assert "wrenn exec" in err


async def test_a_file_is_run_in_a_sandbox_of_its_own(platform: Platform, tmp_path: Path):
    (tmp_path / "hello.py").write_text(
        "import sys; print(*sys.argv[1:]); print(sys.stdin.read(), file=sys.stderr); sys.exit(4)"
    )
    (tmp_path / "lines.sh").write_text("echo $A $1; exit 5")
    (tmp_path / "tool").write_text("#!/bin/sh\necho tool $@\n")
    # The simulated host starts programs of this machine, whose paths are not those of the folder.
    ran = [
        await wrenn(platform, "run", "-i", str(tmp_path / "hello.py"), "--name", "x", stdin=b"in"),
        await wrenn(platform, "run", "--env", "A=b", str(tmp_path / "lines.sh"), "--", "c"),
    ]
    assert [code for code, _, _ in ran] != [0, 0]
    assert (await platform.api.get("/v1/sandboxes")).json() == []
    code, _, err = await wrenn(platform, "run", str(tmp_path / "none"))
    assert code == 2
    assert "none" in err


async def test_the_output_of_a_background_process_is_shown(platform: Platform):
    path = await platform.create()
    box = sandbox_id(path)
    script = "echo out; echo err >&2; while [ ! -e go ]; do sleep 0.02; done; echo more; exit 6"
    body = {"cmd": "/bin/sh", "args": ["-c", script], "background": True, "tag": "job"}
    await platform.api.post(f"{path}/exec", json=body)
    async with asyncio.timeout(TYPED_DEADLINE_S):
        while (await wrenn(platform, "logs", box, "job"))[1:] != ("out\n", "err\n"):
            pass
    following = asyncio.create_task(wrenn(platform, "logs", box, "job", "--follow", "--json"))
    await platform.host.wait_call("stream", count=2)
    (platform.host.root_of(box) / "root/go").touch()
    code, out, _ = await following
    assert code == 0
    assert out.endswith('{"stream": "stdout", "text": "more\\n"}\n')
    assert (await wrenn(platform, "logs", box, "none"))[0] == 3
