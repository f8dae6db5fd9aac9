"""Several hosts, two replicas of the control plane behind HAProxy, and PostgreSQL, on one machine.

Each agent runs in a network namespace of its own, with its own address and data folder, and reaches the control plane by
TLS through HAProxy, configured as in `deploy/haproxy`. The guests are simulated (processes), all else is real.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.fleet.programs import NAMESPACE
from wrenn.base.secrets import Secret
from wrenn.control.administration import create_admin
from wrenn.control.hosts.pki import ensure_pki
from wrenn.linux.command import CommandError, run
from wrenn.linux.namespaces import create_namespace, remove_namespace
from wrenn.testing.fork_server import ForkedProgram, start_program
from wrenn.testing.server import free_port
from wrenn.testing.simulated_agent import agent_environment, groups_of, remove_everything

ROOT: Final = Path(__file__).resolve().parents[2]
DEADLINE_S: Final = 30.0
AGENT_PORT: Final = 8010
ADMIN: Final = "admin@example.com"
PASSWORD: Final = "correct horse battery"
MISSING_AFTER_S: Final = 3.0
DOMAIN: Final = "sandboxes.test"


async def until(done: Callable[[], Awaitable[object]], *, deadline_s: float = DEADLINE_S) -> None:
    """Wait until `done` returns something true."""
    seen: object = None
    try:
        async with asyncio.timeout(deadline_s):
            while not (seen := await done()):
                await asyncio.sleep(0.1)
    except TimeoutError:
        raise AssertionError(f"not reached in {deadline_s:.0f} s: {seen}") from None


@dataclass
class Host:
    """One machine: a network namespace with an agent. `number` is in its addresses."""

    number: int
    data_dir: Path
    host_id: str = ""
    process: ForkedProgram | None = None
    environment: dict[str, str] = field(default_factory=dict[str, str])

    @property
    def namespace(self) -> str:
        return f"wrenn-test-host-{self.number}"

    @property
    def link(self) -> str:
        """The control plane's end of the link to the host."""
        return f"wt-host{self.number}"

    @property
    def control_address(self) -> str:
        """The control plane as this host sees it."""
        return f"10.77.{self.number}.1"

    @property
    def address(self) -> str:
        return f"10.77.{self.number}.2"

    async def make_network(self) -> None:
        await self.remove_network()
        await create_namespace(self.namespace)
        for command in (
            f"ip link add {self.link} type veth peer name eth0 netns {self.namespace}",
            f"ip address add {self.control_address}/30 dev {self.link}",
            f"ip link set {self.link} up",
            f"ip -n {self.namespace} address add {self.address}/30 dev eth0",
            f"ip -n {self.namespace} link set eth0 up",
            f"ip -n {self.namespace} link set lo up",
            # Whatever the control plane's machine serves, as a store of images.
            f"ip -n {self.namespace} route add 10.77.0.0/16 via {self.control_address}",
        ):
            await run(command.split(), timeout_s=10)

    async def remove_network(self) -> None:
        await remove_namespace(self.namespace)
        # The link goes with its other end, unless the namespace is still being freed.
        with suppress(CommandError):
            await run(["ip", "link", "delete", self.link], timeout_s=10)

    async def cut(self) -> None:
        """Drop every packet between this host and the control plane, as a broken switch does."""
        rules = "add table inet cut; add chain inet cut in { type filter hook input priority -10; }; add rule inet cut in iifname eth0 drop"
        await run(["ip", "netns", "exec", self.namespace, "nft", rules], timeout_s=10)

    async def reconnect(self) -> None:
        await run(["ip", "netns", "exec", self.namespace, "nft", "delete table inet cut"], timeout_s=10)

    def start(self) -> None:
        assert self.process is None or self.process.poll() is not None, "it runs already"
        with self.log.open("ab") as log:
            self.process = start_program(
                "tests.fleet.programs:agent", environment=self.environment, stdout=log, stderr=log
            )

    async def end(self, *, kill: bool = False) -> None:
        if self.process is not None:
            (self.process.kill if kill else self.process.terminate)()
            await self.process.wait_ended()

    @property
    def log(self) -> Path:
        return self.data_dir.with_suffix(".log")

    def credentials(self) -> dict[str, Any]:
        """What its credentials file has now."""
        return json.loads((self.data_dir / "credentials.json").read_text())

    def expire_certificate(self) -> dict[str, Any]:
        """Make it look as if two thirds of its certificate's life had passed: the agent takes the changed file at its next heartbeat.

        Returns what the file had before.
        """
        former, scratch = self.credentials(), self.data_dir / "credentials.test"
        scratch.write_text(json.dumps(former | {"expires_at_unix": former["issued_at_unix"] + 1}))
        scratch.rename(self.data_dir / "credentials.json")
        return former

    def sandbox_ids(self) -> set[str]:
        """The sandboxes that the agent has journals of."""
        folder = self.data_dir / "sandboxes"
        return {path.name for path in folder.iterdir()} if folder.is_dir() else set()


