"""Settings of the agent from the environment; docs/reference/settings.md lists them."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import inf
from pathlib import Path
from typing import Final, Self

from wrenn.base.addresses import MetricsAddress, host_and_port
from wrenn.base.errors import InvalidRequest
from wrenn.base.units import MIB
from wrenn.protocol.api import DEFAULT_MEMORY_MB, DEFAULT_TEMPLATE, DEFAULT_VCPUS
from wrenn.protocol.disk_share import DISK_OVERCOMMIT
from wrenn.vm import Shape

DEFAULT_DATA_DIR: Final = Path("/var/lib/wrenn")
_WILDCARDS: Final = ("0.0.0.0", "::")  # noqa: S104 - compared, not bound
_METRICS_PORT: Final = 8011
_CPU_MODEL: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}")
_WARM_TEMPLATE: Final = f"{DEFAULT_TEMPLATE}:{DEFAULT_VCPUS}:{DEFAULT_MEMORY_MB}"


class VmmChoice(StrEnum):
    """Which virtual machine monitor runs the sandboxes of a host."""

    AUTO = "auto"
    """Firecracker where KVM works and a supported version is installed, otherwise QEMU."""
    QEMU = "qemu"
    FIRECRACKER = "firecracker"


class MemoryChoice(StrEnum):
    """Where Firecracker's VMs get their memory from."""

    AUTO = "auto"
    """From a page-fault server those that continue from a pause, from a file that they share those that start from an image."""
    FILE = "file"
    UFFD = "uffd"
    """From a page-fault server, all."""


@dataclass(frozen=True, slots=True)
class WarmTemplate:
    """The template and shape that the agent boots at start-up."""

    template: str
    shape: Shape


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of the agent.

    Attributes:
        data_dir: the installation's folder.
        images_dir: folder with `kernels/`, `initramfs/`, `templates/`; the data folder unless set.
        listen_host, listen_port: where the host API is served.
        address: `HOST:PORT` by which the control plane reaches it; empty: `advertised_address` says what follows from the others.
        control_url: base URL of the control plane's API; empty: that of the registration.
        control_ca: CA certificates for that URL; None: those of the system.
        heartbeat_s: time between two heartbeats.
        control_lost_after_s: when no heartbeat was accepted for so long, all running sandboxes are paused; 0: never.
        sample_interval_s: time between two samples of what sandboxes use; 0: none are taken.
        kvm_probe_s: time for a guest kernel to boot with KVM, when it is tried whether KVM works.
        vmm: which virtual machine monitor runs sandboxes: `qemu`, `firecracker`, or `auto`.
        firecracker_memory: where Firecracker's VMs get their memory from.
        firecracker_dir: folder with `firecracker` and `jailer`; None: they are searched where programs are.
        cpu_model: processor that guests see under KVM: `host`, or a model of QEMU.
        start_limit_s: time for a guest to answer after its virtual machine was started.
        ready_slots: network slots prepared ahead of need.
        disk_reserve_b: below this much free disk no sandbox is created or resumed, and those that go on writing are held: it is left
            to PostgreSQL, journals and pauses.
        image_cache_b: what images that can be fetched again may take of the host's disk; 0: no limit.
        pulled_images_b: what container images that were pulled may take, to be used again; 0: none is kept.
        sandbox_disk_b: what one sandbox may take of the host's disk; 0: no limit but the size of its own disk.
        disk_overcommit: how often the host's disk may be promised; the control plane has the same setting.
        sandbox_flows: connections that one guest may have begun, at once.
        sandbox_bit_per_s: what one sandbox may send, and receive; 0: no limit.
        sandbox_io_b_per_s: what one sandbox may read from the host's disk, and write to it, in a second; 0: no limit.
        guest_dns: name servers of the guests.
        private_networks: private networks that guests may reach, separated by commas.
        metrics: where `/metrics` is served.
        warm_template: what is booted when the agent starts, if anything.
        faults: fault points to arm (tests only).
    """

    data_dir: Path
    images_dir: Path
    listen_host: str
    listen_port: int
    address: str
    control_url: str
    control_ca: Path | None
    heartbeat_s: float
    control_lost_after_s: float
    sample_interval_s: float
    kvm_probe_s: float
    vmm: VmmChoice
    firecracker_memory: MemoryChoice
    firecracker_dir: Path | None
    cpu_model: str
    start_limit_s: float
    ready_slots: int
    disk_reserve_b: int
    image_cache_b: int
    pulled_images_b: int
    sandbox_disk_b: int
    disk_overcommit: float
    sandbox_flows: int
    sandbox_bit_per_s: int
    sandbox_io_b_per_s: int
    guest_dns: str
    private_networks: str
    metrics: MetricsAddress
    warm_template: WarmTemplate | None
    faults: str

    @property
    def advertised_address(self) -> str:
        """The address that is registered: `address`, or else where the host API is served.

        Raises:
            InvalidRequest: it is served on all addresses, and none is set.
        """
        if self.address:
            return self.address
        if self.listen_host in _WILDCARDS:
            raise InvalidRequest(
                "WRENN_AGENT_ADDRESS must be set: HOST:PORT by which the control plane reaches this host."
            )
        host = f"[{self.listen_host}]" if ":" in self.listen_host else self.listen_host
        return f"{host}:{self.listen_port}"

    @property
    def accelerator_choice(self) -> Path:
        """File that caches the result of the KVM probe."""
        return self.data_dir / "accelerator.json"

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the `WRENN_*` environment variables; docs/reference/settings.md lists them."""
        data_dir = Path(environment.get("WRENN_DATA_DIR", str(DEFAULT_DATA_DIR)))
        listen_host, listen_port = _address(environment, "WRENN_AGENT_LISTEN", "127.0.0.1:8010")
        address = environment.get("WRENN_AGENT_ADDRESS", "")
        if address:
            _address(environment, "WRENN_AGENT_ADDRESS", "")
        return cls(
            data_dir=data_dir,
            images_dir=Path(environment.get("WRENN_IMAGES_DIR", str(data_dir))),
            listen_host=listen_host,
            listen_port=listen_port,
            address=address,
            control_url=environment.get("WRENN_CP_URL", ""),
            control_ca=Path(ca_file) if (ca_file := environment.get("WRENN_CP_CA_FILE")) else None,
            heartbeat_s=float(environment.get("WRENN_HEARTBEAT_S", "30")),
            control_lost_after_s=_seconds(environment, "WRENN_CP_LOST_AFTER_S", "3600"),
            sample_interval_s=_seconds(environment, "WRENN_SAMPLE_INTERVAL_S", "0.5"),
            kvm_probe_s=_limit(environment, "WRENN_KVM_PROBE_S", "10"),
            vmm=_vmm(environment),
            firecracker_memory=_firecracker_memory(environment),
            firecracker_dir=Path(folder) if (folder := environment.get("WRENN_FIRECRACKER_DIR")) else None,
            cpu_model=_cpu_model(environment),
            start_limit_s=_limit(environment, "WRENN_START_LIMIT_S", "30"),
            ready_slots=int(environment.get("WRENN_READY_SLOTS", "4")),
            disk_reserve_b=int(environment.get("WRENN_DISK_RESERVE_MB", "1024")) * MIB,
            image_cache_b=int(environment.get("WRENN_IMAGE_CACHE_MB", "51200")) * MIB,
            pulled_images_b=int(environment.get("WRENN_PULLED_IMAGES_MB", "4096")) * MIB,
            sandbox_disk_b=int(environment.get("WRENN_SANDBOX_DISK_MB", "16384")) * MIB,
            disk_overcommit=float(environment.get("WRENN_DISK_OVERCOMMIT", DISK_OVERCOMMIT)),
            sandbox_flows=int(environment.get("WRENN_SANDBOX_FLOWS", "1000")),
            sandbox_bit_per_s=int(environment.get("WRENN_SANDBOX_MBIT", "1000")) * 1_000_000,
            sandbox_io_b_per_s=int(environment.get("WRENN_SANDBOX_IO_MB", "0")) * MIB,
            guest_dns=environment.get("WRENN_GUEST_DNS", "8.8.8.8,8.8.4.4"),
            private_networks=environment.get("WRENN_GUEST_PRIVATE_NETWORKS", ""),
            metrics=MetricsAddress.parse(
                "WRENN_AGENT_METRICS_LISTEN",
                environment.get("WRENN_AGENT_METRICS_LISTEN", ""),
                default_port=_METRICS_PORT,
            ),
            warm_template=_warm_template(environment.get("WRENN_WARM_TEMPLATE", _WARM_TEMPLATE)),
            faults=environment.get("WRENN_FAULTS", ""),
        )


