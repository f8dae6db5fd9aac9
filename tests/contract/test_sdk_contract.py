"""The SDK against a live platform: every test runs with the asynchronous and with the synchronous client."""

from __future__ import annotations

import io
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from sdk_clients import CLIENTS, Box, Client

from wrenn import (
    AuthenticationError,
    CommandExitError,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.usefixtures("platform")]


@pytest.fixture(params=CLIENTS, ids=["async", "sync"])
def client(request: pytest.FixtureRequest) -> Client:
    return request.param()


@pytest_asyncio.fixture(loop_scope="module")
async def box(client: Client) -> AsyncIterator[Box]:
    box = await client.create()
    yield box
    await box.kill()


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


async def test_connecting_finds_the_same_sandbox(client: Client, box: Box) -> None:
    await box.write("/tmp/note", "hello")
    again = await client.connect(box.id)
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


async def test_text_runs_through_a_shell_and_a_list_does_not(box: Box) -> None:
    result = await box.run("echo out; echo err >&2; exit 3")
    assert (result.stdout, result.stderr, result.exit_code) == ("out\n", "err\n", 3)
    result = await box.run(["echo", "$HOME; exit 3"])
    assert (result.stdout, result.exit_code) == ("$HOME; exit 3\n", 0)


async def test_a_command_gets_its_environment_and_folder(box: Box) -> None:
    result = await box.run('echo "$A$B"; pwd', envs={"A": "1", "B": "ü"}, cwd="/tmp")
    assert result.stdout == "1ü\n/tmp\n"


async def test_output_that_is_no_text_arrives_byte_for_byte(box: Box) -> None:
    result = await box.run(["printf", r"\377\000\376"])
    assert result.stdout_bytes == b"\xff\x00\xfe"
    assert result.stdout == "\ufffd\x00\ufffd"


async def test_a_missing_command_has_an_exit_code(box: Box) -> None:
    result = await box.run(["no-such-command"])
    assert result.exit_code == 127


async def test_check_raises_with_the_result(box: Box) -> None:
    with pytest.raises(CommandExitError, match="exit code 4: broken") as failed:
        await box.run("echo broken >&2; exit 4", check=True)
    assert failed.value.result.exit_code == 4


async def test_a_command_over_its_limit_is_a_deadline_error(box: Box) -> None:
    with pytest.raises(DeadlineExceededError):
        await box.run("sleep 60", timeout_s=1)


async def test_an_empty_command_is_refused_here(box: Box) -> None:
    with pytest.raises(InvalidRequestError):
        await box.run([])


async def test_a_background_process_is_listed_by_its_tag_until_it_is_killed(box: Box) -> None:
    process = await box.start(["sleep", "60"], tag="sleeper")
    assert process.tag == "sleeper"
    assert await process.is_running()
    listed = await box.processes()
    assert [(one.pid, one.tag, one.args) for one in listed] == [(process.pid, "sleeper", ("60",))]
    assert await process.kill()
    assert not await process.is_running()
    assert not await process.kill()


@pytest.mark.parametrize("content", ["", "text ü\n", b"\x00\xff" * 1000], ids=["empty", "text", "bytes"])
async def test_what_was_written_is_read(box: Box, content: str | bytes) -> None:
    await box.write("/tmp/a folder/ü", content)
    data = content if isinstance(content, bytes) else content.encode()
    assert await box.read_bytes("/tmp/a folder/ü") == data
    assert b"".join(await box.read_stream("/tmp/a folder/ü")) == data


async def test_files_and_iterators_are_streamed(box: Box) -> None:
    data = bytes(range(256)) * 40_000
    await box.write("/tmp/big", data)
    assert await box.read_bytes("/tmp/big") == data
    await box.write("/tmp/big", io.BytesIO(data))
    assert (await box.stat("/tmp/big")).size == len(data)
    await box.write("/tmp/big", iter([b"one", b"two"]))
    assert await box.read("/tmp/big") == "onetwo"


async def test_a_file_that_is_no_text_says_so(box: Box) -> None:
    await box.write("/tmp/a", b"\xff")
    with pytest.raises(InvalidRequestError, match="bytes"):
        await box.read("/tmp/a")


async def test_a_missing_file_is_not_found(box: Box) -> None:
    for call in (box.read, box.stat, box.read_stream):
        with pytest.raises(NotFoundError):
            await call("/tmp/missing")
    assert not await box.exists("/tmp/missing")
    await box.remove("/tmp/missing")


async def test_directories_are_made_listed_moved_and_removed(box: Box) -> None:
    assert await box.make_dir("/tmp/top/inner")
    assert not await box.make_dir("/tmp/top/inner")
    await box.write("/tmp/top/inner/file", "x")
    assert [(entry.name, entry.type) for entry in await box.ls("/tmp/top")] == [("inner", "directory")]
    assert {entry.path for entry in await box.ls("/tmp/top", depth=2)} == {
        "/tmp/top/inner",
        "/tmp/top/inner/file",
    }
    moved = await box.move("/tmp/top/inner/file", "/tmp/top/moved")
    assert (moved.path, moved.size) == ("/tmp/top/moved", 1)
    await box.remove("/tmp/top")
    assert not await box.exists("/tmp/top")
