"""A guest agent inside the test's event loop: the part of envd's API that the host agent uses, with state.

It speaks the same bytes as envd, by aiohttp's server on connections in memory. `Guest` is one boot or restore; `GuestMemory` is
what a snapshot of its memory contains. Missing compared with envd: terminals, file events, directory trees as archives, ports, and
permissions.
"""

from __future__ import annotations

import asyncio
import base64
import posixpath
import struct
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import xxhash
from aiohttp import web
from protobuf import Oneof

from wrenn.protocol.guest import filesystem_pb, process_pb
from wrenn.testing.simulation.guest_error import GuestError
from wrenn.testing.simulation.network import MemoryTransport
from wrenn.testing.simulation.processes import Process, Processes
from wrenn.testing.simulation.tree import Tree

ENVD_PORT: Final = 49983
_FRAME: Final = struct.Struct(">BI")
_END: Final = 0x02
_HOMES: Final = {"root": "/root", "user": "/home/user"}


@dataclass(slots=True)
class GuestFaults:
    """What is wrong with one guest, from now on.

    Attributes:
        boots: False: it never answers after its next start.
        late_s: added to the time of each answer.
        is_silent: it accepts requests and does not answer.
        speaks_rubbish: it answers with bytes that mean nothing.
    """

    boots: bool = True
    late_s: float = 0.0
    is_silent: bool = False
    speaks_rubbish: bool = False


@dataclass(slots=True)
class GuestMemory:
    """What is lost without the machine's memory."""

    token: str = ""
    hostname: str = "localhost"
    envs: dict[str, str] = field(default_factory=dict[str, str])
    is_frozen: bool = False
    processes: dict[str, Any] = field(default_factory=dict[str, Any])


