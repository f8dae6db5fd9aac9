"""Checks that the ports for `wrenn up` are free; otherwise reports which program uses them and what to do."""

from __future__ import annotations

import errno
import socket

from wrenn.base.errors import Conflict, InvalidRequest
from wrenn.cli.up.daemons import running
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import Address
from wrenn.cli.up.services import AGENT, CONTROL, agent_address
from wrenn.linux.listeners import listener_of


def check_ports(layout: Layout, listen: Address) -> None:
    """Check that control plane and agent can listen. A running program of this data folder may already use its port.

    Raises:
        Conflict: a port is in use; the message says by which program, and what to do.
        InvalidRequest: this machine does not have the address.
    """
    for program, address in ((CONTROL, listen), (AGENT, agent_address(listen))):
        if running(layout, program) is None:
            _check(program, address)


def _check(program: str, address: Address) -> None:
    try:
        found = socket.getaddrinfo(
            address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
        for family, kind, protocol, _, place in found:
            with socket.socket(family, kind, protocol) as probe:
                # As the program itself does, so that recently closed connections do not prevent listening.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                probe.bind(place)
                probe.listen()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise Conflict(_in_use(program, address)) from error
        raise InvalidRequest(f"Nothing can listen on {address}: {error.strerror}.") from error


def _in_use(program: str, address: Address) -> str:
    holder = listener_of(address.port)
    by = f" by {holder.name} (pid {holder.pid})" if holder is not None else ""
    which = "" if program == CONTROL else f", which the {program} needs,"
    return (
        f"Port {address.port}{which} is in use{by}: end that program, or choose another port with "
        "`wrenn up --listen HOST:PORT`."
    )
