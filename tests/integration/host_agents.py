"""Plays the agent of a host over HTTP: makes its key, registers, refreshes, sends heartbeats."""

from __future__ import annotations

import datetime as dt
import itertools
from dataclasses import dataclass, field
from typing import Any

import httpx2
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from wrenn.base.ids import HostId

from .conftest import client, run_sql
from .people import Person

_ports = itertools.count(20_000)


def elsewhere() -> str:
    """An address that is not this machine's, as hosts of teams need; it is of the block whose packets routers discard (RFC 6666)."""
    return f"[100::1]:{next(_ports)}"


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def csr_of(key: Any, *, name: str = "anything") -> str:
    """A request that asks for more than it gets: another name, and to be a CA."""
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    builder = builder.add_extension(
        x509.SubjectAlternativeName([x509.DNSName("other.example")]), critical=False
    )
    request = builder.sign(key, hashes.SHA256())
    return request.public_bytes(serialization.Encoding.PEM).decode()


@dataclass
class AgentPlayer:
    """The agent of one host, as far as the control plane sees it."""

    url: str
    address: str = field(default_factory=lambda: f"127.0.0.1:{next(_ports)}")
    key: ec.EllipticCurvePrivateKey = field(default_factory=new_key)
    host_id: str = ""
    token: str = ""
    refresh_token: str = ""
    cert_pem: str = ""
    ca_cert_pem: str = ""

    async def register(self, token: str, **fields: Any) -> httpx2.Response:
        """A registration that may fail."""
        body = {
            "token": token,
            "address": self.address,
            "csr_pem": csr_of(self.key),
            "arch": "x86_64",
            "cpu_cores": 4,
            "memory_mb": 8192,
            "disk_gb": 100,
            **fields,
        }
        async with client(self.url, None) as api:
            return self._keep(await api.post("/v1/hosts/register", json=body))

    async def refresh(self, *, keep: bool = True, **fields: Any) -> httpx2.Response:
        """A refresh that may fail; without `keep` its answer is lost."""
        body = {"refresh_token": self.refresh_token, "csr_pem": csr_of(self.key), **fields}
        async with client(self.url, None) as api:
            answer = await api.post("/v1/hosts/auth/refresh", json=body)
            return self._keep(answer) if keep else answer

    async def heartbeat(
        self, *, host_id: str | None = None, token: str | None = None, **more: Any
    ) -> httpx2.Response:
        """A heartbeat that may fail."""
        headers = {"X-Host-Token": self.token if token is None else token, **more.pop("headers", {})}
        async with client(self.url, None) as api:
            return await api.post(f"/v1/hosts/{host_id or self.host_id}/heartbeat", headers=headers, **more)

    def _keep(self, answer: httpx2.Response) -> httpx2.Response:
        if answer.status_code in (200, 201):
            said = answer.json()
            self.host_id = said["host"]["id"]
            self.token, self.refresh_token = said["token"], said["refresh_token"]
            self.cert_pem, self.ca_cert_pem = said["cert_pem"], said["ca_cert_pem"]
        return answer

    @property
    def certificate(self) -> x509.Certificate:
        return x509.load_pem_x509_certificate(self.cert_pem.encode())


async def create_host(person: Person, **body: Any) -> tuple[dict[str, Any], str]:
    """A new host, regular unless `body` says else, and its registration token."""
    answer = await person.post("/v1/hosts", {"type": "regular", **body})
    assert answer.status_code == 201, answer.text
    return answer.json()["host"], answer.json()["registration_token"]


async def registered(person: Person, **body: Any) -> AgentPlayer:
    """A new host whose agent has registered and sent a heartbeat."""
    _, token = await create_host(person, **body)
    player = AgentPlayer(person.url)
    if body.get("type") == "byoc":
        player.address = elsewhere()
    answer = await player.register(token)
    assert answer.status_code == 201, answer.text
    assert (await player.heartbeat()).status_code == 204
    return player


async def unwatched(database_url: str, player: AgentPlayer) -> None:
    """Have the monitor leave this host alone, at whose address nobody serves: its state is that of its heartbeats."""
    await run_sql(
        database_url, f"UPDATE hosts SET address = '' WHERE id = '{HostId.parse(player.host_id).value}'"
    )


async def forget_hosts(database_url: str) -> None:
    """Have nobody call the hosts that tests made."""
    await run_sql(
        database_url,
        "UPDATE hosts SET deleted_at = now() WHERE (name <> 'local' OR team_id IS NOT NULL) AND deleted_at IS NULL",
    )


def in_about(seconds: float, moment: dt.datetime) -> bool:
    """Whether a moment is so far from now, to some minutes."""
    distance = moment - dt.datetime.now(dt.UTC)
    return abs(distance.total_seconds() - seconds) < 300