class Guest:
    """A running guest. Implements `wrenn.testing.simulation.network.Listener`.

    Attributes:
        memory: its memory, in which `processes` is only up to date after `save`.
        tree: its files.
        disk_b: size of its disk.
        processes: its processes.
    """

    def __init__(
        self, memory: GuestMemory, tree: Tree, disk_b: int, faults: Callable[[], GuestFaults], random: Random
    ) -> None:
        self.memory = memory
        self.tree = tree
        self.disk_b = disk_b
        self._faults = faults
        self._random = random
        self.processes = Processes(tree, lambda: random.uniform(0.0005, 0.02), memory.processes)
        self._server = web.Server(self._serve, handler_cancellation=True, access_log=None)
        self._connections: dict[MemoryTransport, None] = {}
        self._runs = asyncio.Event()
        self._grown_b = disk_b

    @property
    def faults(self) -> GuestFaults:
        """What is wrong with it now."""
        return self._faults()

    def run(self, *, running: bool) -> None:
        """Let its virtual CPUs run, or stand still."""
        self._runs.set() if running else self._runs.clear()
        for transport in list(self._connections):
            transport.halt(halted=not running)
        self.processes.run(running=running and not self.memory.is_frozen)

    def save(self) -> GuestMemory:
        """Return a copy of the memory of a guest that stands still."""
        memory = self.memory
        return GuestMemory(
            memory.token, memory.hostname, dict(memory.envs), memory.is_frozen, self.processes.saved()
        )

    def end(self) -> None:
        """End with the machine: connections break without a sign to the other end."""
        self.run(running=False)
        for transport in list(self._connections):
            transport.cut()

    async def accept(self, port: int) -> asyncio.Protocol | None:
        """Accept a connection, once the guest runs."""
        await self._runs.wait()
        return self._server() if port == ENVD_PORT else None

    def accepted(self, transport: MemoryTransport) -> None:
        """Remember a connection, to halt and cut it."""
        self._connections[transport] = None
        transport.on_lost = self._forget

    def _forget(self, transport: MemoryTransport) -> None:
        self._connections.pop(transport, None)

    async def _serve(self, request: web.BaseRequest) -> web.StreamResponse:
        faults = self.faults
        await self._work(self._random.uniform(0.0002, 0.005) + faults.late_s)
        if faults.is_silent:
            await asyncio.get_running_loop().create_future()
        if faults.speaks_rubbish:
            return self._rubbish(request)
        try:
            self._check_token(request)
            return await self._dispatch(request)
        except GuestError as error:
            return web.Response(status=error.status, body=error.body(), content_type="application/json")

    async def _work(self, time_s: float) -> None:
        """Take some time, and as long as the virtual CPUs stand still."""
        await asyncio.sleep(time_s)
        await self._runs.wait()

    def _rubbish(self, request: web.BaseRequest) -> web.StreamResponse:
        body = self._random.randbytes(self._random.randrange(1, 200))
        kind = self._random.randrange(3)
        if kind == 0 and request.transport is not None:
            request.transport.write(body)
            request.transport.close()
        # 204 and 401 would mean something to a caller of `/init` or `/snapshot/prepare`.
        return web.Response(status=418 if kind == 1 else 203, body=body)

    def _check_token(self, request: web.BaseRequest) -> None:
        if request.path != "/health" and self.memory.token not in (
            "",
            request.headers.get("X-Access-Token", ""),
        ):
            raise GuestError("unauthenticated", "unauthorized access, please provide a valid access token")

    async def _dispatch(self, request: web.BaseRequest) -> web.StreamResponse:
        service, _, method = request.path.strip("/").partition("/")
        if service == "process.Process" and method in ("Start", "Connect"):
            return await self._stream(request, method)
        if service == "process.Process":
            return web.Response(body=self._process_call(method, await request.read()))
        if service == "filesystem.Filesystem":
            return web.Response(body=self._file_call(method, await request.read(), _user_of(request)))
        match request.method, request.path:
            case "GET", "/health":
                return web.Response(status=204)
            case "POST", "/init":
                return self._init(await request.json())
            case "POST", "/snapshot/prepare":
                return self._freeze(frozen=True)
            case "POST", "/snapshot/finish":
                return self._freeze(frozen=False)
            case "POST", "/disk/grow":
                return self._grow(await request.json())
            case "POST", "/disk/settle":
                return web.Response(status=204)
            case "GET", "/files":
                return self._read_file(request)
            case "POST", "/files":
                return await self._write_file(request)
            case _:
                raise GuestError("not_found", "there is nothing at this path")

    def _init(self, body: dict[str, Any]) -> web.StreamResponse:
        self.memory.hostname = body["hostname"]
        self.memory.envs = body["envVars"]
        self.memory.token = body["accessToken"]
        return self._freeze(frozen=False)

    def _freeze(self, *, frozen: bool) -> web.StreamResponse:
        self.memory.is_frozen = frozen
        self.processes.run(running=not frozen)
        return web.Response(status=204)

    def _grow(self, body: dict[str, Any]) -> web.StreamResponse:
        if body["sizeBytes"] > self.disk_b:
            raise GuestError("failed_precondition", "the disk is smaller than that")
        self._grown_b = max(self._grown_b, body["sizeBytes"])
        return web.Response(status=204)

    @property
    def _now(self) -> float:
        return asyncio.get_running_loop().time()

    def _read_file(self, request: web.BaseRequest) -> web.StreamResponse:
        content = self.tree.read(_path_of(request.query.get("path", ""), _user_of(request)))
        headers = {"ETag": f'"{xxhash.xxh3_64_hexdigest(content)}"', "Accept-Ranges": "bytes"}
        is_unchanged = request.headers.get("If-Range", headers["ETag"]) == headers["ETag"]
        if "Range" not in request.headers or not is_unchanged:
            return web.Response(body=content, headers=headers)
        begin, end, _ = request.http_range.indices(len(content))
        if begin >= end:
            return web.Response(status=416, headers=headers | {"Content-Range": f"bytes */{len(content)}"})
        headers["Content-Range"] = f"bytes {begin}-{end - 1}/{len(content)}"
        return web.Response(status=206, body=content[begin:end], headers=headers)

    async def _write_file(self, request: web.BaseRequest) -> web.StreamResponse:
        user = _user_of(request)
        path = _path_of(request.query.get("path", ""), user)
        content = await request.read()
        await self._runs.wait()
        mode = int(request.query["mode"], 8) if "mode" in request.query else None
        owner = request.query.get("owner", user).partition(":")[0]
        self.tree.write(path, content, owner=owner, mode=mode, now=self._now)
        return web.json_response([{"path": path}])

    def _file_call(self, method: str, body: bytes, user: str) -> bytes:
        pb, tree = filesystem_pb, self.tree
        match method:
            case "Stat":
                path = _path_of(pb.StatRequest.from_binary(body).path, user)
                return pb.StatResponse(entry=tree.entry(path)).to_binary()
            case "ListDir":
                asked = pb.ListDirRequest.from_binary(body)
                entries = list(tree.list(_path_of(asked.path, user), depth=asked.depth))
                return pb.ListDirResponse(entries=entries).to_binary()
            case "MakeDir":
                path = _path_of(pb.MakeDirRequest.from_binary(body).path, user)
                tree.make_directory(path, owner=user, now=self._now)
                return pb.MakeDirResponse(entry=tree.entry(path)).to_binary()
            case "Move":
                move = pb.MoveRequest.from_binary(body)
                path = _path_of(move.destination, user)
                tree.move(_path_of(move.source, user), path, owner=user, now=self._now)
                return pb.MoveResponse(entry=tree.entry(path)).to_binary()
            case "Remove":
                tree.remove(_path_of(pb.RemoveRequest.from_binary(body).path, user))
                return pb.RemoveResponse().to_binary()
            case _:
                raise GuestError("unimplemented", f'there is no method "{method}"')

    def _process_call(self, method: str, body: bytes) -> bytes:
        pb, processes = process_pb, self.processes
        match method:
            case "List":
                infos = [
                    pb.ProcessInfo(
                        config=pb.ProcessConfig(cmd=process.cmd, args=process.args),
                        pid=process.pid,
                        tag=process.tag or None,
                    )
                    for process in processes.live()
                ]
                return pb.ListResponse(processes=infos).to_binary()
            case "SendSignal":
                signal = pb.SendSignalRequest.from_binary(body)
                processes.signal(processes.find(_selector(signal.process)), int(signal.signal))
                return pb.SendSignalResponse().to_binary()
            case "SendInput":
                given = pb.SendInputRequest.from_binary(body)
                process = processes.find(_selector(given.process))
                data = given.input.input if given.input is not None else None
                if data is not None and data.field == "pty":
                    text = f"process {process.pid} has no terminal: send stdin"
                    raise GuestError("failed_precondition", text)
                if data is not None:
                    processes.give_input(process, data.value)
                return pb.SendInputResponse().to_binary()
            case "CloseStdin":
                processes.close_input(
                    processes.find(_selector(pb.CloseStdinRequest.from_binary(body).process))
                )
                return pb.CloseStdinResponse().to_binary()
            case _:
                raise GuestError("unimplemented", f'there is no method "{method}"')

    async def _stream(self, request: web.BaseRequest, method: str) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "application/connect+proto"})
        frame = await request.read()
        await self._runs.wait()
        try:
            _, size = _FRAME.unpack_from(frame)
            body = frame[_FRAME.size : _FRAME.size + size]
            if method == "Start":
                process, seen, start = self._start(body, request)
            else:
                process, seen, start = self._attach(body)
        except GuestError as error:
            await response.prepare(request)
            await response.write(_frame(error.end_of_stream(), flags=_END))
            return response
        await response.prepare(request)
        await response.write(_event(Oneof("start", start)))
        await self._follow(process, seen, response, _keepalive_of(request))
        return response

    def _start(self, body: bytes, request: web.BaseRequest) -> tuple[Process, int, Any]:
        asked = process_pb.StartRequest.from_binary(body)
        if self.memory.is_frozen:
            raise GuestError("unavailable", "the sandbox is stopped for a snapshot")
        user, config = _user_of(request), asked.process
        if config is None or not config.cmd:
            raise GuestError("invalid_argument", "the command is empty")
        if asked.pty is not None:
            raise GuestError("unimplemented", "a simulated guest has no terminals")
        cwd = _path_of(config.cwd or ".", user)
        if not self._is_directory(cwd):
            raise GuestError("invalid_argument", f"cwd '{cwd}' does not exist or is no directory")
        limit_ms = request.headers.get("Connect-Timeout-Ms")
        process = self.processes.start(
            config.cmd,
            list(config.args),
            envs={"HOME": _HOMES[user], "USER": user, **self.memory.envs, **config.envs},
            cwd=cwd,
            tag=asked.tag or "",
            takes_input=asked.stdin is not False,
            limit_s=int(limit_ms) / 1000 if limit_ms else None,
        )
        return process, 0, process_pb.ProcessEvent.StartEvent(pid=process.pid)

    def _is_directory(self, path: str) -> bool:
        try:
            return self.tree.node(path, doing="enter").is_directory
        except GuestError:
            return False

    def _attach(self, body: bytes) -> tuple[Process, int, Any]:
        asked = process_pb.ConnectRequest.from_binary(body)
        process = self.processes.find_result(_selector(asked.process))
        if not asked.replay:
            return process, len(process.output), process_pb.ProcessEvent.StartEvent(pid=process.pid)
        replayed = sum(len(base64.b64decode(data)) for _, data in process.output)
        return process, 0, process_pb.ProcessEvent.StartEvent(pid=process.pid, replayed=replayed)

    async def _follow(
        self, process: Process, seen: int, response: web.StreamResponse, keepalive_s: float | None
    ) -> None:
        """Send what the process writes, and its end."""
        pb = process_pb.ProcessEvent
        while True:
            await self._runs.wait()
            for stream, data in process.output[seen:]:
                written = base64.b64decode(data)
                if stream == "stdout":
                    event = pb.DataEvent(output=Oneof("stdout", written))
                else:
                    event = pb.DataEvent(output=Oneof("stderr", written))
                await response.write(_event(Oneof("data", event)))
                seen += 1
            if process.ended is not None and seen == len(process.output):
                break
            if not await self.processes.wait_changed(keepalive_s):
                await response.write(_event(Oneof("keepalive", pb.KeepAlive())))
        code, signal = process.ended
        if process.is_overdue:
            error = GuestError("deadline_exceeded", "the process did not end in time and was killed")
            await response.write(_frame(error.end_of_stream(), flags=_END))
            return
        end = pb.EndEvent(exit_code=code, exited=not signal, signal=signal)
        await response.write(_event(Oneof("end", end)))
        await response.write(_frame(b"{}", flags=_END))
        self.processes.mark_read(process)


