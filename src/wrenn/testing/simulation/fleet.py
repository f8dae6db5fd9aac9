"""Several hosts and replicas of the control plane in one event loop, on one PostgreSQL, in virtual time.

Agents and control planes are the real ones. They reach each other over a network in memory (`Fleet.network`), which loses,
doubles and delays messages as `Fleet.fate_of` says, and whose links can be cut.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Generator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, TypeVar

from wrenn.agent.enrolment import CredentialsFile, ServerTls, register
from wrenn.agent.sandboxes.remove_everything import remove_everything
from wrenn.agent.wiring import Agent, control_link
from wrenn.base.secrets import Secret
from wrenn.base.tasks import OwnedTasks
from wrenn.control.settings import Settings
from wrenn.control.wiring import Control, running_control
from wrenn.testing.simulation.agent import SimulatedAgent
from wrenn.testing.simulation.network import Network, NetworkLoop
from wrenn.testing.simulation.postgres import PostgresTransport, SimulatedPostgres
from wrenn.testing.simulation.program import Program, ProgramKilled
from wrenn.testing.simulation.runs import Run, current_run, require_alive, running
from wrenn.testing.simulation.served import Application, Fate, HttpListener, Message, Receive, Send, Wire
from wrenn.testing.simulation.world import World
from wrenn.testing.virtual_time import VirtualClock

_P = TypeVar("_P", bound=asyncio.BaseProtocol)

_CERTIFICATE_LIFE_S: Final = 7 * 86400.0
_CONTROL_PORT: Final = 8000
_SYN_RETRY_S: Final = 1.0
_GRACE_S: Final = 5.0
"""As an agent gives to calls in flight when it stops."""
_REPLICAS: Final = "10.2.0."
_BALANCER: Final = "10.3.0.1"
CONTROL_URL: Final = f"https://{_BALANCER}:{_CONTROL_PORT}"
"""By which agents reach a replica that is up, another one with each connection."""
_AGENT_PORT: Final = 8010


class SkewedClock(VirtualClock):
    """A clock whose wall-clock time is wrong by `skew_s`."""

    def __init__(self, skew_s: float = 0.0) -> None:
        self.skew_s = skew_s

    def now(self) -> datetime:
        """The time that this machine believes it is."""
        return super().now() + timedelta(seconds=self.skew_s)


class FleetLoop(NetworkLoop):
    """The loop of a fleet: unix sockets are PostgreSQL's."""

    def __init__(
        self,
        network_of: Callable[[str], Network],
        thread_s: Callable[[], float],
        postgres: Callable[[], SimulatedPostgres],
    ) -> None:
        super().__init__(network_of, require_alive, thread_s)
        self._postgres = postgres

    async def create_unix_connection(  # type: ignore[override] - of the many parameters only those that are used here
        self, protocol_factory: Callable[[], _P], path: str | None = None, **_options: Any
    ) -> tuple[PostgresTransport, _P]:
        """Connect to PostgreSQL."""
        del path
        await asyncio.sleep(self._postgres().latency_s())
        while self._postgres().is_cut_off(current_run()):  # noqa: ASYNC110 - as TCP does it
            await asyncio.sleep(_SYN_RETRY_S)
        return self._postgres().connect(protocol_factory)


class Fleet:
    """Hosts, replicas and what is between them.

    Attributes:
        random: the source of all randomness.
        network: between machines.
        cut_links: pairs of addresses that do not reach each other.
        fate_of: what becomes of a message from an address to an address, by its path.
        log: what happened, in order.
        listeners: what serves at each address.
    """

    def __init__(self, seed: int) -> None:
        self.random = Random(seed)  # noqa: S311 - it is to be predictable
        self.network = Network(lambda: self.random.uniform(0.0001, 0.003))
        self.network.resolve = self._balance
        self.cut_links: set[frozenset[str]] = set()
        self.fate_of: Callable[[str, str, str], Fate] = lambda _source, _target, _path: Fate()
        self.log: list[str] = []
        self.listeners: dict[str, HttpListener] = {}
        self._postgres: SimulatedPostgres | None = None

    @property
    def postgres(self) -> SimulatedPostgres:
        """The database server."""
        assert self._postgres is not None, "opened by `open_postgres`"
        return self._postgres

    def open_postgres(self, path: str, user: str, database: str) -> None:
        """Let programs reach this server."""
        self._postgres = SimulatedPostgres(path, user, database, lambda: self.random.uniform(0.0001, 0.002))

    def new_loop(self) -> FleetLoop:
        """Return the loop in which this fleet exists."""
        return FleetLoop(self._network_of, lambda: self.random.uniform(0.0001, 0.02), lambda: self.postgres)

    def _network_of(self, address: str) -> Network:
        """The network between machines, or the one of the caller's own machine, where its guests are."""
        run = current_run()
        if address.startswith("10.0.") and run is not None and isinstance(run.place, World):
            return run.place.network
        return self.network

    def _balance(self, address: str) -> str:
        """An address that serves the control plane in place of the balancer's."""
        serving = [each for each in self.listeners if each.startswith(_REPLICAS)]
        return self.random.choice(serving) if address == _BALANCER and serving else address

    def note(self, event: str) -> None:
        """Add a line with the time to the log."""
        self.log.append(f"{asyncio.get_running_loop().time():12.6f} {event}")

    def is_cut(self, one: str, other: str) -> bool:
        """Whether two machines do not reach each other."""
        return frozenset((one, other)) in self.cut_links

    def wire(self, application: Application, address: str) -> Wire:
        """Return an application at an address behind the network's faults."""

        def fate_of(source: str, path: str) -> Fate:
            if self.is_cut(source, address):
                return Fate(is_lost=True)
            return self.fate_of(source, address, path)

        return Wire(application, fate_of)

    def cut_link(self, one: str, other: str) -> None:
        """Let two machines no longer reach each other. Answers that are under way arrive."""
        self.cut_links.add(frozenset((one, other)))

    def restore_link(self, one: str, other: str) -> None:
        """Let two machines reach each other again."""
        self.cut_links.discard(frozenset((one, other)))

    def close(self) -> None:
        """Close the connections to PostgreSQL."""
        if self._postgres is not None:
            self._postgres.close()


