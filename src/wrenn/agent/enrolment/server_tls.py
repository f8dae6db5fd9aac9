"""TLS of the host API: the agent's certificate, and the demand for a client certificate of the control plane.

The certificate can be replaced while connections are open: each handshake uses the newest one.
"""

from __future__ import annotations

import os
import ssl
from typing import Any

from wrenn.agent.enrolment.credentials import Credentials
from wrenn.base.errors import AgentFailure


class ServerTls:
    """The TLS context of the agent's server. `context` is given to the server once."""

    def __init__(self, credentials: Credentials) -> None:
        self._newest = _context(credentials)
        self.context = _context(credentials)
        self.context.sni_callback = self._use_newest

    def use(self, credentials: Credentials) -> None:
        """Use other credentials for new connections. Connections that are open go on unchanged.

        Raises:
            AgentFailure: they do not fit together; the former ones stay in use.
        """
        self._newest = _context(credentials)

    def _use_newest(self, connection: Any, _server_name: str | None, _context: ssl.SSLContext) -> None:
        # Called in every handshake, with or without a server name.
        connection.context = self._newest


def require_usable(credentials: Credentials) -> None:
    """Return if the agent can serve with these credentials.

    Raises:
        AgentFailure: key, certificate and CA do not fit together.
    """
    _context(credentials)


def _context(credentials: Credentials) -> ssl.SSLContext:
    try:
        return _new_context(credentials)
    except (OSError, ValueError) as error:
        raise AgentFailure(
            "The certificates of the control plane's answer do not fit together: is its URL right?",
            context={"cause": repr(error)},
        ) from error


def _new_context(credentials: Credentials) -> ssl.SSLContext:
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cadata=credentials.ca_cert_pem)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    # Only certificates for client authentication are accepted here: those of other agents are not.
    context.verify_mode = ssl.CERT_REQUIRED
    # Python reads keys only from files.
    descriptor = os.memfd_create("wrenn-agent-key", os.MFD_CLOEXEC)
    try:
        os.write(descriptor, f"{credentials.key_pem}\n{credentials.cert_pem}".encode())
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    finally:
        os.close(descriptor)
    return context
