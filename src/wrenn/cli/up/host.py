"""Does the machine's agent serve? Asked by a handshake with the control plane's certificate."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from wrenn.cli.up.options import Address


async def agent_answers(pki: Path, address: Address, *, timeout_s: float) -> bool:
    """True when the agent listens, which it does only once its recovery is done, and shows a certificate of our CA."""
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
