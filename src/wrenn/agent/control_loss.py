"""What the agent does when it has lost the control plane: after a while it pauses all running sandboxes. It removes none.

There is contact when a heartbeat is accepted. Whether the control plane is away, cannot use its database or refuses this host's
credentials makes no difference: nobody can then reach, limit or stop the sandboxes, and they may be in nobody's list.

What counts is the time that running agents waited since the last accepted heartbeat, as `Outage` has it. It is on disk, so a
restart of the agent does not begin the wait again; the time when no agent ran does not count, and another boot of the machine
begins anew. Sandboxes are paused only after a heartbeat of this very agent has failed.

Those that ran when the wait was over are paused, and no others: one that is started or resumed later has a control plane.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Self

from wrenn.agent.sandboxes import Sandboxes, State
from wrenn.base.clock import Clock
from wrenn.base.errors import StorageFull, WrennError
from wrenn.base.ids import SandboxId
from wrenn.base.loops import Loop
from wrenn.linux.boot import boot_id
from wrenn.linux.files import write_json
from wrenn.protocol.host.causes import CONTROL_PLANE_LOST

_log = logging.getLogger(__name__)

_AT_ONCE: Final = 4
"""Each pause writes a sandbox's memory to the same disk."""
_RETRY_S: Final = 300.0
"""For a sandbox that cannot be paused: each attempt holds it up for a moment."""
_RUN: Final = (State.RUNNING, State.PAUSING)
_BEAT_LIMIT_S: Final = 60.0
"""A heartbeat, with a renewal of the credentials before it, takes less. A longer time is one in which the agent did not run."""


@dataclass(frozen=True, slots=True)
class Outage:
    """An outage of the control plane, as far as this host's agents saw it.

    Attributes:
        boot: the boot of the machine in which it began.
        waited_s: how long agents that ran have waited since the last accepted heartbeat.
        is_lost: whether that was too long.
        to_pause: ids of those sandboxes that ran then and are not paused yet.
        paused: how many of them are.
    """

    boot: str
    waited_s: float = 0.0
    is_lost: bool = False
    to_pause: tuple[str, ...] = ()
    paused: int = 0

    def after_failed_beat(
        self, *, passed_s: float, heartbeat_s: float, lost_after_s: float, running: Iterable[str]
    ) -> Self:
        """Return the outage after a heartbeat that was not accepted, `passed_s` after the one before.

        Args:
            passed_s: counts only as far as it can be the time between two heartbeats: the process may have stood still.
            heartbeat_s: the time between two heartbeats.
            lost_after_s: how long to wait; 0: for ever.
            running: the sandboxes that run now.
        """
        waited_s = self.waited_s + max(0.0, min(passed_s, heartbeat_s + _BEAT_LIMIT_S))
        if self.is_lost or not 0 < lost_after_s <= waited_s:
            return replace(self, waited_s=waited_s)
        return replace(self, waited_s=waited_s, is_lost=True, to_pause=tuple(running))

    def without(self, sandbox_id: str, *, is_paused: bool) -> Self:
        """Return the outage when this sandbox was paused, or does not run any more."""
        left = tuple(other for other in self.to_pause if other != sandbox_id)
        return replace(self, to_pause=left, paused=self.paused + is_paused)


