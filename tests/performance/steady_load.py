"""What 1,000 hosts with 100,000 sandboxes, of which nothing changes, cost one control plane and PostgreSQL.

`python -m tests.performance.steady_load` runs this alone. The control plane and PostgreSQL are real. The hosts are one program
that answers for all of them, each with its own certificate, and sends their heartbeats; its CPU time is not counted.
"""

from __future__ import annotations

import asyncio
import json
import multiprocessing
import os
import shutil
import ssl
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web
from protobuf import message_to_json_value
from sqlalchemy import text

from tests.performance.figures import Figure
from tests.performance.placement import FILL_TIMEOUT_S, SANDBOXES_PER_HOST, fill
from wrenn.agent.enrolment.key_pair import new_key_pair
from wrenn.base.clock import SystemClock
from wrenn.base.ids import HostId, SandboxId
from wrenn.base.secrets import Secret
from wrenn.control.auth import Tokens, ensure_secret
from wrenn.control.db import Database
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.control.db.migrate import migrate
from wrenn.control.hosts import ensure_pki
from wrenn.protocol.host import host_pb as pb
from wrenn.testing.server import free_port

HOSTS = int(os.environ.get("HOSTS", "1000"))
HEARTBEAT_S = 30.0
WARM_UP_S = float(os.environ.get("WARM_UP_S", "65"))
"""After every host was asked for its lists once: until each was looked at for the second time."""
MEASURED_S = float(os.environ.get("MEASURED_S", "300"))
"""The rows of every host are compared once in five minutes."""
_FIRST_VISITS_S = 600.0
LIMIT = 0.30
INVENTORY = "ab" * 16


@dataclass(frozen=True, slots=True)
class SimpleHost:
    """One of the hosts."""

    host_id: str
    token: str
    key_pem: str
    cert_pem: str
    sandboxes: Sequence[tuple[str, str]]


def report() -> pb.Host:
    return pb.Host(
        agent_version="0.1.0",
        vmm="qemu 7.2",
        accelerator="kvm",
        cpu_cores=16,
        memory_b=64 << 30,
        memory_available_b=32 << 30,
        disk_b=1000 << 30,
        disk_available_b=500 << 30,
        sandbox_limit=4000,
        templates=["minimal", "python", "node"],
    )


def be_hosts(hosts: Sequence[SimpleHost], port: int, control_url: str, ca_pem: str, calls: Any) -> None:
    """Answer for all hosts and send their heartbeats, until killed."""
    asyncio.run(_be_hosts(hosts, port, control_url, ca_pem, calls))


async def _be_hosts(
    hosts: Sequence[SimpleHost], port: int, control_url: str, ca_pem: str, calls: Any
) -> None:
    by_name = {host.host_id: _context(host, ca_pem) for host in hosts}
    of_context = {id(context): host for host, context in zip(hosts, by_name.values(), strict=True)}
    lists = {host.host_id: _list(host) for host in hosts}

    def choose(connection: ssl.SSLObject, name: str, _context: ssl.SSLContext) -> None:
        connection.context = by_name[name]

    listening = _context(hosts[0], ca_pem)
    listening.sni_callback = choose  # type: ignore[assignment] - of the standard library
    answered = Counter[str]()

    async def answer(request: web.Request) -> web.Response:
        assert request.transport is not None
        host = of_context[id(request.transport.get_extra_info("ssl_object").context)]
        method = request.match_info["method"]
        answered[method] += 1
        calls.update(answered)
        if method == "GetHost":
            body = report().to_binary()
        elif method == "ListSandboxes":
            body = lists[host.host_id]
        else:
            body = b""
        return web.Response(body=body, content_type="application/proto")

    app = web.Application()
    app.router.add_post("/wrenn.host.v1.HostAgent/{method}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port, ssl_context=listening).start()
    calls["ready"] = 1
    await _wait_serving(control_url)
    async with aiohttp.ClientSession() as session:
        async with asyncio.TaskGroup() as group:
            for number, host in enumerate(hosts):
                group.create_task(_beat(session, control_url, host, number * HEARTBEAT_S / len(hosts)))


async def _beat(session: aiohttp.ClientSession, control_url: str, host: SimpleHost, after_s: float) -> None:
    body = json.dumps({"host": message_to_json_value(report()), "inventory": INVENTORY, "active": {}})
    await asyncio.sleep(after_s)
    while True:
        async with session.post(
            f"{control_url}/v1/hosts/{host.host_id}/heartbeat",
            data=body,
            headers={"X-Host-Token": host.token, "Content-Type": "application/json"},
        ) as answer:
            # An overloaded control plane refuses some, as it would those of any agent.
            await answer.read()
        await asyncio.sleep(HEARTBEAT_S)


def _context(host: SimpleHost, ca_pem: str) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=ca_pem)
    context.verify_mode = ssl.CERT_REQUIRED
    descriptor = os.memfd_create("key", os.MFD_CLOEXEC)
    os.write(descriptor, f"{host.key_pem}\n{host.cert_pem}".encode())
    context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    os.close(descriptor)
    return context


