"""The `wrenn` command as a user types it, against a live platform."""

from __future__ import annotations

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sdk_clients import Platform

pytestmark = pytest.mark.usefixtures("platform")

UNKNOWN = "cl-" + "0" * 25


@dataclass(frozen=True)
class Ended:
    code: int
    out: bytes
    err: str


async def wrenn(*arguments: str, cwd: Path | None = None) -> Ended:
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "wrenn.cli.main", *arguments, stdout=PIPE, stderr=PIPE, cwd=cwd
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    assert process.returncode is not None
    return Ended(process.returncode, out, err.decode())


@pytest.fixture
async def box() -> AsyncIterator[str]:
    sandbox_id = (await wrenn("create")).out.decode().strip()
    yield sandbox_id
    await wrenn("rm", sandbox_id)


async def test_a_sandbox_is_created_listed_and_removed() -> None:
    created = await wrenn("create", "--vcpus", "2", "--json")
    info = json.loads(created.out)
    assert info["vcpus"] == 2
    listed = json.loads((await wrenn("list", "--json")).out)
    assert info["id"] in [one["id"] for one in listed]
    assert info["id"].encode() in (await wrenn("list")).out
    assert (await wrenn("rm", info["id"])).code == 0
    assert info["id"].encode() not in (await wrenn("list", "--json")).out


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


async def test_a_directory_is_refused_with_what_to_do(box: str, tmp_path: Path) -> None:
    ended = await wrenn("cp", str(tmp_path), f"{box}:/tmp/x")
    assert ended.code == 2
    assert "tar" in ended.err


@pytest.mark.parametrize(
    ("arguments", "code"),
    [
        (("exec", UNKNOWN, "true"), 3),
        (("rm", UNKNOWN), 3),
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
        "wrenn: No API key: run `wrenn up` (as root) first, or set WRENN_API_KEY and WRENN_BASE_URL.\n",
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


async def test_a_platform_that_is_away_has_its_own_exit_code(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WRENN_BASE_URL", "http://127.0.0.1:9")
    ended = await wrenn("list")
    assert ended.code == 5
    assert "cannot be reached" in ended.err