def _frame(body: bytes, *, flags: int = 0) -> bytes:
    return _FRAME.pack(flags, len(body)) + body


def _event(event: Any) -> bytes:
    # A `ConnectResponse` has the same fields.
    return _frame(process_pb.StartResponse(event=process_pb.ProcessEvent(event=event)).to_binary())


def _user_of(request: web.BaseRequest) -> str:
    """Return the user that a request names. Raises GuestError."""
    basic = request.headers.get("Authorization", "").removeprefix("Basic ")
    user = request.query.get("username") or base64.b64decode(basic).decode().partition(":")[0] or "root"
    if user not in _HOMES:
        raise GuestError("unauthenticated", f"there is no user '{user}'")
    return user


def _path_of(path: str, user: str) -> str:
    inner = path[1:].lstrip("/") if path == "~" or path.startswith("~/") else path
    return "/" + posixpath.normpath(posixpath.join(_HOMES[user], inner)).lstrip("/")


def _keepalive_of(request: web.BaseRequest) -> float | None:
    interval = request.headers.get("Keepalive-Ping-Interval")
    return float(interval) if interval else None


def _selector(selector: process_pb.ProcessSelector | None) -> int | str:
    if selector is None or selector.selector is None:
        raise GuestError("invalid_argument", "the process is missing")
    return selector.selector.value