def load_outage(path: Path, *, boot: str) -> Outage:
    """Return the outage that a former agent recorded in this boot of the machine; otherwise one that begins now."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        fields: dict[str, Any] = json.loads(path.read_text())
        if fields["boot"] == boot:
            return Outage(
                boot=boot,
                waited_s=max(0.0, float(fields["waited_s"])),
                is_lost=bool(fields["is_lost"]),
                to_pause=tuple(map(str, fields["to_pause"])),
                paused=int(fields["paused"]),
            )
    return Outage(boot)


class ControlLoss:
    """Counts how long the control plane has been lost, and pauses the running sandboxes when that is too long.

    `contact` and `no_contact` are told the result of each heartbeat; `run` does the pausing, so heartbeats go on meanwhile.

    Attributes:
        outage: the present outage; one that begins now if there is none.
        loop: the pausing.
    """

    def __init__(
        self,
        *,
        path: Path,
        sandboxes: Sandboxes,
        clock: Clock,
        heartbeat_s: float,
        lost_after_s: float,
        retry_s: float = _RETRY_S,
    ) -> None:
        self._path = path
        self._sandboxes = sandboxes
        self._clock = clock
        self._heartbeat_s = heartbeat_s
        self._lost_after_s = lost_after_s
        self._retry_s = retry_s
        self._last_beat = clock.monotonic()
        self._last_beat_failed = False
        self._pausing: set[str] = set()
        self.outage = load_outage(path, boot=boot_id())
        self.loop = Loop("pause sandboxes without control plane")

    def contact(self) -> None:
        """A heartbeat was accepted: the outage is over. What is not paused yet runs on."""
        self._last_beat = self._clock.monotonic()
        self._last_beat_failed = False
        outage, self.outage = self.outage, Outage(self.outage.boot)
        with suppress(OSError):  # the next outage then begins with what the file says
            self._path.unlink(missing_ok=True)
        if outage.is_lost:
            _log.warning(
                "contact with the control plane is back",
                extra={
                    "waited_s": round(outage.waited_s),
                    "paused": outage.paused,
                    "being_paused": len(self._pausing),
                    "still_running": len(set(outage.to_pause) - self._pausing),
                },
            )

    def no_contact(self) -> None:
        """A heartbeat was not accepted, for whatever reason."""
        now = self._clock.monotonic()
        passed_s, self._last_beat = now - self._last_beat, now
        before = self.outage
        self.outage = before.after_failed_beat(
            passed_s=passed_s,
            heartbeat_s=self._heartbeat_s,
            lost_after_s=self._lost_after_s,
            running=sorted(self._running()),
        )
        self._save()
        if self.outage.is_lost and not before.is_lost:
            _log.warning(
                "the control plane is lost: all running sandboxes are paused",
                extra={"waited_s": round(self.outage.waited_s), "running": len(self.outage.to_pause)},
            )
        if not self._last_beat_failed or self.outage.is_lost is not before.is_lost:
            self.loop.wake()
        self._last_beat_failed = True

    async def run(self) -> None:
        """Pause what is to be paused when the control plane is lost, and try again what could not be; until cancelled."""
        await self.loop.run(self._pause_all, every_s=self._retry_s)

    async def _pause_all(self) -> None:
        """Pause the sandboxes that ran when the control plane was lost, until contact returns."""
        if not self._last_beat_failed or not self.outage.to_pause:
            return
        slots = asyncio.Semaphore(_AT_ONCE)
        await asyncio.gather(*(self._pause(name, slots) for name in self.outage.to_pause))
        if not self._last_beat_failed:
            return
        log = _log.warning if self.outage.to_pause else _log.info
        log(
            "sandboxes are paused until the control plane is back",
            extra={"paused": self.outage.paused, "not_paused": len(self.outage.to_pause)},
        )

    async def _pause(self, name: str, slots: asyncio.Semaphore) -> None:
        async with slots:
            if name not in self.outage.to_pause:  # contact is back
                return
            self._pausing.add(name)
            minutes = self.outage.waited_s / 60
            reason = f"Its host paused it, because it had no contact with the control plane for {minutes:.0f} minutes."
            try:
                await self._sandboxes.pause(SandboxId.parse(name), reason=reason, cause=CONTROL_PLANE_LOST)
            except Exception as error:  # noqa: BLE001 - one that cannot be paused keeps running, and holds up no other
                cause = error.message if isinstance(error, WrennError) else type(error).__name__
                _log.warning(
                    "sandbox runs on: it could not be paused", extra={"sandbox_id": name, "cause": cause}
                )
                if name not in self._running():
                    self._done(name, is_paused=False)
            else:
                self._done(name, is_paused=True)
            finally:
                self._pausing.discard(name)

    def _done(self, name: str, *, is_paused: bool) -> None:
        """Record that this sandbox needs no pause any more: a later agent must not pause it again after a resume."""
        if name in self.outage.to_pause:  # otherwise contact came back meanwhile
            self.outage = self.outage.without(name, is_paused=is_paused)
            self._save()

    def _running(self) -> set[str]:
        """Return the ids of sandboxes whose VM may run."""
        found = self._sandboxes.list()
        return {str(record.spec.sandbox_id) for record, _ in found if record.state in _RUN}

    def _save(self) -> None:
        try:
            write_json(self._path, asdict(self.outage), durable=False)
        except (StorageFull, OSError) as error:
            # It is counted on in memory; only a restart would begin again.
            _log.warning("outage of the control plane not recorded", extra={"cause": str(error)})
