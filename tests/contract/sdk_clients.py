"""Both clients behind one asynchronous face: the synchronous one works in a thread."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from wrenn import AsyncSandbox, Sandbox

# The faces below hand arguments on as they are; their types are those of the SDK, which pyright checks in `src`.


async def _here(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await call(*args, **kwargs)


async def _in_thread(call: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return await asyncio.to_thread(call, *args, **kwargs)


async def _gathered(stream: Any) -> list[bytes]:
    if hasattr(stream, "__aiter__"):
        return [chunk async for chunk in stream]
    return await asyncio.to_thread(lambda: list[bytes](stream))


@dataclass(frozen=True)
class Platform:
    """A live platform and a key of it."""

    url: str
    key: str


class Process:
    """A process handle of either client."""

    def __init__(self, do: Callable[..., Any], handle: Any) -> None:
        self.pid, self.tag = handle.pid, handle.tag
        self._do, self._handle = do, handle

    async def kill(self) -> bool:
        return await self._do(self._handle.kill)

    async def is_running(self) -> bool:
        return await self._do(self._handle.is_running)


class Watch:
    """A watch of either client."""

    def __init__(self, do: Callable[..., Any], watch: Any) -> None:
        self._do, self._watch = do, watch

    async def next(self) -> Any:
        """The next event; None at the end."""
        if hasattr(self._watch, "__anext__"):
            return await anext(self._watch, None)
        return await asyncio.to_thread(next, self._watch, None)

    async def run(self, on_event: Callable[[Any], object]) -> None:
        await self._do(self._watch.run, on_event)

    async def close(self) -> None:
        await self._do(self._watch.close)


class Git:
    """The git of either client."""

    def __init__(self, bound: Callable[..., Any], git: Any) -> None:
        for name in (
            "add", "branches", "checkout", "clone", "commit", "create_branch", "delete_branch", "get_config", "init",
            "pull", "push", "set_config", "status",
        ):  # fmt: skip
            setattr(self, name, bound(getattr(git, name)))

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)


class Box:
    """A sandbox of either client."""

    def __init__(self, do: Callable[..., Any], sandbox: Any) -> None:
        self.id: str = sandbox.id
        self._do = do
        commands, files = sandbox.commands, sandbox.files

        def bound(call: Callable[..., Any]) -> Callable[..., Any]:
            async def run(*args: Any, **kwargs: Any) -> Any:
                return await do(call, *args, **kwargs)

            return run

        self.info, self.ping, self.kill = bound(sandbox.info), bound(sandbox.ping), bound(sandbox.kill)
        self.close, self.is_running = bound(sandbox.close), bound(sandbox.is_running)
        self.pause, self.resume, self.snapshot = (
            bound(sandbox.pause),
            bound(sandbox.resume),
            bound(sandbox.snapshot),
        )
        self.set_timeout, self._fork = bound(sandbox.set_timeout), bound(sandbox.fork)
        self.run, self.processes = bound(commands.run), bound(commands.list)
        self.read, self.write, self.ls = bound(files.read), bound(files.write), bound(files.list)
        self.stat, self.exists, self.make_dir = bound(files.stat), bound(files.exists), bound(files.make_dir)
        self.remove, self.move = bound(files.remove), bound(files.move)
        self.upload, self.download = bound(files.upload), bound(files.download)
        self._commands, self._files = commands, files
        self.run_code, self.create_context = bound(sandbox.run_code), bound(sandbox.code.create_context)
        self.git = Git(bound, sandbox.git)
        self.change, self.ports, self.console = (
            bound(sandbox.change),
            bound(sandbox.ports),
            bound(sandbox.console),
        )
        self.all_processes, self.download_link = bound(sandbox.processes), bound(files.download_link)

    async def watch(self, path: str, **options: Any) -> Watch:
        return Watch(self._do, await self._do(self._files.watch, path, **options))

    async def fork(self, count: int = 1) -> list[Box]:
        return [Box(self._do, copy) for copy in await self._fork(count)]

    async def start(self, cmd: list[str], tag: str | None = None) -> Process:
        return Process(self._do, await self._do(self._commands.run, cmd, background=True, tag=tag))

    async def read_bytes(self, path: str) -> bytes:
        return await self.read(path, format="bytes")

    async def read_stream(self, path: str, **options: Any) -> Iterable[bytes]:
        return await _gathered(self._files.read_stream(path, **options))


class Client(Protocol):
    """Either client."""

    async def create(self, template: str = "minimal", **options: Any) -> Box: ...
    async def connect(self, sandbox_id: str, **options: Any) -> Box: ...
    async def list(self, **options: Any) -> Any: ...
    async def templates(self, kind: Any = None) -> Any: ...
    async def delete_template(self, name: str) -> None: ...
    def context(self) -> Any: ...


class AsyncClient:
    async def create(self, template: str = "minimal", **options: Any) -> Box:
        return Box(_here, await AsyncSandbox.create(template, **options))

    async def connect(self, sandbox_id: str, **options: Any) -> Box:
        return Box(_here, await AsyncSandbox.connect(sandbox_id, **options))

    async def templates(self, kind: Any = None) -> Any:
        return await AsyncSandbox.templates(kind)

    async def delete_template(self, name: str) -> None:
        await AsyncSandbox.delete_template(name)

    async def list(self, **options: Any) -> Any:
        return await AsyncSandbox.list(**options)

    @asynccontextmanager
    async def context(self) -> AsyncGenerator[Box]:
        async with await AsyncSandbox.create() as sandbox:
            yield Box(_here, sandbox)


class SyncClient:
    async def create(self, template: str = "minimal", **options: Any) -> Box:
        return Box(_in_thread, await asyncio.to_thread(Sandbox.create, template, **options))

    async def connect(self, sandbox_id: str, **options: Any) -> Box:
        return Box(_in_thread, await asyncio.to_thread(Sandbox.connect, sandbox_id, **options))

    async def templates(self, kind: Any = None) -> Any:
        return await asyncio.to_thread(Sandbox.templates, kind)

    async def delete_template(self, name: str) -> None:
        await asyncio.to_thread(Sandbox.delete_template, name)

    async def list(self, **options: Any) -> Any:
        return await asyncio.to_thread(Sandbox.list, **options)

    @asynccontextmanager
    async def context(self) -> AsyncGenerator[Box]:
        sandbox = await asyncio.to_thread(Sandbox.create)
        await asyncio.to_thread(sandbox.__enter__)
        try:
            yield Box(_in_thread, sandbox)
        finally:
            await asyncio.to_thread(sandbox.__exit__, None, None, None)


CLIENTS: list[Callable[[], Client]] = [AsyncClient, SyncClient]
