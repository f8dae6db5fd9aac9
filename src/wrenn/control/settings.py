"""Settings of the control plane, from the environment. Documented in docs/reference/settings.md."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Network
from pathlib import Path
from typing import Final, Self, TypeVar

from wrenn.base.addresses import MetricsAddress, host_and_port
from wrenn.base.errors import InvalidRequest
from wrenn.base.networks import parse_networks
from wrenn.control.hosts import Authority
from wrenn.control.http.buckets import Rate
from wrenn.control.http.rate_limits import RateSettings
from wrenn.control.mail import MailSettings
from wrenn.control.oauth import OAuthSettings
from wrenn.control.objects import StoreSettings
from wrenn.control.quotas import NO_LIMIT, Limits
from wrenn.control.sandboxes import PauseUploads
from wrenn.control.snapshots import SnapshotUploads
from wrenn.control.users import AccountSettings
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.protocol.disk_share import DISK_OVERCOMMIT

T = TypeVar("T")
E = TypeVar("E", bound=StrEnum)

_DOMAIN: Final = re.compile(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?(:[0-9]{1,5})?")
_METRICS_PORT: Final = 8001
_BURST_S: Final = 5.0
"""What a caller who was quiet may have at once, in seconds of the rate."""
DEFAULT_DATA_DIR: Final = Path("/var/lib/wrenn")

_REGISTRY: Final = re.compile(r"[A-Za-z0-9.-]{1,253}(:[0-9]{1,5})?")


@dataclass(frozen=True, slots=True)
class Settings:
    """All settings of the control plane.

    Attributes:
        database_url: PostgreSQL; None: start the embedded one in the data folder.
        data_dir: the installation's folder; its `pki/` has the certificates.
        listen_host, listen_port: where the API is served.
        authority: the CA that signs the certificates of agents and control plane; None: the one in the data folder.
        max_vcpus, min_memory_mb, max_memory_mb, max_disk_mb: limits of one sandbox.
        private_networks: parts of private networks that the hosts let sandboxes reach; the agents have the same setting.
        memory_overcommit, disk_overcommit, vcpu_overcommit: how often a host's memory, disk and cores may be promised.
        start_timeout_s: longest for a sandbox to run (the first of a template boots it), to be paused or resumed, and for a
            snapshot to be taken.
        start_retry_s: how long a host that does not answer is asked again to do one of these.
        lease_s: after this time another replica goes on with the work of one that died.
        host_interval_s: how often hosts are looked at and compared with the database.
        missing_after_s: a host that does not answer and sends no heartbeats for so long is unreachable, and its running sandboxes are
            `missing`.
        unknown_grace_s: a sandbox or snapshot on a host that the database does not know is removed after this time; a paused
            sandbox that its host does not know is an error after it.
        accounts: of sign-up, sessions and the way to the platform.
        audit_retention_days: entries of the audit log are deleted after so many days; 0: never.
        domain: `host[:port]` below which the ports of sandboxes are; empty: that by which the API is called.
        oauth: of sign-in providers.
        mail: of the mail server; None: no mail is sent.
        event_retention_h: for so many hours a stream of events can be resumed.
        insecure_registries: `HOST` or `HOST:PORT` of container registries that are reached by plain HTTP.
        build_cache_mb: what the layers of a team's builds may take together; 0: builds keep none.
        quotas: what a team may have that has no limits of its own.
        rates: how many requests are answered in a second.
        store: where images are stored.
        snapshot_uploads, pause_uploads: when snapshots, and the states of paused sandboxes, are uploaded to the store.
        snapshot_copies_mb: what the snapshots that a host fetched may take of its disk; 0: no limit.
        metrics: where `/metrics` is served.
        faults: fault points to arm (tests only).
    """

    database_url: str | None
    data_dir: Path
    listen_host: str
    listen_port: int
    authority: Authority | None
    max_vcpus: int
    min_memory_mb: int
    max_memory_mb: int
    max_disk_mb: int
    private_networks: tuple[IPv4Network, ...]
    memory_overcommit: float
    disk_overcommit: float
    vcpu_overcommit: float
    start_timeout_s: float
    start_retry_s: float
    lease_s: float
    host_interval_s: float
    missing_after_s: float
    unknown_grace_s: float
    accounts: AccountSettings
    audit_retention_days: int
    domain: str
    oauth: OAuthSettings
    mail: MailSettings | None
    event_retention_h: float
    build_cache_mb: int
    quotas: Limits
    insecure_registries: frozenset[str]
    rates: RateSettings
    store: StoreSettings
    snapshot_uploads: SnapshotUploads
    pause_uploads: PauseUploads
    snapshot_copies_mb: int
    metrics: MetricsAddress
    faults: str

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read `DATABASE_URL` and `WRENN_*`; see docs/reference/settings.md.

        Raises:
            InvalidRequest: a value that cannot be used; the message names the setting.
        """
        accounts = AccountSettings.from_environment(environment)
        listen_host, listen_port = _address(environment, "WRENN_LISTEN", "127.0.0.1:8000")
        data_dir = Path(environment.get("WRENN_DATA_DIR") or DEFAULT_DATA_DIR).absolute()
        return cls(
            database_url=environment.get("DATABASE_URL") or None,
            data_dir=data_dir,
            listen_host=listen_host,
            listen_port=listen_port,
            authority=Authority.from_settings(
                environment.get("WRENN_CA_CERT", ""), environment.get("WRENN_CA_KEY", "")
            ),
            max_vcpus=_number(environment, "WRENN_MAX_VCPUS", 8, int),
            min_memory_mb=_number(environment, "WRENN_MIN_MEMORY_MB", 128, int),
            max_memory_mb=_number(environment, "WRENN_MAX_MEMORY_MB", 8192, int),
            max_disk_mb=_number(environment, "WRENN_MAX_DISK_MB", 65_536, int, least=DEFAULT_DISK_SIZE_MB),
            private_networks=_networks(environment, "WRENN_GUEST_PRIVATE_NETWORKS"),
            memory_overcommit=_number(environment, "WRENN_MEMORY_OVERCOMMIT", 4.0, float),
            disk_overcommit=_number(environment, "WRENN_DISK_OVERCOMMIT", DISK_OVERCOMMIT, float),
            vcpu_overcommit=_number(environment, "WRENN_VCPU_OVERCOMMIT", 100.0, float),
            start_timeout_s=_number(environment, "WRENN_START_TIMEOUT_S", 120.0, float),
            start_retry_s=_number(environment, "WRENN_START_RETRY_S", 20.0, float),
            lease_s=_number(environment, "WRENN_LEASE_S", 15.0, float),
            host_interval_s=_number(environment, "WRENN_HOST_INTERVAL_S", 3.0, float),
            missing_after_s=_number(environment, "WRENN_MISSING_AFTER_S", 90.0, float),
            unknown_grace_s=_number(environment, "WRENN_UNKNOWN_GRACE_S", 10.0, float),
            audit_retention_days=_number(environment, "WRENN_AUDIT_RETENTION_DAYS", 0, int, least=0),
            domain=_domain(environment),
            accounts=accounts,
            oauth=OAuthSettings.from_environment(environment, accounts.public_url),
            mail=MailSettings.from_environment(environment, accounts.public_url),
            event_retention_h=_number(environment, "WRENN_EVENT_RETENTION_H", 24.0, float),
            quotas=_quotas(environment),
            build_cache_mb=_number(environment, "WRENN_BUILD_CACHE_MB", 10_240, int, least=0),
            insecure_registries=_registries(environment),
            rates=RateSettings(
                _rate(environment, "WRENN_RATE_PER_KEY", 2000.0),
                _rate(environment, "WRENN_RATE_PER_ADDRESS", 200.0),
                _rate(environment, "WRENN_RATE_VISITS_PER_ADDRESS", 1000.0),
                _rate(environment, "WRENN_RATE_FAILURES_PER_ADDRESS", 10.0),
            ),
            store=StoreSettings.from_environment(environment, data_dir),
            snapshot_uploads=_choice(
                environment, "WRENN_UPLOAD_SNAPSHOTS", SnapshotUploads, SnapshotUploads.WHEN_NEEDED
            ),
            pause_uploads=_choice(environment, "WRENN_UPLOAD_PAUSED", PauseUploads, PauseUploads.NEVER),
            snapshot_copies_mb=_number(environment, "WRENN_SNAPSHOT_COPIES_MB", 51_200, int, least=0),
            metrics=MetricsAddress.parse(
                "WRENN_METRICS_LISTEN",
                environment.get("WRENN_METRICS_LISTEN", ""),
                default_port=_METRICS_PORT,
            ),
            faults=environment.get("WRENN_FAULTS", ""),
        )


