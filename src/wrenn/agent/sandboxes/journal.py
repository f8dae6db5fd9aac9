"""The journal: one file per sandbox, written before each side effect, so that a restarted agent can recover.

It is replaced atomically, and not flushed: after a power cut it may be empty, or, on some file systems, older. Beside it stands the durable
journal, a copy that is written and flushed once a pause would survive a power cut. It is read when the journal is empty after one.

    STARTING ──► RUNNING ──► PAUSING ──► PAUSED ──► RESUMING ──► RUNNING
                  │    ▲────────┘           ▲──────────┘
                  ▼
                 LOST                (all) ──► REMOVING ──► (file gone)

One that comes from another host is STARTING until all of it is here, and PAUSED then. A sandbox whose VM ended by itself is LOST, or PAUSED again when it has a snapshot to go back to.
"""

from __future__ import annotations

import enum
import json
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Self

from wrenn.base.errors import InternalError, InvalidRequest
from wrenn.base.ids import SandboxId
from wrenn.base.networks import network_text
from wrenn.linux.files import fsync_path, write_json
from wrenn.linux.process import ProcessRef
from wrenn.network import EgressPolicy
from wrenn.protocol.api import DEFAULT_DISK_SIZE_MB
from wrenn.protocol.vm_platform import VmPlatform
from wrenn.vm import Shape

FORMAT: Final = 2
_NAME: Final = "journal.json"
_DURABLE_NAME: Final = "journal.durable.json"
_PLAIN: Final = (
    "slot", "started_at", "reason", "metadata", "base", "parent", "next_layer", "snapshot", "former_snapshot", "held",
)  # fmt: skip


class State(enum.StrEnum):
    """The state of a sandbox on this host."""

    STARTING = "starting"
    RUNNING = "running"
    LOST = "lost"
    """Its VMM ended by itself."""
    REMOVING = "removing"
    PAUSING = "pausing"
    PAUSED = "paused"
    RESUMING = "resuming"


NEXT: Final[dict[State, frozenset[State]]] = {
    State.STARTING: frozenset({State.RUNNING, State.PAUSED, State.REMOVING}),
    State.RUNNING: frozenset({State.PAUSING, State.PAUSED, State.LOST, State.REMOVING}),
    State.PAUSING: frozenset({State.RUNNING, State.PAUSED, State.LOST, State.REMOVING}),
    State.PAUSED: frozenset({State.RESUMING, State.LOST, State.REMOVING}),
    State.RESUMING: frozenset({State.RUNNING, State.PAUSED, State.REMOVING}),
    State.LOST: frozenset({State.REMOVING}),
    State.REMOVING: frozenset(),
}
assert NEXT.keys() == set(State), "every state says what may follow it"


@dataclass(frozen=True, slots=True)
class SandboxSpec:
    """The control plane's specification of a sandbox; equal in all calls for one id."""

    sandbox_id: SandboxId
    team_id: str
    template: str
    shape: Shape
    envs: Mapping[str, str] = field(default_factory=dict[str, str])
    snapshot_id: str = ""
    """Restored from this snapshot; empty: from the template."""
    template_name: str = field(default="", compare=False)
    """The template as the user knows it, when that is not the name of the image. Older callers do not send it."""
    disk_mb: int = field(default=DEFAULT_DISK_SIZE_MB, compare=False)
    """Size of its disk when it was made; what it is now, its record says."""
    template_id: str = field(default="", compare=False)
    """The version of the template, for the guest. Older callers do not send it."""
    generation: int = field(default=0, compare=False)
    """Raised by the control plane when it starts the sandbox on another host; 0: not known. Older callers do not send it."""


@dataclass(frozen=True, slots=True)
class NetworkSettings:
    """The egress policy of a sandbox. Settings with a higher `revision` are newer."""

    policy: EgressPolicy = field(default_factory=EgressPolicy)
    revision: int = 0


@dataclass(frozen=True, slots=True)
class Record:
    """The journal's content for one sandbox.

    Attributes:
        network: its network settings, which outlive its slots.
        slot: index of its network slot, once it has one.
        process: its VMM, once started.
        reason: why it is LOST, or PAUSED without having been asked for; already while PAUSING.
        cause: code of that reason, if there is one (`wrenn.protocol.host.causes`).
        metadata: versions it runs with, for people.
        platform: what its last pause needs to be restored; None: not known.
        base, parent: the memory image it runs on: a base, and the snapshot over it if any.
        layers: its disk, newest first; while it runs the first one is written.
        origin_layers: those of them that it was restored from: they are the snapshot's and not counted as its own.
        next_layer: a layer that is being put over those.
        snapshot: what it was at its last pause; while PAUSING the one that is being made.
        disk_mb: size of its disk, where it was made larger than its template's image; else 0.
        held: whether the guest's processes were frozen at its last pause; otherwise it cannot be cloned safely.
        former_snapshot: the one before, until `snapshot` would survive a power cut. It would survive one itself.
        unflushed_boot: boot id of this machine at the last pause, until `snapshot` would survive a power cut. Empty in journals of
            former versions.
    """

    spec: SandboxSpec
    state: State
    slot: int | None = None
    process: ProcessRef | None = None
    started_at: float = 0.0
    reason: str = ""
    base: str = ""
    parent: str = ""
    layers: tuple[str, ...] = ()
    origin_layers: tuple[str, ...] = ()
    next_layer: str = ""
    snapshot: str = ""
    former_snapshot: str = ""
    unflushed_boot: str = ""
    held: bool = True
    disk_mb: int = 0
    cause: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict[str, str])
    network: NetworkSettings = field(default_factory=NetworkSettings)
    platform: VmPlatform | None = None

    @property
    def is_flushed(self) -> bool:
        """Whether its last pause, if it had one, would survive a power cut."""
        return not (self.former_snapshot or self.unflushed_boot)

    def with_state(self, state: State, *, reason: str = "", cause: str = "") -> Self:
        """Return a copy in another state. The transition must be in `NEXT`."""
        assert state in NEXT[self.state], f"no way from {self.state} to {state}"
        return replace(self, state=state, reason=reason, cause=cause)


