"""The SDK against a live platform: every test runs with the asynchronous and with the synchronous client."""

from __future__ import annotations

import asyncio
import io

import httpx2
import pytest
from sdk_clients import Box, Client

from wrenn import (
    AuthenticationError,
    CommandExitError,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]


async def test_a_created_sandbox_runs_and_is_listed_until_it_is_killed(client: Client) -> None:
    box = await client.create(vcpus=2, memory_mb=256)
    info = await box.info()
    assert (info.id, info.status, info.vcpus, info.memory_mb) == (box.id, "running", 2, 256)
    assert info.created_at.tzinfo is not None
    assert box.id in [one.id for one in await client.list()]
    await box.ping()
    await box.kill()
    assert not await box.is_running()
    assert box.id not in [one.id for one in await client.list()]
    await box.kill()


async def test_connecting_finds_the_same_sandbox(client: Client, shared_box: Box) -> None:
    await shared_box.write("/tmp/note", "hello")
    again = await client.connect(shared_box.id)
    assert await again.read("/tmp/note") == "hello"
    await again.close()


async def test_an_unknown_sandbox_and_an_unknown_template_are_not_found(client: Client) -> None:
    with pytest.raises(NotFoundError) as refused:
        await client.connect("cl-" + "0" * 25)
    assert (refused.value.code, refused.value.status) == ("not_found", 404)
    with pytest.raises(NotFoundError):
        await client.create(template="no-such-template")


async def test_a_wrong_key_is_an_authentication_error(client: Client) -> None:
    with pytest.raises(AuthenticationError):
        await client.create(api_key="wrn_" + "0" * 40)


async def test_a_killed_sandbox_refuses_a_ping_by_its_state(client: Client) -> None:
    box = await client.create()
    await box.kill()
    with pytest.raises(InvalidStateError):
        await box.ping()
    await box.close()


async def test_the_context_manager_removes_the_sandbox_after_an_error(client: Client) -> None:
    made: list[Box] = []

    async def fail_in_it() -> None:
        async with client.context() as box:
            made.append(box)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail_in_it()
    box = await client.connect(made[0].id)
    assert not await box.is_running()
    await box.close()


async def test_text_runs_through_a_shell_and_a_list_does_not(shared_box: Box) -> None:
    result = await shared_box.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    result = await shared_box.run(["echo", "$HOME; exit 3"])
    assert (result.stdout, result.exit_code) == ("$HOME; exit 3\n", 0)


async def test_a_command_gets_its_environment_and_folder(shared_box: Box) -> None:
    result = await shared_box.run('echo "$A$B"; pwd', envs={"A": "1", "B": "ü"}, cwd="/tmp")
    assert result.stdout == "1ü\n/tmp\n"


async def test_output_that_is_no_text_arrives_byte_for_byte(shared_box: Box) -> None:
    result = await shared_box.run(["printf", r"\377\000\376"])
    assert result.stdout_bytes == b"\xff\x00\xfe"
    assert result.stdout == "\ufffd\x00\ufffd"


async def test_a_missing_command_has_an_exit_code(shared_box: Box) -> None:
    result = await shared_box.run(["no-such-command"])
    assert result.exit_code == 127


async def test_check_raises_with_the_result(shared_box: Box) -> None:
    with pytest.raises(CommandExitError, match="exit code 4: broken") as failed:
        await shared_box.run("echo broken >&2; exit 4", check=True)
    assert failed.value.result.exit_code == 4


async def test_a_command_over_its_limit_is_a_deadline_error(shared_box: Box) -> None:
    with pytest.raises(DeadlineExceededError):
        await shared_box.run("sleep 60", timeout_s=1)


async def test_an_empty_command_is_refused_here(shared_box: Box) -> None:
    with pytest.raises(InvalidRequestError):
        await shared_box.run([])


async def test_a_background_process_is_listed_by_its_tag_until_it_is_killed(shared_box: Box) -> None:
    process = await shared_box.start(["sleep", "60"], tag="sleeper")
    assert process.tag == "sleeper"
    assert await process.is_running()
    listed = await shared_box.processes()
    assert [(one.pid, one.tag, one.args) for one in listed] == [(process.pid, "sleeper", ("60",))]
    assert await process.kill()
    assert not await process.is_running()
    assert not await process.kill()


