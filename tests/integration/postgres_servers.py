"""PostgreSQL servers of a test's own: to be ended in any way, and a standby that takes over."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Generator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

DEADLINE_S = 15.0


@contextmanager
def postgres_folder() -> Generator[Path]:
    """A folder that the user of PostgreSQL may pass through."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-test-"))
    folder.chmod(0o711)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)


def copy_server(made: Path, folder: Path) -> None:
    """Copy a server that does not run, which takes a tenth of the time of making one; its programs are the same files."""
    for name, how in (("postgres", "-a"), ("postgres-programs", "-al")):
        # Without root there are no programs of its own.
        if (made / name).exists():
            subprocess.run(["cp", how, made / name, folder / name], check=True)


def postmaster(folder: Path) -> int:
    """The first process of the server of a data folder."""
    return int((folder / "postgres/postmaster.pid").read_text().split()[0])


def processes(folder: Path) -> list[int]:
    """That process, and all others of the server."""
    pid = postmaster(folder)
    return [pid, *map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())]


async def end(folder: Path, how: signal.Signals) -> None:
    """End the server by a signal: SIGINT breaks off sessions, SIGQUIT does not even write a checkpoint."""
    pid = postmaster(folder)
    os.kill(pid, how)
    async with asyncio.timeout(DEADLINE_S):
        while Path(f"/proc/{pid}/cwd").exists():
            await asyncio.sleep(0.01)


@dataclass
class Standby:
    """A server that follows another one. Both are reached by TCP, through ports of this process.

    Attributes:
        url: of the database; names both servers.
    """

    url: str
    folder: Path
    programs: Path

    async def promote(self) -> None:
        """Let it accept writes."""
        await self.run("pg_ctl", "promote", "-w", "-D", str(self.folder / "postgres"))

    async def run(self, program: str, *arguments: str) -> None:
        """Run a program of PostgreSQL as the user of the servers."""
        owner = self.folder.stat()
        process = await asyncio.create_subprocess_exec(
            self.programs / program,
            *arguments,
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
            env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
            cwd="/",
            user=owner.st_uid,
            group=owner.st_gid,
            extra_groups=[],
        )
        async with asyncio.timeout(DEADLINE_S):
            code = await process.wait()
        log = self.folder / "log"
        assert code == 0, f"{program} failed\n{log.read_text() if log.exists() else ''}"


@asynccontextmanager
async def standby_of(primary: Path) -> AsyncGenerator[Standby]:
    """A standby of the server in `primary`, which follows it."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(postgres_folder())
        # The backup has the lock file of the primary's socket.
        sockets = [primary / "postgres", folder]
        ports = [await stack.enter_async_context(_forwarded(each / ".s.PGSQL.5432")) for each in sockets]
        servers = ",".join(f"127.0.0.1:{port}" for port in ports)
        programs = Path(f"/proc/{postmaster(primary)}/exe").readlink().parent
        standby = Standby(f"postgresql://wrenn@{servers}/wrenn", folder, programs)
        owner = (primary / "postgres").stat()
        os.chown(folder, owner.st_uid, owner.st_gid)
        data = str(folder / "postgres")
        source = f"host={primary / 'postgres'} user=wrenn"
        await standby.run("pg_basebackup", "-D", data, "-d", source, "-R", "-X", "stream", "-c", "fast")
        options = ["-o", f"-k {folder}", "-l", str(folder / "log")]
        await standby.run("pg_ctl", "start", "-w", "-D", data, *options)
        try:
            yield standby
        finally:
            await standby.run("pg_ctl", "stop", "-m", "immediate", "-D", data)


@asynccontextmanager
async def _forwarded(unix_socket: Path) -> AsyncGenerator[int]:
    """A port of loopback whose connections go to a Unix socket."""

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except OSError:
            pass
        finally:
            writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            far_reader, far_writer = await asyncio.open_unix_connection(unix_socket)
        except OSError:
            writer.close()
            return
        await asyncio.gather(pump(reader, far_writer), pump(far_reader, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
