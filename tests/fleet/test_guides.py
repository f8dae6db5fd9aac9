"""The guides to several replicas and to more hosts, followed as written on machines of their own (`machine.py`). Costs about a minute.

The programs are those that pip installs from the package of this checkout: two replicas as an ordinary user, with the unit's
command, HAProxy, and an agent over real virtual machines. What differs: PostgreSQL is one server by both its names, and both
replicas are on one machine.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import pytest_asyncio

from tests.docs_examples import section
from tests.fleet.kit import DOMAIN, ROOT, Host, running_haproxy, until, write_certificate
from tests.fleet.machine import Machine, build_wheel, machine
from tests.installations import remove_installation
from wrenn.agent.data_folder import is_held
from wrenn.control.db.embedded import ensure_running, stop
from wrenn.linux.command import run
from wrenn.testing.server import free_port

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]

REPLICAS = "docs/operations/high-availability.md"
HOSTS = "docs/howto/add-a-host.md"
PASSWORD = "correct horse battery"
_FIRST_START_S = 100.0
LOG_IN = "wrenn login --url https://api.example.com --email admin@example.com"
UNIT = ROOT / "deploy/systemd/wrenn-control.service"


def blocks(page: str, heading: str) -> list[str]:
    return [example.program for example in section(page, heading)]


@dataclass
class Installed:
    """What following the guide to several replicas gives. `admin` is the computer of its admin, too."""

    control: Machine
    folder: Path
    host: Host
    names: dict[str, str]
    wheels: Path
    ports: list[int]

    async def wrenn(self, script: str, *, stdin: str = "") -> str:
        """Run a script of the admin."""
        return await self.control.run(script, stdin=stdin)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def host(folder: Path) -> AsyncIterator[Host]:
    """The network of the machine that becomes a host."""
    made = Host(1, folder / "guides" / "rack1" / "data")
    await made.make_network()
    yield made
    await made.remove_network()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def database(folder: Path, host: Host) -> AsyncIterator[None]:
    """PostgreSQL at the address that the names of the guide lead to."""
    place = folder / "guides"
    place.mkdir(mode=0o711, exist_ok=True)
    place.chmod(0o711)
    await ensure_running(place)
    await stop(place)
    with (place / "postgres/postgresql.conf").open("a") as settings:
        settings.write(f"listen_addresses = '{host.control_address}'\n")
    with (place / "postgres/pg_hba.conf").open("a") as rules:
        rules.write("host all all 10.77.0.0/16 scram-sha-256\n")
    url = await ensure_running(place)
    await run(["psql", url, "--quiet", "--command", "ALTER ROLE wrenn PASSWORD 'PASSWORD'"], timeout_s=10)
    yield
    await stop(place)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def installed(folder: Path, host: Host, database: None) -> AsyncIterator[Installed]:
    """Two replicas behind HAProxy, by the guide."""
    place = folder / "guides"
    wheels = place / "wheels"
    wheels.mkdir()
    build_wheel(wheels)
    names = {
        "api.example.com": host.control_address,
        "db1.internal": host.control_address,
        "db2.internal": host.control_address,
    }
    certificate, ca_file = write_certificate(place, ["api.example.com", f"*.{DOMAIN}"])
    async with machine(place / "control", wheels, names) as control:
        control.environment["SSL_CERT_FILE"] = str(ca_file)
        ports = [free_port(), free_port()]
        await _follow_to_the_start(control, place)
        for number, port in enumerate(ports, 1):
            await _start_unit(control, f"replica-{number}", port)
        async with running_haproxy(
            place, f"{host.control_address}:443", certificate, [f"127.0.0.1:{port}" for port in ports]
        ):
            *_, make_admin = blocks(REPLICAS, "Start them")
            await control.run(make_admin, stdin=f"{PASSWORD}\n")
            await until(lambda: _answers(control))
            yield Installed(control, place, host, names, wheels, ports)


async def _follow_to_the_start(control: Machine, place: Path) -> None:
    (make_ca,) = blocks(REPLICAS, "What replicas share")
    (database_url,) = blocks(REPLICAS, "PostgreSQL that fails over")
    install, migrate, _ = blocks(REPLICAS, "Start them")
    await control.run(f"mkdir {place}/ca; cd {place}/ca\n{make_ca}")
    await control.run(install)
    where = await control.run("/opt/wrenn/bin/python -c 'import wrenn; print(wrenn.__file__)'")
    assert where.startswith("/opt/wrenn/"), where
    await control.run("install -d -o wrenn -g wrenn -m 700 /srv/wrenn-store; mkdir -m 700 /etc/wrenn")
    settings = {
        "DATABASE_URL": database_url.partition("DATABASE_URL='")[2].strip().rstrip("'"),
        "WRENN_JWT_SECRET": "a secret that both replicas share, of the test",
        # PEM text in double quotes spans lines.
        "WRENN_CA_CERT": f'"{(place / "ca/ca.pem").read_text()}"',
        "WRENN_CA_KEY": f'"{(place / "ca/ca.key").read_text()}"',
        "WRENN_STORE": "file:///srv/wrenn-store",
        "WRENN_DOMAIN": DOMAIN,
        "WRENN_TRUSTED_PROXIES": "127.0.0.1",
        # Of the test: nobody waits.
        "WRENN_METRICS_LISTEN": "off",
        "WRENN_HOST_INTERVAL_S": "0.5",
        "WRENN_MISSING_AFTER_S": "3",
        "WRENN_UNKNOWN_GRACE_S": "2",
    }
    file = control.path("/etc/wrenn/control.env")
    file.touch(mode=0o600)
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    assert "The database is up to date." in await control.run(migrate)


async def _start_unit(control: Machine, name: str, port: int) -> None:
    """Do what systemd does with the unit, for one of two replicas on a machine."""
    unit = UNIT.read_text()
    command = re.search(r"^ExecStart=(.+)$", unit, re.MULTILINE)
    user = re.search(r"^User=(.+)$", unit, re.MULTILINE)
    assert command is not None
    assert user is not None
    credentials = f"/etc/wrenn/{name}"
    await control.run(
        f"install -d -o {user[1]} -m 700 {credentials} /var/lib/{name}; "
        f"install -o {user[1]} -m 400 /etc/wrenn/control.env {credentials}; chmod 711 /etc/wrenn"
    )
    control.start(
        [
            "setpriv", f"--reuid={user[1]}", f"--regid={user[1]}", "--init-groups", "--no-new-privs", "--bounding-set=-all",
            *command[1].replace("%d", credentials).split(),
        ],
        {"WRENN_LISTEN": f"127.0.0.1:{port}", "WRENN_DATA_DIR": f"/var/lib/{name}"},
    )  # fmt: skip


async def _answers(control: Machine) -> object:
    script = "python3 -c 'import urllib.request as r; print(r.urlopen(\"https://api.example.com/health\").status)' 2>&1 || true"
    return (await control.run(script)).strip() == "200"


async def test_a_replica_that_dies_takes_nobody_with_it(installed: Installed) -> None:
    first, _ = installed.control.processes
    first.kill()
    first.wait(10)
    await installed.wrenn(f"{LOG_IN}; wrenn whoami", stdin=f"{PASSWORD}\n")
    await _start_unit(installed.control, "replica-1", installed.ports[0])


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
async def test_systemd_accepts_the_units(installed: Installed) -> None:
    """Theirs, and that of the agent of a host that joined."""
    write = (
        "from pathlib import Path; from wrenn.cli.join.service import unit_file;"
        "Path('/tmp/wrenn-agent.service').write_text(unit_file('/opt/wrenn/bin/python', Path('/etc/wrenn/agent.env')))"
    )
    shutil.copy(UNIT, installed.control.path("/tmp/wrenn-control.service"))
    said = await installed.control.run(
        f'/opt/wrenn/bin/python -c "{write}"; systemd-analyze verify /tmp/wrenn-control.service /tmp/wrenn-agent.service 2>&1'
    )
    assert said == ""


async def test_a_host_is_added_and_removed_as_the_guide_says(installed: Installed) -> None:
    """Every block of the guide, in its order, and what it says that happens."""
    log_in, install, look = blocks(HOSTS, "Add it")
    (token_again,) = blocks(HOSTS, "Credentials")
    (tags,) = blocks(HOSTS, "Tags")
    (explain,) = blocks(HOSTS, "See where sandboxes are placed")
    (delete,) = blocks(HOSTS, "Remove it")
    join = install.splitlines()[-1]
    wrenn = installed.wrenn
    token = await wrenn(log_in, stdin=f"{PASSWORD}\n")
    assert re.fullmatch(r"[0-9a-f]{64}\n", token)
    async with machine(
        installed.folder / "rack1", installed.wheels, installed.names, namespace=installed.host.namespace
    ) as rack:
        data_dir = installed.host.data_dir
        rack.environment |= {
            "SSL_CERT_FILE": installed.control.environment["SSL_CERT_FILE"],
            "WRENN_DATA_DIR": str(data_dir),
            "WRENN_IMAGES_DIR": os.environ.get("WRENN_IMAGES_DIR", "/var/lib/wrenn"),
            "WRENN_HEARTBEAT_S": "0.5",
            "WRENN_WARM_TEMPLATE": "",
            "WRENN_AGENT_METRICS_LISTEN": "off",
        }
        try:
            joined = await rack.run(install, stdin=token)
            (row,) = json.loads(await wrenn("wrenn hosts list --json"))
            assert f"{row['id']} is online at {installed.host.address}:8010.\n" in joined
            assert "The agent runs as a background process" in joined
            assert row["status"] == "online"
            assert row["id"] in await wrenn(look)
            assert (data_dir / "credentials.json").stat().st_mode & 0o777 == 0o600
            assert "registration token is not valid" in await rack.run_refused(join, stdin=token)

            await wrenn(tags.replace("wrenn hosts tags remove rack1 nvme\n", ""))
            assert "rack1" in await wrenn(explain)
            sandbox_id = await _created(installed)
            assert (
                await wrenn(f"wrenn exec {sandbox_id} -- sh -c 'echo kept >/root/kept; cat /root/kept'")
                == "kept\n"
            )
            assert (
                await wrenn("wrenn hosts tags remove rack1 nvme; wrenn hosts tags list rack1")
            ).strip() == ""

            # Another host's token, and one that the host does not need.
            other = await wrenn("wrenn hosts create --name other")
            assert row["id"] in await rack.run_refused(join, stdin=other)
            assert "force=true" in await installed.control.run_refused(token_again)
            # The host is off for long.
            os.kill(json.loads((data_dir / "run/agent.pid").read_text())["pid"], signal.SIGKILL)
            (data_dir / "credentials.json").unlink()
            await until(lambda: _is(installed, "unreachable"))
            await rack.run(join, stdin=await wrenn(token_again))
            await until(lambda: _is(installed, "online"))
            await until(lambda: _file_is_there(installed, sandbox_id))

            assert sandbox_id in await installed.control.run_refused(delete, stdin="y\n")
            await wrenn("wrenn hosts drain rack1 --pause")
            await wrenn(f"{delete.strip()} --yes --force")

            async def ended() -> object:
                return not is_held(data_dir)

            await until(ended)
            assert list((data_dir / "sandboxes").iterdir()) == []
            assert not (data_dir / "credentials.json").exists()
            assert "this host was deleted" in (data_dir / "run/agent.log").read_text()
            # The folder is as a whole wrenn's.
            await rack.run("wrenn down --purge --yes")
            assert not data_dir.exists()
        finally:
            await _end_agent(rack, data_dir)


async def _is(installed: Installed, status: str) -> object:
    (found,) = (
        each
        for each in json.loads(await installed.wrenn("wrenn hosts list --json"))
        if each["name"] == "rack1"
    )
    return found["status"] == status


async def _created(installed: Installed) -> str:
    """Create a sandbox. Some seconds after the host is online the control plane reaches it, too; the first start boots the template."""
    answer = ""
    try:
        async with asyncio.timeout(_FIRST_START_S):
            while not answer.startswith("cl-"):
                answer = await installed.wrenn("wrenn create --memory 128 --host-tag nvme 2>&1 || true")
    except TimeoutError:
        raise AssertionError(answer) from None
    return answer.strip()


async def _file_is_there(installed: Installed, sandbox_id: str) -> object:
    return await installed.wrenn(f"wrenn exec {sandbox_id} -- cat /root/kept 2>&1 || true") == "kept\n"


async def _end_agent(rack: Machine, data_dir: Path) -> None:
    """Whatever a test that failed left."""
    if data_dir.exists():
        await rack.run("wrenn down --purge --yes")
    if data_dir.exists():
        await remove_installation(data_dir)
        shutil.rmtree(data_dir)
