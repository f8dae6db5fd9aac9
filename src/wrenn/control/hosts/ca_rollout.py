"""Takes a CA rotation from step to step: each begins when all replicas and all hosts that are online are ready for it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final

from wrenn.base.errors import InvalidState
from wrenn.control.db import Database
from wrenn.control.hosts import ca_store
from wrenn.control.hosts.authority import CaIdentity, fingerprint
from wrenn.control.hosts.ca_store import HostCa
from wrenn.control.hosts.rotation import CaRotation, Step
from wrenn.control.hosts.types import HostStatus

_RECENT: Final = timedelta(days=1)
_SHOWN: Final = 16


class Change(StrEnum):
    """What `advance` has changed. NOTHING: it waits. ENDED: the files of a rotation that was taken to its end are removed."""

    NOTHING = "nothing"
    BEGUN = "begun"
    SWITCHED = "switched"
    FINISHED = "finished"
    ENDED = "ended"


@dataclass(frozen=True, slots=True)
class RolloutStatus:
    """How far a rotation is.

    Attributes:
        signer: the CA that signs.
        others: others that are trusted.
        waiting: replicas and hosts that the next step waits for, one sentence each.
        offline: hosts that have certificates of before and are not online, which nothing waits for.
    """

    step: Step
    signer: str
    others: Sequence[str]
    waiting: Sequence[str]
    offline: Sequence[HostCa]


class CaRollout:
    """The rotation of the CA over all replicas and hosts. All methods may be repeated, after an interruption at any point."""

    def __init__(self, database: Database, rotation: CaRotation) -> None:
        self._database = database
        self._rotation = rotation

    async def status(self) -> RolloutStatus:
        """Look at the files, the replicas and the hosts.

        Raises:
            InvalidState: a rotation was begun elsewhere.
        """
        authority, step = self._rotation.authority(), self._rotation.step()
        own = authority.identity
        waiting = [
            f"replica {replica} {_lacks_of_replica(found, own, step)}"
            for replica, found in await ca_store.running_replicas(self._database)
            if not _is_ready(found, own, step)
        ]
        offline: list[HostCa] = []
        for host in await ca_store.cas_of_hosts(self._database):
            if host.held is not None and _is_ready(host.held, own, step):
                continue
            if host.status is HostStatus.ONLINE and step is not Step.NONE:
                waiting.append(f"host {host.name} ({host.host_id}) has not renewed its credentials yet")
            elif host.held is None or own.signer not in host.held.trusted:
                offline.append(host)
        others = [fingerprint(each)[:_SHOWN] for each in authority.others]
        return RolloutStatus(step, own.signer[:_SHOWN], others, waiting, offline)

    async def advance(self, *, again: bool = False) -> Change:
        """Make the next change of files, if nothing has to be waited for.

        `again`: begin another rotation although the CA was made less than a day ago.

        Raises:
            InvalidState: as `status`; or the CA is new.
        """
        status = await self.status()
        if status.waiting:
            return Change.NOTHING
        match status.step:
            case Step.NONE if self._rotation.has_left_files():
                self._rotation.forget()
                return Change.ENDED
            case Step.NONE:
                self._require_old(again=again)
                await self._rotation.begin()
                return Change.BEGUN
            case Step.BOTH_TRUSTED:
                await self._rotation.switch()
                return Change.SWITCHED
            case Step.NEW_SIGNS:
                await self._rotation.finish()
                return Change.FINISHED

    def _require_old(self, *, again: bool) -> None:
        made_at = self._rotation.authority().certificate.not_valid_before_utc
        if not again and datetime.now(UTC) - made_at < _RECENT:
            raise InvalidState(
                "No rotation is under way, and the CA was made less than a day ago: perhaps by a rotation that has ended."
                " With --again another one is begun."
            )


def _is_ready(found: CaIdentity, own: CaIdentity, step: Step) -> bool:
    match step:
        case Step.NONE:
            return found == own
        case Step.BOTH_TRUSTED:
            return found.trusted >= own.trusted
        case Step.NEW_SIGNS:
            return found.signer == own.signer and found.trusted >= own.trusted


def _lacks_of_replica(found: CaIdentity, own: CaIdentity, step: Step) -> str:
    if step is Step.NONE:
        return "has other CAs than this command was given"
    if not found.trusted >= own.trusted:
        return "does not trust both CAs yet"
    return "still signs with the former CA"