def _number(
    environment: Mapping[str, str],
    name: str,
    default: T,
    parse: Callable[[str], T],
    *,
    least: float | None = None,
) -> T:
    """Read a whole number: at least `least`, or above 0 where that is None."""
    text = environment.get(name)
    if not text:
        return default
    try:
        value = parse(text)
    except ValueError as error:
        raise InvalidRequest(f"{name} must be a number, not {text!r}.") from error
    if least is not None and not value >= least:  # type: ignore[operator]
        raise InvalidRequest(f"{name} must be at least {least:g}, not {text!r}.")
    if least is None and not value > 0:  # type: ignore[operator]
        raise InvalidRequest(f"{name} must be above 0, not {text!r}.")
    return value


def _choice(environment: Mapping[str, str], name: str, choices: type[E], default: E) -> E:
    text = environment.get(name)
    if not text:
        return default
    try:
        return choices(text)
    except ValueError as error:
        raise InvalidRequest(f"{name} must be one of {', '.join(choices)}, not {text!r}.") from error


def _networks(environment: Mapping[str, str], name: str) -> tuple[IPv4Network, ...]:
    entries = (entry.strip() for entry in environment.get(name, "").split(","))
    try:
        return parse_networks(entry for entry in entries if entry)
    except InvalidRequest as error:
        raise InvalidRequest(f"{name}: {error.message}") from error


