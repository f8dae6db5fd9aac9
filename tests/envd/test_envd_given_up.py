"""A command that is given up before the guest has said that it began: nothing of it runs on."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path

import pytest
from guest_kit import Envd

from wrenn.base.secrets import Secret
from wrenn.guest import CommandLine, Commands, GuestConnection
from wrenn.guest.connect import ENVD_PORT

ADDRESS = "127.0.0.83"
DEADLINE_S = 10.0


@pytest.mark.parametrize("is_late", [False, True], ids=["answer held up", "request held up"])
async def test_a_command_that_is_given_up_before_it_began_is_killed(
    envd: Envd, tmp_path: Path, is_late: bool
) -> None:
    begun = tmp_path / "begun"
    lines = f"echo $$ > {begun}.part; mv {begun}.part {begun}; exec sleep 60"

    async def forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Pass on what comes; of a start the request is late, or the answer never comes."""
        answers, to_guest = await asyncio.open_connection(envd.host, envd.port)
        try:
            request = await reader.read(65536)
            is_start = b"/Start" in request
            if is_start and is_late:
                await asyncio.sleep(0.3)
            to_guest.write(request)
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, to_guest))
                if not is_start:
                    group.create_task(_copy(answers, writer))
        except* ConnectionError:
            pass
        finally:
            to_guest.close()
            writer.close()

    server = await asyncio.start_server(forward, ADDRESS, ENVD_PORT)
    guest = GuestConnection(ADDRESS, Secret("none"))
    try:
        running = asyncio.create_task(
            Commands(guest).run(CommandLine("/bin/sh", ("-c", lines)), timeout_s=30)
        )
        async with asyncio.timeout(DEADLINE_S):
            while not (is_late or begun.exists()):
                await asyncio.sleep(0.01)
            await asyncio.sleep(0.05)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
            assert await Commands(guest).list() == []
            if begun.exists():
                assert not Path(f"/proc/{begun.read_text().strip()}").exists()
    finally:
        await guest.close()
        server.close()
        await server.wait_closed()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while piece := await reader.read(65536):
        writer.write(piece)
        await writer.drain()
    writer.write_eof()