def _list(host: SimpleHost) -> bytes:
    states = {"running": pb.SandboxState.RUNNING, "paused": pb.SandboxState.PAUSED}
    return pb.ListSandboxesResponse(
        sandboxes=[
            pb.Sandbox(sandbox_id=sandbox_id, state=states[status], network_revision=1, generation=1)
            for sandbox_id, status in host.sandboxes
        ]
    ).to_binary()


async def steady_load() -> list[Figure]:
    """CPU time of the control plane and of PostgreSQL, in cores."""
    folder = Path(tempfile.mkdtemp(prefix="wrenn-steady-"))
    folder.chmod(0o711)
    try:
        url = await ensure_running(folder)
        await migrate(url)
        return await _measured(folder, url)
    finally:
        await stop(folder)
        shutil.rmtree(folder)


async def _measured(folder: Path, url: str) -> list[Figure]:
    control_port, agent_port = free_port(), free_port()
    control_url = f"http://127.0.0.1:{control_port}"
    authority = ensure_pki(folder / "pki")
    database = Database(url, answer_timeout_s=FILL_TIMEOUT_S)
    await fill(database, HOSTS)
    hosts = await _hosts(database, folder, agent_port)
    context = multiprocessing.get_context("spawn")
    calls = context.Manager().dict()
    program = context.Process(
        target=be_hosts, args=(hosts, agent_port, control_url, authority.trusted_pem, calls), daemon=True
    )
    program.start()
    while "ready" not in calls:
        await asyncio.sleep(0.2)
    await database.execute(text("UPDATE hosts SET last_heartbeat_at = now()"))
    log = (folder / "control.log").open("wb")
    control = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "wrenn.cli.main",
        "control",
        env={
            "PATH": os.environ["PATH"],
            "WRENN_DATA_DIR": str(folder),
            "DATABASE_URL": url,
            "WRENN_LISTEN": f"127.0.0.1:{control_port}",
        },
        stdout=log,
        stderr=log,
    )
    started = time.monotonic()
    try:
        async with asyncio.timeout(_FIRST_VISITS_S):
            while min(calls.get(name, 0) for name in ("GetHost", "ListSandboxes", "ListSnapshots")) < HOSTS:
                await asyncio.sleep(1)
        print(f"every host was visited after {time.monotonic() - started:.0f} s", file=sys.stderr, flush=True)
        await asyncio.sleep(WARM_UP_S)
        cpu, statements = _cpu(control.pid, folder), await _statements(database)
        calls_before, begun = Counter(dict(calls)), time.monotonic()
        await asyncio.sleep(MEASURED_S)
        took_s = time.monotonic() - begun
        used = {name: (after - cpu[name]) / took_s for name, after in _cpu(control.pid, folder).items()}
        stats = {name: (n - statements[name]) / took_s for name, n in (await _statements(database)).items()}
        made = {name: n / took_s for name, n in (Counter(dict(calls)) - calls_before).items()}
    finally:
        program.kill()
        control.terminate()
        await control.wait()
        log.close()
        await database.close()
    total = sum(used.values())
    rates = ", ".join(f"{name} {rate:.1f}" for name, rate in sorted(made.items()))
    return [
        Figure(
            f"steady load of {HOSTS} hosts with {SANDBOXES_PER_HOST} sandboxes each, of one core",
            "–",
            f"{total:.0%} (control plane {used['control']:.0%}, PostgreSQL {used['postgres']:.0%})",
            f"calls/s: {rates}; statements/s {stats['commits']:.0f}, rows/s {stats['rows']:.0f};"
            f" load {os.getloadavg()[0]:.1f}",
            f"≤ {LIMIT:.0%}",
            total <= LIMIT,
        )
    ]