@dataclass
class Fleet:
    """The whole installation."""

    folder: Path
    database_url: str
    url: str
    ca_file: Path
    hosts: list[Host]
    replicas: dict[str, ForkedProgram]
    replica_environments: dict[str, dict[str, str]]
    token: str = ""
    key: str = ""

    @property
    def port(self) -> str:
        return self.url.rpartition(":")[2]

    def api(self, *, key: bool = True) -> httpx2.AsyncClient:
        headers = {"X-API-Key": self.key} if key else {"Authorization": f"Bearer {self.token or 'none'}"}
        return httpx2.AsyncClient(
            base_url=self.url,
            headers=headers,
            timeout=40,
            trust_env=False,
            verify=ssl.create_default_context(cafile=self.ca_file),
        )

    async def log_in(self) -> None:
        async with self.api(key=False) as api:
            del api.headers["Authorization"]
            answer = await api.post("/v1/auth/login", json={"email": ADMIN, "password": PASSWORD})
            assert answer.status_code == 200, answer.text
            self.token = answer.json()["token"]

    async def call(self, method: str, path: str, json: Any = None) -> Any:
        """A call of the admin that succeeds."""
        async with self.api(key=False) as api:
            answer = await api.request(method, path, json=json)
            assert answer.is_success, (method, path, answer.text)
            return answer.json() if answer.content else None

    async def join(self, host: Host, *, url: str | None = None) -> None:
        """Create the host, and start its agent with the registration token."""
        made = await self.call("POST", "/v1/hosts", {"type": "regular", "name": f"host{host.number}"})
        host.host_id = made["host"]["id"]
        self.leave_token(host, made["registration_token"], url=url)
        host.start()

    def leave_token(self, host: Host, token: str, *, url: str | None = None) -> None:
        from wrenn.agent.enrolment import PendingRegistration

        host.data_dir.mkdir(mode=0o700, exist_ok=True)
        PendingRegistration(url or f"https://{host.control_address}:{self.port}", token).save(host.data_dir)

    async def status_of(self, host: Host) -> str:
        return (await self.call("GET", f"/v1/hosts/{host.host_id}"))["status"]

    async def wait_status(self, host: Host, status: str) -> None:
        async def reached() -> object:
            return await self.status_of(host) == status

        await until(reached)

    async def create(self, **wanted: object) -> str:
        async with self.api() as api:
            answer = await api.post("/v1/sandboxes", json={"memory_mb": 128, **wanted})
            assert answer.status_code == 201, answer.text
            return answer.json()["id"]

    async def sandboxes(self) -> dict[str, str]:
        """Status of each sandbox, by id."""
        async with self.api() as api:
            return {each["id"]: each["status"] for each in (await api.get("/v1/sandboxes")).json()}

    async def exec(self, sandbox_id: str) -> int:
        """Run a command; the status of the answer."""
        async with self.api() as api:
            answer = await api.post(f"/v1/sandboxes/{sandbox_id}/exec", json={"cmd": "true"})
            return answer.status_code

    def host_of(self, sandbox_id: str) -> Host:
        (host,) = [host for host in self.hosts if sandbox_id in host.sandbox_ids()]
        return host

    async def start_replica(self, name: str) -> None:
        with (self.folder / f"{name}.log").open("ab") as log:
            self.replicas[name] = start_program(
                "wrenn.control.main:main",
                environment=self.replica_environments[name],
                stdout=log,
                stderr=log,
            )
        listen = self.replica_environments[name]["WRENN_LISTEN"]

        async def serves() -> object:
            assert self.replicas[name].poll() is None, (self.folder / f"{name}.log").read_text()[-4000:]
            async with httpx2.AsyncClient(timeout=2, trust_env=False, verify=False) as probe:
                try:
                    return (await probe.get(f"http://{listen}/health")).status_code == 200
                except httpx2.TransportError:
                    return False

        await until(serves)

    async def remove_sandboxes(self) -> None:
        async with self.api() as api:
            for sandbox_id in await self.sandboxes():
                await api.delete(f"/v1/sandboxes/{sandbox_id}")

    async def assert_equal_truth(self) -> None:
        """The list and the hosts name the same sandboxes, soon."""

        async def equal() -> object:
            listed = set(await self.sandboxes())
            on_hosts = [sandbox_id for host in self.hosts for sandbox_id in host.sandbox_ids()]
            return sorted(on_hosts) == sorted(listed)

        await until(equal)

    async def assert_nothing_left(self) -> None:
        """Without sandboxes, no host has files or processes of any, soon. Layers of builds stay."""

        async def left() -> list[str]:
            return [
                f"{host.namespace}: {name}"
                for host in self.hosts
                for name in (
                    *host.sandbox_ids(),
                    *(each for each in groups_of(host.data_dir).names() if not each.startswith("base-")),
                    *(path.name for path in (host.data_dir / "snapshots").glob(".*")),
                )
            ]

        async def nothing() -> object:
            return not await left()

        assert not await self.sandboxes()
        try:
            await until(nothing)
        except AssertionError:
            raise AssertionError(await left()) from None