def save(directory: Path, record: Record) -> None:
    """Replace the journal in `directory`. Raises StorageFull."""
    write_json(directory / _NAME, _fields(record), durable=False)


def save_durable(directory: Path, record: Record) -> None:
    """Replace the durable journal in `directory`, and flush the journal to disk. Blocking.

    Of a sandbox that runs by now it says what is true after a power cut: that it has no VM.

    Raises:
        StorageFull: the disk is full. FileNotFoundError: there is no such folder.
    """
    if record.state is not State.PAUSED:
        record = replace(record, state=State.RUNNING, slot=None, process=None, next_layer="")
    write_json(directory / _DURABLE_NAME, _fields(record), durable=True)
    # After this none before it comes back; that its content is on the disk too is for agents of former versions, which have no copy.
    fsync_path(directory / _NAME)
    fsync_path(directory)
    fsync_path(directory.parent)


def _fields(record: Record) -> dict[str, Any]:
    fields = asdict(record)
    fields["spec"]["sandbox_id"] = str(record.spec.sandbox_id)
    policy = record.network.policy
    fields["network"] = {
        "revision": record.network.revision,
        "allow_internet": policy.allow_internet,
        "allow": [network_text(network) for network in policy.allow],
        "deny": [network_text(network) for network in policy.deny],
        # Agents that know no names read the rest.
        "allow_names": list(map(str, policy.allow_names)),
    }
    return {"format": FORMAT, **fields}


def load(directory: Path) -> Record | None:
    """Return the journal in `directory`, or None if there is none.

    Raises:
        InternalError: it cannot be read, or is of another version.
    """
    try:
        content = (directory / _NAME).read_bytes()
    except FileNotFoundError:
        return None
    durable = _load_durable(directory)
    if not content.strip(b"\0") and durable is not None:
        return durable  # the machine lost its power before what replaced it was on the disk
    record = _parsed(content, directory.name)
    if durable is not None and durable.is_flushed and durable.snapshot == record.snapshot:
        return replace(record, former_snapshot="", unflushed_boot="")
    return record


def names_durably(directory: Path, snapshot_id: str) -> bool:
    """Whether the durable journal in `directory` names this snapshot as the last pause."""
    durable = _load_durable(directory)
    return durable is not None and durable.snapshot == snapshot_id


def _load_durable(directory: Path) -> Record | None:
    """Return the durable journal, or None if there is none that can be read."""
    with suppress(FileNotFoundError, InternalError):
        return _parsed((directory / _DURABLE_NAME).read_bytes(), directory.name)
    return None


def _parsed(content: bytes, name: str) -> Record:
    try:
        fields = json.loads(content)
        if fields["format"] != FORMAT:
            raise InternalError(f"The journal of {name} is of another version.")
        spec = fields["spec"]
        return Record(
            spec=SandboxSpec(
                sandbox_id=SandboxId.parse(spec["sandbox_id"]),
                team_id=spec["team_id"],
                template=spec["template"],
                shape=Shape(**spec["shape"]),
                envs=spec["envs"],
                snapshot_id=spec["snapshot_id"],
                disk_mb=spec.get("disk_mb", DEFAULT_DISK_SIZE_MB),  # journals of former versions lack it
                template_name=spec.get("template_name", ""),
                template_id=spec.get("template_id", ""),
                generation=spec.get("generation", 0),
            ),
            state=State(fields["state"]),
            process=ProcessRef(**fields["process"]) if fields["process"] else None,
            layers=tuple(fields["layers"]),
            network=_network_settings(fields.get("network")),
            disk_mb=fields.get("disk_mb", 0),
            cause=fields.get("cause", ""),
            platform=VmPlatform.from_json(fields["platform"]) if fields.get("platform") else None,
            origin_layers=tuple(fields.get("origin_layers", ())),  # journals of former versions lack it
            unflushed_boot=fields.get("unflushed_boot", ""),
            **{name: fields[name] for name in _PLAIN},
        )
    except (ValueError, KeyError, TypeError, InvalidRequest) as error:
        raise InternalError(f"The journal of {name} cannot be read.") from error


def _network_settings(fields: Mapping[str, Any] | None) -> NetworkSettings:
    """Parse network settings; return the default for journals of versions that had none."""
    if fields is None:
        return NetworkSettings()
    policy = EgressPolicy.parse(
        allow_internet=bool(fields["allow_internet"]),
        allow=[*fields["allow"], *fields.get("allow_names", ())],
        deny=fields["deny"],
    )
    return NetworkSettings(policy, int(fields["revision"]))
