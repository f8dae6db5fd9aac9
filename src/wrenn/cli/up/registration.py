"""Registers this machine's agent with the control plane of the same machine, as any other host registers."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Final

from wrenn.cli.up.options import Address

LOCAL_HOST: Final = "local"
"""Name of the host that `wrenn up` makes."""


async def ensure_registration(data_dir: Path, database_url: str, listen: Address) -> None:
    """Leave a one-time token for the agent's next start, unless it has credentials that are still good."""
    from wrenn.agent.enrolment import CredentialsFile, PendingRegistration
    from wrenn.base.ids import HostId
    from wrenn.control.fleet import is_registered, issue_local_token

    credentials = CredentialsFile(data_dir).load()
    if (
        credentials is not None
        and credentials.expires_at_unix > time.time()
        and await is_registered(database_url, HostId.parse(credentials.host_id))
    ):
        return
    _, token = await issue_local_token(database_url, name=LOCAL_HOST)
    PendingRegistration(listen.url, token.reveal()).save(data_dir)
