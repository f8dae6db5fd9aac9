"""The agent's client of the guest, on both guests: the real guest agent, and the one in memory that simulations use.

What passes here on both can be relied on in a simulation. A scene is a coroutine: the guest in memory has an event loop of its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest
from conftest import running_at

from wrenn.base import errors as e
from wrenn.base.ids import random_hex
from wrenn.base.secrets import Secret
from wrenn.guest import (
    CommandLine,
    Commands,
    Event,
    Exited,
    Files,
    GuestConnection,
    GuestPorts,
    Identity,
    Output,
    Part,
    Processes,
    Started,
    WriteOptions,
    freeze_processes,
    initialise,
    thaw_processes,
)
from wrenn.guest.connect import ENVD_PORT
from wrenn.protocol.guest import filesystem_pb as pb
from wrenn.testing import virtual_time
from wrenn.testing.simulation import Guest, GuestFaults, GuestMemory, Network, NetworkLoop, Tree

ADDRESS = "127.0.0.85"
TOKEN = Secret("token")
DEADLINE_S = 30.0


@dataclass
class Stage:
    """A guest, and a folder in it."""

    guest: GuestConnection
    place: str
    freezes: bool
    """Whether it has its machine for itself, and so can freeze all programs."""

    async def run(self, *command: str, timeout_s: float = 10, **options: object) -> tuple[int, str, str]:
        """Exit code, output, errors."""
        line = CommandLine(command[0], command[1:], **options)  # type: ignore[arg-type]
        result = await Commands(self.guest).run(line, timeout_s=timeout_s)
        return result.exit_code, result.stdout.decode(), result.stderr.decode()


Scene = Callable[[Stage], Awaitable[None]]
Play = Callable[[Scene], None]


async def _scene(scene: Scene, place: str, *, freezes: bool) -> None:
    guest = GuestConnection(ADDRESS, TOKEN)
    try:
        async with asyncio.timeout(DEADLINE_S):
            await initialise(ADDRESS, identity(), timeout_s=10)
            await scene(Stage(guest, place, freezes))
    finally:
        await guest.close()


def _play_in_memory(scene: Scene) -> None:
    random = Random(1)
    network = Network(lambda: random.uniform(0.0001, 0.001))

    async def main() -> None:
        guest = Guest(GuestMemory(), Tree.of_base(), 0, GuestFaults, random)
        guest.run(running=True)
        network.listen(ADDRESS, guest)
        await _scene(scene, "/var/place", freezes=True)
        guest.end()

    virtual_time.run(
        main,
        lambda: NetworkLoop(lambda _address: network, lambda: None, lambda: random.uniform(0.0001, 0.001)),
    )


@pytest.fixture(params=["envd", "in memory"])
def play(request: pytest.FixtureRequest, place: Path) -> Play:
    """Plays a scene with a fresh guest."""
    if request.param == "in memory":
        return _play_in_memory

    def playing(scene: Scene) -> None:
        with running_at(ADDRESS, ENVD_PORT):
            asyncio.run(_scene(scene, str(place), freezes=False))

    return playing


def identity(token: Secret = TOKEN, former: Secret | None = None) -> Identity:
    return Identity("guest", random_hex(16), {"WHO": "me"}, token, former, "life")


async def parts(*pieces: bytes) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


def test_programs_run_with_their_output_and_exit_code(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        assert await stage.run("echo", "a", "b") == (0, "a b\n", "")
        assert await stage.run("true") == (0, "", "")
        assert await stage.run("false") == (1, "", "")
        assert await stage.run("cat", "missing", cwd="/var") == (
            1, "", "cat: missing: No such file or directory\n",
        )  # fmt: skip
        assert await stage.run("sleep", "0.05") == (0, "", "")
        assert (await stage.run("nonesuch"))[0] == 127
        assert (await stage.run("/bin/nonesuch"))[0] == 127
        with pytest.raises(e.InvalidRequest, match="cwd"):
            await stage.run("true", cwd="/nonesuch")
        with pytest.raises(e.InvalidRequest):
            await stage.run("true", user="nonesuch")

    play(scene)


def test_programs_have_the_variables_of_the_sandbox_and_their_own(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        assert await stage.run("printenv", "WHO") == (0, "me\n", "")
        assert await stage.run("printenv", "WHO", envs={"WHO": "you"}) == (0, "you\n", "")
        assert await stage.run("printenv", "NONESUCH") == (1, "", "")

    play(scene)


def test_a_program_that_takes_too_long_is_killed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        with pytest.raises(e.DeadlineExceeded):
            await stage.run("sleep", "1000", timeout_s=0.3)
        assert await Commands(stage.guest).list() == []

    play(scene)


def test_a_program_whose_call_is_cancelled_is_killed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        commands = Commands(stage.guest)
        running = asyncio.create_task(stage.run("sleep", "1000"))
        while not await commands.list():
            await asyncio.sleep(0.01)
        running.cancel()
        await asyncio.wait({running})
        assert await commands.list() == []

    play(scene)


def test_programs_in_the_background_are_listed_and_signalled(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        commands = Commands(stage.guest)
        first = await commands.start(CommandLine("sleep", ["1000"]), tag="first")
        second = await commands.start(CommandLine("sleep", ["2000"]), tag="")
        listed = {process.pid: process for process in await commands.list()}
        assert listed[first].tag == "first"
        assert (listed[second].cmd, listed[second].args) == ("sleep", ("2000",))
        await commands.signal("first", 15)
        await commands.signal(second, 9, descendants=True)
        while await commands.list():
            await asyncio.sleep(0.01)
        for gone in (first, "first", "nonesuch"):
            with pytest.raises(e.NotFound):
                await commands.signal(gone, 9)

    play(scene)


async def followed(events: AsyncIterator[list[Event]]) -> list[Event]:
    return [event async for batch in events for event in batch]


def test_a_program_is_fed_and_followed_to_its_end(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        async with Processes(stage.guest).start(CommandLine("cat"), stdin=True) as process:
            events = process.events()
            assert await anext(events) == [Started(process.pid, 0, 0)]
            await process.write(b"one")
            assert await anext(events) == [Output("stdout", (b"one",))]
            await process.close_input()
            assert await followed(events) == [Exited(0)]
        with pytest.raises(e.NotFound):
            await process.write(b"two")

    play(scene)


def test_a_program_without_input_reads_none(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        assert await stage.run("cat") == (0, "", "")
        async with Processes(stage.guest).start(CommandLine("sleep", ["1000"])) as process:
            events = process.events()
            await anext(events)
            with pytest.raises(e.AgentFailure, match="stdin"):
                await process.write(b"one")
            await process.kill_quietly()
            assert await followed(events) == [Exited(128 + 9, 9)]

    play(scene)


def test_a_program_is_attached_to_with_and_without_its_former_output(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        processes = Processes(stage.guest)
        async with processes.start(CommandLine("cat"), stdin=True, tag="cat") as process:
            events = process.events()
            await anext(events)
            await process.write(b"one")
            await anext(events)
        async with (
            processes.attach("cat", replay=True, in_terminal=False) as replayed,
            processes.attach(process.pid, replay=False, in_terminal=False) as later,
        ):
            both = [attached.events() for attached in (replayed, later)]
            first = await anext(both[0])
            assert first[0] == Started(process.pid, 0, 3)
            if len(first) == 1:
                first += await anext(both[0])
            assert first[1] == Output("stdout", (b"one",))
            assert await anext(both[1]) == [Started(process.pid, 0, 0)]
            await replayed.write(b"two")
            for events in both:
                assert await anext(events) == [Output("stdout", (b"two",))]
            await replayed.signal(15)
            for events in both:
                assert await followed(events) == [Exited(128 + 15, 15)]
        async with processes.attach("cat", replay=True, in_terminal=False) as ended:
            first, *outputs, last = await followed(ended.events())
            assert (first, last) == (Started(process.pid, 0, 6), Exited(128 + 15, 15))
            pieces = [piece for output in outputs if isinstance(output, Output) for piece in output.pieces]
            assert b"".join(pieces) == b"onetwo"
        with pytest.raises(e.NotFound):
            async with processes.attach("nonesuch", replay=True, in_terminal=False) as gone:
                await followed(gone.events())

    play(scene)


async def read(stage: Stage, path: str, part: Part | None = None) -> tuple[int, bytes, str, str]:
    async with Files(stage.guest).read(path, user="root", part=part or Part()) as download:
        content = b"".join([chunk async for chunk in download.chunks])
        return download.status, content, download.content_range, download.etag


def test_files_are_written_and_read_in_ranges(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        files, path = Files(stage.guest), f"{stage.place}/new/file"
        large = bytes(range(256)) * 2000
        for content in (b"", b"one", large):
            await files.write(path, parts(content[:1000], content[1000:]), user="root")
            status, found, _, etag = await read(stage, path)
            assert (status, found) == (200, content)
        assert etag
        assert (await read(stage, path, Part("bytes=10-19", etag)))[:3] == (
            206, large[10:20], f"bytes 10-19/{len(large)}",
        )  # fmt: skip
        assert (await read(stage, path, Part("bytes=-5")))[:2] == (206, large[-5:])
        status, _, content_range, _ = await read(stage, path, Part(f"bytes={len(large)}-"))
        assert (status, content_range) == (416, f"bytes */{len(large)}")
        await files.write(path, parts(b"other"), user="root", options=WriteOptions(mode="600"))
        assert (await read(stage, path, Part("bytes=0-1", etag)))[:2] == (200, b"other")
        assert (await files.stat(path, user="root")).mode == 0o600
        assert await stage.run("cat", "file", cwd=f"{stage.place}/new") == (0, "other", "")

    play(scene)


def test_directories_are_made_listed_moved_and_removed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        files, root = Files(stage.guest), f"{stage.place}/tree"
        made = await files.make_dir(f"{root}/a/b", user="root")
        assert (made.name, made.path, made.type) == ("b", f"{root}/a/b", pb.FileType.DIRECTORY)
        assert (made.permissions, made.owner, made.group) == ("drwxr-xr-x", "root", "root")
        with pytest.raises(e.Conflict):
            await files.make_dir(f"{root}/a", user="root")
        for name in ("a/b/deep", "a/file", "b"):
            await files.write(f"{root}/{name}", parts(name.encode()), user="root")
        entry = await files.stat(f"{root}/a/file", user="root")
        assert (entry.name, entry.type, entry.size, entry.permissions) == (
            "file", pb.FileType.FILE, 6, "-rw-r--r--",
        )  # fmt: skip

        async def names(depth: int) -> list[str]:
            listed = await files.list(root, depth=depth, user="root")
            return [entry.path.removeprefix(f"{root}/") for entry in listed]

        assert await names(1) == ["a", "b"]
        assert await names(9) == ["a", "a/b", "a/b/deep", "a/file", "b"]
        moved = await files.move(f"{root}/a", f"{root}/c/d", user="root")
        assert moved.path == f"{root}/c/d"
        assert await names(9) == ["b", "c", "c/d", "c/d/b", "c/d/b/deep", "c/d/file"]
        await files.move(f"{root}/b", f"{root}/c/d/file", user="root")
        assert (await read(stage, f"{root}/c/d/file"))[1] == b"b"
        for _ in range(2):
            await files.remove(f"{root}/c/d/b", user="root")
        assert await names(9) == ["c", "c/d", "c/d/file"]

    play(scene)


def test_file_operations_that_cannot_succeed_are_refused(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        files, root = Files(stage.guest), f"{stage.place}/tree"
        await files.write(f"{root}/file", parts(b"one"), user="root")
        await files.write(f"{root}/full/file", parts(b"one"), user="root")
        await files.make_dir(f"{root}/other/inner", user="root")
        for path in ("missing", "missing/file"):
            with pytest.raises(e.NotFound):
                await files.stat(f"{root}/{path}", user="root")
            with pytest.raises(e.NotFound):
                await read(stage, f"{root}/{path}")
            with pytest.raises(e.NotFound):
                await files.list(f"{root}/{path}", depth=1, user="root")
            with pytest.raises(e.NotFound):
                await files.move(f"{root}/{path}", f"{root}/new", user="root")
        with pytest.raises(e.InvalidRequest):
            await read(stage, root)
        with pytest.raises(e.InvalidRequest):
            await files.write(root, parts(b""), user="root")
        with pytest.raises(e.InvalidRequest):
            await files.write(f"{root}/file/inner", parts(b""), user="root")
        with pytest.raises(e.InvalidRequest):
            await files.list(f"{root}/file", depth=1, user="root")
        with pytest.raises(e.InvalidRequest):
            await files.make_dir(f"{root}/file", user="root")
        with pytest.raises(e.InvalidRequest):
            await files.move(f"{root}/file", f"{root}/full", user="root")
        with pytest.raises(e.InvalidRequest):
            await files.move(f"{root}/other", f"{root}/other/inner/x", user="root")
        with pytest.raises(e.InvalidState):
            await files.move(f"{root}/other", f"{root}/full", user="root")
        with pytest.raises(e.InvalidRequest):
            await files.remove("/", user="root")
        await files.remove(f"{root}/file/inner", user="root")
        with pytest.raises(e.InvalidRequest):
            await files.stat(root, user="nonesuch")

    play(scene)


def test_only_the_current_token_is_accepted(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        stranger = GuestConnection(ADDRESS, Secret("other"))
        try:
            with pytest.raises(e.WrennError):
                await Commands(stranger).list()
            with pytest.raises(e.InvalidRequest):
                await Files(stranger).remove("/tmp/x", user="root")
        except e.AgentFailure:
            pass
        finally:
            await stranger.close()
        with pytest.raises(e.AgentFailure, match="refused"):
            await initialise(ADDRESS, identity(Secret("b"), Secret("a")), timeout_s=5)
        # A repeated call, whose first answer was lost.
        for _ in range(2):
            await initialise(ADDRESS, identity(Secret("new"), TOKEN), timeout_s=5)
        with pytest.raises(e.WrennError):
            await Commands(stage.guest).list()
        new = GuestConnection(ADDRESS, Secret("new"))
        assert await Commands(new).list() == []
        await new.close()

    play(scene)


def test_no_program_starts_while_programs_are_frozen(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        for _ in range(2):
            assert await freeze_processes(stage.guest, timeout_s=5) == stage.freezes
        with pytest.raises(e.Unavailable, match="stopped"):
            await stage.run("true")
        await Files(stage.guest).write(f"{stage.place}/file", parts(b"one"), user="root")
        for _ in range(2):
            await thaw_processes(stage.guest, timeout_s=5)
        assert await stage.run("true") == (0, "", "")
        await freeze_processes(stage.guest, timeout_s=5)
        await initialise(ADDRESS, identity(TOKEN, TOKEN), timeout_s=5)
        assert await stage.run("true") == (0, "", "")

    play(scene)


def test_a_port_on_which_nothing_listens_is_closed(play: Play) -> None:
    async def scene(stage: Stage) -> None:
        ports = GuestPorts(ADDRESS, stage.guest.headers("root"))
        with pytest.raises(e.PortClosed):
            await ports.dial(1)
        with pytest.raises(e.Forbidden):
            await ports.dial(ENVD_PORT)
        await ports.close()

    play(scene)