class SimulatedHost(SimulatedAgent):
    """A machine with an agent, which serves the host API and sends heartbeats once the host is registered.

    Attributes:
        address: in the network between machines.
        clock: of the machine.
        host_id: wire id; empty: not registered.
        was_deleted: the agent has heard that the host was deleted, and has removed everything.
    """

    def __init__(
        self, fleet: Fleet, number: int, folder: Path, environment: Mapping[str, str] | None = None
    ) -> None:
        self.address = f"10.1.{number // 250}.{number % 250 + 1}"
        self.clock = SkewedClock()
        self.host_id = ""
        self.was_deleted = False
        self._is_leaving = False
        self._fleet = fleet
        served = f"{self.address}:{_AGENT_PORT}"
        world = World(fleet.random, self.clock)
        world.log = fleet.log
        super().__init__(
            world,
            folder,
            f"host{number}",
            {
                "WRENN_AGENT_ADDRESS": served,
                "WRENN_AGENT_LISTEN": served,
                "WRENN_CP_URL": CONTROL_URL,
                **(environment or {}),
            },
        )

    async def register(self, token: Secret) -> None:
        """Register the host with a one-time token, before its agent is started."""
        settings = self.settings
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        with running(Run(self.address)):
            credentials = await register(CONTROL_URL, token.reveal(), settings)
        # The CA reads the real clock.
        now = self.clock.now().timestamp()
        credentials = replace(credentials, issued_at_unix=now, expires_at_unix=now + _CERTIFICATE_LIFE_S)
        CredentialsFile(settings.data_dir).save(credentials)
        self.host_id = credentials.host_id

    def reboot(self) -> None:
        """Kill the agent and end all machines, as a power failure does that loses no file."""
        self.kill()
        for process in list(self.world.machines):
            self.world.kill(process)

    def _new_run(self) -> Run:
        return Run(self.address, self.world)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[Agent]:
        async with super()._running() as agent:
            self._is_leaving = False
            with _serving(self._fleet, self.address, self._serve):
                tasks = OwnedTasks()
                self._accompany(agent, tasks)
                try:
                    yield agent
                finally:
                    await tasks.close()

    async def _serve(self, scope: Message, receive: Receive, send: Send) -> None:
        if not self._is_leaving:
            await _called(self, lambda agent: agent.app)(scope, receive, send)

    def _accompany(self, agent: Agent, tasks: OwnedTasks) -> None:
        """Start what `wrenn.agent.main` runs beside serving."""
        settings = self.settings
        file = CredentialsFile(settings.data_dir)
        credentials = file.load()
        assert credentials is not None, "it is registered"
        link, loss, _ = control_link(agent, settings, credentials, ServerTls(credentials), self.clock)

        async def beat() -> None:
            await link.run()
            # As the server does: it accepts nothing more, and calls in flight may go on for a while.
            self._is_leaving = True
            _vanish(self._fleet, self._run)
            await self.end_calls(_GRACE_S)
            await remove_everything(agent.sandboxes, removed=lambda: None)
            file.remove(self.host_id)
            self.was_deleted = True
            self._fleet.note(f"{self.name} was deleted")

        tasks.start("heartbeats", beat())
        tasks.start("pause without control plane", loss.run())

    def _killed_now(self, run: Run) -> None:
        super()._killed_now(run)
        _vanish(self._fleet, run)


class Replica(Program[Control]):
    """A replica of the control plane."""

    def __init__(self, fleet: Fleet, number: int, environment: Mapping[str, str]) -> None:
        super().__init__(f"replica{number}")
        self.address = f"{_REPLICAS}{number + 1}"
        self.clock = SkewedClock()
        self._fleet = fleet
        self._settings = Settings.from_environment(environment)

    def _new_run(self) -> Run:
        return Run(self.address)

    @asynccontextmanager
    async def _running(self) -> AsyncGenerator[Control]:
        async with running_control(self._settings, self.clock) as control:
            with _serving(self._fleet, self.address, _called(self, lambda control: control.app)):
                yield control

    def _killed_now(self, run: Run) -> None:
        _vanish(self._fleet, run)
        self._fleet.postgres.cut(run)


def _called(program: Program[Any], application_of: Callable[[Any], Any]) -> Application:
    """An application that runs in the program, not in whoever sent the request, and dies with it."""

    async def called(scope: Message, receive: Receive, send: Send) -> None:
        with suppress(ProgramKilled):
            await program.call(lambda current: application_of(current)(scope, receive, send))

    return called


@contextmanager
def _serving(fleet: Fleet, address: str, application: Application) -> Generator[None]:
    """Serve an application at an address until the context ends or the machine's program is killed."""
    listener = HttpListener(fleet.wire(application, address))
    fleet.listeners[address] = listener
    fleet.network.listen(address, listener)
    try:
        yield
    finally:
        fleet.network.vanish(address, listener)
        if fleet.listeners.get(address) is listener:
            del fleet.listeners[address]


def _vanish(fleet: Fleet, run: Run) -> None:
    """End all that a killed program had open in the network."""
    if (listener := fleet.listeners.pop(run.address, None)) is not None:
        fleet.network.vanish(run.address, listener)
    fleet.network.reset(run.address)
    fleet.network.reset(opened_by=run)
