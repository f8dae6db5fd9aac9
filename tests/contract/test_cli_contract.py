"""The `wrenn` command as a user types it, against a live platform."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio
from sdk_clients import Platform

from wrenn import AsyncSandbox
from wrenn.testing.fork_server import run_program

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]

UNKNOWN = "cl-" + "0" * 25


@dataclass(frozen=True)
class Ended:
    code: int
    out: bytes
    err: str


async def wrenn(*arguments: str, cwd: Path | None = None) -> Ended:
    async with asyncio.timeout(30):
        code, out, err = await run_program(
            "wrenn.cli.main:main", arguments, environment=os.environ, folder=cwd
        )
    return Ended(code, out, err.decode())


@pytest_asyncio.fixture(loop_scope="module")
async def box() -> AsyncIterator[str]:
    # Not by the command, which takes ten times as long.
    sandbox = await AsyncSandbox.create()
    yield sandbox.id
    await sandbox.kill()


async def test_a_sandbox_is_created_listed_and_removed() -> None:
    created = await wrenn("create", "--vcpus", "2", "--json")
    info = json.loads(created.out)
    assert info["vcpus"] == 2
    listed = json.loads((await wrenn("list", "--json")).out)
    assert info["id"] in [one["id"] for one in listed]
    assert info["id"].encode() in (await wrenn("list")).out
    assert (await wrenn("rm", info["id"])).code == 0
    assert info["id"].encode() not in (await wrenn("list", "--json")).out


async def test_sandboxes_are_paused_and_resumed(box: str) -> None:
    assert await wrenn("pause", box) == Ended(0, b"", "")
    listed = (await wrenn("list")).out.decode()
    assert [line.split()[1] for line in listed.splitlines() if line.startswith(box)] == ["paused"]
    again = await wrenn("pause", box, UNKNOWN, "--json")
    assert (again.code, json.loads(again.out)) == (3, {box: "invalid_state", UNKNOWN: "not_found"})
    for refused in (await wrenn("exec", box, "true"), await wrenn("cp", f"{box}:/tmp/a", "/tmp")):
        assert (refused.code, refused.out) == (1, b"")
        assert "paused" in refused.err
    assert json.loads((await wrenn("resume", box, "--json")).out) == {box: "running"}
    assert (await wrenn("exec", box, "echo awake")).out == b"awake\n"
    assert (await wrenn("resume", box)).code == 1


async def test_a_paused_sandbox_is_removed_without_a_resume(box: str) -> None:
    await wrenn("pause", box)
    assert (await wrenn("rm", box)).code == 0
    assert box.encode() not in (await wrenn("list")).out


async def test_copies_are_printed_by_their_ids(box: str) -> None:
    copies = (await wrenn("fork", box, "--count", "2")).out.decode().split()
    assert len({box, *copies}) == 3
    (more,) = json.loads((await wrenn("fork", box, "--json")).out)
    assert more["status"] == "running"
    assert (await wrenn("rm", more["id"], *copies)).code == 0
    assert (await wrenn("fork", box, "-n", "0")).code == 2


async def test_a_template_is_made_used_listed_and_removed(box: str) -> None:
    await wrenn("exec", box, "echo yes > installed")
    name = (await wrenn("snapshot", box)).out.decode().strip()
    assert (await wrenn("snapshot", box, "--name", name)).code == 1
    replaced = json.loads((await wrenn("snapshot", box, "--name", name, "--overwrite", "--json")).out)
    assert (replaced["name"], replaced["type"]) == (name, "snapshot")
    made = (await wrenn("create", "--template", name)).out.decode().strip()
    assert (await wrenn("exec", made, "cat installed")).out == b"yes\n"
    await wrenn("rm", made)
    assert name in (await wrenn("templates", "list")).out.decode()
    bases = json.loads((await wrenn("templates", "list", "--type", "base", "--json")).out)
    assert "minimal" in [one["name"] for one in bases]
    assert name not in [one["name"] for one in bases]
    assert (await wrenn("templates", "tag", name, "stable")).out.decode() == f"{name}:stable\n"
    shown = json.loads((await wrenn("templates", "show", f"{name}:stable", "--json")).out)
    assert (shown["id"], sorted(shown["tags"])) == (replaced["id"], ["latest", "stable"])
    assert "tags       latest, stable" in (await wrenn("templates", "show", shown["id"])).out.decode()
    assert (await wrenn("templates", "tag", "minimal", "stable")).code == 4
    removed = await wrenn("templates", "rm", "minimal", name, "--json")
    assert (removed.code, json.loads(removed.out)) == (4, {"minimal": "forbidden", name: "removed"})


async def test_time_limits_are_set_and_shown() -> None:
    options = ("--timeout", "600", "--lifetime", "7100", "--on-expiry", "kill", "--auto-resume")
    info = json.loads((await wrenn("create", *options, "--json")).out)
    assert (info["timeout_sec"], info["on_expiry"], info["auto_resume"]) == (600, "kill", True)
    shown = await wrenn("timeout", info["id"])
    assert shown.out.decode().splitlines() == [
        "idle      pause after 600 s",
        "lifetime  kill in 1 h",
        "resume    by the next call",
    ]
    assert "kill in 1 h" in (await wrenn("list")).out.decode()
    changed = await wrenn("timeout", info["id"], "--timeout", "0", "--lifetime", "0")
    assert changed.out.decode().splitlines()[:2] == ["idle      no limit", "lifetime  no limit"]
    changed = await wrenn("timeout", info["id"], "--on-expiry", "pause", "--json")
    assert json.loads(changed.out)["on_expiry"] == "pause"
    await wrenn("rm", info["id"])


async def test_exec_passes_output_and_exit_code_through(box: str) -> None:
    ended = await wrenn("exec", box, "printf '\\377'; echo err >&2; exit 7")
    assert (ended.code, ended.out, ended.err) == (7, b"\xff", "err\n")


async def test_options_of_the_command_are_the_commands_own(box: str) -> None:
    assert (await wrenn("exec", box, "echo", "--json", "-n")).out == b"--json -n\n"
    assert (await wrenn("exec", box, "--", "echo", "-n", "x")).out == b"x"
    assert (
        await wrenn("exec", "--cwd", "/", box, "--env", "A=1", "sh", "-c", "pwd; echo $A")
    ).out == b"/\n1\n"


async def test_a_background_process_is_named(box: str) -> None:
    started = json.loads(
        (await wrenn("exec", "--background", "--tag", "idle", "--json", box, "sleep 60")).out
    )
    assert started["tag"] == "idle"
    assert started["pid"] > 0


async def test_a_file_is_copied_in_and_out(box: str, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(bytes(range(256)) * 10)
    assert (await wrenn("cp", str(source), f"{box}:/tmp/copy")).code == 0
    (tmp_path / "into").mkdir()
    assert (await wrenn("cp", f"{box}:/tmp/copy", str(tmp_path / "into"))).code == 0
    assert (tmp_path / "into/copy").read_bytes() == source.read_bytes()
    assert (await wrenn("cp", "source", f"{box}:/tmp/", cwd=tmp_path)).code == 0
    assert json.loads((await wrenn("exec", "--json", box, "ls /tmp")).out)["exit_code"] == 0


async def test_a_copy_that_fails_leaves_the_target_alone(box: str, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_text("before")
    ended = await wrenn("cp", f"{box}:/tmp/missing", str(target))
    assert (ended.code, target.read_text()) == (3, "before")
    assert [path.name for path in tmp_path.iterdir() if path.is_file()] == ["target"]


async def test_a_folder_is_copied_in_and_out(box: str, tmp_path: Path) -> None:
    (tmp_path / "top/inner").mkdir(parents=True)
    (tmp_path / "top/inner/file").write_text("content")
    (tmp_path / "top/link").symlink_to("inner/file")
    assert await wrenn("cp", str(tmp_path / "top"), f"{box}:/root/new") == Ended(0, b"", "")
    assert (await wrenn("exec", box, "cat new/link")).out == b"content"
    # What is there already takes the copy in, under its own name.
    assert (await wrenn("cp", "top/", f"{box}:/root/new", cwd=tmp_path)).code == 0
    assert (await wrenn("cp", "top/.", f"{box}:/root/new/inner", cwd=tmp_path)).code == 0
    listed = (await wrenn("exec", box, "find new -type f | sort")).out.decode().split()
    assert listed == ["new/inner/file", "new/inner/inner/file", "new/top/inner/file"]
    copied = await wrenn("cp", f"{box}:/root/new/top", str(tmp_path / "back"), "--json")
    assert json.loads(copied.out)["bytes"] > 1024
    assert (tmp_path / "back/link").readlink() == Path("inner/file")
    assert (await wrenn("cp", f"{box}:/root/new/top", str(tmp_path / "back"))).code == 0
    assert (tmp_path / "back/top/inner/file").read_text() == "content"
    assert (await wrenn("cp", f"{box}:/root/new/top", str(tmp_path / "back"), "--atomic")).code == 2


async def test_top_is_printed_once_where_there_is_no_terminal(box: str) -> None:
    shown = await wrenn("top")
    assert (shown.code, box in shown.out.decode()) == (0, True)
    assert box in [one["id"] for one in json.loads((await wrenn("top", "--json")).out)]


async def test_metrics_of_a_sandbox_are_shown_with_their_course(box: str) -> None:
    async with asyncio.timeout(20):
        while len(points := json.loads((await wrenn("metrics", box, "--range", "5m", "--json")).out)) < 3:
            await asyncio.sleep(0.2)
    assert {"at", "cpu_pct", "mem_bytes", "disk_bytes", "guest_mem_used_bytes"} <= set(points[0])
    shown = (await wrenn("metrics", box)).out.decode()
    assert [line.split()[0] for line in shown.splitlines()[1:3]] == ["CPU", "memory"]
    assert any(block in shown for block in "▁▂▃▄▅▆▇█")
    top = json.loads((await wrenn("top", "--json")).out)
    assert next(one for one in top if one["id"] == box)["metrics"]["mem_bytes"] > 0
    assert " % ×1" in (await wrenn("top")).out.decode()
    assert (await wrenn("metrics", box, "--range", "1y")).code == 2


async def test_shell_completion_lists_possible_words(monkeypatch: pytest.MonkeyPatch) -> None:
    for shell in ("bash", "zsh", "fish"):
        assert b"_WRENN_COMPLETE" in (await wrenn("completion", shell)).out
    monkeypatch.setenv("_WRENN_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", "wrenn pau")
    monkeypatch.setenv("COMP_CWORD", "1")
    # By its own name, from which the variable's is made.
    program = str(Path(sys.executable).with_name("wrenn"))
    process = await asyncio.create_subprocess_exec(program, stdout=PIPE)
    assert (await process.communicate())[0].split() == [b"pause"]


async def test_a_bar_is_drawn_on_a_terminal_only(box: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(500_000))
    controller, terminal = os.openpty()
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wrenn.cli.main",
        "cp",
        str(tmp_path / "file"),
        f"{box}:/x",
        stdout=PIPE,
        stderr=terminal,
        env={**os.environ, "TERM": "xterm"},  # a bar is not drawn on a dumb one
    )
    os.close(terminal)
    drawn = await asyncio.to_thread(drain, controller)
    assert (await process.communicate())[0] == b""
    assert process.returncode == 0
    assert b"kB" in drawn
    assert drawn.rstrip().endswith(b"488.3 KB copied")


def drain(controller: int) -> bytes:
    drawn = b""
    with contextlib.suppress(OSError):  # the other end has closed
        while piece := os.read(controller, 65536):
            drawn += piece
    os.close(controller)
    return drawn


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("exec", UNKNOWN, "true"), 3),
        (("rm", UNKNOWN), 3),
        (("pause", UNKNOWN), 3),
        (("fork", UNKNOWN), 3),
        (("snapshot", UNKNOWN), 3),
        (("timeout", UNKNOWN, "--timeout", "5"), 3),
        (("templates", "rm", "no-such"), 3),
        (("templates", "show", "no-such"), 3),
        (("templates", "tag", "no-such", "x"), 3),
        (("create", "--on-expiry", "explode"), 2),
        (("create", "--timeout", "soon"), 2),
        (("create", "--template", "no-such"), 3),
        (("create", "--vcpus", "many"), 2),
        (("create", "--env", "novalue"), 2),
        (("cp", "a", "b"), 2),
        (("up", "--listen", "nowhere"), 2),
        (("no-such-command",), 2),
    ],
)
async def test_bad_input_is_one_sentence_and_its_exit_code(arguments: tuple[str, ...], code: int) -> None:
    ended = await wrenn(*arguments)
    assert ended.code == code
    assert ended.err
    assert "Traceback" not in ended.err


async def test_without_a_key_the_message_says_how_to_get_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WRENN_API_KEY")
    monkeypatch.setenv("WRENN_DATA_DIR", str(tmp_path))
    ended = await wrenn("list")
    assert (ended.code, ended.err) == (
        4,
        "wrenn: No API key: run `wrenn login`, or `wrenn up` (as root), or set WRENN_API_KEY and WRENN_BASE_URL.\n",
    )


async def test_credentials_come_from_the_data_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: Platform
) -> None:
    (tmp_path / "env").write_text(
        f"WRENN_BASE_URL={platform.url}\nWRENN_API_KEY={platform.key}\nexport WRENN_BASE_URL WRENN_API_KEY\n"
    )
    monkeypatch.delenv("WRENN_API_KEY")
    monkeypatch.delenv("WRENN_BASE_URL")
    monkeypatch.setenv("WRENN_DATA_DIR", str(tmp_path))
    assert (await wrenn("list", "--json")).code == 0


async def test_an_unreachable_platform_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_BASE_URL", "http://127.0.0.1:9")
    ended = await wrenn("list")
    assert ended.code == 5
    assert "cannot be reached" in ended.err
