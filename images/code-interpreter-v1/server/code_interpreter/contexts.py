"""Contexts: kernels with a state of their own, one run of code at a time."""

from __future__ import annotations

import asyncio
import shutil
import sys
import tempfile
import uuid
from pathlib import Path
from typing import Any

from jupyter_client.kernelspec import KernelSpec, KernelSpecManager, NoSuchKernel
from jupyter_client.manager import AsyncKernelManager

_START_TIMEOUT_S = 120.0
_CONTEXTS_LIMIT = 64
_PACKAGE_PARENT = Path(__file__).resolve().parent.parent
_ALIASES = {"js": "javascript", "ts": "typescript", "py": "python", "python3": "python", "sh": "bash"}
_OWN_KERNELS = {
    "python": "code_interpreter.kernels.python",
    "javascript": "code_interpreter.kernels.javascript",
    "typescript": "code_interpreter.kernels.javascript",
    "bash": "code_interpreter.kernels.bash",
}
_PROGRAMS = {"javascript": "node", "typescript": "node", "bash": "bash"}
_PREFIX = "code-"
"""Before the language in names of kernels, as Jupyter has a kernel `python` of its own."""
_INSTALLED_KERNELS = {"r": "ir", "java": "java"}
"""Kernels that are used if they are installed, by language."""


class UnknownContextError(Exception):
    """There is no context with this id."""


class UnsupportedError(Exception):
    """What was asked for cannot be: a language without kernel, a directory that is missing, too many contexts."""


class _Kernels(KernelSpecManager):
    """Finds the kernels here, and those that are installed for Jupyter."""

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        language = kernel_name.removeprefix(_PREFIX)
        module = _OWN_KERNELS.get(language)
        if module is None:
            return super().get_kernel_spec(_INSTALLED_KERNELS.get(language, language))
        program = _PROGRAMS.get(language)
        if program is not None and shutil.which(program) is None:
            raise NoSuchKernel(kernel_name)
        return KernelSpec(
            argv=[sys.executable, "-m", module, "-f", "{connection_file}", *_options(language)],
            display_name=language,
            language=language,
            interrupt_mode="signal",
            env={
                "PYTHONPATH": str(_PACKAGE_PARENT),
                "MPLBACKEND": "module://matplotlib_inline.backend_inline",
            },
        )


def _options(language: str) -> list[str]:
    return ["--typescript"] if language == "typescript" else []


class Context:
    """One kernel. `lock`: held by who runs code in it, or restarts it."""

    def __init__(self, language: str, cwd: str) -> None:
        self.id = str(uuid.uuid4())
        self.language = language
        self.cwd = cwd
        self.lock = asyncio.Lock()
        self.restarts = 0
        """How often the kernel was replaced: who waits for the former one sees that it is gone."""
        self._folder = tempfile.TemporaryDirectory(prefix="context-")
        """Of the connection file and its sockets, which nobody else may reach."""
        self._manager: AsyncKernelManager | None = None
        """Of the kernel that runs; a manager cannot start a second one."""
        self._client: Any = None
        self._changing = asyncio.Lock()
        """Held while the kernel is started or ended."""
        self.ended = False

    def to_json(self) -> dict[str, str]:
        """Return what clients see."""
        return {"id": self.id, "language": self.language, "cwd": self.cwd}

    @property
    def client(self) -> Any:
        """The channels to the kernel, which are others after a restart."""
        return self._client

    async def start(self) -> None:
        """Start the kernel and wait until it answers. Undone if it does not."""
        async with self._changing:
            await self._start()

    async def is_alive(self) -> bool:
        """Whether the kernel's process runs."""
        return self._manager is not None and bool(await self._manager.is_alive())

    async def interrupt(self) -> None:
        """Interrupt what runs; nothing if the kernel is gone."""
        if self._manager is not None and await self._manager.is_alive():
            await self._manager.interrupt_kernel()

    async def restart(self) -> None:
        """Replace the kernel by a new one, with nothing of its state; does nothing after `stop`."""
        async with self._changing:
            if not self.ended:
                await self._shut_down()
                await self._start()

    async def stop(self) -> None:
        """End the kernel for good; twice is the same as once."""
        self.ended = True
        async with self._changing:
            await self._shut_down()
            self._folder.cleanup()

    async def _start(self) -> None:
        manager = self._manager = AsyncKernelManager(
            kernel_name=_PREFIX + self.language,
            kernel_spec_manager=_Kernels(),
            transport="ipc",
            connection_file=f"{self._folder.name}/kernel-{self.restarts}.json",
        )
        try:
            await manager.start_kernel(cwd=self.cwd)
            self._client = manager.client()
            self._client.start_channels()
            await self._client.wait_for_ready(timeout=_START_TIMEOUT_S)
        except BaseException:
            await self._shut_down()
            raise

    async def _shut_down(self) -> None:
        self.restarts += 1
        client, self._client = self._client, None
        if client is not None:
            client.stop_channels()
        manager, self._manager = self._manager, None
        if manager is not None and manager.has_kernel:
            await manager.shutdown_kernel(now=True)


class Contexts:
    """All contexts, and which is the default of a language."""

    def __init__(self, *, default_cwd: str) -> None:
        self._default_cwd = default_cwd
        self._contexts: dict[str, Context] = {}
        self._defaults: dict[str, Context] = {}
        self._starting: dict[str, asyncio.Lock] = {}
        self._reserved = 0

    def all(self) -> list[Context]:
        """Return the contexts, oldest first."""
        return list(self._contexts.values())

    def get(self, context_id: str) -> Context:
        """Return a context. Raises UnknownContextError."""
        try:
            return self._contexts[context_id]
        except KeyError:
            raise UnknownContextError(f"Context {context_id[:80]} not found") from None

    async def default(self, language: str) -> Context:
        """Return the context of a language that code without context runs in; it is made at the first use. Raises UnsupportedError."""
        language = _ALIASES.get(language, language)
        async with self._starting.setdefault(language, asyncio.Lock()):
            found = self._defaults.get(language)
            if found is None:
                try:
                    found = await self.create(language, None)
                finally:
                    if not self._defaults.get(language) and found is None:
                        self._starting.pop(language, None)
                self._defaults[language] = found
            return found

    async def create(self, language: str, cwd: str | None) -> Context:
        """Start a new context. Raises UnsupportedError."""
        language = _ALIASES.get(language, language)
        directory = cwd or self._default_cwd
        if "\0" in directory or not Path(directory).is_dir():
            raise UnsupportedError(f"There is no directory {directory[:200]}")
        if len(self._contexts) + self._reserved >= _CONTEXTS_LIMIT:
            raise UnsupportedError(f"There are {_CONTEXTS_LIMIT} contexts already; remove one")
        context = Context(language, directory)
        self._reserved += 1
        try:
            await context.start()
        except NoSuchKernel as error:
            raise UnsupportedError(f"Language {language[:80]} is not supported") from error
        finally:
            self._reserved -= 1
        self._contexts[context.id] = context
        return context

    async def remove(self, context_id: str) -> None:
        """End a context; what runs in it ends with an error. Raises UnknownContextError."""
        context = self.get(context_id)
        del self._contexts[context_id]
        if self._defaults.get(context.language) is context:
            del self._defaults[context.language]
        await context.stop()

    async def restart(self, context_id: str) -> None:
        """Give a context a new kernel; what runs in it ends with an error. Raises UnknownContextError."""
        context = self.get(context_id)
        await context.restart()

    async def close(self) -> None:
        """End all contexts."""
        for context_id in list(self._contexts):
            await self.remove(context_id)