def _registries(environment: Mapping[str, str]) -> frozenset[str]:
    names = [part.strip() for part in environment.get("WRENN_INSECURE_REGISTRIES", "").split(",")]
    for name in filter(None, names):
        if _REGISTRY.fullmatch(name) is None:
            raise InvalidRequest("WRENN_INSECURE_REGISTRIES: must be HOST or HOST:PORT, separated by commas.")
    return frozenset(filter(None, names))


def _quotas(environment: Mapping[str, str]) -> Limits:
    def limit(name: str, default: int) -> int | None:
        value = _number(environment, f"WRENN_QUOTA_{name}", default, int, least=0)
        return None if value == NO_LIMIT else value

    return Limits(
        running_sandboxes=limit("RUNNING_SANDBOXES", 1000),
        total_sandboxes=limit("TOTAL_SANDBOXES", 10_000),
        vcpus=limit("VCPUS", 4000),
        memory_mb=limit("MEMORY_MB", 4_194_304),
        templates=limit("TEMPLATES", 1000),
        snapshot_mb=limit("SNAPSHOT_MB", 1_048_576),
        creates_per_second=limit("CREATES_PER_SECOND", 100),
    )


def _rate(environment: Mapping[str, str], name: str, default: float) -> Rate | None:
    per_s = _number(environment, name, default, float, least=0)
    return Rate(per_s, burst=max(1.0, per_s * _BURST_S)) if per_s else None


def _address(environment: Mapping[str, str], name: str, default: str) -> tuple[str, int]:
    text = environment.get(name) or default
    if (found := host_and_port(text)) is None:
        raise InvalidRequest(f"{name} must be HOST:PORT, not {text!r}.")
    return found


def _domain(environment: Mapping[str, str]) -> str:
    text = environment.get("WRENN_DOMAIN", "").lower()
    if text and _DOMAIN.fullmatch(text) is None:
        raise InvalidRequest(
            f"WRENN_DOMAIN must be a name like sandboxes.example.com, perhaps with :PORT, not {text!r}."
        )
    return text
