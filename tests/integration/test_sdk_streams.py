"""The SDK's streams and terminals against the control plane, both clients."""

from __future__ import annotations

import asyncio
import threading

import pytest

from wrenn import (
    AsyncSandbox,
    CommandExitError,
    CommandTimeoutError,
    DeadlineExceededError,
    InvalidRequestError,
    InvalidStateError,
    NotFoundError,
    Sandbox,
)

from .conftest import DEADLINE_S, Platform


@pytest.fixture
async def box(platform: Platform) -> AsyncSandbox:
    sandbox_id = (await platform.create()).rpartition("/")[2]
    return await AsyncSandbox.connect(sandbox_id, api_key=platform.key.reveal(), base_url=platform.url)


@pytest.fixture(autouse=True)
async def deadline():
    async with asyncio.timeout(2 * DEADLINE_S):
        yield


async def test_callbacks_get_text_as_it_comes(box: AsyncSandbox):
    said, complained = list[str](), list[str]()

    async def note(text: str) -> None:
        await asyncio.sleep(0)
        said.append(text)

    result = await box.commands.run(
        "printf 'a\\303'; sleep 0.2; printf '\\244'; echo err >&2; exit 3",
        on_stdout=note,
        on_stderr=complained.append,
    )
    assert ("".join(said), "".join(complained)) == ("aä", "err\n")
    assert len(said) == 2
    assert (result.stdout, result.stderr, result.exit_code) == ("aä", "err\n", 3)
    with pytest.raises(CommandExitError):
        await box.commands.run("exit 1", on_stdout=said.append, check=True)
    with pytest.raises(DeadlineExceededError):
        await box.commands.run("sleep 60", on_stdout=said.append, timeout_s=1)
    assert (await box.commands.run(["no-such"], on_stdout=said.append)).exit_code == 127
    with pytest.raises(InvalidRequestError):
        await box.commands.run("true", on_stdout=said.append, background=True)  # type: ignore[call-overload]
    await box.close()


async def test_a_time_limit_keeps_what_was_written_and_a_signal_has_a_name(box: AsyncSandbox):
    said = list[str]()
    for on_stdout in (None, said.append):
        with pytest.raises(CommandTimeoutError) as late:
            await box.commands.run("echo so far; echo oh >&2; sleep 60", timeout_s=1, on_stdout=on_stdout)
        result = late.value.result
        assert (result.stdout, result.stderr, result.timed_out) == ("so far\n", "oh\n", True)
        killed = await box.commands.run("kill -9 $$", on_stdout=on_stdout)
        assert (killed.exit_code, killed.signal, killed.signal_name) == (137, 9, "SIGKILL")
    with pytest.raises(CommandExitError, match="SIGKILL"):
        await box.commands.run("kill -9 $$", check=True)
    await box.close()


async def test_a_result_of_which_the_beginning_is_cut_off_says_so(box: AsyncSandbox):
    said = list[str]()
    long = await box.commands.run("head -c 17000000 /dev/zero", on_stdout=said.append)
    assert (long.truncated, len(long.stdout_bytes)) == (True, 16 * 1024 * 1024)
    assert not (await box.commands.run("echo x", on_stdout=said.append)).truncated
    await box.close()


async def test_input_for_a_command_that_has_ended_is_dropped(box: AsyncSandbox):
    async with await box.commands.stream("exit 3", stdin=True) as stream:
        await asyncio.sleep(0)
        for _ in range(200):
            # The platform closes the stream some time in between.
            await stream.send_stdin("x" * 100)
            await asyncio.sleep(0.005)
        await stream.close_stdin()
        assert await stream.wait() == 3
        await stream.send_stdin("x")
    await box.close()


async def test_a_stream_takes_input_and_gives_bytes(box: AsyncSandbox):
    async with await box.commands.stream(["cat"], stdin=True) as stream:
        assert stream.pid > 0
        await stream.send_stdin(b"\xff\x00")
        assert (await stream.read()).data == b"\xff\x00"  # type: ignore[union-attr]
        with pytest.raises(DeadlineExceededError):
            await stream.read(timeout_s=0.05)
        await stream.send_stdin("é")
        await stream.close_stdin()
        assert [output.text async for output in stream] == ["é"]
        assert stream.exit_code == await stream.wait() == 0
        assert not await stream.kill()
    async with await box.commands.stream("echo x") as stream:
        with pytest.raises(InvalidRequestError, match="stdin=True"):
            await stream.send_stdin("x")
    with pytest.raises(InvalidRequestError):
        await box.commands.stream(["true"], cwd="relative")
    await box.close()


async def test_a_process_is_left_and_come_back_to(box: AsyncSandbox):
    script = "echo one; while [ ! -e go ]; do sleep 0.02; done; echo two"
    async with await box.commands.stream(script, tag="job", on_disconnect="keep") as stream:
        await stream.read()
    async with (
        await box.commands.connect("job") as again,
        await box.commands.connect(stream.pid, replay=False) as late,
    ):
        assert again.replayed == 4
        await box.files.write("/root/go", "")
        assert "".join([output.text async for output in again]) == "one\ntwo\n"
        assert "".join([output.text async for output in late]) == "two\n"
    with pytest.raises(NotFoundError):
        await box.commands.connect("none")
    handle = await box.commands.run("trap 'exit 9' USR1; while :; do sleep 0.02; done", background=True)
    async with await handle.connect() as stream:
        assert await stream.signal("SIGUSR1")
        assert await stream.wait() == 9
    await box.close()


async def test_a_terminal_is_typed_into(platform: Platform, box: AsyncSandbox):
    async with await box.pty.create("/bin/sh", cols=90, rows=30, envs={"PS1": ""}) as terminal:
        assert terminal.tag.startswith("pty-")
        await terminal.send_input("stty size\n")
        shown = b""
        async for data in terminal:
            shown += data
            if b"30 90" in shown:
                break
        await terminal.resize(100, 40)
        async with await box.pty.connect(terminal.tag) as second:
            assert second.replayed > 0
            await second.send_input("exit 4\n")
            assert await second.wait() == 4
        assert await terminal.wait() == 4
    with pytest.raises(NotFoundError):
        await box.pty.connect("none")
    stream = await box.commands.stream(["sleep", "60"])
    await box.pause()
    with pytest.raises(InvalidStateError, match="paused"):
        await stream.wait()
    await box.close()


async def test_the_synchronous_client_does_the_same(platform: Platform, box: AsyncSandbox):
    def use() -> None:
        sandbox = Sandbox.connect(box.id, api_key=platform.key.reveal(), base_url=platform.url)
        said: list[str] = []
        assert sandbox.commands.run("echo x; exit 2", on_stdout=said.append).exit_code == 2
        assert said == ["x\n"]
        with sandbox.commands.stream(["cat"], stdin=True) as stream:

            def feed() -> None:
                for number in range(100):
                    stream.send_stdin(f"{number}\n")
                stream.close_stdin()

            feeding = threading.Thread(target=feed)
            feeding.start()
            assert "".join(output.text for output in stream).split() == [str(n) for n in range(100)]
            feeding.join()
            assert stream.exit_code == 0
        with sandbox.pty.create(["/bin/sh", "-c", "tty"]) as terminal:
            assert b"/dev/pts/" in b"".join(terminal)
            assert terminal.exit_code == 0
        with sandbox.commands.stream("sleep 60") as stream:
            with pytest.raises(DeadlineExceededError):
                stream.read(timeout_s=0.05)
            assert stream.kill()
            assert stream.wait() == 137
        sandbox.close()

    await asyncio.to_thread(use)
    await box.close()
