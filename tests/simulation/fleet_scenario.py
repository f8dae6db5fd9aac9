"""A random life of a fleet: clients that use sandboxes while messages are lost, links are cut and programs are killed.

Two replicas of the control plane with all their loops, PostgreSQL, and agents on several hosts. Everything comes from the seed.
`play` raises AssertionError if the platform breaks a promise, and returns what happened.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import tempfile
from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

from sqlalchemy import text

from tests.agent.kit import leftovers
from tests.simulation.database import MEMORY, Server
from wrenn.agent.sandboxes import State
from wrenn.base.errors import DatabaseUnavailable, WrennError
from wrenn.base.ids import HostId, SandboxId, SessionId, SnapshotId, TeamId
from wrenn.control.auth import Account, ApiKey, Caller, Member, Scope
from wrenn.control.db import Transaction
from wrenn.control.fleet.types import CreateHost
from wrenn.control.identity import Role, insert_key
from wrenn.control.identity import store as teams
from wrenn.control.sandboxes.types import CreateSandbox, SetTimeout
from wrenn.control.snapshots.records import MayReplace
from wrenn.control.snapshots.types import CreateSnapshot
from wrenn.control.wiring import Control
from wrenn.testing import virtual_time
from wrenn.testing.simulation import ProgramKilled, seeded_randomness
from wrenn.testing.simulation.fleet import Fleet, Replica, SimulatedHost
from wrenn.testing.simulation.served import Fate

HOSTS: Final = 3
REPLICAS: Final = 2
CLIENTS: Final = 3
OPERATIONS: Final = 7
FAULTS: Final = 12
LEASE_S: Final = 15.0
MISSING_AFTER_S: Final = 45.0
"""Half of what it is in production, so that a fault that lasts longer fits into half the virtual time, and costs half the real time."""
OUTAGES_S: Final = (5.0, 20.0, 70.0)
"""How long links are cut: also for longer than `MISSING_AFTER_S`."""
SETTLED_S: Final = 240.0
"""Virtual time in which the database and all hosts must be of one mind after the last fault: until a host counts as silent,
leases, attempts to start, and what was begun before."""
LOOK_S: Final = 5.0
EVENTS_S: Final = 30.0
"""Virtual time in which a reader has received all events."""
MEMORY_OVERCOMMIT: Final = 4
FAILED: Final = object()
_WRONG_ROWS: Final = f"""
SELECT string_agg(what, ', ') FROM (
  SELECT 'lease of ' || id || ' until ' || lease_until AS what FROM (
    SELECT id, lease_until FROM sandboxes UNION ALL SELECT id, lease_until FROM templates
  ) AS leased WHERE lease_until > :now + interval '{LEASE_S + 1} seconds'
  UNION ALL
  SELECT 'host ' || hosts.name || ' has ' || count(*) || ' sandboxes' FROM sandboxes JOIN hosts ON hosts.id = host_id
  WHERE sandboxes.status NOT IN ('stopped', 'error') AND (sandboxes.status <> 'paused' OR desired = 'running')
  GROUP BY hosts.id HAVING count(*) > hosts.sandbox_limit
    OR sum(sandboxes.memory_mb) * 1048576.0 > hosts.memory_b * {MEMORY_OVERCOMMIT}
) AS wrong
"""

Operation = Callable[[Control], Awaitable[Any]]


@dataclass(eq=False)
class Sandbox:
    """A sandbox whose creation was confirmed.

    Attributes:
        is_removed: its removal was asked for.
        is_removal_accepted: and that was confirmed.
    """

    sandbox_id: str
    is_removed: bool = False
    is_removal_accepted: bool = False


@dataclass
class Reader:
    """What one reader of events has received, in order."""

    positions: list[str] = field(default_factory=list[str])
    was_reset: bool = False


class FleetScenario:
    """One run."""

    def __init__(
        self,
        seed: int,
        folder: Path,
        database_url: str,
        *,
        replicas: int = REPLICAS,
        interval_s: float = 20,
        missing_after_s: float = MISSING_AFTER_S,
    ) -> None:
        """Make the scenario. `interval_s`: between two rounds of the loops that look at hosts; each look costs real time."""
        self.fleet = Fleet(seed)
        self.random = self.fleet.random
        self.folder = folder
        environment = {
            "DATABASE_URL": database_url,
            "WRENN_DATA_DIR": str(folder / "control"),
            "WRENN_HOST_INTERVAL_S": str(interval_s),
            "WRENN_LEASE_S": str(LEASE_S),
            "WRENN_MISSING_AFTER_S": str(missing_after_s),
            "WRENN_MEMORY_OVERCOMMIT": str(MEMORY_OVERCOMMIT),
        }
        self.replicas = [Replica(self.fleet, number, environment) for number in range(replicas)]
        self.hosts: list[SimulatedHost] = []
        self.starting: set[str] = set()
        self.host_numbers = itertools.count()
        self.deleted: set[str] = set()
        """Wire ids of hosts whose deletion was asked for."""
        self.sandboxes: list[Sandbox] = []
        self.templates: list[str] = []
        self.dead: set[str] = set()
        """Sandboxes whose machines were ended by a fault."""
        self.wrong: list[str] = []
        """What has broken a promise that holds at any time."""
        self.reader = Reader()
        self.calm = asyncio.Event()
        self.late = 0.0
        self.loss = 0.0
        self.member: Member
        self.key: ApiKey
        self.team_id: TeamId

    async def run(self) -> None:
        """Clients and faults side by side, then peace."""
        await self.start(HOSTS)
        watch = [asyncio.create_task(self.read_events()), asyncio.create_task(self.watch_safety())]
        async with asyncio.TaskGroup() as group:
            for client in range(CLIENTS):
                group.create_task(self.client(client))
            group.create_task(self.faults())
        await self.repair()
        await self.wait_settled()
        await self.remove_all()
        await self.check_events()
        for task in watch:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        await self.close()

    async def start(self, hosts: int) -> None:
        """Start replicas and hosts."""
        self.fleet.fate_of = self.fate
        (self.folder / "control").mkdir()
        await asyncio.gather(*(self.keep_running(replica.start, replica.name) for replica in self.replicas))
        await self.make_team()
        for _ in range(hosts):
            await self.add_host()
        await asyncio.sleep(5)

    async def close(self) -> None:
        """Stop everything."""
        for program in (*self.hosts, *self.replicas):
            await program.close()

    @property
    def caller(self) -> Caller:
        """The owner of the team."""
        member = self.member
        return Caller(member.actor, member.team_id, member.role, Scope.FULL, account=member.account)

    # What is there.

    async def make_team(self) -> None:
        async def make(control: Control) -> None:
            async def insert(tx: Transaction) -> None:
                user_id = await teams.ensure_user(tx, email="ada@example.com", name="ada", is_admin=True)
                self.team_id = await teams.ensure_default_team(tx, user_id, name="ada")
                key = await insert_key(tx, team_id=self.team_id, created_by=user_id, name="test")
                account = Account(user_id, SessionId.new(), "ada@example.com", "ada", is_admin=True)
                self.member = Member(account, self.team_id, Role.OWNER)
                self.key = ApiKey.parse(key.reveal())

            await control.database.transaction(insert)

        await self.replicas[0].call(make)

    async def add_host(self) -> None:
        """One more host, which registers and starts."""
        # Each has an address of its own, also if the answer to its registration is lost: there is no TLS here by which the control
        # plane would notice that another host answers at the address of that one.
        number = next(self.host_numbers)
        host = SimulatedHost(
            self.fleet, number, self.folder / f"host{number}", {"WRENN_CP_LOST_AFTER_S": "60"}
        )
        host.world.on_start = self.look_at_machines
        made = await self.attempt(
            f"create {host.name}",
            lambda control: control.services.fleet.create(
                self.member,
                CreateHost.model_validate(
                    {"type": "regular", "name": f"{host.name}-{self.random.randrange(10**6)}"}
                ),
            ),
        )
        if made is FAILED:
            return
        try:
            await host.register(made[1])
        except WrennError as error:
            self.fleet.note(f"{host.name} not registered: {type(error).__name__}")
            return
        self.hosts.append(host)
        await self.keep_running(host.start, host.name)

    async def keep_running(self, start: Callable[[], Awaitable[None]], name: str) -> None:
        """Start a program until it has started, unless that is being done already after an earlier fault."""
        if name in self.starting:
            return
        self.starting.add(name)
        try:
            while True:
                try:
                    await start()
                except (ProgramKilled, DatabaseUnavailable, OSError) as error:
                    self.fleet.note(f"{name} did not start: {type(error).__name__}")
                    await asyncio.sleep(1)
                    continue
                self.fleet.note(f"{name} started")
                return
        finally:
            self.starting.discard(name)

    async def attempt(self, what: str, operation: Operation) -> Any:
        """Make a call of some replica; `FAILED`: it failed, and may have had its effect."""
        while not (ready := [replica for replica in self.replicas if replica.is_ready]):
            await asyncio.sleep(0.5)
        replica = self.random.choice(ready)

        async def call(control: Control) -> Any:
            return await operation(control)

        try:
            result = await replica.call(call)
        except (WrennError, ProgramKilled, OSError) as error:
            self.fleet.note(f"{what}: {type(error).__name__}")
            return FAILED
        self.fleet.note(f"{what}: done")
        return result

    # Clients.

    async def client(self, number: int) -> None:
        """Use some sandboxes."""
        own: list[Sandbox] = []
        for _ in range(OPERATIONS):
            await asyncio.sleep(self.random.expovariate(0.25))
            own = [sandbox for sandbox in own if not sandbox.is_removed]
            if len(own) < 2 and (not own or self.random.random() < 0.4):
                if (made := await self.create(number)) is not None:
                    own.append(made)
                continue
            sandbox = self.random.choice(own)
            operation = self.random.choice(
                [
                    self.pause, self.pause, self.resume, self.resume, self.snapshot, self.fork, self.set_timeout,
                    self.remove_snapshot, self.remove,
                ]
            )  # fmt: skip
            await operation(number, sandbox)

    async def create(self, number: int) -> Sandbox | None:
        key = f"key-{self.random.randrange(10**9)}" if self.random.random() < 0.7 else None
        template = self.random.choice(["minimal", *self.templates[-2:]])
        for _ in range(2):
            made = await self.attempt(
                f"client {number}: create",
                lambda control: control.services.creations.create(
                    self.caller, CreateSandbox.model_validate({"template": template}), key
                ),
            )
            if made is not FAILED:
                sandbox = Sandbox(str(made.sandbox_id))
                self.sandboxes.append(sandbox)
                self.fleet.note(f"client {number}: has {sandbox.sandbox_id}")
                return sandbox
        return None

    async def pause(self, number: int, sandbox: Sandbox) -> None:
        await self.attempt(
            f"client {number}: pause {sandbox.sandbox_id}",
            lambda control: control.services.pauses.pause(self.key, sandbox.sandbox_id),
        )

    async def resume(self, number: int, sandbox: Sandbox) -> None:
        await self.attempt(
            f"client {number}: resume {sandbox.sandbox_id}",
            lambda control: control.services.resumes.resume(self.key, sandbox.sandbox_id),
        )

    async def remove(self, number: int, sandbox: Sandbox) -> None:
        sandbox.is_removed = True
        result = await self.attempt(
            f"client {number}: remove {sandbox.sandbox_id}",
            lambda control: control.services.deletions.delete(self.key, sandbox.sandbox_id),
        )
        sandbox.is_removal_accepted = result is not FAILED

    async def snapshot(self, number: int, sandbox: Sandbox) -> None:
        name = f"template-{self.random.randrange(10**6)}"
        body = CreateSnapshot(sandbox_id=sandbox.sandbox_id, name=name)
        made = await self.attempt(
            f"client {number}: snapshot {sandbox.sandbox_id}",
            lambda control: control.services.snapshots.create(self.key, body, may_replace=MayReplace.NOTHING),
        )
        if made is not FAILED:
            self.templates.append(name)

    async def remove_snapshot(self, number: int, sandbox: Sandbox) -> None:
        """Remove the oldest template, whoever made it."""
        del sandbox
        if self.templates:
            name = self.templates.pop(0)
            await self.attempt(
                f"client {number}: remove {name}",
                lambda control: control.services.templates.delete(self.caller, name),
            )

    async def fork(self, number: int, sandbox: Sandbox) -> None:
        copies = await self.attempt(
            f"client {number}: fork {sandbox.sandbox_id}",
            lambda control: control.services.forks.fork(self.key, sandbox.sandbox_id, 2),
        )
        if copies is not FAILED:
            self.sandboxes += [Sandbox(str(copy.sandbox_id)) for copy in copies]

    async def set_timeout(self, number: int, sandbox: Sandbox) -> None:
        """It is paused when it has not been used for a while."""
        body = SetTimeout.model_validate({"timeout_sec": self.random.randrange(1, 20)})
        await self.attempt(
            f"client {number}: idle time of {sandbox.sandbox_id}",
            lambda control: control.services.time_limit_changes.set_timeout(
                self.key, sandbox.sandbox_id, body
            ),
        )

    # Faults.

    def fate(self, source: str, target: str, path: str) -> Fate:
        """What becomes of a message now."""
        del source, target, path
        if not self.loss and not self.late:
            return Fate()
        delay_s = self.random.expovariate(1 / self.late) if self.late else 0.0
        if self.random.random() >= self.loss:
            return Fate(delay_s=delay_s)
        match self.random.randrange(3):
            case 0:
                return Fate(is_lost=True)
            case 1:
                return Fate(is_answer_lost=True, delay_s=delay_s)
            case _:
                return Fate(again_s=self.random.expovariate(0.3), delay_s=delay_s)

    async def faults(self) -> None:
        """Faults, each for a while; several may overlap."""
        kinds = (
            self.kill_agent, self.kill_agent, self.reboot, self.kill_replica, self.kill_replica, self.cut, self.cut_one,
            self.lose_messages, self.delay_messages, self.slow_database, self.restart_database, self.cut_database,
            self.lose_notifications, self.skew, self.guest_dies, self.come, self.go,
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            for _ in range(FAULTS):
                await asyncio.sleep(self.random.expovariate(0.35))
                fault = self.random.choice(kinds)
                self.fleet.note(f"fault: {fault.__name__}")
                group.create_task(fault())

    def any_host(self) -> SimulatedHost:
        return self.random.choice(self.hosts)

    async def kill_agent(self) -> None:
        host = self.any_host()
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        if self.random.random() < 0.5:
            host.kill_at_answer(self.random.randrange(1, 6))
        else:
            host.kill_at_step(loop, loop.steps + self.random.randrange(1, 400))
        await asyncio.sleep(self.random.choice((0.5, *OUTAGES_S)))
        host.world.call_at_answer(0, lambda: None)
        await self.start_again(host)

    async def start_again(self, host: SimulatedHost) -> None:
        if not host.is_running and not host.was_deleted:
            await self.keep_running(host.start, host.name)

    async def reboot(self) -> None:
        host = self.any_host()
        self.dead.update(machine.name for machine in host.world.machines.values())
        host.reboot()
        await asyncio.sleep(self.random.uniform(5, 40))
        await self.start_again(host)

    async def kill_replica(self) -> None:
        replica = self.random.choice(self.replicas)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtual_time.VirtualTimeLoop)
        replica.kill_at_step(loop, loop.steps + self.random.randrange(1, 400))
        await asyncio.sleep(self.random.uniform(1, 30))
        if not replica.is_running:
            await self.keep_running(replica.start, replica.name)

    async def cut(self) -> None:
        host = self.any_host()
        for replica in self.replicas:
            self.fleet.cut_link(host.address, replica.address)
        await asyncio.sleep(self.random.choice(OUTAGES_S))
        for replica in self.replicas:
            self.fleet.restore_link(host.address, replica.address)

    async def cut_one(self) -> None:
        host, replica = self.any_host(), self.random.choice(self.replicas)
        self.fleet.cut_link(host.address, replica.address)
        await asyncio.sleep(self.random.choice(OUTAGES_S))
        self.fleet.restore_link(host.address, replica.address)

    async def lose_messages(self) -> None:
        self.loss = 0.4
        await asyncio.sleep(self.random.uniform(5, 40))
        self.loss = 0.0

    async def delay_messages(self) -> None:
        self.late = self.random.choice([0.5, 3.0, 12.0])
        await asyncio.sleep(self.random.uniform(5, 30))
        self.late = 0.0

    async def slow_database(self) -> None:
        usual = self.fleet.postgres.latency_s
        self.fleet.postgres.latency_s = lambda: self.random.uniform(0.01, 1.0)
        await asyncio.sleep(self.random.uniform(3, 15))
        self.fleet.postgres.latency_s = usual

    async def restart_database(self) -> None:
        self.fleet.postgres.is_down = True
        self.fleet.postgres.cut()
        await asyncio.sleep(self.random.uniform(1, 15))
        self.fleet.postgres.is_down = False

    async def cut_database(self) -> None:
        """The database and one replica do not reach each other."""
        replica = self.random.choice(self.replicas)
        self.fleet.postgres.cut_off(replica.address)
        await asyncio.sleep(self.random.choice([5, 20, 60]))
        self.fleet.postgres.reach_again(replica.address)

    async def lose_notifications(self) -> None:
        self.fleet.postgres.loses_notification = lambda: self.random.random() < 0.7
        await asyncio.sleep(self.random.uniform(5, 40))
        self.fleet.postgres.loses_notification = lambda: False

    async def skew(self) -> None:
        program = self.random.choice([*self.hosts, *self.replicas])
        program.clock.skew_s = self.random.uniform(-300, 300)

    async def guest_dies(self) -> None:
        host = self.any_host()
        if machines := list(host.world.machines.values()):
            machine = self.random.choice(machines)
            self.dead.add(machine.name)
            host.world.kill(machine.process)

    async def come(self) -> None:
        if len(self.hosts) < HOSTS + 2:
            await self.add_host()

    async def go(self) -> None:
        """A host is deleted with all that is on it."""
        host = self.any_host()
        if len(self.deleted) < 1:
            self.deleted.add(host.host_id)
            await self.attempt(
                f"delete {host.name}",
                lambda control: control.services.fleet.delete(self.member, host.host_id, force=True),
            )

    async def repair(self) -> None:
        """End all faults."""
        self.fleet.note("faults end")
        self.loss = self.late = 0.0
        self.fleet.cut_links.clear()
        for replica in self.replicas:
            self.fleet.postgres.reach_again(replica.address)
        for program in (*self.hosts, *self.replicas):
            was_deleted = isinstance(program, SimulatedHost) and program.was_deleted
            if not program.is_running and not was_deleted:
                await self.keep_running(program.start, program.name)

    # Promises.

    async def ask(self, sql: str) -> list[Any]:
        """Ask the database, by a replica that runs."""
        while True:
            for replica in self.replicas:
                if replica.is_ready:
                    try:
                        return list(await replica.call(lambda control: control.database.execute(text(sql))))
                    except (DatabaseUnavailable, ProgramKilled):
                        pass
            await asyncio.sleep(0.5)

    async def watch_safety(self) -> None:
        """At any time: no sandbox runs on two hosts, no lease lasts longer than it may, no host has more than it has room for.

        Machines are looked at whenever one was started (`add_host`), and the database every second if a transaction was committed
        since: no row becomes wrong by the passing of time. To ask it takes no virtual time.
        """
        seen = ""
        while True:
            await asyncio.sleep(1)
            committed = self.fleet.postgres.ask_aside("SELECT pg_current_snapshot()::text")
            if committed != seen:
                self.wrong += self.wrong_rows()
                seen = committed
            assert not self.wrong, self.wrong

    def look_at_machines(self) -> None:
        """Take note of what is wrong with the machines now."""
        self.wrong += self.doubled_machines()

    def doubled_machines(self) -> list[str]:
        """What is wrong with the machines of all hosts."""
        seen: set[str] = set()
        twice = [
            machine.name
            for host in self.hosts
            for machine in host.world.machines.values()
            if machine.name in seen or seen.add(machine.name)
        ]
        return [f"on two hosts, or twice on one: {twice}"] if twice else []

    def wrong_rows(self) -> list[str]:
        """Which rows break a promise that holds at any time."""
        now = (virtual_time.EPOCH + timedelta(seconds=asyncio.get_running_loop().time())).isoformat()
        found = self.fleet.postgres.ask_aside(_WRONG_ROWS.replace(":now", f"'{now}'::timestamptz"))
        return [found] if found else []

    async def wait_settled(self) -> None:
        """Wait until nothing is wrong any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + SETTLED_S
        while problems := await self.problems():
            if loop.time() >= end:
                raise AssertionError(f"not settled {SETTLED_S:.0f} s after the last fault: {problems}")
            await asyncio.sleep(LOOK_S)
        self.fleet.note("settled")

    async def problems(self) -> list[str]:
        """What differs between the database, the hosts and what clients were told."""
        rows = {
            str(SandboxId(row.id)): row
            for row in await self.ask(
                "SELECT id, host_id, status, desired, failure, reason, started_at, lease_owner, lease_until < now() AS ended"
                " FROM sandboxes ORDER BY id"
            )
        }
        found = [
            f"{sandbox.sandbox_id} was created, and has no row"
            for sandbox in self.sandboxes
            if sandbox.sandbox_id not in rows
        ]
        removed = {sandbox.sandbox_id for sandbox in self.sandboxes if sandbox.is_removed}
        accepted = {sandbox.sandbox_id for sandbox in self.sandboxes if sandbox.is_removal_accepted}
        confirmed = {sandbox.sandbox_id for sandbox in self.sandboxes}
        expected: dict[str, dict[str, State]] = {host.host_id: {} for host in self.hosts}
        for name, row in rows.items():
            host_id = str(HostId(row.host_id))
            if row.lease_owner is not None and row.ended:
                found.append(f"{name} has a lease that has ended")
            match row.status:
                case "running" | "paused":
                    if row.desired != row.status:
                        found.append(f"{name} is {row.status}, to be {row.desired}")
                    expected[host_id][name] = State.RUNNING if row.status == "running" else State.PAUSED
                case "stopped":
                    may_end = name in removed or name not in confirmed or host_id in self.deleted
                    assert may_end, f"{name} is stopped, and nobody asked for it"
                case "error":
                    may_fail = row.started_at is None or name in self.dead or host_id in self.deleted
                    assert may_fail, f"{name} is in error: {row.failure} {row.reason}"
                case other:
                    found.append(f"{name} is {other}")
            if name in accepted and row.status not in ("stopped", "error"):
                found.append(f"{name} is {row.status}, and its removal was asked for (desired {row.desired})")
        templates = await self.ask(
            "SELECT id, host_id, name, status FROM templates WHERE type = 'snapshot' ORDER BY id"
        )
        found += [f"template {row.name} is {row.status}" for row in templates if row.status != "ready"]
        copies = await self.ask("SELECT snapshot_id AS id, host_id FROM snapshot_copies ORDER BY snapshot_id")
        for host in self.hosts:
            if not host.is_ready:
                found += [] if host.was_deleted else [f"{host.name} does not run"]
                continue
            has = {str(record.spec.sandbox_id): record.state for record, _ in host.agent().sandboxes.list()}
            if has != expected[host.host_id]:
                found.append(f"{host.name} has {has}, expected {expected[host.host_id]}")
            pinned = {snapshot.manifest.snapshot_id for snapshot in host.agent().sandboxes.list_snapshots()}
            named = {str(SnapshotId(row.id)) for row in templates if str(HostId(row.host_id)) == host.host_id}
            fetched = {str(SnapshotId(row.id)) for row in copies if str(HostId(row.host_id)) == host.host_id}
            if not named <= pinned <= named | fetched:
                found.append(
                    f"{host.name} has the snapshots {pinned}, expected {named}, and perhaps copies of {fetched}"
                )
            if left := leftovers(host.agent()):
                found.append(f"{host.name} has left {left}")
        return found

    async def remove_all(self) -> None:
        """Remove every sandbox; then nothing is left on any host, and no capacity is taken."""
        live = "SELECT id FROM sandboxes WHERE status NOT IN ('stopped', 'error') ORDER BY id"
        for row in await self.ask(live):
            name = str(SandboxId(row.id))
            known = [sandbox for sandbox in self.sandboxes if sandbox.sandbox_id == name]
            await self.remove(-1, known[0] if known else Sandbox(name))
        for row in await self.ask("SELECT name FROM templates WHERE type = 'snapshot' ORDER BY id"):
            await self.attempt(
                f"remove {row.name}",
                lambda control, name=row.name: control.services.templates.delete(self.caller, name),
            )
        await self.wait_settled()
        loop = asyncio.get_running_loop()
        end = loop.time() + 60
        while (left := [host.name for host in self.hosts if host.world.machines or host.world.layers]) or (
            await self.ask(live)
        ):
            assert loop.time() < end, f"machines or disks are left on {left}"
            await asyncio.sleep(1)
        status = await self.replicas[0].call(lambda control: control.services.quotas.status(self.caller))
        assert status.usage.running_sandboxes == 0, status
        assert status.usage.memory_mb == 0, status

    async def read_events(self) -> None:
        """Read events, and go on behind the last one whenever the stream breaks."""
        last: str | None = "0-0"
        while True:
            ready = [replica for replica in self.replicas if replica.is_ready]
            if not ready:
                await asyncio.sleep(0.5)
                continue
            after = last

            async def read(control: Control, after: str | None = after) -> None:
                async with control.services.events.stream(self.key, after=after, kinds=()) as stream:
                    async for frames in stream.frames:
                        self.receive(frames.decode())

            try:
                await self.random.choice(ready).call(read)
            except (WrennError, ProgramKilled, OSError):
                await asyncio.sleep(1)
            if self.reader.positions:
                last = self.reader.positions[-1]

    def receive(self, frames: str) -> None:
        for one in frames.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in one.splitlines() if ": " in line)
            match fields.get("event"):
                case None | "ready":
                    pass
                case "reset":
                    self.reader.was_reset = True
                case kind:
                    self.reader.positions.append(fields["id"])
                    resource = json.loads(fields["data"])["resource_id"]
                    self.fleet.note(f"event: {kind} {resource}")

    async def check_events(self) -> None:
        """The reader has received each event once, in order."""
        loop = asyncio.get_running_loop()
        end = loop.time() + EVENTS_S
        while len(read := self.reader.positions) < len(written := await self.written_events()):
            assert loop.time() < end, f"{len(read)} events read, {len(written)} written"
            await asyncio.sleep(1)
        # Time for one that is delivered twice.
        await asyncio.sleep(3)
        assert not self.reader.was_reset, "nothing was forgotten"
        assert self.reader.positions == await self.written_events()

    async def written_events(self) -> list[str]:
        """Positions of the team's events in the database."""
        rows = await self.ask(
            f"SELECT txid, id FROM events WHERE team_id = '{self.team_id.value}' AND scope <> 'admin' ORDER BY txid, id"
        )
        return [f"{row.txid}-{row.id}" for row in rows]


def play(seed: int, server: Server) -> list[str]:
    """Run the scenario of a seed and return its log."""
    return play_scenario(lambda folder, url: FleetScenario(seed, folder, url), server)


def play_scenario(make: Callable[[Path, str], FleetScenario], server: Server) -> list[str]:
    """Run a scenario on a database of its own and return its log."""
    with (
        server.copy() as database,
        tempfile.TemporaryDirectory(prefix="wrenn-simulation-", dir=MEMORY) as folder,
    ):
        scenario = make(Path(folder), server.url_of(database))
        scenario.fleet.open_postgres(server.socket, server.user, database)
        try:
            with seeded_randomness(scenario.random):
                virtual_time.run(scenario.run, scenario.fleet.new_loop)
        except BaseException as error:
            error.add_note("\n".join(["What happened before:", *scenario.fleet.log]))
            raise
        finally:
            scenario.fleet.close()
        return scenario.fleet.log
