"""The port of a sandbox that a request is for, from its host name or its headers. Pure functions.

Clients of the e2b API write ids without `cl-` and have headers of their own; they get the errors of that API.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from wrenn.base.errors import InvalidRequest, NotFound
from wrenn.base.ids import SandboxId
from wrenn.protocol.api import PORT_HEADER, SANDBOX_HEADER
from wrenn.protocol.guest_agent import E2B_PORT_HEADER, E2B_SANDBOX_HEADER, GUEST_AGENT_PORT
from wrenn.relay import Headers, Scope, header_value

_HOST: Final = re.compile(rb"([0-9]+)-(cl-[0-9a-z]+|[0-9a-z]{25})\..*", re.IGNORECASE | re.DOTALL)
_TUNNEL: Final = re.compile(r"/v1/(?:sandboxes|capsules)/([^/]+)/ports/([0-9]+)/tunnel", re.ASCII)
_SANDBOX: Final = SANDBOX_HEADER.lower().encode()
_PORT: Final = PORT_HEADER.lower().encode()
_E2B_SANDBOX: Final = E2B_SANDBOX_HEADER.lower().encode()
_E2B_PORT: Final = E2B_PORT_HEADER.lower().encode()
_E2B_ID: Final = re.compile(r"(?:cl-)?([a-z0-9]{1,64})(?:-[A-Za-z0-9]{1,64})?")
"""Older clients append the id of the host to that of the sandbox."""
_SHOWN: Final = 64
"""Of an id that a client sent, this much is in its error."""


@dataclass(frozen=True, slots=True)
class PortTarget:
    """The port that a visitor's request is for.

    Attributes:
        is_tunnel: a tunnel of the port's raw bytes, not HTTP.
        by_headers: not given by the host name, which may be that of the API.
        by_signature: given by the signature of a URL, which anybody may open in a browser under any host name.
        is_e2b: addressed as clients of the e2b API do.
    """

    sandbox_id: SandboxId
    port: int
    is_tunnel: bool = False
    by_headers: bool = False
    by_signature: bool = False
    is_e2b: bool = False

    @property
    def is_guest_agent(self) -> bool:
        """Whether it is for the guest agent, not for a program in the sandbox."""
        return self.port == GUEST_AGENT_PORT


@dataclass(frozen=True, slots=True)
class E2bAddress:
    """What a client of the e2b API wants to reach.

    Attributes:
        sandbox: the id as the client sent it, which may be none; empty: it sent none.
        port: 0: none that can exist.
    """

    sandbox: str
    port: int


def port_target_of(scope: Scope) -> PortTarget | None:
    """Return the port that a request is for; None: it is for the API.

    Raises:
        InvalidRequest: it is for a port that cannot exist, or names only one of sandbox and port.
        NotFound: no sandbox can have the id that a client of the e2b API sent.
    """
    headers: Headers = scope["headers"]
    if match := _host_of(headers):
        is_e2b = e2b_address_of(scope) is not None
        return _port_target(match[2].lower(), match[1], is_e2b=is_e2b)
    sandbox, port = header_value(headers, _SANDBOX), header_value(headers, _PORT)
    if sandbox is not None and port is not None:
        return _port_target(sandbox, port, by_headers=True)
    if sandbox is not None or port is not None:
        raise InvalidRequest(f"The headers {SANDBOX_HEADER} and {PORT_HEADER} are only valid together.")
    sandboxes, ports = _values(headers, _E2B_SANDBOX), _values(headers, _E2B_PORT)
    if len(sandboxes) == len(ports) == 1:
        return _port_target(sandboxes[0], ports[0], by_headers=True, is_e2b=True)
    if sandboxes or ports:
        raise InvalidRequest(
            f"The headers {E2B_SANDBOX_HEADER} and {E2B_PORT_HEADER} must be sent together, once each."
        )
    if scope["type"] == "websocket" and (match := _TUNNEL.fullmatch(scope["path"])):
        return _port_target(match[1].encode(), match[2].encode(), is_tunnel=True)
    return None


def e2b_address_of(scope: Scope) -> E2bAddress | None:
    """Return what a client of the e2b API wants to reach, whether or not it exists; None: the request is of another client."""
    headers: Headers = scope["headers"]
    sandboxes, ports = _values(headers, _E2B_SANDBOX), _values(headers, _E2B_PORT)
    if match := _host_of(headers):
        port = _number(match[1])
        if match[2][:3].lower() != b"cl-" or sandboxes or port == GUEST_AGENT_PORT:
            return E2bAddress(match[2].lower().decode("ascii"), port)
        return None
    if header_value(headers, _SANDBOX) is not None or header_value(headers, _PORT) is not None:
        return None
    if sandboxes or ports:
        sandbox = sandboxes[0] if sandboxes else b""
        return E2bAddress(sandbox[:_SHOWN].decode("latin-1"), _number(ports[0]) if ports else 0)
    return None


def _host_of(headers: Headers) -> re.Match[bytes] | None:
    host = header_value(headers, b"host")
    return _HOST.fullmatch(host) if host else None


def _values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for key, value in headers if key == name]


def _number(port: bytes) -> int:
    """Return the number of a port; 0: it is none."""
    number = int(port) if port.isdigit() and len(port) <= 5 else 0
    return number if number <= 65535 else 0


def _port_target(
    sandbox: bytes, port: bytes, *, is_tunnel: bool = False, by_headers: bool = False, is_e2b: bool = False
) -> PortTarget:
    number = _number(port)
    if not number:
        raise InvalidRequest("A port is a number from 1 to 65535.")
    if number == GUEST_AGENT_PORT and not is_e2b:
        raise InvalidRequest(f"Port {GUEST_AGENT_PORT} is the platform's own.")
    text = sandbox.decode("latin-1")
    sandbox_id = _parse_e2b_id(text) if is_e2b else SandboxId.parse(text)
    return PortTarget(sandbox_id, number, is_tunnel=is_tunnel, by_headers=by_headers, is_e2b=is_e2b)


def _parse_e2b_id(text: str) -> SandboxId:
    match = _E2B_ID.fullmatch(text)
    if match is None:
        raise InvalidRequest("The id of a sandbox consists of lower-case letters and digits.")
    sandbox_id = SandboxId.find(SandboxId.PREFIX + match[1])
    if sandbox_id is None:
        raise NotFound(f"There is no sandbox {text}.")
    return sandbox_id