async def _hosts(database: Database, folder: Path, agent_port: int) -> list[SimpleHost]:
    """Give the hosts in the database tokens, certificates, and one address."""
    await database.execute(
        text("UPDATE hosts SET address = :address, inventory = :inventory, last_heartbeat_at = now()"),
        {"address": f"https://127.0.0.1:{agent_port}", "inventory": INVENTORY},
    )
    tokens, authority, pair = (
        Tokens(ensure_secret(folder), SystemClock()),
        ensure_pki(folder / "pki"),
        new_key_pair(),
    )
    lying: dict[Any, list[tuple[str, str]]] = {}
    for row in await database.execute(text("SELECT id, host_id, status FROM sandboxes")):
        lying.setdefault(row.host_id, []).append((str(SandboxId(row.id)), row.status))
    made: list[SimpleHost] = []
    for host_uuid, sandboxes in lying.items():
        host_id, refresh_id = HostId(host_uuid), uuid.uuid4()
        await database.execute(
            text(
                "INSERT INTO host_refresh_tokens (id, host_id, token_hash, expires_at, ca_signer, ca_trusted)"
                " VALUES (:id, :host, :hash, now() + interval '60 days', :signer, :trusted)"
            ),
            {
                "id": refresh_id,
                "host": host_uuid,
                "hash": Secret(str(refresh_id)).sha256_hex(),
                "signer": authority.identity.signer,
                "trusted": ",".join(sorted(authority.identity.trusted)),
            },
        )
        made.append(
            SimpleHost(
                str(host_id),
                tokens.issue_host(host_id, refresh_id),
                pair.key_pem,
                authority.sign_agent(pair.csr_pem, host_id, "127.0.0.1", cert_epoch=0).pem,
                sandboxes,
            )
        )
    return made


async def _wait_serving(url: str) -> None:
    async with asyncio.timeout(_FIRST_VISITS_S), aiohttp.ClientSession() as session:
        while True:
            try:
                async with session.get(f"{url}/health") as answer:
                    if answer.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.2)


def _cpu(control_pid: int, folder: Path) -> Mapping[str, float]:
    """CPU seconds until now of the control plane, and of PostgreSQL with all its processes."""
    postmaster = int((folder / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    ticks = {"control": 0, "postgres": 0}
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        pid, parent = int(entry.name), int(fields[1])
        if pid == control_pid:
            ticks["control"] += int(fields[11]) + int(fields[12])
        elif pid == postmaster:
            # With its children that have ended.
            ticks["postgres"] += sum(map(int, fields[11:15]))
        elif parent == postmaster:
            ticks["postgres"] += int(fields[11]) + int(fields[12])
    return {name: n / os.sysconf("SC_CLK_TCK") for name, n in ticks.items()}


async def _statements(database: Database) -> Mapping[str, float]:
    found = await database.execute(
        text(
            "SELECT xact_commit AS commits, tup_returned + tup_fetched AS rows FROM pg_stat_database"
            " WHERE datname = current_database()"
        )
    )
    row = found.one()
    return {"commits": row.commits, "rows": row.rows}


async def main() -> None:
    for figure in await steady_load():
        print(figure.row(), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
