"""What people type every day: look at a sandbox, copy several files, pipe, and mistakes that are told in words."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from wrenn import AsyncSandbox, InvalidRequestError

from .conftest import Platform, client
from .test_control_inspection import console_of
from .typed_commands import sandbox_id, wrenn

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.fixture
def platform(team_platform: Platform) -> Platform:
    """The module's, with a team of the test's own."""
    return team_platform


async def test_a_sandbox_its_files_and_its_processes_are_looked_at(platform: Platform):
    path = await platform.create(timeout_sec=600)
    box = sandbox_id(path)
    code, out, _ = await wrenn(platform, "info", box)
    assert code == 0
    assert {"id         " + box, "status     running", "idle       pause after 600 s"} <= set(
        out.splitlines()
    )
    assert box in (await wrenn(platform, "ls"))[1]
    (platform.host.root_of(box) / "root/file").write_text("content")
    code, out, _ = await wrenn(platform, "ls", "--json", f"{box}:/root")
    assert (code, [entry["name"] for entry in json.loads(out)]) == (0, ["file"])
    assert "file" in (await wrenn(platform, "ls", f"{box}:/root"))[1]
    await platform.api.post(
        f"{path}/exec", json={"cmd": "sleep", "args": ["600"], "background": True, "tag": "job"}
    )
    assert "job  sleep 600" in (await wrenn(platform, "ps", box))[1]
    code, out, _ = await wrenn(platform, "ps", "--all", box)
    assert code == 0
    assert any("job" in line and line.endswith("sleep 600") for line in out.splitlines())
    code, out, _ = await wrenn(platform, "ports", "--json", box)
    assert (code, type(json.loads(out))) == (0, list)
    code, _, _ = await wrenn(platform, "set", box, "--name", "renamed", "-l", "a=b", "--public-port", "8000")
    assert code == 0
    found = json.loads((await wrenn(platform, "list", "--search", "renamed", "--json"))[1])
    assert [(each["id"], each["public_ports"]) for each in found] == [(box, [8000])]
    assert json.loads((await wrenn(platform, "list", "--search", "other text", "--json"))[1]) == []
    await wrenn(platform, "set", box, "--public-port", "0")
    assert (await platform.api.get(path)).json()["public_ports"] == []
    console_of(platform, box).write_text("booted\x1b[2J\u202e\n")
    assert (await wrenn(platform, "console", box))[1] == "booted[2J\n"
    code, out, _ = await wrenn(platform, "download-link", f"{box}:/root/file")
    async with client(platform.url, None) as browser:
        assert (await browser.get(out.strip())).text == "content"
    code, out, _ = await wrenn(
        platform, "audit", "--search", f"set_public_ports {box}", "--since", "2020-01-01", "--json"
    )
    assert [entry["action"] for entry in json.loads(out)] == ["set_public_ports"] * 2
    assert (await wrenn(platform, "audit", "--follow", "--search", "x"))[0] == 2


async def test_several_files_are_copied_and_a_dash_is_a_pipe(platform: Platform, tmp_path: Path):
    box = sandbox_id(await platform.create())
    root = platform.host.root_of(box)
    for name in ("a", "b"):
        (tmp_path / name).write_text(name)
    (root / "root/into").mkdir()
    here = [str(tmp_path / name) for name in ("a", "b")]
    assert (await wrenn(platform, "cp", *here, f"{box}:/root/into"))[0] == 0
    assert sorted(path.read_text() for path in (root / "root/into").iterdir()) == ["a", "b"]
    (tmp_path / "back").mkdir()
    there = [f"{box}:/root/into/{name}" for name in ("a", "b")]
    assert (await wrenn(platform, "cp", *there, str(tmp_path / "back")))[0] == 0
    assert (tmp_path / "back/b").read_text() == "b"
    assert (await wrenn(platform, "cp", "-", f"{box}:/root/piped", stdin=b"in"))[0] == 0
    assert await wrenn(platform, "cp", f"{box}:/root/piped", "-") == (0, "in", "")
    for wrong in (
        [*here, f"{box}:/root/piped"],
        [here[0], here[1]],
        [here[0]],
        [*there, str(tmp_path / "a")],
    ):
        assert (await wrenn(platform, "cp", *wrong))[0] == 2


async def test_mistakes_have_readable_messages(platform: Platform):
    box = sandbox_id(await platform.create())
    code, _, err = await wrenn(platform, "exec", "", "true")
    assert (code, err) == (2, "wrenn: The sandbox id is empty.\n")
    for words in (
        ["exec", box, os.fsdecode(b"\xff")],
        ["rm", os.fsdecode(b"\xff")],
        ["create", "-e", os.fsdecode(b"A=\xff")],
    ):
        code, _, err = await wrenn(platform, *words)
        assert code != 0
        assert "Traceback" not in err
    with socket.create_server(("127.0.0.1", 0)) as taken:
        number = taken.getsockname()[1]
        code, _, err = await wrenn(platform, "port", box, "80", str(number))
        assert (code, f"port {number} of this machine is in use" in err) == (2, True), err
    code, out, _ = await wrenn(platform, "whoami")
    assert (code, platform.url in out, platform.key.reveal() in out) == (0, True, False)


async def test_no_time_limit_is_zero_and_contents_are_what_has_bytes(platform: Platform, tmp_path: Path):
    sandbox = await AsyncSandbox.connect(
        sandbox_id(await platform.create()), api_key=platform.key.reveal(), base_url=platform.url + "/v1"
    )
    for limit in (0, None):
        assert (await sandbox.commands.run("echo x", timeout_s=limit)).stdout == "x\n"
    answer = await platform.api.post(
        f"/v1/sandboxes/{sandbox.id}/exec", json={"cmd": "echo", "args": ["x"], "timeout_sec": 0}
    )
    assert (answer.status_code, answer.json()["stdout"]) == (200, "x\n")
    (tmp_path / "local").write_bytes(b"\xff")
    for data, expected in (
        (bytearray(b"ab"), b"ab"),
        (memoryview(b"cd"), b"cd"),
        (tmp_path / "local", b"\xff"),
    ):
        await sandbox.files.write("/root/f", data)
        assert await sandbox.files.read("/root/f", "bytes") == expected
    with pytest.raises(InvalidRequestError, match="cannot be read"):
        await sandbox.files.write("/root/f", tmp_path / "missing")
    await sandbox.close()