def write_certificate(folder: Path, addresses: list[str]) -> tuple[Path, Path]:
    """A certificate for these addresses and names, signed by a CA of its own: the proxy's file, with its key, and the CA's."""
    now = datetime.now(UTC)
    ca_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())

    def builder(name: str, public: ec.EllipticCurvePublicKey) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
            .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "test CA")]))
            .public_key(public)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
        )

    ca = (
        builder("test CA", ca_key.public_key())
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(ca_key, hashes.SHA256())
    )
    names = x509.SubjectAlternativeName([_general_name(each) for each in addresses])
    leaf = (
        builder("wrenn test", key.public_key())
        .add_extension(names, critical=False)
        .sign(ca_key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (folder / "proxy.pem").write_bytes(leaf.public_bytes(pem) + private)
    (folder / "ca.pem").write_bytes(ca.public_bytes(pem))
    return folder / "proxy.pem", folder / "ca.pem"


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(text))
    except ValueError:
        return x509.DNSName(text)


@asynccontextmanager
async def running_haproxy(
    folder: Path, bind: str, certificate: Path, replicas: list[str]
) -> AsyncGenerator[None]:
    environment = {
        **os.environ,
        "WRENN_BIND": bind,
        "WRENN_CERTIFICATE": str(certificate),
        **{f"WRENN_REPLICA_{number}": each for number, each in enumerate(replicas, 1)},
    }
    program = shutil.which("haproxy") or "/usr/sbin/haproxy"
    configuration = str(ROOT / "deploy/haproxy/haproxy.cfg")
    with (folder / "haproxy.log").open("ab") as log:
        process = subprocess.Popen([program, "-f", configuration], env=environment, stdout=log, stderr=log)
    try:
        yield
    finally:
        process.terminate()
        process.wait(10)


@asynccontextmanager
async def running_fleet(
    folder: Path,
    database_url: str,
    ca_pem: str,
    ca_key_pem: str,
    count: int = 3,
    *,
    settings: Mapping[str, str] | None = None,
) -> AsyncGenerator[Fleet]:
    """Start everything, the replicas with these further settings; at the end all of it is removed."""
    hosts = [Host(number, folder / f"host{number}") for number in range(1, count + 1)]
    ports = {name: free_port() for name in ("replica-1", "replica-2")}
    port = free_port()
    certificate, ca_file = write_certificate(
        folder, [*(host.control_address for host in hosts), f"*.{DOMAIN}"]
    )
    common = {
        **os.environ,
        "DATABASE_URL": database_url,
        "WRENN_JWT_SECRET": "a secret that both replicas share, of the test",
        "WRENN_CA_CERT": ca_pem,
        "WRENN_CA_KEY": ca_key_pem,
        "WRENN_TRUSTED_PROXIES": "127.0.0.1",
        "WRENN_DOMAIN": DOMAIN,
        "WRENN_METRICS_LISTEN": "off",
        "WRENN_HOST_INTERVAL_S": "0.5",
        "WRENN_MISSING_AFTER_S": str(MISSING_AFTER_S),
        "WRENN_UNKNOWN_GRACE_S": "2",
        "WRENN_LEASE_S": "3",
        "WRENN_START_RETRY_S": "5",
        "WRENN_RATE_FAILURES_PER_ADDRESS": "0",
        **(settings or {}),
    }
    fleet = Fleet(
        folder,
        database_url,
        f"https://{hosts[0].control_address}:{port}",
        ca_file,
        hosts,
        {},
        {
            name: {
                **common,
                "WRENN_LISTEN": f"127.0.0.1:{number}",
                "WRENN_DATA_DIR": str(folder / name),
            }
            for name, number in ports.items()
        },
    )
    async with AsyncExitStack() as stack:
        for name in ports:
            (folder / name).mkdir(exist_ok=True)
        for host in hosts:
            stack.push_async_callback(host.remove_network)
            await host.make_network()
            host.environment = {
                **os.environ,
                **agent_environment(host.data_dir),
                "WRENN_AGENT_LISTEN": f"{host.address}:{AGENT_PORT}",
                "WRENN_HEARTBEAT_S": "0.5",
                "WRENN_CP_CA_FILE": str(ca_file),
                NAMESPACE: host.namespace,
            }
        await create_admin(database_url, email=ADMIN, name="Ada", password=Secret(PASSWORD))
        stack.push_async_callback(_end_all, fleet)
        await asyncio.gather(*map(fleet.start_replica, ports))
        await stack.enter_async_context(
            running_haproxy(
                folder, f"0.0.0.0:{port}", certificate, [f"127.0.0.1:{number}" for number in ports.values()]
            )
        )
        await until(lambda: _answers(fleet))
        await fleet.log_in()
        fleet.key = (await fleet.call("POST", "/v1/api-keys", {"name": "test"}))["key"]
        yield fleet


@asynccontextmanager
async def joined_fleet(
    folder: Path, database_url: str, *, settings: Mapping[str, str] | None = None
) -> AsyncGenerator[Fleet]:
    """`running_fleet` with a CA of its own, all of whose hosts have joined and are online."""
    ensure_pki(folder / "pki")
    ca_pem, ca_key_pem = ((folder / "pki" / name).read_text() for name in ("ca.pem", "ca.key"))
    async with running_fleet(folder, database_url, ca_pem, ca_key_pem, settings=settings) as fleet:
        for host in fleet.hosts:
            await fleet.join(host)
        for host in fleet.hosts:
            await fleet.wait_status(host, "online")
        yield fleet


async def _answers(fleet: Fleet) -> object:
    async with fleet.api(key=False) as api:
        try:
            return (await api.get("/health")).status_code == 200
        except httpx2.TransportError:
            return False


async def _end_all(fleet: Fleet) -> None:
    """All at once: each waits some seconds for connections that the others hold."""

    async def end(process: ForkedProgram) -> None:
        process.terminate()
        await process.wait_ended()

    await asyncio.gather(*(host.end() for host in fleet.hosts), *map(end, fleet.replicas.values()))
    for host in fleet.hosts:
        await remove_everything(host.data_dir)
