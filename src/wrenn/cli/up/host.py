"""Queries the state of the machine's agent with the control plane's certificate."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path
from typing import Final

from wrenn.cli.up.options import Address

_CALL_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


async def wait_warm(pki: Path, address: Address) -> str:
    """Wait until the agent has booted its default template, without a time limit; returns the reason if it failed.

    Raises:
        Unavailable, DeadlineExceeded: the agent does not respond.
    """
    from wrenn.control.hosts import HostClients

    clients = HostClients(pki)
    try:
        agent = clients.at(f"https://{address}")
        while True:
            host = await agent.report(timeout_s=_CALL_TIMEOUT_S)
            if not host.is_warming_up:
                return host.warm_up_failure
            await asyncio.sleep(_POLL_S)
    finally:
        await clients.close()


async def agent_answers(pki: Path, address: Address, *, timeout_s: float) -> bool:
    """Whether the agent listens, which it does only after its recovery, and has a certificate of our CA."""
    try:
        context = ssl.create_default_context(cafile=str(pki / "ca.pem"))
        context.load_cert_chain(pki / "control.pem", pki / "control.key")
        async with asyncio.timeout(timeout_s):
            _, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
            writer.close()
            await writer.wait_closed()
    except (OSError, TimeoutError):
        return False
    return True
