"""Errors of visits as clients of the e2b API expect them: they look at the status, and at some of the texts."""

from __future__ import annotations

from typing import Final

from wrenn.base.errors import InvalidState, NotFound, PortClosed, Unauthorized, WrennError
from wrenn.control.proxy.pages import error_response
from wrenn.control.proxy.port_target import E2bAddress
from wrenn.control.quotas import QuotaExceeded
from wrenn.protocol.guest_agent import GUEST_AGENT_PORT
from wrenn.relay import Headers

_NOT_FOUND: Final = "The sandbox was not found"
_PORT_CLOSED: Final = "The sandbox is running but port is not open"
_BAD_GATEWAY: Final = 502
_FORBIDDEN: Final = 403
_TOO_MANY: Final = 429


class NoSuchCall(NotFound):
    """The guest agent has no such call for visitors; the sandbox may exist."""

    code = "no_such_call"


def e2b_error_response(
    error: WrennError, *, address: E2bAddress, request_id: str, as_page: bool
) -> tuple[int, Headers, bytes]:
    """Build status, headers and body of an error response."""
    status, message = error.http_status, error.message
    fields: dict[str, object] = {"sandboxId": address.sandbox}
    match error:
        case NoSuchCall():
            pass
        case NotFound() | InvalidState():
            # Clients take 502 for a sandbox that has ended, and 404 for a path that a program does not have.
            status, message = _BAD_GATEWAY, _NOT_FOUND
        case PortClosed():
            status, message = _BAD_GATEWAY, _PORT_CLOSED
            fields["port"] = address.port
        case QuotaExceeded():
            status = _TOO_MANY
        case Unauthorized() if address.port != GUEST_AGENT_PORT:
            # 401 would be that of the program behind the port.
            status = _FORBIDDEN
        case _:
            pass
    fields |= {"message": message, "code": status}
    return error_response(
        error, request_id=request_id, as_page=as_page, status=status, fields=fields, message=message
    )