@pytest.mark.parametrize("content", ["", "text ü\n", b"\x00\xff" * 1000], ids=["empty", "text", "bytes"])
async def test_what_was_written_is_read(shared_box: Box, content: str | bytes) -> None:
    await shared_box.write("/tmp/a folder/ü", content)
    data = content if isinstance(content, bytes) else content.encode()
    assert await shared_box.read_bytes("/tmp/a folder/ü") == data
    assert b"".join(await shared_box.read_stream("/tmp/a folder/ü")) == data


async def test_files_and_iterators_are_streamed(shared_box: Box) -> None:
    data = bytes(range(256)) * 40_000
    await shared_box.write("/tmp/big", data)
    assert await shared_box.read_bytes("/tmp/big") == data
    await shared_box.write("/tmp/big", io.BytesIO(data))
    assert (await shared_box.stat("/tmp/big")).size == len(data)
    await shared_box.write("/tmp/big", iter([b"one", b"two"]))
    assert await shared_box.read("/tmp/big") == "onetwo"


async def test_a_file_that_is_no_text_says_so(shared_box: Box) -> None:
    await shared_box.write("/tmp/a", b"\xff")
    with pytest.raises(InvalidRequestError, match="bytes"):
        await shared_box.read("/tmp/a")


async def test_a_missing_file_is_not_found(shared_box: Box) -> None:
    for call in (shared_box.read, shared_box.stat, shared_box.read_stream):
        with pytest.raises(NotFoundError):
            await call("/tmp/missing")
    assert not await shared_box.exists("/tmp/missing")
    await shared_box.remove("/tmp/missing")


async def test_directories_are_made_listed_moved_and_removed(shared_box: Box) -> None:
    assert await shared_box.make_dir("/tmp/top/inner")
    assert not await shared_box.make_dir("/tmp/top/inner")
    await shared_box.write("/tmp/top/inner/file", "x")
    assert [(entry.name, entry.type) for entry in await shared_box.ls("/tmp/top")] == [("inner", "directory")]
    assert {entry.path for entry in await shared_box.ls("/tmp/top", depth=2)} == {
        "/tmp/top/inner",
        "/tmp/top/inner/file",
    }
    moved = await shared_box.move("/tmp/top/inner/file", "/tmp/top/moved")
    assert (moved.path, moved.size) == ("/tmp/top/moved", 1)
    await shared_box.remove("/tmp/top")
    assert not await shared_box.exists("/tmp/top")


async def test_a_sandbox_is_renamed_and_found_by_a_search(client: Client) -> None:
    box = await client.create(name="before", metadata={"project": "blue"})
    changed = await box.change(name="after the change", metadata={"project": "needle-in-hay"})
    assert (changed.name, changed.labels) == ("after the change", {"project": "needle-in-hay"})
    assert (await box.change(public_ports=[9000, 8000])).public_ports == (8000, 9000)
    assert (await box.info()).name == "after the change"
    assert [one.id for one in await client.list(search="NEEDLE-in")] == [box.id]
    assert await client.list(search="no sandbox has this") == []
    with pytest.raises(InvalidRequestError):
        await box.change()
    await box.kill()
    with pytest.raises(InvalidStateError):
        await box.change(name="too late")
    await box.close()


async def test_what_runs_and_listens_in_a_sandbox_is_read(shared_box: Box) -> None:
    serve = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); time.sleep(60)"
    await shared_box.start(["sh", "-c", f'exec python3 -c "{serve}" > /tmp/port'], tag="listener")
    async with asyncio.timeout(15):
        while not (number := (await shared_box.run("cat /tmp/port 2>/dev/null || true")).stdout.strip()):
            await asyncio.sleep(0.05)
    (found,) = [port for port in await shared_box.ports() if port.port == int(number)]
    assert (found.addresses, found.public) == (("127.0.0.1",), False)
    assert found.host.startswith(f"{number}-{shared_box.id}.")
    (process,) = [process for process in await shared_box.all_processes() if process.tag == "listener"]
    assert process.managed
    assert "create_server" in process.command
    assert isinstance(await shared_box.console(), str)


async def test_a_download_link_works_once(shared_box: Box) -> None:
    await shared_box.write("/tmp/report.txt", "figures")
    link = await shared_box.download_link("/tmp/report.txt")
    async with httpx2.AsyncClient(trust_env=False) as browser:
        assert (await browser.get(link.url)).text == "figures"
        assert (await browser.get(link.url)).status_code == 404
    with pytest.raises(NotFoundError):
        await shared_box.download_link("/tmp/no such file")
