"""Reads what runs and listens in a sandbox, and its console. That is no activity, and it resumes no paused sandbox: pages show it while they are open."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.control.auth import Credential
from wrenn.control.hosts import GuestProcesses, Listener, MethodUnknown
from wrenn.control.sandboxes import Ingress, RunningSandboxes, Sandbox

_TIMEOUT_S: Final = 15.0
_OLD_HOST: Final = "The host of this sandbox runs an older release, which cannot do this: upgrade it."


@dataclass(frozen=True, slots=True)
class ListeningPort:
    """A port on which programs of a sandbox accept connections, on one address or several. `pid` 0: it is not known whose it is."""

    port: int
    addresses: Sequence[str]
    pid: int
    name: str
    is_public: bool


class Inspection:
    """Reads what runs and listens in running sandboxes, and their consoles."""

    def __init__(self, running_sandboxes: RunningSandboxes) -> None:
        self._running = running_sandboxes

    async def ports(self, credential: Credential, text_id: str) -> tuple[Sandbox, list[ListeningPort]]:
        """Return the sandbox and the ports on which its programs accept connections, in ascending order.

        Raises:
            InvalidState: it does not run, or it or its host is of an older release.
        """
        sandbox, running = await self._running.find(credential, text_id)
        try:
            found = await running.host.list_listeners(sandbox.sandbox_id, timeout_s=_TIMEOUT_S)
        except MethodUnknown as error:
            raise InvalidState(_OLD_HOST) from error
        return sandbox, listening_ports(found, sandbox.ingress)

    async def processes(self, credential: Credential, text_id: str) -> GuestProcesses:
        """Return all programs that run in a sandbox.

        Raises:
            As `ports`.
        """
        sandbox, running = await self._running.find(credential, text_id)
        try:
            return await running.host.list_all_processes(sandbox.sandbox_id, timeout_s=_TIMEOUT_S)
        except MethodUnknown as error:
            raise InvalidState(_OLD_HOST) from error

    async def console(self, credential: Credential, text_id: str) -> str:
        """Return the end of what the kernel and the first process of a sandbox wrote, at most 64 KiB, since it was started or resumed.

        Raises:
            As `ports`.
        """
        sandbox, running = await self._running.find(credential, text_id)
        try:
            return await running.host.read_console(sandbox.sandbox_id, timeout_s=_TIMEOUT_S)
        except MethodUnknown as error:
            raise InvalidState(_OLD_HOST) from error


def listening_ports(listeners: Sequence[Listener], ingress: Ingress) -> list[ListeningPort]:
    """Join the sockets of each port."""
    by_port: dict[int, list[Listener]] = {}
    for listener in listeners:
        by_port.setdefault(listener.port, []).append(listener)
    return [
        ListeningPort(
            port,
            sorted({each.address for each in several}),
            next((each.pid for each in several if each.pid), 0),
            next((each.name for each in several if each.name), ""),
            ingress.is_public(port),
        )
        for port, several in sorted(by_port.items())
    ]
