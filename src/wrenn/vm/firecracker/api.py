"""Typed client of Firecracker's API: HTTP with JSON over its Unix socket.

Source: the API description in Firecracker's repository (`src/firecracker/swagger/firecracker.yaml`), versions 1.12 to 1.16.
Firecracker is not trusted (a guest may have taken it over): answers are bounded, and every call has a deadline.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self, cast

import aiohttp

from wrenn.base.errors import AgentFailure, cause_of
from wrenn.base.units import KIB, MIB
from wrenn.relay.http import read_bounded

CALL_TIMEOUT_S: Final = 10.0
METADATA_ADDRESS: Final = "169.254.169.254"
"""Where guests of every cloud look for it. Firecracker answers packets to it itself: they never reach the tap."""
START_TIMEOUT_S: Final = 60.0
"""Of a boot: Firecracker reads the kernel before it answers, and on a busy disk that takes its time."""
SNAPSHOT_TIMEOUT_S: Final = 120.0
_SLOWEST_B_PER_S: Final = 20 * MIB
"""A full snapshot writes the whole memory: seconds, and many minutes of a large one on a slow disk."""
_ANSWER_LIMIT_B: Final = 64 * KIB
_REASON_LIMIT: Final = 500
_VERSION: Final = re.compile(r"v?(\d{1,6})\.(\d{1,6})\.(\d{1,6})")
OLDEST_VERSION: Final = (1, 12)
NEWEST_VERSION: Final = (1, 16)
_TRACK_DIRTY_PAGES_SINCE: Final = (1, 13)
"""Before, the field was called `enable_diff_snapshots`. A version refuses fields that it does not know."""


class FirecrackerError(AgentFailure):
    """Firecracker refused a call (its words are in `context`), violated the protocol, or does not answer."""


class InstanceState(StrEnum):
    """State of an instance, as it says it."""

    NOT_STARTED = "Not started"
    RUNNING = "Running"
    PAUSED = "Paused"


class SnapshotKind(StrEnum):
    """What is written of the memory: all of it, or the pages that were dirtied since it was started or loaded."""

    FULL = "Full"
    DIFF = "Diff"


class MemoryBackend(StrEnum):
    """Where a loaded instance gets its memory from: a file that it maps, or a socket whose owner serves page faults."""

    FILE = "File"
    USERFAULTFD = "Uffd"


@dataclass(frozen=True, slots=True)
class Instance:
    """What an instance says about itself."""

    state: InstanceState
    version: tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Drive:
    """A block device. Paths are those that the process sees in its own root."""

    drive_id: str
    path: str
    read_only: bool
    is_root: bool = False


@dataclass(frozen=True, slots=True)
class NetworkInterface:
    """A network card on a tap device of the process's network namespace."""

    interface_id: str
    tap: str
    mac: str


@dataclass(frozen=True, slots=True)
class MachineConfiguration:
    """Everything that an instance is booted with.

    Attributes:
        entropy: whether the guest has a virtio device for random numbers.
        metadata_interface: id of the interface through which the guest reads what `put_metadata` wrote; empty: none.
    """

    vcpus: int
    memory_mb: int
    kernel: str
    kernel_args: str
    initramfs: str = ""
    drives: tuple[Drive, ...] = ()
    interfaces: tuple[NetworkInterface, ...] = ()
    entropy: bool = True
    metadata_interface: str = ""


