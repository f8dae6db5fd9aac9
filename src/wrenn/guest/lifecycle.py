"""What only the host asks of a guest: its identity after a start, frozen processes and a settled disk before it is saved, a larger disk."""

from __future__ import annotations

import asyncio
import base64
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from wrenn.base.clock import Clock, SystemClock
from wrenn.base.errors import AgentFailure, Unavailable, cause_of
from wrenn.base.secrets import Secret
from wrenn.guest.connect import ENVD_PORT, GuestConnection, unreachable
from wrenn.relay import IgnoredCookies, Pace, PacedConnector

_CONNECT_EVERY_S: Final = 0.005
_CONNECTS: Final = 40
"""Number of connection attempts. A packet that arrives while the VM is being restored is lost, and TCP would
retransmit only after a second: so a new attempt is started every few milliseconds, and the first that
succeeds is used. A guest that refuses connections receives its packets, so one is enough."""
_CONNECT_TIMEOUT_S: Final = 2 * _CONNECT_EVERY_S * _CONNECTS
_RETRY_S: Final = 0.002
_RETRY_LIMIT_S: Final = 0.1
_RETRY_SHARE: Final = 0.1
"""A guest that answers at once, but refuses or closes connections, is not asked all the time: the next attempt begins after a tenth of the time
since the first refusal, between these two."""
_ANSWER_TIMEOUT_S: Final = 5.0
"""A connection may be lost silently, for example one opened while the host's firewall is flushed. `/init` may
be repeated."""
_CLOCK_LAG_S: Final = 0.4
_CORRECTIONS: Final = 3
"""The guest's clock is set to the time at which `/init` was sent. If the response took long, `/init` is sent
again, up to this many times."""
_SYSTEM_CLOCK: Final = SystemClock()
_ENTROPY_B: Final = 64
_DONE: Final = 204
_PARTLY: Final = 200


@dataclass(frozen=True, slots=True)
class Identity:
    """What distinguishes one clone of a snapshot from all others.

    Attributes:
        token: the token that every later call must send.
        former_token: the guest's current token, or None if it has none.
    """

    hostname: str
    machine_id: str
    envs: Mapping[str, str]
    token: Secret
    former_token: Secret | None
    lifecycle_id: str


async def initialise(
    address: str, identity: Identity, *, timeout_s: float, clock: Clock = _SYSTEM_CLOCK
) -> None:
    """Send `/init` until the guest accepts it: clock, entropy, hostname, machine id, environment variables, token.

    Raises:
        Unavailable: no response within `timeout_s`.
        AgentFailure: the guest refused.
    """
    url = f"http://guest:{ENVD_PORT}/init"
    tokens = [
        identity.former_token,
        identity.token,
    ]  # the second one if a response was lost after the new token took effect
    timeout = aiohttp.ClientTimeout(
        total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S, sock_read=_ANSWER_TIMEOUT_S
    )
    resolver = _RepeatingResolver(address)
    connector = PacedConnector(
        Pace(),
        resolver=resolver,
        use_dns_cache=False,
        happy_eyeballs_delay=_CONNECT_EVERY_S,
        interleave=_CONNECTS,  # or aiohttp would try all but one of the copies again after each failure
        family=socket.AF_INET,
    )
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=connector, timeout=timeout, trust_env=False, cookie_jar=IgnoredCookies()
            ) as session,
        ):
            corrections = _CORRECTIONS
            refused_at: float | None = None
            while True:
                token = tokens[0]
                sent_at = clock.monotonic()
                headers = {"X-Access-Token": token.reveal()} if token else {}
                try:
                    async with session.post(
                        url, json=_body(identity, clock.now()), headers=headers, allow_redirects=False
                    ) as response:
                        if response.status in (200, 204):
                            if clock.monotonic() - sent_at <= _CLOCK_LAG_S or corrections == 0:
                                return
                            corrections -= 1
                            tokens = [identity.token]
                            continue
                        if response.status != 401 or len(tokens) == 1:
                            raise AgentFailure(
                                "The sandbox refused its identity.", context={"status": response.status}
                            )
                        tokens.pop(0)
                except aiohttp.ServerTimeoutError:
                    resolver.copies = _CONNECTS
                    await asyncio.sleep(_RETRY_S)
                except (aiohttp.ClientConnectionError, ConnectionError):
                    resolver.copies = 1
                    now = time.monotonic()
                    refused_at = now if refused_at is None else refused_at
                    retry_s = (now - refused_at) * _RETRY_SHARE
                    await asyncio.sleep(min(max(retry_s, _RETRY_S), _RETRY_LIMIT_S))
    except aiohttp.ClientError as error:
        raise AgentFailure(
            "The sandbox does not speak its protocol.", context={"cause": cause_of(error)}
        ) from error
    except TimeoutError as error:
        raise Unavailable(f"The sandbox did not answer within {timeout_s:g} s of its start.") from error


