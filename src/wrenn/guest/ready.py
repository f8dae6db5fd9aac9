"""Wait for a guest and give it its identity, before any user's program runs in it."""

from __future__ import annotations

import asyncio
import base64
import os
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

import aiohttp

from wrenn.base.errors import AgentFailure, Unavailable
from wrenn.base.secrets import Secret
from wrenn.guest.connect import ENVD_PORT

_CONNECT_TIMEOUT_S: Final = 0.03
"""A packet that arrives while the VM is being restored is lost, and TCP would try again only after a second."""
_RETRY_S: Final = 0.002
_ENTROPY_B: Final = 64


@dataclass(frozen=True, slots=True)
class Identity:
    """What makes one clone differ from all others.

    Attributes:
        token: what every later call must carry.
        former_token: the token that the guest has now, or None when it has none.
    """

    hostname: str
    machine_id: str
    envs: Mapping[str, str]
    token: Secret
    former_token: Secret | None
    lifecycle_id: str


async def initialise(address: str, identity: Identity, *, timeout_s: float) -> None:
    """Send `/init` until the guest takes it: clock, entropy, hostname, machine id, variables, token.

    Raises:
        Unavailable: no answer within `timeout_s`.
        AgentFailure: the guest refused.
    """
    url = f"http://{address}:{ENVD_PORT}/init"
    tokens = [
        identity.former_token,
        identity.token,
    ]  # the second when an answer was lost after it took effect
    timeout = aiohttp.ClientTimeout(total=timeout_s, sock_connect=_CONNECT_TIMEOUT_S)
    try:
        async with (
            asyncio.timeout(timeout_s),
            aiohttp.ClientSession(
                timeout=timeout, trust_env=False, cookie_jar=aiohttp.DummyCookieJar()
            ) as session,
        ):
            while True:
                token = tokens[0]
                headers = {"X-Access-Token": token.reveal()} if token else {}
                try:
                    async with session.post(
                        url, json=_body(identity), headers=headers, allow_redirects=False
                    ) as response:
                        if response.status in (200, 204):
                            return
                        if response.status != 401 or len(tokens) == 1:
                            raise AgentFailure(
                                "The sandbox refused its identity.", context={"status": response.status}
                            )
                        tokens.pop(0)
                except (aiohttp.ClientConnectionError, aiohttp.ServerTimeoutError, ConnectionError):
                    await asyncio.sleep(_RETRY_S)
    except aiohttp.ClientError as error:
        raise AgentFailure(
            "The sandbox does not speak its protocol.", context={"cause": repr(error)[:500]}
        ) from error
    except TimeoutError as error:
        raise Unavailable(f"The sandbox did not answer within {timeout_s:g} s of its start.") from error


def _body(identity: Identity) -> dict[str, object]:
    return {
        "hostname": identity.hostname,
        "machineId": identity.machine_id,
        "envVars": dict(identity.envs),
        "accessToken": identity.token.reveal(),
        "timestamp": datetime.now(UTC).isoformat(),
        "entropy": base64.b64encode(os.urandom(_ENTROPY_B)).decode(),
        "lifecycleID": identity.lifecycle_id,
    }