class FirecrackerApi:
    """The API of one instance. Calls run one at a time, as Firecracker itself carries them out. A context manager."""

    def __init__(self, socket: Path) -> None:
        self._socket = socket
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        connector = aiohttp.UnixConnector(str(self._socket), limit=1)
        self._session = aiohttp.ClientSession(connector=connector)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._session is not None
        await self._session.close()
        self._session = None

    async def describe(self) -> Instance:
        """Return state and version of the instance."""
        answer = await self._call("GET", "/")
        version = _VERSION.fullmatch(str(answer.get("vmm_version")))
        try:
            state = InstanceState(str(answer.get("state")))
        except ValueError:
            state = None
        if version is None or state is None:
            raise FirecrackerError(
                "Firecracker describes itself in an unknown way.",
                context={"answer": str(answer)[:_REASON_LIMIT]},
            )
        return Instance(state, (int(version[1]), int(version[2]), int(version[3])))

    async def boot(self, configuration: MachineConfiguration) -> None:
        """Configure a new instance and start it. Its dirty pages are tracked from the start, for snapshots."""
        await self._call(
            "PUT",
            "/machine-config",
            {
                "vcpu_count": configuration.vcpus,
                "mem_size_mib": configuration.memory_mb,
                "track_dirty_pages": True,
            },
        )
        source = {"kernel_image_path": configuration.kernel, "boot_args": configuration.kernel_args}
        if configuration.initramfs:
            source["initrd_path"] = configuration.initramfs
        await self._call("PUT", "/boot-source", source)
        for drive in configuration.drives:
            await self._call(
                "PUT",
                f"/drives/{drive.drive_id}",
                {
                    "drive_id": drive.drive_id,
                    "path_on_host": drive.path,
                    "is_root_device": drive.is_root,
                    "is_read_only": drive.read_only,
                },
            )
        for interface in configuration.interfaces:
            await self._call(
                "PUT",
                f"/network-interfaces/{interface.interface_id}",
                {
                    "iface_id": interface.interface_id,
                    "host_dev_name": interface.tap,
                    "guest_mac": interface.mac,
                },
            )
        if configuration.entropy:
            await self._call("PUT", "/entropy", {})
        if configuration.metadata_interface:
            await self._call(
                "PUT",
                "/mmds/config",
                {
                    "version": "V2",
                    "ipv4_address": METADATA_ADDRESS,
                    "network_interfaces": [configuration.metadata_interface],
                },
            )
        action = {"action_type": "InstanceStart"}
        await self._call("PUT", "/actions", action, timeout_s=START_TIMEOUT_S)

    async def pause(self) -> None:
        """Stop all vCPUs. A paused instance stays paused."""
        await self._call("PATCH", "/vm", {"state": "Paused"})

    async def resume(self) -> None:
        """Let all vCPUs continue. A running instance keeps running."""
        await self._call("PATCH", "/vm", {"state": "Resumed"})

    async def put_metadata(self, content: Mapping[str, str]) -> None:
        """Replace what the guest reads from its metadata service. It is not part of a snapshot."""
        await self._call("PUT", "/mmds", content)

    async def update_drive(self, drive_id: str, path: str) -> None:
        """Have a drive opened anew, so that its size is read again and the guest is told."""
        await self._call("PATCH", f"/drives/{drive_id}", {"drive_id": drive_id, "path_on_host": path})

    async def create_snapshot(
        self, *, kind: SnapshotKind, state: str, memory: str, memory_b: int = 0
    ) -> None:
        """Write device state and memory of a paused instance to these files, which Firecracker creates.

        Of a memory file that exists and is as large as the memory, a difference overwrites only the dirtied pages.
        The deadline grows with the size of the memory, `memory_b`.
        """
        body = {"snapshot_type": kind.value, "snapshot_path": state, "mem_file_path": memory}
        timeout_s = SNAPSHOT_TIMEOUT_S + memory_b / _SLOWEST_B_PER_S
        await self._call("PUT", "/snapshot/create", body, timeout_s=timeout_s)

    async def load_snapshot(
        self, *, state: str, memory: str, backend: MemoryBackend, version: tuple[int, int, int], resume: bool
    ) -> None:
        """Load a snapshot into a new instance of this `version`, which tracks its dirty pages from now on.

        `memory` is the file of the memory, or the socket at which page faults are served.
        """
        tracking = "track_dirty_pages" if version[:2] >= _TRACK_DIRTY_PAGES_SINCE else "enable_diff_snapshots"
        body = {
            "snapshot_path": state,
            "mem_backend": {"backend_type": backend.value, "backend_path": memory},
            tracking: True,
            "resume_vm": resume,
        }
        await self._call("PUT", "/snapshot/load", body, timeout_s=SNAPSHOT_TIMEOUT_S)

    async def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, object] | None = None,
        *,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Make one call and return its answer; an empty one for those that have none.

        Raises:
            FirecrackerError: refused, no sound answer, or none in time.
        """
        assert self._session is not None, "used outside of its context"
        timeout = aiohttp.ClientTimeout(total=timeout_s or CALL_TIMEOUT_S)
        try:
            async with self._session.request(
                method, f"http://firecracker{path}", json=body, timeout=timeout
            ) as response:
                content = await read_bounded(response, _ANSWER_LIMIT_B, sender="virtual machine monitor")
                status = response.status
            answer: object = json.loads(content) if content else {}
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError, RecursionError) as error:
            raise FirecrackerError(
                f"Firecracker did not carry out {method} {path}.",
                context={"cause": cause_of(error)},
            ) from error
        if not isinstance(answer, dict):
            raise FirecrackerError(f"Firecracker gave no sound answer to {method} {path}.")
        found = cast("dict[str, Any]", answer)
        if not 200 <= status < 300:
            reason = str(found.get("fault_message", ""))[:_REASON_LIMIT]
            raise FirecrackerError(
                f"Firecracker refused {method} {path}.", context={"status": status, "reason": reason}
            )
        return found


def is_supported(version: tuple[int, int, int]) -> bool:
    """Whether this client knows the API of a version of Firecracker."""
    return OLDEST_VERSION <= version[:2] <= NEWEST_VERSION
