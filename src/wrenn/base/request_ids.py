"""The id of the request that a task serves: the same in the logs of the control plane, the agent and the guest agent."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar
from typing import Final

REQUEST_ID_HEADER: Final = "wrenn-request-id"
"""From the control plane to the agent, and from there to the guest agent. Clients and programs in sandboxes never see or set it."""
_PATTERN: Final = re.compile(r"[A-Za-z0-9_-]{1,64}")

request_id: Final[ContextVar[str]] = ContextVar("request_id", default="")
"""Of the request that this task serves, in every line that it logs; empty: it serves none."""


def accept_request_id(text: str) -> None:
    """Take over the id that the caller of this request sent. One that is long or has other characters is ignored."""
    request_id.set(text if _PATTERN.fullmatch(text) else "")


def request_id_headers() -> dict[str, str]:
    """Return the header that passes the id on; none if this task serves no request."""
    name = request_id.get()
    return {REQUEST_ID_HEADER: name} if name else {}


class RequestIdFilter(logging.Filter):
    """Logging filter that adds the request id to each record."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Add the request id; always returns True."""
        if (name := request_id.get()) and not hasattr(record, "request_id"):
            record.request_id = name
        return True