class _RepeatingResolver(AbstractResolver):
    """Resolves every name to many copies of one address, so that aiohttp starts staggered connection attempts (Happy Eyeballs).

    Attributes:
        copies: how many.
    """

    def __init__(self, address: str) -> None:
        self._address = address
        self.copies = _CONNECTS

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        """Return the guest's address `copies` times."""
        return [
            ResolveResult(
                hostname=host,
                host=self._address,
                port=port,
                family=family,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
        ] * self.copies

    async def close(self) -> None:
        """Do nothing: there is nothing to close."""


async def freeze_processes(guest: GuestConnection, *, timeout_s: float) -> bool:
    """Freeze the guest's user processes, so that none runs in a clone before the clone has its own identity. Idempotent.

    Returns whether all of them are frozen.

    Raises:
        Unavailable, AgentFailure: the guest did not respond, or with an error.
    """
    return await _snapshot_call(guest, "prepare", timeout_s=timeout_s) == _DONE


async def thaw_processes(guest: GuestConnection, *, timeout_s: float) -> None:
    """Thaw the guest's user processes after `freeze_processes`. Idempotent.

    Raises:
        Unavailable, AgentFailure: the guest did not respond, or with an error.
    """
    await _snapshot_call(guest, "finish", timeout_s=timeout_s)


async def grow_root(guest: GuestConnection, size_b: int, *, timeout_s: float) -> None:
    """Grow the root file system to the size of its disk, which has been enlarged to `size_b`. Idempotent.

    Raises:
        Unavailable, AgentFailure: the guest did not respond, or with an error.
    """
    status = await _call(guest, "disk/grow", {"sizeBytes": size_b}, timeout_s=timeout_s)
    if status != _DONE:
        raise AgentFailure("The file system of the sandbox was not made larger.", context={"status": status})


async def settle_disk(guest: GuestConnection, *, timeout_s: float) -> None:
    """Write everything to the guest's disk and return its free blocks, so that the disk is whole without the memory. Idempotent.

    Raises:
        Unavailable, AgentFailure: the guest did not respond, or with an error, as an agent of an earlier version does.
    """
    status = await _call(guest, "disk/settle", None, timeout_s=timeout_s)
    if status != _DONE:
        raise AgentFailure("The sandbox did not write its disk.", context={"status": status})


async def _snapshot_call(guest: GuestConnection, step: str, *, timeout_s: float) -> int:
    status = await _call(guest, f"snapshot/{step}", None, timeout_s=timeout_s)
    if status not in (_PARTLY, _DONE):
        raise AgentFailure(f"The sandbox did not {step} for a snapshot.", context={"status": status})
    return status


async def _call(guest: GuestConnection, path: str, body: object, *, timeout_s: float) -> int:
    """Send a call that only the host may make, and return the status code of the response."""
    try:
        # With a connection of its own: those of the pool may all be in use by calls of frozen programs.
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                connector=PacedConnector(guest.pace), trust_env=False, cookie_jar=IgnoredCookies()
            ) as session,
            session.post(
                f"{guest.base_url}/{path}",
                headers=guest.headers("root"),
                allow_redirects=False,
                json=body,
            ) as response,
        ):
            return response.status
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        raise unreachable(error) from error


def _body(identity: Identity, now: datetime) -> dict[str, object]:
    return {
        "hostname": identity.hostname,
        "machineId": identity.machine_id,
        "envVars": dict(identity.envs),
        "accessToken": identity.token.reveal(),
        "timestamp": now.isoformat(),
        "entropy": base64.b64encode(os.urandom(_ENTROPY_B)).decode(),
        "lifecycleID": identity.lifecycle_id,
    }