def _address(environment: Mapping[str, str], name: str, default: str) -> tuple[str, int]:
    text = environment.get(name) or default
    if (found := host_and_port(text)) is None:
        raise InvalidRequest(f"{name} must be HOST:PORT, not {text!r}.")
    return found


def _seconds(environment: Mapping[str, str], name: str, default: str) -> float:
    text = environment.get(name) or default
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not 0.0 <= seconds < inf:
        raise InvalidRequest(f"{name} must be a number of seconds, 0 or more, not {text!r}.")
    return seconds


def _limit(environment: Mapping[str, str], name: str, default: str) -> float:
    """Parse a time limit, which is never 0: nothing would ever succeed."""
    if (limit_s := _seconds(environment, name, default)) == 0:
        raise InvalidRequest(f"{name} must be more than 0 seconds.")
    return limit_s


def _vmm(environment: Mapping[str, str]) -> VmmChoice:
    text = environment.get("WRENN_VMM") or VmmChoice.AUTO
    try:
        return VmmChoice(text)
    except ValueError as error:
        raise InvalidRequest(f"WRENN_VMM must be auto, qemu or firecracker, not {text!r}.") from error


def _firecracker_memory(environment: Mapping[str, str]) -> MemoryChoice:
    text = environment.get("WRENN_FIRECRACKER_MEMORY") or MemoryChoice.AUTO
    try:
        return MemoryChoice(text)
    except ValueError as error:
        raise InvalidRequest(f"WRENN_FIRECRACKER_MEMORY must be auto, file or uffd, not {text!r}.") from error


def _cpu_model(environment: Mapping[str, str]) -> str:
    """Parse the name of a CPU model; that QEMU knows it is seen when KVM is tried."""
    model = environment.get("WRENN_CPU_MODEL") or "host"
    if not _CPU_MODEL.fullmatch(model):
        raise InvalidRequest(
            f"WRENN_CPU_MODEL must be `host` or the name of a model of QEMU, as in Skylake-Server-v4, not {model!r}."
        )
    return model


def _warm_template(text: str) -> WarmTemplate | None:
    """Parse `template:vcpus:memory_mb`; empty means none. Raises InvalidRequest."""
    if not text:
        return None
    try:
        template, vcpus, memory_mb = text.split(":")
        return WarmTemplate(template, Shape(int(vcpus), int(memory_mb)))
    except ValueError as error:
        raise InvalidRequest(
            f"WRENN_WARM_TEMPLATE must be a template, vCPUs and MB, as in {_WARM_TEMPLATE}, or empty."
        ) from error
