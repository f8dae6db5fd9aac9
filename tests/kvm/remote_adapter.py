"""A driver in the host machine, as the suite of tests/drivers reaches it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, cast

from tests.drivers.adapter import DriverAdapter
from tests.kvm.host_machine import HostMachine
from wrenn.vm import Capabilities

_OPEN_TIMEOUT_S = 400.0


@dataclass
class RemoteAdapter:
    """Forwards every other method of `DriverAdapter` to the one in the host machine."""

    name: str
    machine: HostMachine
    facts: dict[str, Any]

    @property
    def capabilities(self) -> Capabilities:
        return self.facts["capabilities"]

    @property
    def base(self) -> str:
        return self.facts["base"]

    def __getattr__(self, method: str) -> Callable[..., Awaitable[Any]]:
        if method.startswith("_") or not hasattr(DriverAdapter, method):
            raise AttributeError(method)
        return partial(self.machine.call, "adapter", self.name, method)


async def remote_adapter(machine: HostMachine, name: str, environment: dict[str, str]) -> DriverAdapter:
    """The driver of this name; it is made with its base if it was not before."""
    facts = await machine.call("open", name, environment, timeout_s=_OPEN_TIMEOUT_S)
    return cast(DriverAdapter, RemoteAdapter(name, machine, facts))
