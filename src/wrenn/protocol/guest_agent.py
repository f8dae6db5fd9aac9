"""What clients of the e2b API may reach of the guest agent through the control plane; standard library only."""

from __future__ import annotations

import re
from typing import Final

GUEST_AGENT_PORT: Final = 49983
CODE_INTERPRETER_PORT: Final = 49999
"""Where the template of the code interpreter serves it; clients send the access token with each run of code."""
ACCESS_HEADER: Final = "X-Access-Token"

E2B_SANDBOX_HEADER: Final = "E2b-Sandbox-Id"
E2B_PORT_HEADER: Final = "E2b-Sandbox-Port"
"""Headers with which clients of the e2b API select a port of a sandbox."""
E2B_TRAFFIC_HEADER: Final = "E2b-Traffic-Access-Token"

FILES_PATH: Final = "/files"
HEALTH_PATH: Final = "/health"
_PUBLIC_PATH: Final = re.compile(
    rf"/(?:process\.Process|filesystem\.Filesystem)/[A-Za-z]+|{FILES_PATH}|{HEALTH_PATH}|/metrics|/envs"
)


def is_public_path(path: str) -> bool:
    """Return whether clients may call this path of the guest agent, which is given as sent: not decoded, without the query.

    The others are the host's own, such as those that set up the guest or prepare a snapshot.
    """
    return _PUBLIC_PATH.fullmatch(path) is not None
