"""`wrenn up` looks whether its ports are free before it starts anything."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from wrenn.base.errors import Conflict, InvalidRequest
from wrenn.cli.up.daemons import record
from wrenn.cli.up.layout import Layout
from wrenn.cli.up.options import Address
from wrenn.cli.up.ports import check_ports
from wrenn.cli.up.services import AGENT, AGENT_PORT_OFFSET, CONTROL
from wrenn.linux.listeners import listener_of
from wrenn.linux.process import ProcessRef


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path)
    layout.make()
    return layout


@pytest.fixture(params=["127.0.0.1", "::1"])
def taken(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    """A port on which this process listens."""
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.create_server((request.param, 0), family=family) as server:
        yield request.param, server.getsockname()[1]


def test_a_port_in_use_is_named_with_its_program_and_what_to_do(
    layout: Layout, taken: tuple[str, int]
) -> None:
    host, port = taken
    with pytest.raises(Conflict) as refused:
        check_ports(layout, Address(host, port))
    comm = Path("/proc/self/comm").read_text().strip()
    assert refused.value.message == (
        f"Port {port} is in use by {comm} (pid {os.getpid()}): end that program, or choose another port with "
        "`wrenn up --listen HOST:PORT`."
    )


def test_an_agent_port_that_is_in_use_is_reported_too(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(Conflict, match=f"Port {port}, which the agent needs, is in use by"):
            check_ports(layout, Address("127.0.0.1", port - AGENT_PORT_OFFSET))


def test_a_port_that_a_program_of_this_data_folder_has_is_no_hindrance(layout: Layout) -> None:
    me = ProcessRef.of(os.getpid())
    assert me is not None
    with socket.create_server(("127.0.0.1", 0)) as server:
        for program in (CONTROL, AGENT):
            record(layout.pid_file(program), me)
        check_ports(layout, Address("127.0.0.1", server.getsockname()[1]))


def test_a_port_whose_connections_have_just_ended_is_free(layout: Layout) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", port)):
            accepted, _ = server.accept()
            accepted.close()
    check_ports(layout, Address("127.0.0.1", port))
    assert listener_of(port) is None


def test_an_address_of_another_machine_is_refused(layout: Layout) -> None:
    with pytest.raises(InvalidRequest, match=r"Nothing can listen on 192\.0\.2\.1:8000"):
        check_ports(layout, Address("192.0.2.1", 8000))
